"""Device memory through cuda-python: the runtime API, which works in the device's primary context, as PyTorch does."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Any

import numpy as np
from cuda.bindings import runtime as cudart

from ..errors import StreamparityError
from ..tensors import Array
from .device_errors import no_device, out_of_memory


class CudaPythonDevice:
    """See :class:`.device.Device`."""

    name = "cuda-python"

    def __init__(self) -> None:
        try:
            error, count = cudart.cudaGetDeviceCount()
        except Exception as failure:  # the bindings load the driver when they are first called
            raise no_device(str(failure).splitlines()[0]) from None
        if error != cudart.cudaError_t.cudaSuccess or not count:
            raise no_device(_words(error) if error != cudart.cudaError_t.cudaSuccess else "there is none")
        _check(cudart.cudaSetDevice(0))
        self._stream = _check(cudart.cudaStreamCreateWithFlags(cudart.cudaStreamNonBlocking))
        self.stream = int(self._stream)
        self._allocated: set[int] = set()
        self._pinned: list[int] = []
        self._graphs: list[Any] = []

    def describe(self) -> dict[str, Any]:
        """The GPU, and which implementation this is."""
        properties = _check(cudart.cudaGetDeviceProperties(0))
        return {
            "gpu": properties.name.decode(errors="replace").rstrip("\0"),
            "compute_capability": f"sm{properties.major}{properties.minor}",
            "memory": int(properties.totalGlobalMem),
            "implementation": self.name,
        }

    def allocate(self, nbytes: int) -> int:
        """Device memory, or an error that says how much is free."""
        error, address = cudart.cudaMalloc(max(nbytes, 1))
        if error == cudart.cudaError_t.cudaErrorMemoryAllocation:
            failed, free, _ = cudart.cudaMemGetInfo()
            raise out_of_memory(nbytes, free if failed == cudart.cudaError_t.cudaSuccess else None)
        _check((error,))
        self._allocated.add(int(address))
        return int(address)

    def release(self, address: int) -> None:
        """Give device memory back."""
        self._allocated.discard(address)
        _check(cudart.cudaFree(address))

    def pinned(self, nbytes: int) -> Array:
        """Page-locked host memory."""
        address = int(_check(cudart.cudaHostAlloc(max(nbytes, 1), 0)))
        self._pinned.append(address)
        return np.ctypeslib.as_array((ctypes.c_uint8 * nbytes).from_address(address))

    def copy_in(self, address: int, source: Array) -> None:
        """Queue a copy to the device."""
        kind = cudart.cudaMemcpyKind.cudaMemcpyHostToDevice
        _check(cudart.cudaMemcpyAsync(address, source.ctypes.data, source.nbytes, kind, self._stream))

    def copy_out(self, target: Array, address: int) -> None:
        """Queue a copy from the device."""
        kind = cudart.cudaMemcpyKind.cudaMemcpyDeviceToHost
        _check(cudart.cudaMemcpyAsync(target.ctypes.data, address, target.nbytes, kind, self._stream))

    def synchronise(self) -> None:
        """Wait for all that is queued."""
        _check(cudart.cudaStreamSynchronize(self._stream))

    def capture(self, work: Callable[[], None]) -> Callable[[], None]:
        """Record what is queued as a CUDA graph."""
        _check(
            cudart.cudaStreamBeginCapture(self._stream, cudart.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal)
        )
        try:
            work()
        finally:
            ended = cudart.cudaStreamEndCapture(self._stream)
        graph = _check(ended)
        executable = _check(cudart.cudaGraphInstantiate(graph, 0))
        _check(cudart.cudaGraphDestroy(graph))
        self._graphs.append(executable)

        def replay() -> None:
            _check(cudart.cudaGraphLaunch(executable, self._stream))

        return replay

    def close(self) -> None:
        """Give everything back."""
        cudart.cudaStreamSynchronize(self._stream)
        for executable in self._graphs:
            cudart.cudaGraphExecDestroy(executable)
        for address in list(self._allocated):
            cudart.cudaFree(address)
        for address in self._pinned:
            cudart.cudaFreeHost(address)
        cudart.cudaStreamDestroy(self._stream)
        self._graphs, self._allocated, self._pinned = [], set(), []


def _words(error: Any) -> str:
    _, text = cudart.cudaGetErrorString(error)
    return f"{text.decode()} (cudaError {int(error)})"


def _check(returned: tuple[Any, ...]) -> Any:
    """The value that a call returned beside its status.

    Raises:
        StreamparityError: the call failed.
    """
    error, *values = returned
    if error != cudart.cudaError_t.cudaSuccess:
        raise StreamparityError(
            f"CUDA reports: {_words(error)}", "see what came before with CUDA_LAUNCH_BLOCKING=1, and try again"
        )
    return values[0] if values else None
