"""``python -m streamparity.cli``."""

from . import main

main()
