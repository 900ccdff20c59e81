"""Make a small model with random weights, of a kind that people port.

.venv/bin/python scripts/make_variant.py tdt|hybrid|ctc OUT.nemo
"""

from __future__ import annotations

import argparse
from pathlib import Path

from demo_model.variants import MODELS, save_variant


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kind", choices=sorted(MODELS))
    parser.add_argument("out", type=Path)
    options = parser.parse_args()
    save_variant(options.kind, options.out)
    print(options.out)


if __name__ == "__main__":
    main()
