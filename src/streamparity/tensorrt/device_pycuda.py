"""Device memory through PyCUDA, in the device's primary context, which PyTorch uses too where both are loaded."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pycuda.driver as cuda

from ..errors import StreamparityError
from ..tensors import Array
from .device_errors import no_device, out_of_memory


class PyCudaDevice:
    """See :class:`.device.Device`."""

    name = "pycuda"

    def __init__(self) -> None:
        try:
            cuda.init()
            if not cuda.Device.count():
                raise no_device("there is none")
            self._device = cuda.Device(0)
        except cuda.Error as failure:
            raise no_device(str(failure).splitlines()[0]) from None
        self._context = self._device.retain_primary_context()
        self._context.push()
        self._stream = cuda.Stream(1)  # not in step with the default stream
        self.stream = int(self._stream.handle)
        self._allocated: dict[int, Any] = {}

    def describe(self) -> dict[str, Any]:
        """The GPU, and which implementation this is."""
        major, minor = self._device.compute_capability()
        return {
            "gpu": self._device.name(),
            "compute_capability": f"sm{major}{minor}",
            "memory": int(self._device.total_memory()),
            "implementation": self.name,
        }

    def allocate(self, nbytes: int) -> int:
        """Device memory, or an error that says how much is free."""
        try:
            memory = cuda.mem_alloc(max(nbytes, 1))
        except cuda.MemoryError:
            raise out_of_memory(nbytes, cuda.mem_get_info()[0]) from None
        self._allocated[int(memory)] = memory
        return int(memory)

    def release(self, address: int) -> None:
        """Give device memory back."""
        self._allocated.pop(address).free()

    def pinned(self, nbytes: int) -> Array:
        """Page-locked host memory."""
        memory: Array = cuda.pagelocked_empty(nbytes, np.uint8)
        return memory

    def copy_in(self, address: int, source: Array) -> None:
        """Queue a copy to the device."""
        with _explained():
            cuda.memcpy_htod_async(address, source, self._stream)

    def copy_out(self, target: Array, address: int) -> None:
        """Queue a copy from the device."""
        with _explained():
            cuda.memcpy_dtoh_async(target, address, self._stream)

    def synchronise(self) -> None:
        """Wait for all that is queued."""
        with _explained():
            self._stream.synchronize()

    def capture(self, work: Callable[[], None]) -> Callable[[], None]:
        """Refuse: PyCUDA has none (its pull requests 343 and 424 are open)."""
        raise StreamparityError("PyCUDA has no CUDA graphs", "use -o device=cuda-python, or leave cuda_graph out")

    def close(self) -> None:
        """Give everything back."""
        self._stream.synchronize()
        for memory in self._allocated.values():
            memory.free()
        self._allocated = {}
        self._context.pop()


@contextmanager
def _explained() -> Iterator[None]:
    """Errors of the driver as one line."""
    try:
        yield
    except cuda.Error as error:
        raise StreamparityError(
            f"CUDA reports: {str(error).splitlines()[0]}", "see what came before with CUDA_LAUNCH_BLOCKING=1"
        ) from None
