"""What goes wrong with devices, in two lines each."""

from __future__ import annotations

from ..errors import BackendMissing, StreamparityError


def no_device(reason: str) -> BackendMissing:
    """There is no GPU that can be used."""
    return BackendMissing(
        f"no CUDA device can be used: {reason}", "run it on a machine with an NVIDIA GPU and its driver"
    )


def out_of_memory(wanted: int, free: int | None) -> StreamparityError:
    """The device has not enough memory."""
    left = "" if free is None else f", {free / 2**20:.0f} MiB are free"
    return StreamparityError(
        f"out of device memory: {wanted / 2**20:.1f} MiB wanted{left}",
        "free the GPU of other programs, build for a smaller batch, or in lower precision",
    )
