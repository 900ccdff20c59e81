"""An engine opened on a device: what it says of itself, and how it executes."""

from __future__ import annotations

from pathlib import Path

from ..contract.profiles import Profile
from ..errors import StreamparityError, first_line
from ..graph.onnx_graph import GraphPort
from ..tensors import DECODER_INPUTS
from .device import Device
from .device_errors import out_of_memory
from .execution import TrtExecution, is_about_memory
from .metadata import EngineMetadata
from .module import Log, TrtModule, new_log
from .network import extents


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
            if is_about_memory(reason):
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
        return TrtExecution(self.module, self.log, context, self._device, int(self.engine.device_memory_size_v2), cache)

    def _no_context(self, reason: str) -> StreamparityError:
        if is_about_memory(reason):
            return out_of_memory(int(self.engine.device_memory_size_v2), None)
        return StreamparityError(
            f"{self.module.name} cannot make an execution context: {reason}", "build the engine again for this GPU"
        )
