"""From a network to a serialised engine, with Polygraphy's loaders.

Polygraphy makes the profiles and the builder configuration, builds, and keeps the timing cache (with a lock, merged
with what others wrote). Its own loader of ONNX files is not used: it loses which node could not be parsed. Which of the
two runtimes it imports is a switch of its own that counts for the whole process.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..contract.profiles import Profile
from ..errors import BackendMissing, StreamparityError, first_line
from ..progress import Progress, no_progress
from .module import TrtModule
from .network import Network

INCONSISTENT = "not self-consistent"


@dataclass(frozen=True)
class CompileOptions:
    """How to compile.

    Attributes:
        tf32: let float32 matrix products use TF32.
        targets: compute capabilities, such as ``(8, 0)``; empty for the builder's choice.
        current: build for the GPU at hand instead.
        timing_cache: file, of TensorRT alone.
    """

    tf32: bool = False
    targets: Sequence[tuple[int, int]] = ()
    current: bool = False
    timing_cache: Path | None = None


def compile_network(
    module: TrtModule,
    parsed: Network,
    profiles: Sequence[Profile],
    options: CompileOptions,
    progress: Progress = no_progress,
) -> Any:
    """Build the engine.

    Returns:
        The serialised engine, an object with a buffer.

    Raises:
        BackendMissing: Polygraphy is not installed.
        StreamparityError: the builder fails, or finds a profile at which the network is not self-consistent.
    """
    try:
        import polygraphy.config  # noqa: F401
    except ImportError as error:
        raise BackendMissing(f"polygraphy cannot be imported: {error}", "pip install polygraphy") from None
    with _polygraphy(module) as (loaders, failed):
        made = [loaders.Profile() for _ in profiles]
        for profile, ours in zip(made, profiles, strict=True):
            for name, (least, likeliest, most) in ours.shapes.items():
                profile.add(name, least, likeliest, most)
        config = _config(module, loaders, made, options)
        cache = None if options.timing_cache is None else str(options.timing_cache)

        def configured(builder: Any, network: Any) -> Any:
            # Polygraphy's RTX configuration leaves TF32 as the builder has it, which is on.
            ready = config(builder, network)
            _set_flag(module, ready, "TF32", options.tf32)
            ready.progress_monitor = monitor
            return ready

        monitor = _monitor(module, progress)
        try:
            data = loaders.EngineBytesFromNetwork(
                (parsed.builder, parsed.network, parsed.parser), config=configured, save_timing_cache=cache
            )()
        except failed as error:
            if not monitor.going:
                raise KeyboardInterrupt from None
            raise StreamparityError(
                f"{module.name} {module.version} cannot build the engine: {parsed.log.last_error(first_line(error))}",
                "see all it says with polygraphy run --trt, or build with fewer precision pins and taps",
            ) from None
    bad = [line for line in parsed.log.warnings if INCONSISTENT in line]
    if bad:
        raise StreamparityError(
            f"the network is not self-consistent at a profile: {' '.join(bad[0].split())[:300]}",
            "a chunk is too short for what the graph drops: use --schedule padded",
        )
    return data


def _config(module: TrtModule, loaders: Any, profiles: Sequence[Any], options: CompileOptions) -> Any:
    common = {"profiles": list(profiles), "profiling_verbosity": module.trt.ProfilingVerbosity.DETAILED}
    if module.is_rtx:
        targets = list(options.targets) or None
        return loaders.CreateConfigRTX(compute_capabilities=targets, use_gpu=options.current, **common)
    cache = options.timing_cache
    return loaders.CreateConfig(
        tf32=options.tf32, load_timing_cache=None if cache is None or not cache.exists() else str(cache), **common
    )


def _set_flag(module: TrtModule, config: Any, name: str, wanted: bool) -> None:
    flag = getattr(module.trt.BuilderFlag, name)
    (config.set_flag if wanted else config.clear_flag)(flag)
    if config.get_flag(flag) != wanted:
        raise StreamparityError(f"{module.name} {module.version} does not let {name} be set", "use another version")


@contextmanager
def _polygraphy(module: TrtModule) -> Iterator[tuple[Any, type[Exception]]]:
    """Polygraphy's loaders for a runtime, silent, and the exception they raise."""
    from polygraphy import config as switch

    loaded = getattr(switch, "STREAMPARITY_RUNTIME", None)
    if loaded not in (None, module.name):
        raise StreamparityError(
            f"Polygraphy was loaded for {loaded} in this process", f"build with {module.name} in a process of its own"
        )
    switch.USE_TENSORRT_RTX = module.is_rtx
    switch.STREAMPARITY_RUNTIME = module.name
    from polygraphy.backend import tensorrt_rtx, trt
    from polygraphy.exception import PolygraphyException
    from polygraphy.logger import G_LOGGER

    class Loaders:
        Profile = trt.Profile
        EngineBytesFromNetwork = trt.EngineBytesFromNetwork
        CreateConfig = trt.CreateConfig
        CreateConfigRTX = tensorrt_rtx.CreateConfigRTX

    with warnings.catch_warnings(), G_LOGGER.verbosity(G_LOGGER.CRITICAL + 1):
        # It makes a timing cache in any case, which TensorRT-RTX warns is of no use to it.
        warnings.simplefilter("ignore", DeprecationWarning)
        yield Loaders, PolygraphyException


def _monitor(module: TrtModule, progress: Progress) -> Any:
    """A progress monitor over the builder's outermost phases; Ctrl-C stops the build."""
    trt = module.trt

    class Monitor(trt.IProgressMonitor):  # type: ignore[misc, name-defined]  # the base is only known at run time
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            self.going = True
            self._steps: dict[str, int] = {}

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            if parent_phase is None:
                self._steps[phase_name] = num_steps

        def step_complete(self, phase_name: str, step: int) -> bool:
            try:
                if phase_name in self._steps:
                    progress(step + 1, self._steps[phase_name])
            except KeyboardInterrupt:
                self.going = False
            return self.going

        def phase_finish(self, phase_name: str) -> None:
            if phase_name in self._steps:
                progress(self._steps[phase_name], self._steps[phase_name])

    return Monitor()
