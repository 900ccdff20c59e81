"""What mends a small graph that was broken in one way, and that nothing mends one broken in another."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import helper, numpy_helper

from streamparity.dump.anatomy import Anatomy, Norm, Parameter
from streamparity.localize.errors import PieceError
from streamparity.localize.repairs import cures

WIDTH, TOLERANCE = 8, 1e-5
PLACE = "encoder.layers.0"


def parameters():
    noise = np.random.default_rng(3)
    shapes = {"norm.weight": (WIDTH,), "norm.bias": (WIDTH,), "first.bias": (WIDTH,), "second.bias": (WIDTH,)}
    shapes |= {"first.weight": (WIDTH, WIDTH), "second.weight": (WIDTH, WIDTH)}
    return {name: noise.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}


def feed_forward():
    """A feed-forward module with a residual of half its output, and a slice of a memory in front of the result."""
    held = parameters()
    constants = {"half": np.float32(0.5), "from": np.int64([1]), "to": np.int64([4]), "along": np.int64([1])}
    tensors = {**held, **constants}
    nodes = [
        helper.make_node("LayerNormalization", ["x", "norm.weight", "norm.bias"], ["normed"], "Norm", epsilon=1e-5),
        helper.make_node("MatMul", ["normed", "first.weight"], ["a"], "First"),
        helper.make_node("Add", ["a", "first.bias"], ["b"], "FirstBias"),
        helper.make_node("Sigmoid", ["b"], ["gate"], "Gate"),
        helper.make_node("Mul", ["b", "gate"], ["active"], "Swish"),
        helper.make_node("MatMul", ["active", "second.weight"], ["c"], "Second"),
        helper.make_node("Add", ["c", "second.bias"], ["d"], "SecondBias"),
        helper.make_node("Mul", ["d", "half"], ["halved"], "Halve"),
        helper.make_node("Add", ["x", "halved"], ["sum"], "Residual"),
        helper.make_node("Slice", ["memory", "from", "to", "along"], ["kept"], "Keep"),
        helper.make_node("Concat", ["kept", "sum"], ["y"], "Join", axis=1),
    ]
    ports = [helper.make_tensor_value_info(name, 1, None) for name in ("x", "memory", "y")]
    initializers = [numpy_helper.from_array(np.asarray(value), name) for name, value in tensors.items()]
    graph = helper.make_graph(nodes, "piece", ports[:2], ports[2:], initializers)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


class GraphTrial:
    """The graph, run by onnxruntime; what it should make is what the unbroken one makes."""

    def __init__(self, proto):
        noise = np.random.default_rng(5)
        self.fed = {"x": noise.standard_normal((1, 3, WIDTH)), "memory": noise.standard_normal((1, 6, WIDTH))}
        self.fed = {name: array.astype(np.float32) for name, array in self.fed.items()}
        self.proto, self.integers = proto, set()
        self.floats = {name for node in proto.graph.node for name in node.output} | set(self.fed)
        self.right = self._computed(feed_forward(), ["y"])["y"]
        self.expected = self.right.reshape(-1).astype(np.float64)
        self.before = self.run(proto)[0]

    def run(self, edited):
        made = self._computed(edited, ["y"])
        if made is None or made["y"].shape != self.right.shape:
            return None
        actual = made["y"].reshape(-1).astype(np.float64)
        error = float(np.abs(actual - self.expected).max())
        return PieceError(error, error / TOLERANCE), actual

    def inner(self):
        names = [name for node in self.proto.graph.node for name in node.output]
        marked = onnx.ModelProto()
        marked.CopyFrom(self.proto)
        marked.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names if name != "y")
        return {**self.fed, **self._computed(marked, names)}

    def valid(self, array):
        return array.reshape(-1).astype(np.float64) if array.shape == self.right.shape else None

    def _computed(self, proto, names):
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4
        try:
            session = onnxruntime.InferenceSession(proto.SerializeToString(), options, ["CPUExecutionProvider"])
            return dict(zip(names, session.run(names, self.fed), strict=True))
        except Exception:  # an edit need not make sense
            return None


def node(proto, name):
    return next(n for n in proto.graph.node if n.name == name)


def behind(proto, name, op, *others):
    """Another node behind one, without a name of its own."""
    before = node(proto, name)
    made, before.output[0] = before.output[0], f"{before.output[0]}_"
    place = list(proto.graph.node).index(before) + 1
    proto.graph.node.insert(place, helper.make_node(op, [before.output[0], *others], [made]))


def constant(proto, name, value):
    proto.graph.initializer.append(numpy_helper.from_array(np.asarray(value), name))
    return name


def replaced(proto, name, change):
    tensor = next(t for t in proto.graph.initializer if t.name == name)
    tensor.CopyFrom(numpy_helper.from_array(np.asarray(change(numpy_helper.to_array(tensor))), name))


def becomes(proto, name, op, inputs):
    changed = node(proto, name)
    changed.op_type = op
    del changed.input[:], changed.attribute[:]
    changed.input.extend(inputs)


def clipped(proto):
    behind(proto, "First", "Clip", constant(proto, "low", np.float32(-0.5)), constant(proto, "high", np.float32(0.5)))


def in_bfloat16(proto):
    behind(proto, "Second", "Cast")
    added = next(n for n in proto.graph.node if n.op_type == "Cast")
    added.attribute.append(helper.make_attribute("to", 16))
    added.output[0] = "low"
    place = list(proto.graph.node).index(added) + 1
    proto.graph.node.insert(place, helper.make_node("Cast", ["low"], ["c"], to=1))


def renamed_bias(proto):
    replaced(proto, "first.bias", lambda values: values * 1.5)
    next(t for t in proto.graph.initializer if t.name == "first.bias").name = "onnx::Add_17"
    node(proto, "FirstBias").input[1] = "onnx::Add_17"


def late(proto):
    for name in ("from", "to"):
        replaced(proto, name, lambda value: value + 1)


def turned(proto):
    node(proto, "Join").input[:] = ["sum", "kept"]


def other_epsilon(proto):
    node(proto, "Norm").attribute[0].f = 0.1


FAULTS = {
    "a clip": (clipped, "extra", "Clip"),
    "rounded": (in_bfloat16, "extra", "Cast"),
    "another activation": (lambda p: becomes(p, "Swish", "Relu", ["b"]), "operator", "SiLU"),
    "no activation": (lambda p: becomes(p, "Swish", "Identity", ["b"]), "operator", "SiLU"),
    "another operator": (lambda p: becomes(p, "Residual", "Sub", ["x", "halved"]), "operator", "Residual (Sub) is Add"),
    "another factor": (lambda p: replaced(p, "half", lambda v: v * 0 + 1), "constant", "is 0.5 in place of 1"),
    "no factor": (lambda p: becomes(p, "Halve", "Identity", ["d"]), "scale", "is 0.5"),
    "no residual": (lambda p: becomes(p, "Residual", "Identity", ["halved"]), "addend", "x"),
    "a slice off by one": (late, "place", "moved by -1"),
    "joined in the other order": (turned, "order", "Join"),
    "a bias under another name": (renamed_bias, "weight", "first.bias"),
    "no bias": (lambda p: becomes(p, "SecondBias", "Identity", ["c"]), "weight", "second.bias"),
    "another epsilon": (other_epsilon, "constant", "epsilon 1e-05"),
    "no norm": (lambda p: becomes(p, "Norm", "Identity", ["x"]), "operator", "norm"),
}


def anatomy():
    known = {f"{PLACE}.{name}": Parameter.of(values) for name, values in parameters().items()}
    return Anatomy(known, {f"{PLACE}.norm": Norm("LayerNorm", 1e-5)})


def found(proto):
    trial = GraphTrial(proto)
    every = {name for n in proto.graph.node for name in n.output}
    return trial, cures(trial, every, anatomy(), (f"{PLACE}.",))


@pytest.mark.parametrize("name", FAULTS)
def test_what_mends_it_is_what_was_broken(name):
    broke, kind, text = FAULTS[name]
    proto = feed_forward()
    broke(proto)
    trial, mends = found(proto)
    assert trial.before.ratio > 1
    assert mends
    assert mends[0].kind == kind
    assert text in mends[0].text
    assert mends[0].after <= 0.1 * trial.before.max_abs


def test_one_mistake_made_twice_is_mended_at_once():
    proto = feed_forward()
    behind(proto, "First", "Tanh")
    behind(proto, "Second", "Tanh")
    _, mends = found(proto)
    assert "and 1 more are changed alike" in mends[0].text


def test_nothing_mends_other_weights():
    proto = feed_forward()
    noise = np.random.default_rng(9)
    for name in ("first.weight", "second.weight"):
        replaced(proto, name, lambda values: noise.standard_normal(values.shape).astype(np.float32))
    _, mends = found(proto)
    assert mends == []


def test_a_mend_leaves_the_graph_as_it_was():
    proto = feed_forward()
    clipped(proto)
    before = proto.SerializeToString()
    found(proto)
    assert proto.SerializeToString() == before
