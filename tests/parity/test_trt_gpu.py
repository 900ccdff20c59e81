"""The whole closed loop on a GPU. `scripts/check_on_gpu.sh` runs these; elsewhere they are skipped with the reason."""

from __future__ import annotations

import shutil

import pytest

from plant_fault import zero_layer_cache
from streamparity.dump import DumpReader
from streamparity.errors import BackendMissing
from streamparity.inspection import inspect
from streamparity.run import RunOptions, run
from streamparity.runners import registry
from streamparity.runners.trt import TrtRunner

pytestmark = pytest.mark.gpu

ANY_TAP = ("encoder.*", "decoder.*", "preprocessor")


@pytest.fixture(scope="session", autouse=True)
def on_gpu():
    """The module and the device, or the reason why there is none."""
    from streamparity.tensorrt.device import open_device
    from streamparity.tensorrt.module import load_module

    try:
        module, device = load_module(), open_device()
    except BackendMissing as error:
        pytest.skip(error.message)
    described = device.describe()
    device.close()
    return module, described


@pytest.fixture
def trt(monkeypatch):
    class Entry:
        name = "trt"

        def load(self):
            return TrtRunner

    monkeypatch.setattr(registry, "entry_points", lambda group: [Entry()])


@pytest.fixture(scope="module")
def reference(on_gpu, loaded, tmp_path_factory):
    from streamparity.demo import demo_audio, demo_recordings
    from streamparity.reference.dumper import DumpOptions, dump
    from streamparity.reference.nemo import StreamingOptions

    out = tmp_path_factory.mktemp("gpu") / "reference"
    with demo_audio(demo_recordings()[0]) as audio:
        dump(loaded, audio, out, DumpOptions(StreamingOptions((70, 1)), noise_floor=True))
    return DumpReader(out)


@pytest.fixture(scope="module")
def engine_in(on_gpu, workshop, tmp_path_factory):
    """Builds the demo for the GPU at hand, once for each precision."""
    from streamparity.tensorrt.builder import build
    from streamparity.tensorrt.options import BuildOptions

    made = {}
    targets = ("current",) if on_gpu[0].is_rtx else ()

    def in_precision(precision, source=None, taps=()):
        key = (precision, source, taps)
        if key not in made:
            folder = tmp_path_factory.mktemp("engine") / "export"
            shutil.copytree(source or workshop.export(), folder)
            contract = workshop.export() / "contract.json"
            options = BuildOptions(
                folder / "encoder.engine", contract=contract, precision=precision, taps=taps, targets=targets
            )
            build(folder / "encoder.onnx", options)
            decoder = BuildOptions(folder / "decoder_joint.engine", contract=contract, targets=targets)
            build(folder / "decoder_joint.onnx", decoder)
            made[key] = folder
        return made[key]

    return in_precision


def drive(reference, folder, **more):
    return run(reference, RunOptions("trt", folder / "encoder.engine", allow_unmatched=ANY_TAP, **more))


def largest(result):
    return {tensor["name"]: tensor["max_abs"] for tensor in result["tensors"]}


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_the_closed_loop_passes(reference, engine_in, trt, precision):
    result = drive(reference, engine_in(precision))
    assert result["objections"] == []
    assert result["chunks"]["passed"] == reference.chunk_count
    assert result["invariants"] == []
    assert result["tokens"]["equal"]


def test_tf32_is_another_arithmetic_than_fp32(reference, engine_in, trt):
    fp32, tf32 = drive(reference, engine_in("fp32")), drive(reference, engine_in("tf32"))
    assert (fp32["provenance"]["math"]["tf32"], tf32["provenance"]["math"]["tf32"]) == (False, True)
    assert largest(tf32)["outputs"] > 10 * largest(fp32)["outputs"]
    assert tf32["invariants"] == []
    assert tf32["tokens"]["equal"]


def test_a_replayed_graph_returns_the_same_bits(reference, engine_in, trt):
    folder = engine_in("fp32")
    plain = drive(reference, folder)
    replayed = drive(reference, folder, settings={"cuda_graph": "1", "device": "cuda-python"})
    assert largest(plain) == largest(replayed)


def test_marked_taps_give_two_verdicts(reference, engine_in, trt):
    folder = engine_in("fp32", taps=("encoder.layers.?.conv", "encoder.layers.?.self_attn"))
    result = drive(reference, folder, taps=["encoder.layers.?.conv", "encoder.layers.?.self_attn"])
    assert (result["marks"]["with"], result["marks"]["without"]) == ("pass", "pass")
    assert result["coverage"]["unmatched"] == []


def test_a_lost_cache_is_seen_where_it_is_lost(reference, engine_in, workshop, trt):
    broken = workshop.edited("no convolution cache, on a gpu", zero_layer_cache("cache_last_time", 1))
    result = drive(reference, engine_in("fp32", source=broken))
    assert result["verdict"] == "fail"
    assert result["first_divergence"]["chunk"] == 1


def test_the_engine_says_what_is_written_beside_it(engine_in):
    document = inspect(engine_in("fp32") / "encoder.engine")
    assert document["summary"]["read"].endswith("which agree")
    assert document["can_stream"]
