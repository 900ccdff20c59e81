"""Reduced precision made in the graph, and the search for what must stay in float32, as ONNX Runtime computes them."""

from __future__ import annotations

import shutil

import numpy as np
import onnx
import pytest

from streamparity import precision_run
from streamparity.comparison import TolerancePolicy
from streamparity.demo import demo_audio, demo_recordings
from streamparity.dump import DumpReader
from streamparity.errors import StreamparityError
from streamparity.fp32_search import find_needed, groups_of, minimal
from streamparity.graph.onnx_graph import OnnxGraph
from streamparity.precision_run import find_fp32_layers
from streamparity.run import RunOptions, run
from streamparity.runners import registry
from streamparity.runners.ort import OrtRunner
from streamparity.tensorrt.pins import inside, node_path, pinning
from streamparity.tensorrt.precision import lower
from streamparity.tensorrt.rebuild import layers_of


@pytest.fixture(scope="module")
def reference(loaded, tmp_path_factory):
    """A dump that knows what float16 costs each tensor."""
    from streamparity.reference.dumper import DumpOptions, dump
    from streamparity.reference.nemo import StreamingOptions

    out = tmp_path_factory.mktemp("float16") / "reference"
    with demo_audio(demo_recordings()[0]) as audio:
        dump(loaded, audio, out, DumpOptions(StreamingOptions((70, 1)), limit=4, noise_floor=True))
    return DumpReader(out)


def cast(source, folder, precision="fp16", pins=()):
    """The export with its encoder in reduced precision."""
    folder.mkdir(exist_ok=True)
    graph = OnnxGraph(source / "encoder.onnx")
    lowered = lower(graph, precision, pinning(pins, [node.name for node in graph.proto.graph.node], "encoder."))
    onnx.save(lowered.proto, folder / "encoder.onnx")
    shutil.copy(source / "decoder_joint.onnx", folder)
    return folder / "encoder.onnx", lowered


class HalfRunner(OrtRunner):
    """A graph that :func:`cast` made."""

    def __init__(self, path, options):
        super().__init__(path, options)
        self.arithmetic = "float16"


@pytest.fixture
def half(monkeypatch):
    class Entry:
        name = "half"

        def load(self):
            return HalfRunner

    monkeypatch.setattr(registry, "entry_points", lambda group: [Entry()])


def test_in_float16_the_demo_says_the_same_and_is_as_far_off_as_float16_is(workshop, reference, half, tmp_path):
    model, lowered = cast(workshop.export(), tmp_path / "half")
    result = run(reference, RunOptions("half", model))
    assert result["verdict"] == "pass", result["objections"]
    worst = max(tensor["max_abs"] for tensor in result["tensors"])
    assert 1e-4 < worst < 0.1  # what float16 costs: far more than float32's 1e-5
    assert len(lowered.lowered) > 300
    assert lowered.overflowing == ()
    strict = run(reference, RunOptions("half", model, policy=TolerancePolicy(atol=1e-5, rtol=1e-5)))
    assert strict["verdict"] == "fail"


def test_everything_pinned_is_the_graph_as_it_was(workshop, tmp_path):
    _, lowered = cast(workshop.export(), tmp_path / "all", pins=["encoder"])
    before = onnx.load(workshop.export() / "encoder.onnx")
    assert lowered.lowered == ()
    assert list(lowered.proto.graph.node) == list(before.graph.node)


def test_lengths_and_ports_keep_their_types(workshop, tmp_path):
    model, lowered = cast(workshop.export(), tmp_path / "half")
    types = OnnxGraph(model).types()
    # What is worked out of lengths alone: half of 257 frames is nothing that bfloat16 holds.
    arithmetic = [n for n in lowered.proto.graph.node if n.op_type == "Div" and n.name.startswith("/pre_encode/")]
    assert arithmetic
    assert {types[node.output[0]] for node in arithmetic} == {onnx.TensorProto.FLOAT}
    graph = OnnxGraph(model)
    assert {port.dtype for port in [*graph.inputs, *graph.outputs]} == {"float32", "int64"}


def test_what_is_pinned_computes_in_float32_and_the_rest_does_not(workshop, tmp_path):
    model, lowered = cast(workshop.export(), tmp_path / "mixed", pins=["*.Softmax", "*norm*"])
    types = OnnxGraph(model).types()
    kinds = {}
    for node in lowered.proto.graph.node:
        kinds.setdefault(node.op_type, set()).update(types[name] for name in node.output)
    assert kinds["Softmax"] == kinds["LayerNormalization"] == {onnx.TensorProto.FLOAT}
    assert kinds["MatMul"] == {onnx.TensorProto.FLOAT16}
    assert len(lowered.kept) == 21  # three softmaxes, eighteen norms


def test_a_constant_beyond_float16_is_named(workshop, tmp_path):
    folder = tmp_path / "huge"
    shutil.copytree(workshop.export(), folder)
    model = onnx.load(folder / "encoder.onnx")
    weight = next(t for t in model.graph.initializer if t.name == "layers.1.norm_out.weight")
    values = onnx.numpy_helper.to_array(weight).copy()
    values[3] = 1e6
    weight.CopyFrom(onnx.numpy_helper.from_array(values, weight.name))
    onnx.save(model, folder / "encoder.onnx")
    assert cast(folder, tmp_path / "half")[1].overflowing == ("layers.1.norm_out.weight",)
    assert cast(folder, tmp_path / "bf16", "bf16")[1].overflowing == ()
    assert cast(folder, tmp_path / "pinned", pins=["encoder.layers.1.norm_out"])[1].overflowing == ()


def test_layers_are_named_as_taps_are():
    assert node_path("/layers.0/self_attn/Softmax", "encoder.") == "encoder.layers.0.self_attn.Softmax"
    assert node_path("/Add_3", "encoder.") == "encoder.Add_3"
    assert inside("encoder.layers.0.self_attn.Softmax", "encoder.layers.*.self_attn")
    assert inside("encoder.layers.0.self_attn.Softmax", "*.Softmax")
    assert not inside("encoder.layers.0.self_attn.Softmax", "encoder.layers.1*")
    with pytest.raises(StreamparityError, match="no layer of the graph is called encoder"):
        pinning(["encoder.layer.0"], ["/layers.0/self_attn/Softmax"], "encoder.")


def test_groups_divide_the_layers_among_the_taps(workshop):
    paths = layers_of(workshop.export() / "encoder.onnx")
    taps = [spec.label for spec in workshop.reference().manifest.tensors if spec.kind == "tap"]
    groups = groups_of(paths, taps)
    for path in paths:
        owners = [group.tap for group in groups if any(inside(path, glob) for glob in group.globs)]
        assert len(owners) == 1, (path, owners)


@pytest.mark.parametrize("needed", [set(), {3}, {0, 19}, {2, 3, 11}, set(range(20)), {5, 6, 7, 8}])
def test_the_search_leaves_nothing_out_and_nothing_in(needed):
    tried = []

    def holds(items):
        tried.append(items)
        return needed <= set(items)

    found = minimal(range(20), holds)
    assert set(found) == needed if needed else len(found) == 1  # it starts from what holds and never tries nothing
    assert len(tried) <= 400


def test_the_search_also_ends_where_the_verdict_is_not_monotonic():
    def holds(items):
        return {4, 9} <= set(items) and len(items) != 7

    found = minimal(range(20), holds)
    assert holds(found)
    assert not any(holds([item for item in found if item != left]) for left in found)


# ------------------------------------------------------------------------------------------ on real numbers

FRAGILE = "/layers.1/conv/pointwise_conv2/Conv"
LARGE = 300.0


def make_fragile(model):
    """Put a large number on the weights of a convolution of layer 1 and take its product away again.

    In float32 that costs nothing to speak of; in float16 the weights are gone. (ONNX Runtime's CPU kernels round
    constants to float16 but keep float32 between operators, so that it must be constants.)
    """
    node = next(node for node in model.graph.node if node.name == FRAGILE)
    place, output = list(model.graph.node).index(node), node.output[0]
    weight = next(tensor for tensor in model.graph.initializer if tensor.name == node.input[1])
    values = onnx.numpy_helper.to_array(weight)
    for name, array in (("heavy", values + LARGE), ("load", np.full_like(values, LARGE))):
        model.graph.initializer.append(onnx.numpy_helper.from_array(array.astype(np.float32), name))
    scope = FRAGILE.rpartition("/")[0]
    load = onnx.NodeProto()
    load.CopyFrom(node)
    load.name, load.output[0] = f"{scope}/Conv_load", f"{output}_load"
    del load.input[2:]
    load.input[1] = "load"
    node.input[1], node.output[0] = "heavy", f"{output}_heavy"
    taken = onnx.helper.make_node("Sub", [f"{output}_heavy", f"{output}_load"], [output], name=f"{scope}/Sub_load")
    model.graph.node.insert(place + 1, load)
    model.graph.node.insert(place + 2, taken)


class SearchableRunner(HalfRunner):
    """As the backend ``trt`` builds an engine anew, with ONNX Runtime in its place."""

    source = None
    models = 0

    @classmethod
    def layers(cls, model):
        return layers_of(cls.source / "encoder.onnx")

    @classmethod
    def pinned(cls, model, pins, folder):
        cls.models += 1
        return cast(cls.source, folder / f"model-{cls.models}", pins=pins)[0]


@pytest.fixture
def searchable(monkeypatch):
    def with_source(folder):
        class Entry:
            name = "searchable"

            def load(self):
                return type("Searchable", (SearchableRunner,), {"source": folder})

        entry = Entry()
        loaded = entry.load()
        entry.load = lambda: loaded
        monkeypatch.setattr(registry, "entry_points", lambda group: [entry])

    return with_source


def test_the_layer_that_float16_ruins_is_found(workshop, reference, searchable, tmp_path):
    fragile = workshop.edited("fragile", make_fragile).resolve()
    searchable(fragile)
    model, _ = cast(fragile, tmp_path / "half")
    options = RunOptions("searchable", model)
    result = find_fp32_layers(reference, options)
    assert result["verdict"] == "fail"
    assert result["fp32_layers"]["taps"] == ["encoder.layers.1.conv"]
    assert result["fp32_layers"]["pins"] == ["encoder.layers.1.conv"]
    assert result["notes"][-1].startswith("it passes with encoder.layers.1.conv in float32")
    # And so it does, and only so.
    pinned, _ = cast(fragile, tmp_path / "pinned", pins=result["fp32_layers"]["pins"])
    assert run(reference, RunOptions("searchable", pinned))["verdict"] == "pass"
    others = [f"encoder.layers.{layer}.conv" for layer in (0, 2)]
    elsewhere, _ = cast(fragile, tmp_path / "elsewhere", pins=others)
    assert run(reference, RunOptions("searchable", elsewhere))["verdict"] == "fail"


def test_where_float16_does_no_harm_nothing_is_pinned(workshop, reference, searchable, tmp_path):
    searchable(workshop.export())
    model, _ = cast(workshop.export(), tmp_path / "half")
    result = find_fp32_layers(reference, RunOptions("searchable", model))
    assert result["verdict"] == "pass"
    assert result["fp32_layers"] == {"taps": [], "pins": [], "tried": 1}


def test_a_model_that_is_wrong_in_float32_too_is_not_searched_for_long(workshop, reference, searchable, tmp_path):
    from plant_fault import zero_layer_cache

    broken = workshop.edited("broken in any precision", zero_layer_cache("cache_last_time", 1)).resolve()
    searchable(broken)
    model, _ = cast(broken, tmp_path / "half")
    with pytest.raises(StreamparityError, match="fails even with every layer in float32"):
        find_fp32_layers(reference, RunOptions("searchable", model))


def test_a_backend_that_cannot_build_says_so_before_anything_is_run(workshop, monkeypatch):
    monkeypatch.setattr(precision_run, "run", lambda *given: pytest.fail("the whole model was run first"))
    with pytest.raises(StreamparityError, match="backend ort cannot build its models anew"):
        find_fp32_layers(workshop.reference(), RunOptions("ort", workshop.export() / "encoder.onnx", limit=2))


def test_the_search_counts_what_it_judged():
    groups = groups_of(
        [f"encoder.layers.{n}.conv.Conv" for n in range(4)], [f"encoder.layers.{n}.conv" for n in range(4)]
    )
    judged = []

    def passes(pins):
        judged.append(tuple(pins))
        return "encoder.layers.2.conv" in pins

    needed = find_needed(groups, passes)
    assert needed.taps == ("encoder.layers.2.conv",)
    assert needed.tried == len(judged) == len(set(judged))
