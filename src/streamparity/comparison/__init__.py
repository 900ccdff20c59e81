"""Statistics, tolerance and verdict. Knows nothing of NeMo or runners."""

from .comparator import Comparator
from .compare import compare, incomplete, select
from .tokens import compare_tokens
from .tolerance import TolerancePolicy

__all__ = ["Comparator", "TolerancePolicy", "compare", "compare_tokens", "incomplete", "select"]
