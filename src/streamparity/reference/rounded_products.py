"""Products in TF32 or int8 on any device: operands are rounded as the hardware rounds them, sums stay float32."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

# Both operands of a product before and after; weights among them are told by where they are stored.
Rounding = Callable[[Any, Any], tuple[Any, Any]]

# PyTorch's primitive products, with the places of their two operands. All others (linear, matmul, einsum, conv1d,
# lstm, ...) decompose into these.
PRODUCTS = {
    "aten::mm": (0, 1),
    "aten::bmm": (0, 1),
    "aten::mv": (0, 1),
    "aten::dot": (0, 1),
    "aten::addmm": (1, 2),
    "aten::addmv": (1, 2),
    "aten::addbmm": (1, 2),
    "aten::baddbmm": (1, 2),
    "aten::convolution": (0, 1),
}
TF32_DROPPED = 13  # of float32's 23 bits of mantissa TF32 keeps 10


def tf32(left: Any, right: Any) -> tuple[Any, Any]:
    """Both operands to 10 bits of mantissa, to nearest, ties away from zero (PTX ``cvt.rna.tf32.f32``)."""
    return _to_tf32(left), _to_tf32(right)


def _to_tf32(values: Any) -> Any:
    import torch

    half = 1 << (TF32_DROPPED - 1)
    bits = values.contiguous().view(torch.int32)
    rounded = ((bits + half) & -(1 << TF32_DROPPED)).view(torch.float32)
    return torch.where(values.isfinite(), rounded, values)


def int8(weights: Sequence[Any]) -> Rounding:
    """Dynamic quantisation of products of ``weights`` with anything else, a scale for each whole tensor.

    Weights are signed and symmetric, activations unsigned with a zero point from their own range, as in
    ``torch.ao.quantization.quantize_dynamic`` (of linear layers and LSTMs) and ``onnxruntime.quantization`` (of
    convolutions too). Products of two activations, as in attention, stay float32.
    """
    places = {weight.untyped_storage().data_ptr() for weight in weights}

    def rounding(left: Any, right: Any) -> tuple[Any, Any]:
        given = [operand.untyped_storage().data_ptr() in places for operand in (left, right)]
        if given == [False, True]:
            return _unsigned(left), _signed(right)
        if given == [True, False]:
            return _signed(left), _unsigned(right)
        return left, right

    return rounding


def _signed(values: Any) -> Any:
    step = (values.abs().amax() / 127).clamp_min(1e-30)
    return (values / step).round() * step


def _unsigned(values: Any) -> Any:
    low, high = values.amin().clamp_max(0), values.amax().clamp_min(0)
    step = ((high - low) / 255).clamp_min(1e-30)
    zero = (-low / step).round()
    return ((values / step).round() + zero).clamp(0, 255).sub(zero) * step


@contextmanager
def rounded_products(rounding: Rounding) -> Iterator[None]:
    """Round the operands of every float32 product that PyTorch computes while the context lasts."""
    import torch
    from torch.utils._python_dispatch import TorchDispatchMode

    class Rounded(TorchDispatchMode):  # type: ignore[misc]  # mypy does not read torch
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            kwargs = kwargs or {}
            places = PRODUCTS.get(func._schema.name)
            if places is None:
                with self:
                    parts = func.decompose(*args, **kwargs)
                return func(*args, **kwargs) if parts is NotImplemented else parts
            operands = [args[place] for place in places]
            if all(operand.dtype == torch.float32 and operand.numel() for operand in operands):
                given = list(args)
                given[places[0]], given[places[1]] = rounding(*operands)
                return func(*given, **kwargs)
            return func(*args, **kwargs)

    # oneDNN's own LSTM is one opaque operator; PyTorch's is made of products. (Not mkldnn.flags: it warns of TF32.)
    mkldnn = torch.backends.mkldnn
    enabled, mkldnn.enabled = mkldnn.enabled, False
    try:
        with Rounded():
            yield
    finally:
        mkldnn.enabled = enabled
