"""Taps: inner tensors of a NeMo model, recorded while it runs.

Encoder modules are tapped by forward hooks. Greedy decoding never calls ``decoder.forward`` or ``joint.forward``, so
there the methods are wrapped that NeMo's label looping really calls (``GreedyBatchedRNNTLabelLoopingComputer``).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from fnmatch import fnmatchcase
from typing import Any

from ..dump.decoder import CTC_HEAD, JOINT, PREDICTION, PREDICTION_STATES
from ..errors import StreamparityError
from ..tensors import EXTENT, SECOND_OUTPUT, Array, TensorSpec, ValidRule
from .nemo import decoder_of

PREPROCESSOR = "preprocessor"
DECODER_TAPS = (PREDICTION, f"{PREDICTION_STATES}_1", f"{PREDICTION_STATES}_2", JOINT)

BLOCK_LEVEL = re.compile(
    r"encoder\.(pre_encode|pos_enc|layers\.\d+(\.(feed_forward1|self_attn|conv|feed_forward2|norm_out))?)"
)


def choose_taps(module: Any, globs: Sequence[str]) -> tuple[list[str], list[str]]:
    """Pick module paths by glob; block level when there is no glob.

    Args:
        module: the NeMo model.
        globs: patterns over ``encoder...`` module paths, ``preprocessor``, ``decoder.prediction*`` and ``joint``, or
            ``ctc_decoder`` where that head decodes.

    Returns:
        Encoder module paths, and the other taps, each in the order of definition.

    Raises:
        StreamparityError: a glob matches nothing.
    """
    inner = [f"encoder.{name}" for name, part in module.encoder.named_modules() if name and not _is_identity(part)]
    others = [PREPROCESSOR]
    decoder = decoder_of(module)
    if decoder is not None:
        others += [CTC_HEAD] if decoder.kind == "ctc" else DECODER_TAPS
    if not globs:
        return [name for name in inner if BLOCK_LEVEL.fullmatch(name)], others
    for glob in globs:
        if not any(fnmatchcase(name, glob) for name in [*inner, *others]):
            raise StreamparityError(
                f"--taps {glob!r} matches no module",
                f"module paths look like encoder.layers.0.self_attn; the others are {', '.join(others)}",
            )

    def wanted(names: list[str]) -> list[str]:
        return [name for name in names if any(fnmatchcase(name, glob) for glob in globs)]

    return wanted(inner), wanted(others)


def _is_identity(module: Any) -> bool:
    """Whether a module does nothing in inference, so that no exported graph has it."""
    import torch

    return isinstance(module, torch.nn.Dropout | torch.nn.Identity)


FRAMES_BY_FEATURES = re.compile(
    r"encoder\.(pre_encode(\.out)?|layers\.\d+(\.(norm_\w+|feed_forward\d.*|conv|self_attn|self_attn\.linear_(q|out)))?)"
)


def tap_spec(name: str, tensor: Array) -> TensorSpec:
    """Describe an encoder tap of one stream (batch size 1).

    Blocks are ``[B, T, D]`` with every frame valid that the reference computed, those included that a later stage drops
    (a candidate with chunks of fixed length may have more behind them). Axes of deeper taps differ by module and are
    numbered; all of them is valid.
    """
    if FRAMES_BY_FEATURES.fullmatch(name):
        axes, valid = ("B", "T", "D"), ValidRule("T", "first", EXTENT)
        return TensorSpec(f"tap/{name}", "tap", str(tensor.dtype), axes, valid)
    return TensorSpec(f"tap/{name}", "tap", str(tensor.dtype), tuple(f"d{axis}" for axis in range(tensor.ndim)))


class EncoderTaps:
    """Records the output of encoder modules, in the order in which they finish.

    A module that is called more than once in a step (NeMo shares one activation among all feed-forward blocks) has no
    one output: it is not recorded.

    Attributes:
        repeated: names of such modules, as far as they were seen.
    """

    def __init__(self, module: Any, names: Sequence[str]) -> None:
        self._module = module
        self._names = names
        self._tensors: dict[str, Any] = {}
        self.repeated: set[str] = set()

    @contextmanager
    def recording(self) -> Iterator[None]:
        """Hook the modules for as long as the context lasts."""
        modules = dict(self._module.encoder.named_modules())
        with ExitStack() as stack:
            for name in self._names:
                hook = modules[name.removeprefix("encoder.")].register_forward_hook(self._hook(name))
                stack.callback(hook.remove)
            yield

    @contextmanager
    def forcing(self, outputs: Mapping[str, Any]) -> Iterator[None]:
        """Have modules hand on ``outputs`` (by tap name) in place of what they compute; recording sees the latter."""

        def force(name: str) -> Callable[[Any, Any, Any], Any]:
            position = 1 if name in SECOND_OUTPUT else 0

            def replace(_module: Any, _inputs: Any, output: Any) -> Any:
                if not isinstance(output, list | tuple):
                    return outputs[name]
                return type(output)(outputs[name] if i == position else part for i, part in enumerate(output))

            return replace

        modules = dict(self._module.encoder.named_modules())
        with ExitStack() as stack:
            for name in outputs:
                hook = modules[name.removeprefix("encoder.")].register_forward_hook(force(name))
                stack.callback(hook.remove)
            yield

    def take(self) -> dict[str, Any]:
        """What was recorded since the last call, by tap name."""
        taken = {name: tensor for name, tensor in self._tensors.items() if name not in self.repeated}
        self._tensors.clear()
        return taken

    def _hook(self, name: str) -> Callable[[Any, Any, Any], None]:
        import torch

        position = 1 if name in SECOND_OUTPUT else 0

        def record(_module: Any, _inputs: Any, output: Any) -> None:
            if name in self._tensors:
                self.repeated.add(name)
            self._tensors[name] = output[position] if isinstance(output, list | tuple) else output

        # Traced by torch.compile, the bookkeeping would be guarded on, and compiled anew at every step.
        hook: Callable[[Any, Any, Any], None] = torch.compiler.disable(record)
        return hook


@contextmanager
def wrapped(owner: Any, method: str, after: Callable[[Any], None]) -> Iterator[None]:
    """Call ``after(result)`` whenever ``owner.method`` returns, for as long as the context lasts."""
    original = getattr(owner, method)

    def call(*args: Any, **kwargs: Any) -> Any:
        result = original(*args, **kwargs)
        after(result)
        return result

    # Not setattr: torch modules would register it, and a plain attribute shadows the method until it is deleted.
    owner.__dict__[method] = call
    try:
        yield
    finally:
        del owner.__dict__[method]


class DecoderTaps:
    """Records every call that greedy decoding makes to the prediction network and the joint.

    Attributes:
        predictions: output of ``decoder.predict``, ``[B, 1, H]`` per call.
        states: predictor state after the call, a tuple of ``[L, B, H]``.
        logits: output of ``joint.joint_after_projection``, ``[B, 1, 1, V]`` per call.
    """

    def __init__(self, module: Any) -> None:
        self._module = module
        self.clear()

    def clear(self) -> None:
        """Forget the calls of the last step."""
        self.predictions: list[Any] = []
        self.states: list[Any] = []
        self.logits: list[Any] = []

    @contextmanager
    def recording(self) -> Iterator[None]:
        """Wrap the methods. Decoding must not run as a CUDA graph, which would bypass them."""
        with (
            wrapped(self._module.decoder, "predict", self._predicted),
            wrapped(self._module.joint, "joint_after_projection", self._joined),
        ):
            yield

    def _joined(self, logits: Any) -> None:
        self.logits.append(logits)

    def _predicted(self, result: Any) -> None:
        prediction, state = result[0], result[1]
        self.predictions.append(prediction)
        # Copied: label looping overwrites the state of the active hypotheses in place.
        self.states.append(
            tuple(part.clone() for part in state) if isinstance(state, list | tuple) else (state.clone(),)
        )
