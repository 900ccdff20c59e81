"""Statistics, tolerance and verdict. Knows nothing of NeMo or runners."""

from .comparator import Comparator
from .compare import compare, incomplete, select
from .engine import loops_for
from .sources import View
from .tokens import compare_tokens
from .tolerance import TolerancePolicy, ToleranceRule, read_policy

__all__ = [
    "Comparator",
    "TolerancePolicy",
    "ToleranceRule",
    "View",
    "compare",
    "compare_tokens",
    "incomplete",
    "loops_for",
    "read_policy",
    "select",
]
