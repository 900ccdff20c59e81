"""Device memory behind one interface, with two implementations: PyCUDA, and cuda-python where PyCUDA is absent.

Nothing above this file knows which of them is in use, and nothing above it touches a GPU.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from ..errors import BackendMissing, StreamparityError
from ..tensors import Array

IMPLEMENTATIONS = ("pycuda", "cuda-python")


class Device(Protocol):
    """A GPU with one stream, in which everything is done in order.

    Attributes:
        name: which implementation this is.
        stream: the stream's handle, as TensorRT takes it.
    """

    name: str
    stream: int

    def describe(self) -> dict[str, Any]:
        """``gpu`` (its name), ``compute_capability`` (``sm90``), ``memory`` (bytes) and ``implementation``."""

    def allocate(self, nbytes: int) -> int:
        """Device memory; its address.

        Raises:
            StreamparityError: there is not so much.
        """

    def release(self, address: int) -> None:
        """Give device memory back."""

    def pinned(self, nbytes: int) -> Array:
        """Host memory that copies run from and to while the host goes on; uint8 ``[nbytes]``."""

    def copy_in(self, address: int, source: Array) -> None:
        """Queue a copy of a whole pinned, contiguous array to the device."""

    def copy_out(self, target: Array, address: int) -> None:
        """Queue a copy from the device that fills a pinned, contiguous array."""

    def synchronise(self) -> None:
        """Wait until everything queued is done.

        Raises:
            StreamparityError: something queued has failed.
        """

    def capture(self, work: Callable[[], None]) -> Callable[[], None]:
        """Record what ``work`` queues as a CUDA graph, without running it; what is returned queues it all again.

        Raises:
            StreamparityError: it cannot be recorded.
        """

    def close(self) -> None:
        """Give everything back."""


def open_device(choice: str | None = None) -> Device:
    """The first GPU.

    Args:
        choice: one of :data:`IMPLEMENTATIONS`; default PyCUDA where it can be imported, else cuda-python.

    Raises:
        BackendMissing: no library, no driver, or no GPU.
        StreamparityError: an implementation that there is not.
    """
    if choice not in (None, *IMPLEMENTATIONS):
        raise StreamparityError(f"there is no device implementation {choice!r}", f"use {' or '.join(IMPLEMENTATIONS)}")
    openers = {"pycuda": _open_pycuda, "cuda-python": _open_cuda_python}
    absent = []
    for name in IMPLEMENTATIONS if choice is None else (choice,):
        try:
            return openers[name]()
        except ImportError as error:
            absent.append(f"{name}: {error}")
    raise BackendMissing(
        f"no library for device memory can be imported ({'; '.join(absent)})", "pip install cuda-python, or pycuda"
    )


def _open_pycuda() -> Device:
    from .device_pycuda import PyCudaDevice

    return PyCudaDevice()


def _open_cuda_python() -> Device:
    from .device_cuda_python import CudaPythonDevice

    return CudaPythonDevice()
