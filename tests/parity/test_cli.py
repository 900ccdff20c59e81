"""The command line as scripts see it: exit codes, one clear line and what to do, nothing lost."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import soundfile

from plant_fault import without_ports
from streamparity.cli import main

HEAVY = ("torch", "nemo", "onnx", "onnxruntime", "lightning")
CACHE_PORTS = (
    "cache_last_channel",
    "cache_last_time",
    "cache_last_channel_len",
    "cache_last_channel_next",
    "cache_last_time_next",
    "cache_last_channel_next_len",
)


@pytest.fixture
def invoke(monkeypatch, capsys):
    def call(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["streamparity", *map(str, arguments)])
        with pytest.raises(SystemExit) as stopped:
            main()
        captured = capsys.readouterr()
        return int(stopped.value.code or 0), captured.out, captured.err

    return call


@pytest.fixture
def refused(invoke):
    """Run a command that must be refused: exit 2, two lines, the first matching."""

    def call(expected: str, *arguments: object, code: int = 2) -> str:
        status, out, err = invoke(*arguments)
        assert status == code
        assert out == ""
        lines = [line for line in err.splitlines() if not line.startswith("note: ")]
        assert len(lines) == 2, err
        assert lines[0].startswith("error: ")
        assert expected in lines[0]
        assert lines[1].startswith("  try: ")
        return err

    return call


@pytest.fixture
def speech(tmp_path):
    path = tmp_path / "speech.wav"
    soundfile.write(path, np.random.default_rng(0).normal(0, 0.1, 16_000).astype(np.float32), 16_000)
    return path


def damaged_copy(source: Path, target: Path) -> Path:
    target.write_bytes(source.read_bytes()[: source.stat().st_size // 2])
    return target


@pytest.mark.parametrize("arguments", [["--help"], ["compare", "A", "B"], ["compare", "--help"], ["--version"]])
def test_light_commands_import_nothing_heavy(arguments, tmp_path):
    np.save(tmp_path / "a.npy", np.arange(5.0))
    arguments = [str(tmp_path / "a.npy") if argument in "AB" else argument for argument in arguments]
    program = (
        "import sys, atexit\n"
        f"atexit.register(lambda: print('HEAVY', [name for name in {HEAVY} if name in sys.modules]))\n"
        "from streamparity.cli import main\n"
        "main()"
    )
    done = subprocess.run([sys.executable, "-c", program, *arguments], capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == "HEAVY []"
    assert done.returncode == 0, done.stderr


def test_the_import_check_can_fail():
    program = f"import sys, onnx; print([name for name in {HEAVY} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout == "['onnx']\n"


def test_compare_exit_codes_and_json(invoke, tmp_path):
    reference = np.linspace(-1, 1, 3072, dtype=np.float32).reshape(1, 3, 1024)
    changed = reference.copy()
    changed[0, 2, 5] += 0.5
    reference.tofile(tmp_path / "a.bin")
    changed.tofile(tmp_path / "b.bin")
    same = invoke("compare", tmp_path / "a.bin", tmp_path / "a.bin", "--shape", "1,3,1024")
    assert same[0] == 0
    assert "PASS" in same[1]
    status, out, err = invoke("compare", tmp_path / "a.bin", tmp_path / "b.bin", "--shape", "1,3,1024", "--json", "-")
    document = json.loads(out)
    assert (status, err, document["verdict"]) == (1, "", "fail")
    assert document["schema"] == "streamparity.result/1"
    assert document["tensors"][0]["worst"]["index"] == [0, 2, 5]


@pytest.mark.parametrize("backend", ["torch", "ort"])
def test_run_writes_nothing_but_json_to_standard_output(invoke, workshop, demo_path, backend):
    model = demo_path if backend == "torch" else workshop.export()
    reference = workshop.reference().folder
    status, out, _ = invoke(
        "run", "--backend", backend, "--model", model, "--reference", reference, "--chunks", 4, "--json", "-"
    )
    assert status == 0
    assert json.loads(out)["chunks"]["passed"] == 4


def test_report_shows_a_result_again_and_exits_as_the_run_did(invoke, workshop, tmp_path):
    run = ["run", "--backend", "ort", "--model", workshop.export(), "--reference", workshop.reference().folder]
    passed = invoke(*run, "--json", tmp_path / "pass.json")
    failed = invoke(*run, "--atol", "1e-12", "--json", tmp_path / "fail.json")
    assert invoke("report", tmp_path / "pass.json")[:2] == (0, passed[1])
    assert invoke("report", tmp_path / "fail.json")[:2] == (1, failed[1])


def test_models_that_cannot_be_read(refused, demo_path, speech, workshop, tmp_path):
    out = tmp_path / "out"
    reference = workshop.reference().folder
    refused("is not a .nemo file", "dump", tmp_path / "no.nemo", "--audio", speech, "--out", out)
    half = damaged_copy(demo_path, tmp_path / "half.nemo")
    refused("truncated or not a .nemo", "dump", half, "--audio", speech, "--out", out)
    refused("truncated or not a .nemo", "export", half, "--out", out)
    refused("truncated or not a .nemo", "inspect", half)
    run = ["run", "--backend", "ort", "--reference", reference, "--model"]
    refused("does not exist", *run, tmp_path / "no.onnx")
    half = damaged_copy(workshop.export() / "encoder.onnx", tmp_path / "half.onnx")
    refused("truncated or not an ONNX file", *run, half)
    refused("truncated or not an ONNX file", "inspect", half)
    (tmp_path / "notes.txt").write_text("hello")
    refused("no known kind", "inspect", tmp_path / "notes.txt")
    assert not out.exists()


def test_audio_that_cannot_be_streamed(refused, demo_path, tmp_path):
    out = tmp_path / "out"
    short, empty, nan = tmp_path / "short.wav", tmp_path / "empty.wav", tmp_path / "nan.wav"
    soundfile.write(short, np.zeros(800, np.float32), 16_000)
    soundfile.write(empty, np.zeros(0, np.float32), 16_000)
    soundfile.write(nan, np.full(16_000, np.nan, np.float32), 16_000, subtype="FLOAT")
    dump = ["dump", demo_path, "--out", out, "--att-context", "70,1", "--audio"]
    refused("shorter than one chunk", *dump, short)
    refused("no samples", *dump, empty)
    refused("NaN or infinite", *dump, nan)
    refused("not a readable sound file", *dump, demo_path)
    refused("does not exist", *dump, tmp_path / "no.wav")
    assert not out.exists()


def test_stereo_at_another_rate_is_converted_and_said_so(invoke, demo_path, tmp_path):
    stereo = tmp_path / "stereo.wav"
    soundfile.write(stereo, np.random.default_rng(0).normal(0, 0.1, (100_000, 2)), 44_100)
    status, _, err = invoke("dump", demo_path, "--audio", stereo, "--out", tmp_path / "out", "--chunks", 1)
    assert status == 0
    assert "2 channels averaged" in err
    assert "resampled from 44100 to 16000 Hz" in err


def test_streaming_that_the_model_was_not_made_for(refused, invoke, demo_path, speech, tmp_path):
    dump = ["dump", demo_path, "--audio", speech, "--out", tmp_path / "out"]
    err = refused("not trained for attention context [70, 2]", *dump, "--att-context", "70,2")
    assert "70,13 70,6 70,1 70,0" in err
    refused("belong together", *dump, "--chunk-size", "4")
    refused("matches no module", *dump, "--taps", "encoder.layer.*")
    status, _, err = invoke(*dump, "--att-context", "seventy")
    assert status == 2
    assert "is not a list of whole numbers" in err
    assert not (tmp_path / "out").exists()


def test_overrides_make_the_chunks_that_nemo_makes_of_them(invoke, demo_path, speech, tmp_path):
    status, _, err = invoke(
        "dump", demo_path, "--audio", speech, "--out", tmp_path / "d", "--chunk-size", 6, "--shift-size", 3
    )
    assert (status, err) == (0, "")
    streaming = json.loads((tmp_path / "d" / "dump.json").read_text())["streaming"]
    assert streaming["chunk_size"] == [41, 48]
    assert streaming["shift_size"] == [17, 24]
    assert streaming["cache_drop_size"] == 3


def test_stateless_export_is_refused_and_diagnosed(refused, invoke, workshop):
    stateless = workshop.edited("stateless", without_ports(*CACHE_PORTS)) / "encoder.onnx"
    reference = workshop.reference().folder
    err = refused("cannot stream", "run", "--backend", "ort", "--model", stateless, "--reference", reference)
    assert "set_export_config({'cache_support': 'True'})" in err
    status, out, _ = invoke("inspect", stateless, "--json", "-")
    document = json.loads(out)
    assert (status, document["kind"], document["can_stream"]) == (1, "onnx", False)
    assert [finding["code"] for finding in document["findings"]] == ["stateless-export"]
    assert {"severity", "message", "evidence", "fix"} <= set(document["findings"][0])


def test_inspect_of_sound_things(invoke, demo_path, workshop):
    for path, kind in (
        (demo_path, "nemo"),
        (workshop.export() / "encoder.onnx", "onnx"),
        (workshop.export() / "decoder_joint.onnx", "onnx"),
        (workshop.reference().folder, "dump"),
    ):
        status, out, _ = invoke("inspect", path, "--json", "-")
        document = json.loads(out)
        assert (status, document["kind"], document["can_stream"], document["findings"]) == (0, kind, True, [])
        assert document["schema"] == "streamparity.inspect/1"
        assert document["ports"]
        assert invoke("inspect", path)[0] == 0


def test_dump_of_another_model_is_refused_unless_told(refused, invoke, workshop, demo_path, tmp_path):
    other = tmp_path / "other"
    shutil.copytree(workshop.reference().folder, other)
    manifest = json.loads((other / "dump.json").read_text())
    manifest["model"]["sha256"] = "0" * 64
    (other / "dump.json").write_text(json.dumps(manifest))
    for backend, model in (("ort", workshop.export()), ("torch", demo_path)):
        run = ["run", "--backend", backend, "--model", model, "--reference", other, "--chunks", 2]
        refused("the dump is of another model", *run)
        assert invoke(*run, "--allow-model-mismatch")[0] == 0


def test_dump_that_is_none(refused, workshop, tmp_path):
    run = ["run", "--backend", "ort", "--model", workshop.export(), "--reference"]
    refused("is not a dump", *run, tmp_path)
    other = tmp_path / "other"
    shutil.copytree(workshop.reference().folder, other)
    manifest = json.loads((other / "dump.json").read_text())
    (other / "dump.json").write_text(json.dumps({**manifest, "schema": "streamparity.dump/9"}))
    refused("has schema 'streamparity.dump/9'", *run, other)
    (other / "dump.json").write_text(json.dumps({key: manifest[key] for key in manifest if key != "streaming"}))
    refused("does not follow streamparity.dump/1", *run, other)
    (other / "dump.json").write_text(json.dumps(manifest))
    damaged_copy(other / "chunks" / "000003.safetensors", other / "chunks" / "000003.safetensors")
    refused("but 3 are there", *run, other)


def test_contract_that_does_not_hold(refused, workshop, tmp_path):
    export = tmp_path / "export"
    shutil.copytree(workshop.export(), export)
    run = ["run", "--backend", "ort", "--model", export, "--reference"]
    refused(
        "streaming/att_context_size is [70, 0], the contract says [70, 1]", *run, workshop.reference((70, 0)).folder
    )
    contract = json.loads((export / "contract.json").read_text())
    contract["graphs"]["encoder.onnx"]["inputs"][2]["shape"][1] = 17
    (export / "contract.json").write_text(json.dumps(contract))
    refused("encoder.onnx/inputs/cache_last_channel/shape is", *run, workshop.reference().folder)


def test_graph_changed_after_export_is_said_and_run(invoke, workshop, tmp_path):
    import onnx

    export = tmp_path / "export"
    shutil.copytree(workshop.export(), export)
    graph = onnx.load(export / "encoder.onnx")
    graph.doc_string = "touched"
    onnx.save(graph, export / "encoder.onnx")
    run = ["run", "--backend", "ort", "--model", export, "--reference", workshop.reference().folder, "--chunks", 2]
    status, _, err = invoke(*run)
    assert status == 0
    assert "changed after it was exported" in err


def test_changed_decoder_is_said(invoke, workshop, tmp_path):
    export = shutil.copytree(workshop.export(), tmp_path / "export")
    with open(export / "decoder_joint.onnx", "ab") as file:
        file.write(b"\xf2\x01\x00")  # an empty unknown field: the same graph in other bytes
    run = ["run", "--backend", "ort", "--model", export, "--reference", workshop.reference().folder, "--chunks", 1]
    assert "decoder_joint.onnx was changed" in invoke(*run)[2]


def test_graph_that_lacks_a_port_that_is_no_cache(refused, invoke, workshop):
    model = workshop.edited("no-length", without_ports("encoded_lengths")) / "encoder.onnx"
    reference = workshop.reference().folder
    refused("has no encoded_lengths", "run", "--backend", "ort", "--model", model, "--reference", reference)
    assert invoke("inspect", model)[0] == 1


def test_a_cut_off_reference_is_said(invoke, workshop, tmp_path):
    reference = shutil.copytree(workshop.reference().folder, tmp_path / "cut")
    manifest = json.loads((reference / "dump.json").read_text())
    (reference / "dump.json").write_text(json.dumps({**manifest, "complete": False, "tokens": None, "text": None}))
    (reference / "chunks" / "000004.safetensors").unlink()
    status, out, err = invoke("run", "--backend", "ort", "--model", workshop.export(), "--reference", reference)
    assert status == 0
    assert "4 of 4 chunks" in out
    assert "was cut off" in err
    assert "tokens equal" in out


def test_a_dump_without_trace_equals_itself(invoke, workshop, tmp_path):
    dump = shutil.copytree(workshop.reference().folder, tmp_path / "dump")
    (dump / "trace.jsonl").unlink()
    assert invoke("compare", dump, dump)[0] == 0


def test_what_nemo_itself_cannot_run_is_refused(refused, workshop, demo_path, speech, tmp_path, monkeypatch):
    from streamparity.reference import streamer

    def broken(*_arguments, **_keywords):
        raise RuntimeError("The size of tensor a (3) must match\nthe size of tensor b")

    earlier = workshop.reference().folder
    monkeypatch.setattr(streamer, "step_arguments", broken)
    dump = ["dump", demo_path, "--audio", speech, "--out", tmp_path / "d", "--att-context", "70,1"]
    refused("NeMo cannot run chunk 0", *dump)
    assert not (tmp_path / "d").exists()
    shutil.copytree(earlier, tmp_path / "d")
    (tmp_path / "d" / "thesis.txt").write_text("years of work")
    refused("NeMo cannot run chunk 0", *dump, "--force")
    assert [path.name for path in (tmp_path / "d").iterdir()] == ["thesis.txt"]


def test_a_bug_is_not_reported_as_a_divergence(refused, monkeypatch, tmp_path):
    from streamparity import comparison

    def broken(*_arguments, **_keywords):
        raise ZeroDivisionError("oops")

    monkeypatch.setattr(comparison, "compare", broken)
    refused("unexpected ZeroDivisionError: oops", "compare", "a", "b")


def test_a_closed_pipe_is_no_divergence(workshop, tmp_path):
    np.save(tmp_path / "a.npy", np.arange(5.0))
    command = f"{sys.executable} -m streamparity.cli compare a.npy a.npy --json - | true; echo ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], cwd=tmp_path, capture_output=True, text=True)
    assert done.stdout.strip() in ("0", str(128 + signal.SIGPIPE))
    assert done.stderr == ""


def test_not_a_number_is_named(invoke, tmp_path):
    np.save(tmp_path / "a.npy", np.arange(5.0))
    np.save(tmp_path / "b.npy", np.array([0, 1, np.nan, 3, np.inf]))
    status, out, _ = invoke("compare", tmp_path / "a.npy", tmp_path / "b.npy")
    assert status == 1
    assert "not finite: 0 values of the reference, 2 of the candidate" in out
    assert "first divergence: chunk 0, value: not finite" in out


def test_what_is_fed_cannot_be_asked_for_as_a_result(refused, workshop):
    run = ["run", "--backend", "ort", "--model", workshop.export(), "--reference", workshop.reference().folder]
    refused("matches none of the dump's", *run, "--taps", "preprocessor")


def test_mistaken_arguments_are_named(refused, invoke, workshop, demo_path, speech, tmp_path):
    reference = workshop.reference().folder
    refused("is no torch device", "dump", demo_path, "--audio", speech, "--out", tmp_path / "d", "--device", "banana")
    refused("is a .nemo, not an ONNX graph", "run", "--backend", "ort", "--model", demo_path, "--reference", reference)
    refused("nope does not exist", "compare", reference, tmp_path / "nope")
    assert invoke("inspect", workshop.export())[0] == 0


def test_a_wav_that_was_cut_short_is_said(invoke, demo_path, tmp_path):
    from streamparity.demo import demo_audio, demo_recordings

    with demo_audio(demo_recordings()[0]) as audio:
        half = damaged_copy(audio, tmp_path / "half.wav")
        dump = ["dump", demo_path, "--att-context", "70,1", "--chunks", 1, "--audio"]
        assert "promises more audio" in invoke(*dump, half, "--out", tmp_path / "half")[2]
        assert "promises more audio" not in invoke(*dump, audio, "--out", tmp_path / "whole")[2]


def test_usage_errors_have_two_lines(refused):
    refused("Missing option '--backend'", "run", "--model", "m", "--reference", "r")
    refused("No such command 'dance'", "dance")


def test_truncated_audio_is_refused(refused, demo_path, tmp_path):
    flac = tmp_path / "speech.flac"
    soundfile.write(flac, np.random.default_rng(0).normal(0, 0.1, 64_000), 16_000)
    half = damaged_copy(flac, tmp_path / "half.flac")
    refused("half.flac", "dump", demo_path, "--audio", half, "--out", tmp_path / "out")


def test_backends_and_options_that_are_not_there(refused, workshop, tmp_path):
    run = ["run", "--model", workshop.export(), "--reference", workshop.reference().folder, "--backend"]
    refused("there is no backend 'tpu'", *run, "tpu", code=3)
    refused("has no option 'speed'", *run, "ort", "-o", "speed=high")
    refused("threads=many", *run, "ort", "-o", "threads=many")
    refused("no provider", *run, "ort", "-o", "provider=TensorrtExecutionProvider", code=3)
    refused("folder of", *run, "ort", "--json", tmp_path / "no" / "r.json")
    refused("is a folder", *run, "ort", "--json", tmp_path)
    refused("two reports", *run, "ort", "--json", "-", "--html", "-")


def test_existing_output_is_kept(refused, invoke, demo_path, workshop, tmp_path):
    shutil.copytree(workshop.export(), tmp_path / "export")
    before = {path.name: path.read_bytes() for path in (tmp_path / "export").iterdir()}
    refused("already holds", "export", demo_path, "--out", tmp_path / "export", "--att-context", "70,0")
    assert {path.name: path.read_bytes() for path in (tmp_path / "export").iterdir()} == before
    refused("already exists", "demo", "--out", tmp_path / "export")
    run = ["run", "--backend", "ort", "--model", workshop.export(), "--reference", workshop.reference().folder]
    refused("already exists", *run, "--chunks", 1, "--save", tmp_path / "export")
    assert {path.name: path.read_bytes() for path in (tmp_path / "export").iterdir()} == before
    status, _, _ = invoke("export", demo_path, "--out", tmp_path / "export", "--att-context", "70,0", "--force")
    assert status == 0
    assert json.loads((tmp_path / "export" / "contract.json").read_text())["streaming"]["att_context_size"] == [70, 0]


def test_failed_export_leaves_nothing_behind(refused, demo_path, tmp_path, monkeypatch):
    from streamparity import export as module

    def broken(*_arguments):
        raise module._broken("on purpose")

    monkeypatch.setattr(module, "_check_streams", broken)
    refused("does not stream", "export", demo_path, "--out", tmp_path / "export")
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def small_disk(tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "none", str(disk)], capture_output=True)
    if mounted.returncode:
        pytest.skip(f"a 2 MB file system cannot be mounted here: {mounted.stderr.decode().strip()}")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


def test_full_disk_loses_nothing_and_resumes(refused, invoke, demo_path, small_disk, tmp_path):
    from streamparity.demo import demo_audio, demo_recordings

    with demo_audio(demo_recordings()[0]) as audio:
        dump = ["dump", demo_path, "--audio", audio, "--att-context", "70,1", "--out"]
        err = refused("No space left on device", *dump, small_disk / "dump")
        assert "--resume" in err
        assert not list(small_disk.rglob("*.partial"))
        subprocess.run(["mount", "-o", "remount,size=200m", str(small_disk)], check=True)
        assert invoke(*dump, small_disk / "dump", "--resume")[0] == 0
        assert invoke(*dump, tmp_path / "whole")[0] == 0
    for path in (tmp_path / "whole").rglob("*.*"):
        assert path.read_bytes() == (small_disk / "dump" / path.relative_to(tmp_path / "whole")).read_bytes()


def files_open(pid: int, path: Path) -> bool:
    """Whether a process has a file open for some time, so that it is at work and no longer importing."""
    for _ in range(4):
        opened = []
        with suppress(FileNotFoundError):  # closed in between, or the process has ended
            opened = [entry.resolve() for entry in Path(f"/proc/{pid}/fd").iterdir()]
        if path not in opened:
            return False
        time.sleep(0.1)
    return True


def test_interruption_exits_130(tmp_path):
    for name in "ab":
        with open(tmp_path / name, "wb") as file:
            file.truncate(1 << 35)
    command = [sys.executable, "-m", "streamparity.cli", "compare", "a", "b", "--shape", "-1"]
    # What runs in the background of a shell has interruption turned off, and hands that on.
    process = subprocess.Popen(
        command,
        cwd=tmp_path,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    while process.poll() is None and not files_open(process.pid, tmp_path / "b"):
        time.sleep(0.001)
    os.kill(process.pid, signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert err.strip() == "interrupted"


def test_contracts_are_written_checked_and_shown(invoke, workshop, demo_path, tmp_path):
    written = tmp_path / "contract.json"
    assert invoke("contract", "write", demo_path, "--att-context", "70,1", "--out", written)[0] == 0
    status, out, _ = invoke("contract", "check", written, workshop.export())
    assert (status, "values agree" in out) == (0, True)
    status, out, _ = invoke("contract", "check", written, workshop.reference((70, 1), "native").folder, "--json", "-")
    found = json.loads(out)
    assert (status, found["schema"], found["agrees"]) == (1, "streamparity.contract-check/1", False)
    assert [(each["name"], each["target"]) for each in found["disagreements"]] == [("streaming/schedule", "native")]
    status, out, _ = invoke("contract", "check", written, workshop.export((70, 13)) / "encoder.onnx")
    assert status == 1
    assert "step/encoded_lengths of step 2, fed 281 frames is 14, the contract says 2" in out
    assert "  breaks: another attention context" in out
    status, out, _ = invoke("contract", "show", written, "--audio-seconds", 2, "--schedule", "padded")
    assert (status, out.count("\n")) == (0, 1 + 1 + 13 + 1 + 4)
    status, both, _ = invoke("contract", "show", written, "--audio-seconds", 2)
    assert both.startswith(out[: out.index("frames: new")])
    status, out, _ = invoke("contract", "show", demo_path, "--att-context", "70,0", "--schedule", "native")
    assert (status, out.splitlines()[0].split(",")[0]) == (0, "schedule native")


def test_run_holds_a_port_to_the_contract_of_its_model(invoke, refused, workshop, demo_path, tmp_path):
    shutil.copy(workshop.export() / "encoder.onnx", tmp_path / "encoder.onnx")
    write = ["contract", "write", demo_path, "--force", "--out", tmp_path / "contract.json", "--att-context"]
    run = ["run", "--backend", "ort", "--model", tmp_path, "--reference", workshop.reference().folder, "--chunks", 2]
    assert invoke(*write, "70,1")[0] == 0
    status, _, err = invoke(*run)
    assert (status, "contract" in err) == (0, False)
    assert invoke(*write, "70,0")[0] == 0
    refused("streaming/att_context_size is [70, 1], the contract says [70, 0]", *run)
    contract = json.loads((tmp_path / "contract.json").read_text())
    contract["encoder"]["inputs"][3]["shape"][1] = 2
    (tmp_path / "contract.json").write_text(json.dumps(contract))
    refused("encoder/inputs/cache_last_time/shape is", *run)


def test_contract_refusals(refused, demo_path, tmp_path):
    contract = tmp_path / "contract.json"
    contract.write_text("{}")
    refused("not a contract that can be read", "contract", "check", contract, demo_path)
    refused("not a contract that can be read", "contract", "show", contract)
    refused("is there already", "contract", "write", demo_path, "--out", contract)
    assert contract.read_text() == "{}"
    sound = Path(__file__).parents[2] / "contracts" / "parakeet-tdt-0.6b-v3.json"
    refused("is neither a file, an export nor a dump", "contract", "check", sound, tmp_path / "absent")
    refused("is of no known kind", "contract", "check", sound, __file__)
    (tmp_path / "x.engine").touch()
    refused("not an engine's description", "contract", "check", sound, tmp_path / "x.engine")
    refused("no attention context [3, 3]", "contract", "show", sound, "--att-context", "3,3")
    for seconds in ("nan", "inf", "-1", "0", "4000", "0.00001"):
        refused("seconds of audio make no table", "contract", "show", sound, "--audio-seconds", seconds)
