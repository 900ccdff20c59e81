"""One engine, stepping: buffers that stay where they are, caches that change places."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Protocol

import numpy as np

from ..contract.profiles import Shape
from ..dtypes import parse_dtype
from ..errors import StreamparityError
from ..tensors import Array
from .device import Device
from .plan import Plan, Slot

Key = tuple[int, int, tuple[tuple[str, Shape], ...]]


class Execution(Protocol):
    """What a session asks of a runtime's execution context."""

    def use_profile(self, place: int) -> None:
        """Take this profile from now on."""

    def bind_input(self, name: str, address: int, shape: Shape) -> None:
        """Where an input lies, and its shape."""

    def bind_output(self, name: str, buffer: Buffer) -> None:
        """Where an output goes. The runtime asks the buffer for room and tells it the shape."""

    def most_bytes(self, name: str) -> int:
        """Most that an output takes under the current profile; 0 where that is not known beforehand."""

    def enqueue(self) -> None:
        """Queue the step.

        Raises:
            StreamparityError: the runtime refuses.
        """

    def capturable(self) -> bool:
        """Whether a step can be recorded as a CUDA graph."""


class Buffer:
    """Device memory that grows where it must and never shrinks.

    Attributes:
        address: where it is.
        shape: of what was last put there.
    """

    def __init__(self, device: Device, nbytes: int) -> None:
        self._device = device
        self.capacity = nbytes
        self.address = device.allocate(nbytes)
        self.shape: Shape = ()

    def reserve(self, nbytes: int) -> int:
        """Make room; the address, which is another one if there was too little."""
        if nbytes > self.capacity:
            self._device.release(self.address)
            self.address, self.capacity = self._device.allocate(nbytes), nbytes
        return self.address


class Session:
    """Drives an execution over a plan.

    Every input and output has its buffer from the beginning; every cache has two, of which a step reads one and writes
    the other. A step copies the features in and nothing out: :meth:`fetch` does that, for what is asked for.

    Args:
        plan: the buffers.
        device: where they are.
        execution: what computes.
        cuda_graph: record each kind of step (profile, shapes, which set of caches is read) when it comes for the second
            time, and replay it from then on.
    """

    def __init__(self, plan: Plan, device: Device, execution: Execution, cuda_graph: bool = False) -> None:
        self._plan, self._device, self._execution = plan, device, execution
        self._cuda_graph = cuda_graph
        self._fed = {name: Buffer(device, slot.nbytes) for name, slot in plan.fed.items()}
        self._kept = [{slot.name: Buffer(device, slot.nbytes) for slot in plan.kept.values()} for _ in range(2)]
        self._outputs = {
            slot.name: Buffer(device, slot.nbytes) for slot in plan.returned.values() if slot.name not in plan.feedback
        }
        self._staging: dict[str, Array] = {}
        self._reads = 0
        self._profile: int | None = None
        self._seen: set[Key] = set()
        self._graphs: dict[Key, tuple[Callable[[], None], dict[str, Shape]]] = {}
        self._written: dict[str, Buffer] = {}
        self._places = self._addresses()

    def set_caches(self, caches: Mapping[str, Array]) -> None:
        """Copy caches in for the next step, by canonical name."""
        self._device.synchronise()
        for name, slot in self._plan.kept.items():
            self._put(slot, caches[name], self._kept[self._reads][slot.name])

    def enqueue(self, fed: Mapping[str, Array]) -> None:
        """Queue one step.

        Args:
            fed: what is not kept on the device, by canonical name.

        Raises:
            StreamparityError: shapes outside every profile, or the runtime refuses.
        """
        reads, writes = self._kept[self._reads], self._kept[1 - self._reads]
        shapes = {slot.name: fed[name].shape for name, slot in self._plan.fed.items()}
        shapes |= {name: buffer.shape for name, buffer in reads.items()}
        profile = self._plan.profile_for(shapes)
        self._device.synchronise()  # host memory is written to again: nothing may still be reading it
        for name, slot in self._plan.fed.items():
            self._put(slot, fed[name], self._fed[name])
        key = (profile, self._reads, tuple(sorted(shapes.items())))
        self._written = self._outputs | {given: writes[taken] for given, taken in self._plan.feedback.items()}
        if key in self._graphs:
            replay, returned = self._graphs[key]
            replay()
            for name, shape in returned.items():
                self._written[name].shape = shape
        else:
            self._run(key, shapes, reads)
        self._reads = 1 - self._reads

    def _run(self, key: Key, shapes: Mapping[str, Shape], reads: Mapping[str, Buffer]) -> None:
        if key[0] != self._profile:
            self._execution.use_profile(key[0])
            self._profile = key[0]
        addresses = {slot.name: self._fed[name].address for name, slot in self._plan.fed.items()}
        addresses |= {name: buffer.address for name, buffer in reads.items()}
        for name, shape in shapes.items():
            self._execution.bind_input(name, addresses[name], shape)
        for name, buffer in self._written.items():
            buffer.reserve(self._execution.most_bytes(name))
            self._execution.bind_output(name, buffer)
        if self._cuda_graph and key in self._seen:
            if not self._execution.capturable():
                raise StreamparityError(
                    "the engine's steps cannot be recorded as a CUDA graph", "leave out -o cuda_graph=1"
                )
            replay = self._device.capture(self._execution.enqueue)
            self._graphs[key] = replay, {name: buffer.shape for name, buffer in self._written.items()}
            replay()
        else:
            self._execution.enqueue()
            self._seen.add(key)
            self._forget_moved()

    def _forget_moved(self) -> None:
        """A buffer that has grown is elsewhere now, and what was recorded would write to where it was."""
        if self._addresses() != self._places:
            self._places = self._addresses()
            self._graphs.clear()

    def _addresses(self) -> list[int]:
        buffers = [*self._fed.values(), *self._outputs.values(), *self._kept[0].values(), *self._kept[1].values()]
        return [buffer.address for buffer in buffers]

    def fetch(self, names: Iterable[str]) -> dict[str, Array]:
        """Copies of what the last step returned, by canonical name or tap label."""
        slots = {name: self._plan.returned[name] for name in names}
        queued = {}
        for name, slot in slots.items():
            buffer = self._written[slot.name]
            dtype = parse_dtype(slot.dtype)
            room = self._room(slot.name, int(np.prod(buffer.shape, dtype=np.int64)) * dtype.itemsize)
            if room.nbytes:
                self._device.copy_out(room, buffer.address)
            queued[name] = room.view(dtype).reshape(buffer.shape)
        self._device.synchronise()
        return {name: view.copy() for name, view in queued.items()}

    def _put(self, slot: Slot, array: Array, buffer: Buffer) -> None:
        typed = np.ascontiguousarray(array, parse_dtype(slot.dtype)).reshape(array.shape)
        room = self._room(slot.name, typed.nbytes)
        room[:] = typed.reshape(-1).view(np.uint8)
        buffer.reserve(typed.nbytes)
        buffer.shape = typed.shape
        self._device.copy_in(buffer.address, room)

    def _room(self, name: str, nbytes: int) -> Array:
        if name not in self._staging or self._staging[name].nbytes < nbytes:
            self._staging[name] = self._device.pinned(nbytes)
        return self._staging[name][:nbytes]
