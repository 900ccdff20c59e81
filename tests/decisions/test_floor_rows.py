"""The floor of the joint is measured on rows that belong together, and on no others."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from streamparity.reference.noise_floor import DECISIONS, _decisions, _Meter
from streamparity.tensors import TensorSpec


@pytest.mark.parametrize(
    ("change", "belongs"), [({}, True), ({"label": 2}, False), ({"duration": 1}, False), ({"frame": 3}, False)]
)
def test_rows_count_while_frame_label_and_duration_are_the_same(change, belongs):
    joint = TensorSpec("tap/joint", "decoder", "float32", ("S", "V"))
    outputs = TensorSpec("tap/encoder.x", "tap", "float32", ("T", "D"))
    rows = {"tap/joint": np.zeros((2, 3), np.float32), "tap/encoder.x": np.zeros((2, 3), np.float32)}
    lines = [{"frame": 0, "label": 1, "duration": 2}, {"frame": 2, "label": 1, "duration": 0}]
    true = {**rows, DECISIONS: np.array(_decisions(lines))}
    reader = SimpleNamespace(manifest=SimpleNamespace(tensors=[joint, outputs]), chunk=lambda index: {})
    meter = _Meter(reader, SimpleNamespace(read=lambda index: true))
    off = {name: values + np.float32(1e-3) for name, values in rows.items()}
    meter.add(0, off, _decisions([lines[0], {**lines[1], **change}]))
    meter.add(1, off, _decisions(lines))
    assert meter.figures()["encoder.x"].max_abs == pytest.approx(1e-3)
    assert ("joint" in meter.figures()) == belongs
