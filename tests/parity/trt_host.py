"""A device of host memory, for the bookkeeping of buffers alone: it computes nothing, and no result comes from it."""

from __future__ import annotations

import ctypes

import numpy as np

from streamparity.tensorrt.device_errors import out_of_memory


class HostDevice:
    name = "host"
    stream = 0

    def __init__(self, room: int | None = None) -> None:
        self.room = room
        self.held: dict[int, object] = {}
        self.allocations = 0
        self.copies_in: list[int] = []
        self.copies_out: list[int] = []
        self.captured = 0

    def describe(self):
        return {"gpu": "none", "compute_capability": "sm00", "memory": self.room, "implementation": self.name}

    def allocate(self, nbytes):
        used = sum(len(block) for block in self.held.values())
        if self.room is not None and used + nbytes > self.room:
            raise out_of_memory(nbytes, self.room - used)
        block = (ctypes.c_uint8 * max(nbytes, 1))()
        address = ctypes.addressof(block)
        self.held[address] = block
        self.allocations += 1
        return address

    def release(self, address):
        del self.held[address]

    def pinned(self, nbytes):
        self.allocations += 1
        return np.zeros(nbytes, np.uint8)

    def copy_in(self, address, source):
        self._check(address, source.nbytes)
        ctypes.memmove(address, source.ctypes.data, source.nbytes)
        self.copies_in.append(address)

    def copy_out(self, target, address):
        self._check(address, target.nbytes)
        ctypes.memmove(target.ctypes.data, address, target.nbytes)
        self.copies_out.append(address)

    def synchronise(self):
        pass

    def capture(self, work):
        work()
        self.captured += 1
        return lambda: None

    def close(self):
        self.held.clear()

    def _check(self, address, nbytes):
        assert address in self.held
        assert nbytes <= len(self.held[address])


class Recorder:
    """Takes down what a session binds; leaves every output as it is."""

    def __init__(self, shapes, outputs, can_capture=True):
        self.shapes = shapes  # of the outputs
        self.outputs = outputs  # bytes
        self.can_capture = can_capture
        self.profiles: list[int] = []
        self.steps: list[dict[str, int]] = []
        self.bound: dict[str, int] = {}
        self.buffers = {}

    def use_profile(self, place):
        self.profiles.append(place)

    def bind_input(self, name, address, shape):
        self.bound[name] = address

    def bind_output(self, name, buffer):
        self.bound[name] = buffer.address
        self.buffers[name] = buffer

    def most_bytes(self, name):
        return self.outputs.get(name, 0)

    def enqueue(self):
        for name, buffer in self.buffers.items():
            if name in self.outputs:
                buffer.reserve(self.outputs[name])
            buffer.shape = self.shapes[name]
        self.steps.append(dict(self.bound))

    def capturable(self):
        return self.can_capture
