"""An engine opened on a device: what it says of itself, and how it executes."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..contract.profiles import Profile, Shape
from ..errors import StreamparityError, first_line
from ..runners.onnx_graph import GraphPort
from ..tensors import DECODER_INPUTS
from .device import Device, out_of_memory
from .metadata import EngineMetadata
from .module import Log, TrtModule, new_log
from .network import extents
from .session import Buffer


class Engine:
    """A deserialised engine.

    Args:
        module: the runtime.
        path: the engine's file.
        device: an opened device; without one nothing can be deserialised.
        targets: what the engine is known to be built for.

    Raises:
        StreamparityError: it is of another version or compute capability, damaged, or does not fit in memory.
    """

    def __init__(self, module: TrtModule, path: Path, device: Device, targets: tuple[str, ...] = ()) -> None:
        self.module, self._device = module, device
        self.log: Log = new_log(module)
        self._runtime = module.trt.Runtime(self.log.logger)
        data = path.read_bytes()
        self._check(data, path, targets)
        self.engine = self._runtime.deserialize_cuda_engine(data)
        if self.engine is None:
            reason = self.log.last_error("no reason given")
            if _is_about_memory(reason):
                raise out_of_memory(len(data), None)
            raise StreamparityError(
                f"{module.name} {module.version} cannot open {path.name} on this GPU "
                f"({self._device.describe()['compute_capability']}): {reason}",
                "build it again with this version, for this GPU: streamparity build",
            )

    def _check(self, data: bytes, path: Path, targets: tuple[str, ...]) -> None:
        """Ask the runtime, where it can say, before it tries."""
        ask = getattr(self._runtime, "get_engine_validity", None)
        if ask is None:
            return
        try:
            validity, reasons = ask(data)
        except Exception:  # an older signature: deserialising will say
            return
        if validity != self.module.trt.EngineValidity.INVALID:
            return
        flags = self.module.trt.EngineInvalidityDiagnostics.__members__
        named = [name for name, flag in flags.items() if int(reasons) & int(flag)]
        here = self._device.describe()["compute_capability"]
        built = f", built for {', '.join(targets)}," if targets else ""
        raise StreamparityError(
            f"{path.name}{built} is not valid here ({here}, {self.module.name} {self.module.version}): "
            f"{', '.join(named).lower().replace('_', ' ') or self.log.last_error('no reason given')}",
            "build it again with this version, for this GPU: streamparity build --target",
        )

    def metadata(self) -> EngineMetadata:
        """What the engine says of itself: nothing of its precision and of what it was built from."""
        trt, engine = self.module.trt, self.engine
        names = [engine.get_tensor_name(place) for place in range(engine.num_io_tensors)]
        ports = {
            name: GraphPort(
                name, self.module.dtype(engine.get_tensor_dtype(name)), extents(engine.get_tensor_shape(name))
            )
            for name in names
        }
        inputs = tuple(ports[name] for name in names if engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT)
        profiles = []
        for place in range(engine.num_optimization_profiles):
            shapes = {}
            for port in inputs:
                least, likeliest, most = engine.get_tensor_profile_shape(port.name, place)
                shapes[port.name] = (tuple(least), tuple(likeliest), tuple(most))
            profiles.append(Profile(f"profile {place}", shapes))
        decoder = {port.name for port in inputs} >= set(DECODER_INPUTS)
        return EngineMetadata(
            runtime=self.module.name,
            version=self.module.version,
            targets=(),
            role="decoder_joint" if decoder else "encoder",
            precision=None,
            tf32=False,
            fp32_pins=(),
            inputs=inputs,
            outputs=tuple(port for port in ports.values() if port not in inputs),
            profiles=tuple(profiles),
            taps={},
            debug={},
            source={},
            model=None,
            contract_sha256=None,
            streaming=None,
            warnings=(),
            producer={},
        )

    def execution(self, runtime_cache: Path | None = None) -> TrtExecution:
        """A context to execute in.

        Args:
            runtime_cache: kernels that TensorRT-RTX compiled earlier; written again by
                :meth:`TrtExecution.save_runtime_cache`.

        Raises:
            StreamparityError: out of memory, or a runtime that compiles nothing.
        """
        cache = None
        try:
            if self.module.is_rtx:
                config = self.engine.create_runtime_config()
                if runtime_cache is not None:
                    cache = config.create_runtime_cache()
                    if runtime_cache.exists():
                        cache.deserialize(runtime_cache.read_bytes())
                    config.set_runtime_cache(cache)
                context = self.engine.create_execution_context(config)
            else:
                if runtime_cache is not None:
                    raise StreamparityError("TensorRT has no runtime cache", "leave out -o runtime_cache")
                context = self.engine.create_execution_context()
        except (RuntimeError, MemoryError) as error:
            raise self._no_context(first_line(error)) from None
        if context is None:
            raise self._no_context(self.log.last_error("no reason given"))
        return TrtExecution(self, context, self._device, cache)

    def _no_context(self, reason: str) -> StreamparityError:
        if _is_about_memory(reason):
            return out_of_memory(int(self.engine.device_memory_size_v2), None)
        return StreamparityError(
            f"{self.module.name} cannot make an execution context: {reason}", "build the engine again for this GPU"
        )


def _is_about_memory(reason: str) -> bool:
    return "out of memory" in reason.lower() or "outofmemory" in reason.lower()


class TrtExecution:
    """See :class:`.session.Execution`.

    Attributes:
        looked_at: tensors that survived fusion, by the runtime's name, as of the last step; filled after
            :meth:`look`.
    """

    def __init__(self, engine: Engine, context: Any, device: Device, cache: Any) -> None:
        self._engine, self._context, self._device, self._cache = engine, context, device, cache
        self._allocators: dict[str, Any] = {}
        self._failures: list[StreamparityError] = []
        self._listener: Any = None
        self.looked_at: dict[str, Any] = {}
        self._allocator_class = _allocator_class(engine.module.trt, self._failures.append)

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
        self._listener = _listener(self._engine.module, self._device, self.looked_at)
        self._context.set_debug_listener(self._listener)
        self._context.unfused_tensors_debug_state = True

    def save_runtime_cache(self, path: Path) -> None:
        """Write the kernels compiled so far."""
        from ..dump.atomic import write_bytes

        write_bytes(path, bytes(self._cache.serialize()))

    def _refused(self, what: str) -> StreamparityError:
        reason = self._engine.log.last_error("no reason given")
        if _is_about_memory(reason):
            return out_of_memory(int(self._engine.engine.device_memory_size_v2), None)
        return StreamparityError(f"{self._engine.module.name} refuses to {what}: {reason}", "build the engine again")


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
    from ..dtypes import parse_dtype

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
