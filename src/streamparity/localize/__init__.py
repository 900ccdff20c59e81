"""Alignment, isolation, diagnosis: where an error is made, and why."""

from .examination import Examination, Seen, at_a_glance, examine, of_a_stateless_model

__all__ = ["Examination", "Seen", "at_a_glance", "examine", "of_a_stateless_model"]
