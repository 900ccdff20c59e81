"""What has to be in device memory and where it goes from step to step, from an engine's metadata alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ..contract.profiles import Profile, Shape
from ..dtypes import parse_dtype
from ..errors import StreamparityError
from ..tensors import CACHE_FEEDBACK, ENCODER_INPUTS, ENCODER_OUTPUTS, canonical_names
from .metadata import EngineMetadata


@dataclass(frozen=True)
class Slot:
    """An input or output of an engine.

    Attributes:
        name: as the engine calls it.
        dtype: its element type.
        nbytes: most that it takes over all profiles; for an output, 0 where only the runtime can tell.
    """

    name: str
    dtype: str
    nbytes: int


@dataclass(frozen=True)
class Plan:
    """Buffers of an engine.

    Attributes:
        fed: inputs copied from the host at every step, by canonical name.
        kept: inputs that stay on the device, by canonical name; each has two buffers, swapped at every step.
        returned: outputs by canonical name, taps that were marked by label.
        feedback: the engine's name of the input that each output becomes, by the output's.
        profiles: what shapes it takes.
    """

    fed: Mapping[str, Slot]
    kept: Mapping[str, Slot]
    returned: Mapping[str, Slot]
    feedback: Mapping[str, str]
    profiles: Sequence[Profile]

    def profile_for(self, shapes: Mapping[str, Shape]) -> int:
        """The first profile that takes these input shapes.

        Raises:
            StreamparityError: none does.
        """
        for place, profile in enumerate(self.profiles):
            if profile.admits(shapes):
                return place
        name, shape = self._worst(shapes)
        spans = "; ".join(
            f"{profile.name}: {list(profile.shapes[name][0])} to {list(profile.shapes[name][2])}"
            for profile in self.profiles
            if name in profile.shapes
        )
        raise StreamparityError(
            f"{name} of shape {list(shape)} is outside every profile of the engine ({spans or 'none'})",
            "build it for this schedule and batch: streamparity build --schedule, --batch, --tail",
        )

    def _worst(self, shapes: Mapping[str, Shape]) -> tuple[str, Shape]:
        """The input that fewest profiles take."""
        taken = {
            name: sum(profile.admits({name: shape}) for profile in self.profiles) for name, shape in shapes.items()
        }
        name = min(taken, key=lambda each: taken[each])
        return name, shapes[name]


def encoder_plan(metadata: EngineMetadata) -> Plan:
    """The plan of an encoder that streams.

    Raises:
        StreamparityError: ports that are not an encoder's, or caches that could not be fed back.
    """
    marked = {tensor: label for label, tensor in metadata.taps.items()}
    inputs = canonical_names([port.name for port in metadata.inputs], ENCODER_INPUTS, "the engine")
    outputs = canonical_names(
        [port.name for port in metadata.outputs if port.name not in marked], ENCODER_OUTPUTS, "the engine"
    )
    dtypes = {port.name: port.dtype for port in (*metadata.inputs, *metadata.outputs)}
    slots = {name: _slot(actual, dtypes[actual], metadata.profiles) for name, actual in inputs.items()}
    kept = {name: slots[name] for name in CACHE_FEEDBACK.values()}
    for given, taken in CACHE_FEEDBACK.items():
        ours, theirs = dtypes[outputs[given]], dtypes[inputs[taken]]
        if ours != theirs:
            raise StreamparityError(
                f"the engine returns {given} as {ours} and takes {taken} as {theirs}: it cannot be fed back",
                "export the model again, or build with ports of one type",
            )
    returned = {
        name: Slot(actual, dtypes[actual], slots[CACHE_FEEDBACK[name]].nbytes if name in CACHE_FEEDBACK else 0)
        for name, actual in outputs.items()
    }
    returned |= {label: Slot(tensor, dtypes[tensor], 0) for tensor, label in marked.items()}
    return Plan(
        fed={name: slot for name, slot in slots.items() if name not in kept},
        kept=kept,
        returned=returned,
        feedback={outputs[given]: inputs[taken] for given, taken in CACHE_FEEDBACK.items()},
        profiles=metadata.profiles,
    )


def decoder_plan(metadata: EngineMetadata) -> Plan:
    """The plan of a ``decoder_joint``, whose state the host keeps: it is small, and the host decides what follows."""
    dtypes = {port.name: port.dtype for port in metadata.outputs}
    fed = {port.name: _slot(port.name, port.dtype, metadata.profiles) for port in metadata.inputs}
    returned = {name: Slot(name, dtype, 0) for name, dtype in dtypes.items()}
    return Plan(fed=fed, kept={}, returned=returned, feedback={}, profiles=metadata.profiles)


def _slot(name: str, dtype: str, profiles: Sequence[Profile]) -> Slot:
    most = max((int(np.prod(profile.shapes[name][2])) for profile in profiles if name in profile.shapes), default=0)
    return Slot(name, dtype, most * parse_dtype(dtype).itemsize)
