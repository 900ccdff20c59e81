"""How a runtime's execution context is stepped: its inputs, its allocators of outputs, its listener."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..contract.profiles import Shape
from ..dtypes import parse_dtype
from ..dump.atomic import write_bytes
from ..errors import StreamparityError
from .device import Device
from .device_errors import out_of_memory
from .module import Log, TrtModule
from .session import Buffer


def is_about_memory(reason: str) -> bool:
    """Whether a runtime speaks of too little memory."""
    return "out of memory" in reason.lower() or "outofmemory" in reason.lower()


class TrtExecution:
    """See :class:`.session.Execution`.

    Args:
        module: the runtime.
        log: what it logs to.
        context: a ``trt.IExecutionContext``.
        device: where it executes.
        needs: bytes that the engine's activations take.
        cache: a ``trt.IRuntimeCache``, of TensorRT-RTX.

    Attributes:
        looked_at: tensors that survived fusion, by the runtime's name, as of the last step; filled after
            :meth:`look`.
    """

    def __init__(
        self, module: TrtModule, log: Log, context: Any, device: Device, needs: int, cache: Any = None
    ) -> None:
        self._module, self._log, self._needs = module, log, needs
        self._context, self._device, self._cache = context, device, cache
        self._allocators: dict[str, Any] = {}
        self._failures: list[StreamparityError] = []
        self._listener: Any = None
        self.looked_at: dict[str, Any] = {}
        self._allocator_class = _allocator_class(module.trt, self._failures.append)

    def use_profile(self, place: int) -> None:
        """Take this profile from now on."""
        if not self._context.set_optimization_profile_async(place, self._device.stream):
            raise self._refused(f"take profile {place}")
        self._device.synchronise()

    def bind_input(self, name: str, address: int, shape: Shape) -> None:
        """Where an input lies, and its shape."""
        if not (self._context.set_input_shape(name, shape) and self._context.set_tensor_address(name, address)):
            raise self._refused(f"take {name} of shape {list(shape)}")

    def bind_output(self, name: str, buffer: Buffer) -> None:
        """Where an output goes, which an allocator of its own sees to."""
        if name not in self._allocators:
            self._allocators[name] = self._allocator_class()
            self._context.set_output_allocator(name, self._allocators[name])
        self._allocators[name].buffer = buffer
        self._context.set_tensor_address(name, buffer.address)

    def most_bytes(self, name: str) -> int:
        """The runtime's upper bound, 0 where it has none."""
        return max(int(self._context.get_max_output_size(name)), 0)

    def enqueue(self) -> None:
        """Queue the step."""
        done = self._context.execute_async_v3(self._device.stream)
        if self._failures:
            raise self._failures.pop()
        if not done:
            raise self._refused("run the step")

    def capturable(self) -> bool:
        """Whether the runtime says so, where it can."""
        ask = getattr(self._context, "is_stream_capturable", None)
        return True if ask is None else bool(ask(self._device.stream))

    def look(self) -> None:
        """From now on, copy out every tensor that survived fusion and was built to be looked at."""
        self._listener = _listener(self._module, self._device, self.looked_at)
        self._context.set_debug_listener(self._listener)
        self._context.unfused_tensors_debug_state = True

    def save_runtime_cache(self, path: Path) -> None:
        """Write the kernels compiled so far."""
        write_bytes(path, bytes(self._cache.serialize()))

    def _refused(self, what: str) -> StreamparityError:
        reason = self._log.last_error("no reason given")
        if is_about_memory(reason):
            return out_of_memory(self._needs, None)
        return StreamparityError(f"{self._module.name} refuses to {what}: {reason}", "build the engine again")


def _allocator_class(trt: Any, failed: Callable[[StreamparityError], None]) -> Any:
    """What an output is allocated by, which hands out its buffer."""

    class Allocator(trt.IOutputAllocator):  # type: ignore[misc]  # the base is only known at run time
        def __init__(self) -> None:
            trt.IOutputAllocator.__init__(self)
            self.buffer: Buffer | None = None

        def reallocate_output(self, tensor_name: str, memory: Any, size: int, alignment: int) -> int:
            assert self.buffer is not None
            try:
                return self.buffer.reserve(size)
            except StreamparityError as error:  # an exception does not pass through the library
                failed(error)
                return 0

        def reallocate_output_async(self, tensor_name: str, memory: Any, size: int, alignment: int, stream: int) -> int:
            return self.reallocate_output(tensor_name, memory, size, alignment)

        def notify_shape(self, tensor_name: str, shape: Any) -> None:
            assert self.buffer is not None
            self.buffer.shape = tuple(int(extent) for extent in shape)

    return Allocator


def _listener(module: TrtModule, device: Device, seen: dict[str, Any]) -> Any:
    trt = module.trt

    class Listener(trt.IDebugListener):  # type: ignore[misc, name-defined]  # the base is only known at run time
        def __init__(self) -> None:
            trt.IDebugListener.__init__(self)
            self._rooms: dict[str, Any] = {}

        def process_debug_tensor(self, addr: Any, location: Any, type: Any, shape: Any, name: str, stream: int) -> bool:
            dtype = parse_dtype(module.dtype(type))
            extent = tuple(int(each) for each in shape)
            nbytes = dtype.itemsize
            for each in extent:
                nbytes *= each
            if location != trt.TensorLocation.DEVICE or not nbytes:
                return True
            if name not in self._rooms or self._rooms[name].nbytes < nbytes:
                self._rooms[name] = device.pinned(nbytes)
            # What is there is only there during this call: the copy is queued behind what computes it.
            device.copy_out(self._rooms[name][:nbytes], _pointer(addr))
            device.synchronise()
            seen[name] = self._rooms[name][:nbytes].view(dtype).reshape(extent).copy()
            return True

    return Listener()


def _pointer(address: Any) -> int:
    """An address that the bindings hand over as a number or, in some versions, in a capsule."""
    try:
        return int(address)
    except TypeError:
        get = ctypes.pythonapi.PyCapsule_GetPointer
        get.argtypes, get.restype = [ctypes.py_object, ctypes.c_char_p], ctypes.c_void_p
        return int(get(address, None) or 0)
