"""Rules over evidence: each looks at a case and yields the causes it can vouch for."""

from collections.abc import Callable, Iterator

from ..case import Case
from ..finding import Finding
from . import attention, caches, decisions, drift, driver, features, mending, numbers, structure, weights

Rule = Callable[[Case], Iterator[Finding]]

RULES: tuple[Rule, ...] = (
    driver.first_chunk_schedule,
    driver.driven_wrongly,
    weights.weights_differ,
    weights.norm_epsilon,
    weights.batch_norm_in_training,
    numbers.not_finite,
    numbers.saturated,
    numbers.reduced_precision,
    caches.lengths,
    caches.returned_caches,
    caches.unused_caches,
    caches.expected_in_another_form,
    attention.positional_encoding,
    attention.visibility,
    attention.frames_per_chunk,
    features.inside_the_model,
    features.layout,
    mending.mended,
    structure.holds_another,
    structure.graph_differs,
    decisions.near_tie,
    decisions.degenerate,
    decisions.batch,
    drift.within_noise,
    drift.accumulates,
    weights.unused,
    weights.weights_unknown,
)
