"""The doctor finds nothing gravely wrong with sound exports, however they were made, and with harmless edits."""

from __future__ import annotations

import onnx
import pytest
from onnx import version_converter
from onnx.tools import update_model_dims

from demo_model.variants import STREAMING
from plant_fault import forget_names
from streamparity.inspection import InspectOptions, inspect

from ..faults.bench import regular_bench

CONTEXTS = [(70, 13), (70, 6), (70, 1), (70, 0)]
MADE = [*((context, 17) for context in CONTEXTS), ((70, 13), 14), ((70, 0), 14), ((70, 6), 20), ((70, 1), 20)]


def assert_sound(path, context=None, **expected):
    """Inspect alone, and against what was asked for; ``expected`` entries of the summary."""
    for options in (InspectOptions(), InspectOptions(context, "padded", "ort")):
        document = inspect(path, options)
        grave = [finding for finding in document["findings"] if finding["severity"] == "error"]
        assert grave == []
        assert "check-failed" not in {finding["code"] for finding in document["findings"]}
        assert document["can_stream"]
        assert {key: document["summary"][key] for key in expected} == expected
    return document


@pytest.fixture(scope="module")
def export_with(loaded, tmp_path_factory):
    """Exports of the shipped model by context and opset, made when first asked for."""
    from streamparity import export as exporting
    from streamparity.reference.nemo import StreamingOptions

    made = {}

    def make(context=(70, 1), opset=17):
        if (context, opset) not in made:
            out = made[context, opset] = tmp_path_factory.mktemp("sound") / "export"
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(exporting, "OPSET", opset)
                exporting.export(loaded, out, StreamingOptions(context))
        return made[context, opset]

    return make


@pytest.mark.parametrize(("context", "opset"), MADE)
def test_contexts_and_opsets(export_with, context, opset):
    out = export_with(context, opset)
    document = assert_sound(
        out,
        context,
        opset=opset,
        attention_context=list(context),
        cache_slots=context[0],
        frames_per_chunk=context[1] + 1,
        drop_extra_pre_encoded=2,
        cache_drop_size=0,
        subsampling_factor=8,
    )
    assert document["findings"] == []
    assert inspect(out / "decoder_joint.onnx", InspectOptions(backend="ort"))["findings"] == []


@pytest.mark.parametrize("opset", [19, 23])
def test_converted_opsets(export_with, tmp_path, opset):
    converted = version_converter.convert_version(onnx.load(export_with((70, 6)) / "encoder.onnx"), opset)
    onnx.save(converted, tmp_path / "encoder.onnx")
    assert_sound(tmp_path / "encoder.onnx", (70, 6), opset=opset)


# Of the TDT model with chunks and caches of several sizes; of the others as they are.
OTHERS = {
    "tdt": ("tdt", {}),
    "tdt, narrow": ("tdt", {"att_context": (16, -1)}),
    "tdt, 2 dropped": ("tdt", {"cache_drop_size": 2}),
    "tdt, NeMo's chunks": ("tdt", {"att_context": (40, -1), "chunk_size": None, "shift_size": None}),
    "ctc": ("ctc", {}),
    "hybrid": ("hybrid", {}),
}


@pytest.mark.parametrize("name", OTHERS)
def test_other_models(variants, tmp_path, name):
    from streamparity.export import export
    from streamparity.reference.nemo import StreamingOptions, load_model

    kind, changes = OTHERS[name]
    streaming = StreamingOptions(**{**STREAMING[kind], **changes})
    export(load_model(str(variants.path(kind))), tmp_path / "export", streaming)
    document = assert_sound(
        tmp_path / "export",
        streaming.att_context,
        attention_context=list(streaming.att_context),
        cache_slots=streaming.att_context[0],
        drop_extra_pre_encoded=2,
        subsampling_factor=8,
    )
    warned = {finding["code"] for finding in document["findings"]}
    assert warned == ({"whole-utterance-normalization"} if kind == "tdt" else set())
    (tmp_path / "export" / "contract.json").unlink()
    assert_sound(tmp_path / "export", streaming.att_context)


def test_regular_attention_with_look_ahead(tmp_path):
    bench = regular_bench(tmp_path)
    document = assert_sound(bench.export, (32, 2), attention_context=[32, 2], cache_slots=32, cache_drop_size=2)
    assert document["findings"] == []


def fixed_shapes(model):
    """Every axis fixed, as for a backend that knows no dynamic ones."""
    inputs = {
        "audio_signal": [1, 128, 25],
        "length": [1],
        "cache_last_channel": [1, 3, 70, 64],
        "cache_last_time": [1, 3, 64, 8],
        "cache_last_channel_len": [1],
    }
    outputs = {
        "outputs": [1, 64, 2],
        "encoded_lengths": [1],
        "cache_last_channel_next": [1, 3, 70, 64],
        "cache_last_time_next": [1, 3, 64, 8],
        "cache_last_channel_next_len": [1],
    }
    for value in [*model.graph.input, *model.graph.output]:
        for dim in value.type.tensor_type.shape.dim:
            dim.Clear()
    model.CopyFrom(update_model_dims.update_inputs_outputs_dims(model, inputs, outputs))


def aliases(model):
    """Ports under the names that other exporters give them."""
    for old, new in (("audio_signal", "processed_signal"), ("cache_last_channel_next", "new_cache_last_channel")):
        for value in [*model.graph.input, *model.graph.output]:
            value.name = new if value.name == old else value.name
        for node in model.graph.node:
            for names in (node.input, node.output):
                for position, name in enumerate(names):
                    names[position] = new if name == old else name


@pytest.mark.parametrize("edit", [forget_names, fixed_shapes, aliases], ids=lambda edit: edit.__name__)
def test_harmless_edits(workshop, edit):
    assert_sound(workshop.edited(f"harmless-{edit.__name__}", edit), (70, 1), cache_slots=70, frames_per_chunk=2)


def test_weights_beside_the_graph(export_with, tmp_path):
    onnx.save_model(
        onnx.load(export_with() / "encoder.onnx"),
        tmp_path / "encoder.onnx",
        save_as_external_data=True,
        location="encoder.onnx.data",
        size_threshold=0,
    )
    assert_sound(tmp_path, (70, 1), attention_context=[70, 1])


def test_scattered_weights_are_gathered_for_everyone_to_read(export_with, tmp_path):
    """As the exporter leaves a model past protobuf's 2 GB: a file per tensor."""
    from streamparity.export import _gather

    (tmp_path / "raw").mkdir()
    model = onnx.load(export_with() / "encoder.onnx")
    scattered = {"save_as_external_data": True, "all_tensors_to_one_file": False, "size_threshold": 0}
    onnx.save_model(model, tmp_path / "raw" / "encoder.onnx", **scattered)
    assert len(list((tmp_path / "raw").iterdir())) > 50
    _gather(tmp_path / "raw" / "encoder.onnx", tmp_path / "encoder.onnx")
    assert sorted(path.name for path in tmp_path.glob("encoder*")) == ["encoder.onnx", "encoder.onnx.data"]
    assert len({path.stat().st_mode for path in tmp_path.glob("encoder*")}) == 1
    assert_sound(tmp_path, (70, 1))


def test_half_precision_inside_with_casts_at_the_ports(export_with, tmp_path):
    from onnxruntime.transformers.float16 import convert_float_to_float16

    halved = convert_float_to_float16(onnx.load(export_with() / "encoder.onnx"), keep_io_types=True)
    onnx.save(halved, tmp_path / "encoder.onnx")
    assert [finding["code"] for finding in assert_sound(tmp_path, (70, 1))["findings"]] == ["nodes-unsorted"]


def test_what_onnx_runtime_makes_of_it(export_with, tmp_path):
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    options.optimized_model_filepath = str(tmp_path / "encoder.onnx")
    onnxruntime.InferenceSession(export_with() / "encoder.onnx", options, providers=["CPUExecutionProvider"])
    assert_sound(tmp_path, (70, 1), cache_slots=70, frames_per_chunk=2)
