"""The backend ``trt`` without a GPU: what is refused before a device is touched, and the bookkeeping of buffers."""

from __future__ import annotations

import ctypes
import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from streamparity import cli
from streamparity.contract.profiles import profiles_of
from streamparity.errors import BackendMissing, Stateless, StreamparityError
from streamparity.marking import both_verdicts
from streamparity.run import RunOptions, run
from streamparity.runners import RunnerOptions, registry
from streamparity.runners.ort import OrtRunner
from streamparity.runners.trt import TrtRunner
from streamparity.tensorrt.builder import build, marked_engine
from streamparity.tensorrt.device import open_device
from streamparity.tensorrt.metadata import read_metadata, sidecar
from streamparity.tensorrt.options import BuildOptions
from streamparity.tensorrt.plan import decoder_plan, encoder_plan
from streamparity.tensorrt.session import Session
from streamparity.tensors import CACHE_FEEDBACK

from .trt_host import HostDevice, Recorder

pytest.importorskip("tensorrt_rtx", reason="TensorRT-RTX is not installed: pip install 'streamparity[rtx]'")

CHANNEL, TIME = (1, 3, 70, 64), (1, 3, 64, 8)


def has_gpu() -> bool:
    try:
        open_device().close()
    except BackendMissing:
        return False
    return True


needs_no_gpu = pytest.mark.skipif(has_gpu(), reason="this is what is said where there is no GPU")


@pytest.fixture(scope="module")
def engines(workshop, tmp_path_factory):
    """Engines of the demo's encoder (one with taps marked) and decoder, beside the export."""
    folder = tmp_path_factory.mktemp("engines") / "export"
    shutil.copytree(workshop.export(), folder)
    build(folder / "encoder.onnx", BuildOptions(folder / "encoder.engine", tail=False, taps=["encoder.layers.?.conv"]))
    build(folder / "decoder_joint.onnx", BuildOptions(folder / "decoder_joint.engine"))
    return folder


@pytest.fixture
def trt(monkeypatch):
    """The backend by its name, also where the package was installed before it had one."""

    class Entry:
        name = "trt"

        def load(self):
            return TrtRunner

    monkeypatch.setattr(registry, "entry_points", lambda group: [Entry()])


def copied(engines, folder):
    shutil.copytree(engines, folder)
    return folder / "encoder.engine"


def rewritten(engine, **changes):
    data = json.loads(sidecar(engine).read_text())
    for key, value in changes.items():
        inner, _, name = key.rpartition("__")
        (data[inner] if inner else data)[name] = value
    sidecar(engine).write_text(json.dumps(data))


# ---------------------------------------------------------------------------------- before a device is touched


@needs_no_gpu
def test_no_driver_is_one_line_and_exit_3(engines, workshop, trt, capsys, monkeypatch):
    arguments = ["run", "--backend", "trt", "--model", str(engines), "--reference", str(workshop.reference().folder)]
    monkeypatch.setattr("sys.argv", ["streamparity", *arguments])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 3
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].startswith("error: no CUDA device can be used: ")
    assert len([line for line in lines if not line.startswith("note")]) == 2


@needs_no_gpu
def test_to_build_for_the_gpu_at_hand_there_must_be_one(engines, tmp_path):
    with pytest.raises(BackendMissing, match="no CUDA device"):
        build(engines / "encoder.onnx", BuildOptions(tmp_path / "x.engine", targets=["current"]))
    assert not list(tmp_path.iterdir())


@needs_no_gpu
def test_each_implementation_says_what_it_lacks():
    with pytest.raises(BackendMissing, match="no CUDA device can be used"):
        open_device("cuda-python")
    with pytest.raises(StreamparityError, match="no device implementation 'cupy'"):
        open_device("cupy")


def changed(engine):
    engine.write_bytes(engine.read_bytes()[:-8])


def flat_profile(engine):
    profiles = json.loads(sidecar(engine).read_text())["profiles"]
    profiles[0]["shapes"]["cache_last_time"] = [[1]] * 3
    rewritten(engine, profiles=profiles)


@pytest.mark.parametrize(
    ("spoil", "kind", "expected"),
    [
        (changed, StreamparityError, "is not the engine that encoder.engine.json was written for"),
        (lambda e: rewritten(e, builder__version="1.4.0.76"), StreamparityError, "was built by tensorrt_rtx 1.4.0.76"),
        (lambda e: rewritten(e, builder__runtime="tensorrt"), BackendMissing, "tensorrt cannot be imported"),
        (
            lambda e: rewritten(e, model__sha256="0" * 64),
            StreamparityError,
            "contract beside it disagree: model/sha256 is 0000",
        ),
        (lambda e: rewritten(e, profiles=[]), StreamparityError, "tensorrt/profiles/(step|audio_signal) is"),
        (
            lambda e: rewritten(e, streaming__valid_out_len=7),
            StreamparityError,
            "valid_out_len is 7, the contract says 2",
        ),
        (lambda e: rewritten(e, schema="streamparity.engine/9"), StreamparityError, "does not describe an engine"),
        (lambda e: rewritten(e, precision="fp64"), StreamparityError, "precision 'fp64', not one of fp32"),
        (flat_profile, StreamparityError, "shapes for cache_last_time that the port does not have"),
        (lambda e: sidecar(e).write_text("{"), StreamparityError, "does not describe an engine"),
    ],
    ids=["file", "version", "runtime", "model", "profile", "streaming", "schema", "precision", "rank", "json"],
)
def test_an_engine_that_does_not_fit_is_refused(engines, workshop, tmp_path, spoil, kind, expected):
    engine = copied(engines, tmp_path / "spoilt")
    spoil(engine)
    with pytest.raises(kind, match=expected):
        TrtRunner.open(engine, RunnerOptions(streaming=workshop.reference().manifest.streaming))


def test_an_engine_with_taps_of_another_engine_is_refused(engines, workshop, tmp_path):
    engine = copied(engines, tmp_path / "pair")
    rewritten(marked_engine(engine), precision="fp16")
    options = RunnerOptions(["encoder.layers.0.conv"], streaming=workshop.reference().manifest.streaming)
    with pytest.raises(StreamparityError, match=r"encoder\.taps\.engine was built otherwise .*: precision"):
        TrtRunner.open(engine, options)


def test_the_package_registers_the_backend():
    root = Path(__file__).parents[2]
    assert 'trt = "streamparity.runners.trt:TrtRunner"' in (root / "pyproject.toml").read_text()


def test_a_stateless_engine_is_refused(engines, tmp_path):
    engine = copied(engines, tmp_path / "stateless")
    (engine.parent / "contract.json").unlink()
    outputs = [
        port for port in json.loads(sidecar(engine).read_text())["outputs"] if not port["name"].startswith("cache")
    ]
    rewritten(engine, outputs=outputs)
    with pytest.raises(Stateless, match="it has no cache_last_channel_next"):
        TrtRunner.open(engine, RunnerOptions())


def test_an_engine_for_another_stream_than_the_dump_is_refused(engines, workshop):
    streaming = workshop.reference((70, 6)).manifest.streaming
    with pytest.raises(StreamparityError, match="was built for another stream than the dump: att_context_size"):
        TrtRunner.open(engines / "encoder.engine", RunnerOptions(streaming=streaming))


@pytest.mark.parametrize(
    ("name", "settings", "expected"),
    [
        ("absent.engine", {}, "does not exist"),
        ("encoder.onnx", {}, "is no engine"),
        ("encoder.engine", {"cuda_graph": "yes"}, "cuda_graph=yes is unknown"),
        ("encoder.engine", {"runtime": "openvino"}, "there is no runtime 'openvino'"),
    ],
)
def test_bad_input_is_refused(engines, name, settings, expected):
    with pytest.raises(StreamparityError, match=expected):
        TrtRunner.open(engines / name, RunnerOptions(settings=settings))


@needs_no_gpu
def test_what_fits_gets_as_far_as_the_device(engines, workshop):
    for taps in ((), ("encoder.layers.0.conv",)):
        options = RunnerOptions(taps, streaming=workshop.reference().manifest.streaming)
        with pytest.raises(BackendMissing, match="no CUDA device"):
            TrtRunner.open(engines, options)


@needs_no_gpu
def test_a_search_needs_the_graph_that_the_engine_came_from(engines, tmp_path):
    engine = copied(engines, tmp_path / "search")
    with pytest.raises(StreamparityError, match="layers are pinned against fp16 and bf16 only"):
        TrtRunner.layers(engine)
    rewritten(engine, precision="fp16")
    assert "encoder.layers.0.self_attn.Softmax" in TrtRunner.layers(engine)
    (engine.parent / "encoder.onnx").write_bytes(b"other")
    with pytest.raises(StreamparityError, match="is not there or was changed since"):
        TrtRunner.layers(engine)


def test_an_engine_is_built_again_with_more_layers_pinned(engines, tmp_path):
    engine = copied(engines, tmp_path / "again")
    rewritten(engine, precision="fp16", builder__targets=["sm86"])
    (tmp_path / "new").mkdir()
    made = TrtRunner.pinned(engine, ["encoder.layers.1.conv"], tmp_path / "new")
    metadata, before = read_metadata(made), read_metadata(engine)
    assert (metadata.precision, metadata.fp32_pins) == ("fp16", ("encoder.layers.1.conv",))
    assert (metadata.profiles, metadata.targets) == (before.profiles, ("sm86",))
    assert {path.name for path in made.parent.iterdir()} == {
        "encoder.engine",
        "encoder.engine.json",
        "contract.json",
        "decoder_joint.engine",
        "decoder_joint.engine.json",
    }


# -------------------------------------------------------------------------------------------------- buffers


def session(engines, device, profiles=None, **more):
    metadata = read_metadata(engines / "encoder.engine")
    plan = encoder_plan(metadata if profiles is None else replace(metadata, profiles=profiles))
    shapes = {
        "outputs": (1, 64, 2),
        "encoded_lengths": (1,),
        "cache_last_channel_next": CHANNEL,
        "cache_last_time_next": TIME,
        "cache_last_channel_next_len": (1,),
    }
    recorder = Recorder(shapes, {"outputs": 512, "encoded_lengths": 8})
    made = Session(plan, device, recorder, **more)
    made.set_caches(caches())
    return made, recorder


def caches():
    return {
        "cache_last_channel": np.full(CHANNEL, 0.25, np.float32),
        "cache_last_time": np.full(TIME, 0.5, np.float32),
        "cache_last_channel_len": np.array([7], np.int64),
    }


def features(frames=25):
    return {"audio_signal": np.ones((1, 128, frames), np.float32), "length": np.array([frames], np.int64)}


def test_the_plan_says_what_is_needed_from_the_metadata_alone(engines):
    plan = encoder_plan(read_metadata(engines / "encoder.engine"))
    assert {name: slot.nbytes for name, slot in plan.fed.items()} == {"audio_signal": 128 * 25 * 4, "length": 8}
    assert {name: slot.nbytes for name, slot in plan.kept.items()} == {
        "cache_last_channel": 3 * 70 * 64 * 4,
        "cache_last_time": 3 * 64 * 8 * 4,
        "cache_last_channel_len": 8,
    }
    assert plan.feedback == CACHE_FEEDBACK
    assert plan.returned["encoded_lengths"].dtype == "int64"
    marked = encoder_plan(read_metadata(marked_engine(engines / "encoder.engine")))
    assert {name for name in marked.returned if "." in name} == {f"encoder.layers.{n}.conv" for n in range(3)}
    assert set(decoder_plan(read_metadata(engines / "decoder_joint.engine")).returned) >= {"outputs", "output_states_2"}


def test_caches_change_places_and_nothing_is_allocated_again(engines):
    device = HostDevice()
    made, recorder = session(engines, device)
    made.enqueue(features())
    made.fetch(["outputs", "encoded_lengths", *CACHE_FEEDBACK])
    after_one, copies = device.allocations, len(device.copies_in)
    for _ in range(6):
        made.enqueue(features())
        made.fetch(["outputs", "encoded_lengths", *CACHE_FEEDBACK])
    assert device.allocations == after_one
    assert len(device.copies_in) - copies == 6 * 2  # features and their length; no cache
    for before, after in zip(recorder.steps, recorder.steps[1:], strict=False):
        for given, taken in CACHE_FEEDBACK.items():
            assert after[taken] == before[given]  # what was returned is what is read,
            assert after[given] == before[taken]  # and what was read is written over
    assert recorder.profiles == [0]


def test_only_what_is_asked_for_is_copied_to_the_host(engines):
    device = HostDevice()
    made, _ = session(engines, device)
    made.enqueue(features())
    made.enqueue(features())
    assert device.copies_out == []
    assert list(made.fetch(["encoded_lengths"])) == ["encoded_lengths"]
    assert len(device.copies_out) == 1


def test_what_is_put_into_a_cache_comes_back_as_it_was(engines):
    """The recorder writes nothing, so after two swaps the caches are those that were put in."""
    made, _ = session(engines, HostDevice())
    made.enqueue(features())
    made.enqueue(features())
    back = made.fetch(CACHE_FEEDBACK)
    for given, taken in CACHE_FEEDBACK.items():
        np.testing.assert_array_equal(back[given], caches()[taken])
        assert back[given].dtype == caches()[taken].dtype


def test_an_output_whose_size_is_known_only_afterwards_finds_room(engines):
    device = HostDevice()
    made, recorder = session(engines, device)
    recorder.most_bytes = lambda name: 0
    recorder.shapes["outputs"], recorder.outputs["outputs"] = (1, 64, 4), 1024
    made.enqueue(features())
    assert made.fetch(["outputs"])["outputs"].shape == (1, 64, 4)
    allocated = device.allocations
    recorder.shapes["outputs"], recorder.outputs["outputs"] = (1, 64, 2), 512
    made.enqueue(features())
    assert made.fetch(["outputs"])["outputs"].shape == (1, 64, 2)
    assert device.allocations == allocated  # it has grown and does not shrink


def test_a_chunk_outside_every_profile_is_one_line(engines):
    made, recorder = session(engines, HostDevice())
    with pytest.raises(
        StreamparityError, match=r"audio_signal of shape \[1, 128, 19\] is outside every profile"
    ) as caught:
        made.enqueue(features(19))
    assert "step: [1, 128, 25] to [1, 128, 25]" in caught.value.message
    assert recorder.steps == []


def test_too_little_memory_is_one_line(engines):
    with pytest.raises(StreamparityError, match=r"out of device memory: 0\.1 MiB wanted, 0 MiB are free"):
        session(engines, HostDevice(room=64 * 1024))


def test_each_kind_of_step_is_recorded_once_as_a_graph_and_then_replayed(engines):
    device = HostDevice()
    made, recorder = session(engines, device, cuda_graph=True)
    for _ in range(9):
        made.enqueue(features())
    # Two sets of caches: each is run once, then recorded; after that nothing is bound or enqueued any more.
    assert (device.captured, len(recorder.steps)) == (2, 4)
    assert made.fetch(["outputs"])["outputs"].shape == (1, 64, 2)


def test_what_was_recorded_is_forgotten_when_a_buffer_has_moved(engines):
    metadata = read_metadata(engines / "encoder.engine")
    profiles = profiles_of(metadata.streaming, {port.name: port.shape for port in metadata.inputs}, time_slots=8)
    device = HostDevice()
    made, recorder = session(engines, device, profiles=profiles, cuda_graph=True)
    for _ in range(6):
        made.enqueue(features())
    assert device.captured == 2
    recorder.outputs["outputs"] = 4096  # the other profile's outputs are larger
    made.enqueue(features(22))
    for _ in range(2):
        made.enqueue(features())
    assert recorder.profiles == [0, 1, 0]
    assert device.captured == 4


def test_steps_that_cannot_be_recorded_say_so(engines):
    made, recorder = session(engines, HostDevice(), cuda_graph=True)
    recorder.can_capture = False
    made.enqueue(features())
    made.enqueue(features())
    with pytest.raises(StreamparityError, match="cannot be recorded as a CUDA graph"):
        made.enqueue(features())


# ------------------------------------------------------------------------------------------ the runtime's own classes


@needs_no_gpu
def test_what_the_runtime_says_of_an_engine_that_it_cannot_open_is_one_line(engines, tmp_path):
    from streamparity.tensorrt.engine import Engine
    from streamparity.tensorrt.module import load_module

    (tmp_path / "damaged.engine").write_bytes(b"no engine at all" * 64)
    for path in (engines / "encoder.engine", tmp_path / "damaged.engine"):
        with pytest.raises(StreamparityError, match=f"{path.name} is not valid here") as caught:
            Engine(load_module(), path, HostDevice())
        assert "\n" not in caught.value.message


def test_an_output_allocator_of_the_runtime_hands_out_its_buffer(engines):
    from streamparity.tensorrt.execution import _allocator_class, _pointer
    from streamparity.tensorrt.module import load_module
    from streamparity.tensorrt.session import Buffer

    failures = []
    device = HostDevice(room=4096)
    allocator = _allocator_class(load_module().trt, failures.append)()
    allocator.buffer = Buffer(device, 64)
    small = allocator.reallocate_output("outputs", None, 32, 256)
    assert small == allocator.buffer.address
    assert allocator.reallocate_output_async("outputs", None, 1024, 256, 0) == allocator.buffer.address != 0
    allocator.notify_shape("outputs", (1, 64, 2))
    assert (allocator.buffer.shape, failures) == ((1, 64, 2), [])
    assert allocator.reallocate_output("outputs", None, 1 << 20, 256) == 0
    assert "out of device memory" in failures[0].message

    new = ctypes.pythonapi.PyCapsule_New
    new.restype, new.argtypes = ctypes.py_object, [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p]
    assert _pointer(new(4242, None, None)) == _pointer(4242) == 4242


# --------------------------------------------------------------------------- with marks, and without


class MarkingRunner(OrtRunner):
    """Says that getting at taps can change what is computed; ``disturbed``: and there it does."""

    disturbed: bool | None = None

    def __init__(self, path, options):
        super().__init__(path, options)
        self.marking = "taps are marked" if options.taps else None
        self.wrong = self.disturbed is not None and self.disturbed == bool(options.taps)

    def step(self, chunk):
        outputs = super().step(chunk)
        if self.wrong:
            outputs["out/outputs"] = outputs["out/outputs"] + 1
        return outputs


@pytest.mark.parametrize(
    ("disturbed", "verdicts"), [(None, ("pass", "pass")), (True, ("fail", "pass")), (False, ("pass", "fail"))]
)
def test_taps_that_may_change_fusion_give_two_verdicts(workshop, monkeypatch, disturbed, verdicts):
    class Entry:
        name = "marking"

        def load(self):
            return type("Marking", (MarkingRunner,), {"disturbed": disturbed})

    monkeypatch.setattr(registry, "entry_points", lambda group: [Entry()])
    options = RunOptions("marking", workshop.export() / "encoder.onnx", limit=2, taps=["encoder.layers.0.conv"])
    result = run(workshop.reference(), options)
    assert (result["marks"]["with"], result["marks"]["without"]) == verdicts
    assert result["verdict"] == ("pass" if verdicts == ("pass", "pass") else "fail")
    assert f"with them {verdicts[0]}, without them {verdicts[1]}" in result["notes"][-1]
    if verdicts == ("pass", "fail"):
        assert result["objections"] == ["without taps the model fails, first at chunk 0, outputs"]


def test_a_bare_pass_does_not_mend_a_marked_fail():
    marked = {"verdict": "fail", "objections": ["1 tensor is past tolerance"], "notes": []}
    bare = {"verdict": "pass", "first_divergence": None, "timing": None}
    assert both_verdicts(marked, bare, "marked")["verdict"] == "fail"
