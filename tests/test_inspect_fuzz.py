"""Any bytes at all under a model's name: findings, or a refusal in two lines."""

from __future__ import annotations

import os
import tarfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from streamparity.errors import StreamparityError
from streamparity.inspection import inspect

LIMITS = settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))


def assert_survives(path):
    """Findings, or one line each of what is wrong and what to do."""
    document = refusal = None
    try:
        document = inspect(path)
    except StreamparityError as error:
        refusal = error
    if refusal is not None:
        assert "\n" not in refusal.message.strip()
        assert refusal.hint
    else:
        assert document["schema"] == "streamparity.inspect/1"


@pytest.fixture(scope="module")
def graph_bytes():
    """A small graph under an encoder's port names, in which damage reaches every check."""
    import onnx
    from onnx import TensorProto, helper

    from streamparity.tensors import ENCODER_INPUTS, ENCODER_OUTPUTS

    def value(name, port):
        whole = name.endswith(("length", "lengths", "len"))
        return helper.make_tensor_value_info(
            name, TensorProto.INT64 if whole else TensorProto.FLOAT, [1, 2, 4, 8][: len(port.axes)]
        )

    inputs = [value(name, port) for name, port in ENCODER_INPUTS.items()]
    outputs = [value(name, port) for name, port in ENCODER_OUTPUTS.items()]
    sources = ["audio_signal", "length", "cache_last_channel", "cache_last_time", "cache_last_channel_len"]
    nodes = [
        helper.make_node("Identity", [source], [value.name], name=f"/layers.{index}/Identity")
        for index, (source, value) in enumerate(zip(sources, outputs, strict=True))
    ]
    model = helper.make_model(
        helper.make_graph(nodes, "fuzz", inputs, outputs), opset_imports=[helper.make_opsetid("", 17)], ir_version=8
    )
    onnx.checker.check_model(model)
    return model.SerializeToString()


def damaged(data, cuts):
    """Bytes with some of them replaced, and cut short."""
    content = bytearray(data)
    for place, byte in cuts:
        content[place % len(content)] = byte
    return bytes(content)


CUTS = st.lists(st.tuples(st.integers(0, 1 << 20), st.integers(0, 255)), min_size=1, max_size=12)


@LIMITS
@given(content=st.binary(max_size=2000), suffix=st.sampled_from([".onnx", ".nemo", ".engine", ""]))
def test_bytes_of_any_kind(tmp_path_factory, content, suffix):
    path = tmp_path_factory.mktemp("fuzz") / f"model{suffix}"
    path.write_bytes(content)
    assert_survives(path)


@LIMITS
@given(cuts=CUTS)
def test_a_damaged_graph(tmp_path_factory, graph_bytes, cuts):
    path = tmp_path_factory.mktemp("fuzz") / "encoder.onnx"
    path.write_bytes(damaged(graph_bytes, cuts))
    assert_survives(path)


@LIMITS
@given(cuts=CUTS)
def test_a_damaged_archive(tmp_path_factory, demo_path, cuts):
    path = tmp_path_factory.mktemp("fuzz") / "model.nemo"
    content = demo_path.read_bytes()
    path.write_bytes(damaged(content[:8192], cuts) + content[8192:])
    assert_survives(path)


def test_the_undamaged_graph_is_read_to_the_end(graph_bytes, tmp_path):
    """What the fuzzer damages is a graph that every check gets to see."""
    (tmp_path / "encoder.onnx").write_bytes(graph_bytes)
    document = inspect(tmp_path)
    assert "check-failed" not in {finding["code"] for finding in document["findings"]}
    assert "cache-unused" in {finding["code"] for finding in document["findings"]}


def test_ports_of_a_size_that_no_model_has(graph_bytes, tmp_path):
    """Sixteen terabytes of cache are not made to find out that there is no room for them."""
    import onnx

    model = onnx.ModelProto.FromString(graph_bytes)
    for value in [*model.graph.input, *model.graph.output]:
        if value.name.startswith(("cache_last_channel", "outputs")) and not value.name.endswith("len"):
            for axis in (1, 2):
                value.type.tensor_type.shape.dim[axis].dim_value = 1 << 20
    (tmp_path / "encoder.onnx").write_bytes(model.SerializeToString())
    document = inspect(tmp_path)
    assert "larger than any model's" in " ".join(finding["message"] for finding in document["findings"])


def test_folders_pipes_and_huge_files(tmp_path):
    (tmp_path / "folder.onnx").mkdir()
    os.mkfifo(tmp_path / "pipe.onnx")
    huge = tmp_path / "huge.onnx"
    with open(huge, "wb") as file:
        file.truncate(5 << 30)  # a hole: nothing is written, and nothing may be read
    for name, why in (
        ("folder.onnx", "neither"),
        ("pipe.onnx", "neither"),
        ("huge.onnx", "2 GB"),
        ("no.onnx", "neither"),
    ):
        with pytest.raises(StreamparityError, match=why):
            inspect(tmp_path / name)


def test_an_archive_that_is_all_config(tmp_path):
    path = tmp_path / "big.nemo"
    with open(tmp_path / "model_config.yaml", "wb") as file:
        file.truncate(100 << 20)
    (tmp_path / "model_weights.ckpt").touch()
    with tarfile.open(path, "w:gz") as archive:
        for name in ("model_config.yaml", "model_weights.ckpt"):
            archive.add(tmp_path / name, name)
    assert Path(path).stat().st_size < 1 << 20
    with pytest.raises(StreamparityError, match="has 104857600 bytes"):
        inspect(path)
