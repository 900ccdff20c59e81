"""Predictor and joint: their graph."""

from __future__ import annotations

import numpy as np
import onnx

from streamparity.tensors import Array

from ..edits import find, named, producer, rewrite, value_of
from .build import JOINT_FILE, graph
from .graft import Graft, bypass


def lstms(model) -> list[onnx.NodeProto]:
    return [n for n in model.graph.node if n.op_type == "LSTM"]


def gates_as_torch(model, bench) -> None:
    """The second layer's gates in torch's order: input, forget, cell, output where ONNX has i, o, f, c."""
    for name in lstms(model)[1].input[1:4]:
        axis = 1
        values = value_of(model, name)
        if values.ndim == 2:
            halves = np.split(values, 2, axis)
            changed = np.concatenate([_torch_order(half) for half in halves], axis)
        else:
            changed = _torch_order(values)
        rewrite(model, name, lambda _, changed=changed: changed)


def _torch_order(values: Array) -> Array:
    parts = np.split(values, 4, axis=1)
    return np.concatenate([parts[place] for place in (0, 2, 3, 1)], axis=1)


def states_exchanged(model, bench) -> None:
    """Hidden and cell state come back under each other's name."""
    first, second = producer(model, "output_states_1"), producer(model, "output_states_2")
    first.output[0], second.output[0] = second.output[0], first.output[0]


def state_layers_exchanged(model, bench) -> None:
    for port in ("output_states_1", "output_states_2"):
        node = producer(model, port)
        node.input[0], node.input[1] = node.input[1], node.input[0]


def lstm_layers_exchanged(model, bench) -> None:
    first, second = lstms(model)
    for position in (1, 2, 3):
        first.input[position], second.input[position] = second.input[position], first.input[position]


def recurrent_bias_lost(model, bench) -> None:
    for node in lstms(model):
        rewrite(
            model, node.input[3], lambda b: np.concatenate([b[:, : b.shape[1] // 2], b[:, b.shape[1] // 2 :] * 0], 1)
        )


def joint_activation(op: str):
    def edit(model, bench) -> None:
        next(n for n in model.graph.node if n.op_type == "Relu").op_type = op

    return edit


def projections_exchanged(model, bench) -> None:
    first, second = find(model, "joint.enc", "MatMul"), find(model, "joint.pred", "MatMul")
    first.input[1], second.input[1] = second.input[1], first.input[1]


def joint_bias_lost(model, bench) -> None:
    node = find(model, "joint.enc", "Add")
    bypass(model, node, next(name for name in node.input if not name.endswith(".bias")))


def blank_first(model, bench) -> None:
    """The vocabulary rolled by one: the blank's row is the first, not the last."""
    scope = next(n.name for n in model.graph.node if n.op_type == "MatMul" and "joint_net" in n.name)
    node = named(model, scope)
    rewrite(model, node.input[1], lambda w: np.roll(w, 1, 1))
    rewrite(
        model,
        "joint.joint_net.1.bias" if _initial(model, "joint.joint_net.1.bias") else "joint.joint_net.2.bias",
        lambda b: np.roll(b, 1),
    )


def _initial(model, name: str) -> bool:
    return any(t.name == name for t in model.graph.initializer)


def probabilities(model, bench) -> None:
    """Softmax where logits or their log-softmax belong: the same labels, other scores."""
    g = Graft(model, "/joint")
    g.after("outputs", lambda x: g("Softmax", x, axis=-1))


def joint_multiplies(model, bench) -> None:
    find(model, "joint", "Add").op_type = "Mul"


PREDICTION, JOINT = "decoder.prediction", "joint"
FAULTS = [
    graph("gates-as-torch", "weights-differ", PREDICTION, gates_as_torch, file=JOINT_FILE),
    graph("states-exchanged", "graph-differs", PREDICTION, states_exchanged, file=JOINT_FILE),
    graph(
        "state-layers-exchanged",
        ("graph-differs", "cache-layers-swapped"),
        PREDICTION,
        state_layers_exchanged,
        file=JOINT_FILE,
    ),
    graph("lstm-layers-exchanged", "weights-differ", PREDICTION, lstm_layers_exchanged, file=JOINT_FILE),
    graph("recurrent-bias-lost", "weights-differ", PREDICTION, recurrent_bias_lost, file=JOINT_FILE),
    graph("joint-tanh", "graph-differs", JOINT, joint_activation("Tanh"), file=JOINT_FILE),
    graph(  # as large as each other in this model only
        "joint-projections-exchanged",
        "weights-differ",
        JOINT,
        projections_exchanged,
        file=JOINT_FILE,
        only="demo",
    ),
    graph("joint-bias-lost", ("weights-differ", "graph-differs"), JOINT, joint_bias_lost, file=JOINT_FILE),
    graph("blank-first", ("weights-differ", "layout-transposed"), JOINT, blank_first, file=JOINT_FILE),
    graph("joint-gives-probabilities", "graph-differs", JOINT, probabilities, file=JOINT_FILE),
    graph("joint-multiplies", "graph-differs", JOINT, joint_multiplies, file=JOINT_FILE),
]
