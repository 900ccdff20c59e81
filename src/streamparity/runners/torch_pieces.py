"""Parts of a NeMo model as ONNX graphs, so that an error of theirs can be shown without PyTorch."""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from ..dump.decoder import JOINT, PREDICTION
from ..errors import first_line
from ..graph.onnx_cut import piece
from ..reference.encoder import to_numpy
from ..tensors import SECOND_OUTPUT
from .piece import NoPiece, Piece
from .transducer import TransducerCall

OPSET = 17


def submodule_piece(module: Any, label: str, run: Callable[[], object]) -> Piece:
    """An encoder's submodule with what it is given while ``run`` runs the encoder.

    Args:
        module: the NeMo model.
        label: the submodule, such as ``encoder.layers.0.conv``.
        run: one step of the encoder.

    Raises:
        NoPiece: no such submodule, or torch.onnx cannot export it.
    """
    parts = dict(module.encoder.named_modules(prefix="encoder"))
    part = parts.get(label)
    if part is None:
        raise NoPiece(f"{label} is the output of no submodule")
    calls: list[tuple[tuple[Any, ...], dict[str, Any]]] = []
    hook = part.register_forward_pre_hook(lambda _, args, kwargs: calls.append((args, kwargs)), with_kwargs=True)
    try:
        run()
    finally:
        hook.remove()
    if len(calls) != 1:
        raise NoPiece(f"{label} is called {len(calls)} times in a step")
    args, kwargs = calls[0]
    position = 1 if label in SECOND_OUTPUT else 0

    def call(*given: Any) -> Any:
        rest = dict(zip(kwargs, given[len(args) :], strict=True))
        returned = part(*given[: len(args)], **rest)
        return returned[position] if isinstance(returned, list | tuple) else returned

    names = [f"input_{number}" for number in range(len(args))] + list(kwargs)
    return _exported(label, call, names, [*args, *kwargs.values()])


def decoder_piece(module: Any, label: str, call: TransducerCall, dtype: Any) -> Piece:
    """Predictor or joint with what one evaluation is given; see :meth:`.base.Runner.decoder_piece`.

    Raises:
        NoPiece: torch.onnx cannot export it.
    """
    import torch

    def tensor(array: Any) -> Any:
        return torch.from_numpy(np.array(array)).to(module.device, dtype)

    def predict(target: Any, *state: Any) -> tuple[Any, ...]:
        prediction, after, *_ = module.decoder.predict(target, state, add_sos=False, batch_size=1)
        return (prediction, *after)

    def score(frame: Any, prediction: Any) -> Any:
        joint = module.joint
        logits = joint.joint_after_projection(joint.project_encoder(frame), joint.project_prednet(prediction))
        return torch.log_softmax(logits, -1)

    consumed = [torch.tensor([[call.label]], device=module.device), *map(tensor, call.state)]
    names = ["target", *(f"state_{part}" for part in range(1, len(call.state) + 1))]
    if label != JOINT:
        place = 0 if label == PREDICTION else int(label.rpartition("_")[2])
        return _exported(label, lambda *given: predict(*given)[place], names, consumed)
    frame = tensor(call.frame).reshape(1, 1, -1)
    if call.prediction is not None:
        return _exported(label, score, ["frame", "prediction"], [frame, tensor(call.prediction).reshape(1, 1, -1)])
    return _exported(label, lambda f, *rest: score(f, predict(*rest)[0]), ["frame", *names], [frame, *consumed])


def _exported(label: str, call: Callable[..., Any], names: Sequence[str], given: Sequence[Any]) -> Piece:
    """``call`` of ``given`` as a graph; what is no tensor is as good as written in it."""
    import onnx
    import torch

    places = [place for place, value in enumerate(given) if isinstance(value, torch.Tensor)]
    # Cloned: what was made in inference mode cannot be traced.
    tensors = [given[place].detach().clone() for place in places]

    class Call(torch.nn.Module):  # type: ignore[misc]  # mypy does not read torch
        def forward(self, *inputs: Any) -> Any:
            values = list(given)
            for place, value in zip(places, inputs, strict=True):
                values[place] = value
            return call(*values)

    file, named = io.BytesIO(), [names[place] for place in places]
    try:
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of values that tracing takes for constants, which here they are
            torch.onnx.export(
                Call().eval(),
                tuple(tensors),
                file,
                input_names=named,
                output_names=["value"],
                opset_version=OPSET,
                dynamo=False,
            )
    except Exception as error:  # whatever the exporter raises
        raise NoPiece(f"torch.onnx cannot export {label}: {first_line(error)}") from None
    graph = piece(onnx.load_model_from_string(file.getvalue()), ["value"])
    arrays: Mapping[str, Any] = dict(zip(named, map(to_numpy, tensors), strict=True))
    return Piece(graph, {port.name: arrays[port.name] for port in graph.graph.input})
