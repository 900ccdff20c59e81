"""A dump that is killed goes on to the same bytes."""

from __future__ import annotations

import os
import random
import shutil
import signal
import time
from pathlib import Path

import pytest

from streamparity.demo import demo_audio, demo_recordings
from streamparity.dump import DumpReader
from streamparity.errors import StreamparityError
from streamparity.reference.nemo import StreamingOptions

KILLS = 20


def write_dump(loaded, out: Path, *, resume: bool = False, limit: int | None = None, context=(70, 0)) -> None:
    from streamparity.reference.dumper import DumpOptions, dump
    from streamparity.reference.nemo import StreamingOptions

    options = DumpOptions(StreamingOptions(context), limit=limit, resume=resume)
    with demo_audio(demo_recordings()[0]) as audio:
        dump(loaded, audio, out, options)


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def in_child(task) -> int:
    """Fork a process that does ``task`` and dies; its process id."""
    child = os.fork()
    if child == 0:
        try:
            task()
            os._exit(0)
        except BaseException:
            os._exit(1)
    return child


def test_killed_dumps_resume_to_the_same_bytes(loaded, tmp_path):
    whole = tmp_path / "whole"
    started = time.monotonic()
    assert os.waitpid(in_child(lambda: write_dump(loaded, whole)), 0)[1] == 0
    duration = time.monotonic() - started
    expected = files_of(whole)
    generator, killed_with_chunks = random.Random(1), []
    for kill in range(KILLS):
        out = tmp_path / f"killed-{kill}"
        child = in_child(lambda out=out: write_dump(loaded, out))
        time.sleep(generator.uniform(0, duration))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        chunks = len(list((out / "chunks").glob("*.safetensors"))) if out.exists() else 0
        if chunks:
            assert DumpReader(out).chunk_count == chunks
        killed_with_chunks.append(chunks)
        assert os.waitpid(in_child(lambda out=out: write_dump(loaded, out, resume=True)), 0)[1] == 0
        assert files_of(out) == expected
        shutil.rmtree(out)
    total = DumpReader(whole).chunk_count
    in_the_middle = [chunks for chunks in killed_with_chunks if 0 < chunks < total]
    assert len(set(in_the_middle)) >= 3, f"the kills hit nothing worth resuming: {killed_with_chunks}"


def test_resume_makes_good_a_torn_chunk_and_a_torn_trace(loaded, tmp_path):
    write_dump(loaded, tmp_path / "whole")
    expected = files_of(tmp_path / "whole")
    torn = tmp_path / "torn"
    shutil.copytree(tmp_path / "whole", torn)
    for chunk in range(9, len(list((torn / "chunks").iterdir()))):
        (torn / "chunks" / f"{chunk:06d}.safetensors").unlink()
    half = torn / "chunks" / "000008.safetensors"
    half.write_bytes(half.read_bytes()[:1000])
    trace = (torn / "trace.jsonl").read_bytes()
    (torn / "trace.jsonl").write_bytes(trace[: len(trace) * 2 // 3])
    with pytest.raises(StreamparityError, match="chunks but 8 are there"):
        DumpReader(torn)
    write_dump(loaded, torn, resume=True)
    assert files_of(torn) == expected


@pytest.mark.parametrize("left", ["nothing", "chunks", "chunks and partial", "chunk without dump.json"])
@pytest.mark.parametrize("flag", ["resume", "force"])
def test_a_dump_killed_at_its_very_start_does_not_block_the_next(loaded, tmp_path, left, flag):
    from streamparity.reference.dumper import DumpOptions, dump

    write_dump(loaded, tmp_path / "whole", limit=2)
    out = tmp_path / "dump"
    out.mkdir()
    if left != "nothing":
        (out / "chunks").mkdir()
    if left == "chunks and partial":
        (out / "dump.json.partial").write_text("{")
    if left == "chunk without dump.json":
        (out / "chunks" / "000000.safetensors").write_bytes(b"old")
        (out / "trace.jsonl").write_text("old")
    with demo_audio(demo_recordings()[0]) as audio:
        options = DumpOptions(StreamingOptions((70, 0)), limit=2, **{flag: True})
        dump(loaded, audio, out, options)
    assert files_of(out) == files_of(tmp_path / "whole")


def test_a_refused_dump_leaves_no_folder(loaded, tmp_path):
    with pytest.raises(StreamparityError, match="not trained for"):
        write_dump(loaded, tmp_path / "dump", context=(70, 5))
    assert not (tmp_path / "dump").exists()


def test_resume_refuses_another_job(loaded, tmp_path):
    write_dump(loaded, tmp_path / "dump", limit=3)
    before = files_of(tmp_path / "dump")
    with pytest.raises(StreamparityError, match="another job"):
        write_dump(loaded, tmp_path / "dump", resume=True, context=(70, 1))
    assert files_of(tmp_path / "dump") == before


def test_an_existing_folder_is_left_alone(loaded, tmp_path):
    (tmp_path / "dump").mkdir()
    (tmp_path / "dump" / "thesis.txt").write_text("years of work")
    with pytest.raises(StreamparityError, match="already exists"):
        write_dump(loaded, tmp_path / "dump")
    assert files_of(tmp_path / "dump") == {"thesis.txt": b"years of work"}


def test_force_replaces_dumps_only(loaded, tmp_path):
    from streamparity.reference.dumper import DumpOptions, dump

    (tmp_path / "dump").mkdir()
    (tmp_path / "dump" / "thesis.txt").write_text("years of work")
    with demo_audio(demo_recordings()[0]) as audio, pytest.raises(StreamparityError, match="not a dump"):
        dump(loaded, audio, tmp_path / "dump", DumpOptions(force=True, limit=1))
    assert files_of(tmp_path / "dump") == {"thesis.txt": b"years of work"}


def test_memory_does_not_grow_with_the_recording(loaded, tmp_path):
    """The same model over ten times the audio: the peak may grow by less than half of what the features weigh."""
    import resource

    import numpy as np
    import soundfile

    def peak(seconds: int) -> int:
        samples = np.random.default_rng(0).normal(0, 0.01, seconds * 16_000).astype(np.float32)
        audio = tmp_path / f"{seconds}.wav"
        soundfile.write(audio, samples, 16_000)
        del samples
        reader, writer = os.pipe()

        def measure() -> None:
            from streamparity.reference.dumper import DumpOptions, dump
            from streamparity.reference.nemo import StreamingOptions

            before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            dump(loaded, audio, tmp_path / f"dump-{seconds}", DumpOptions(StreamingOptions((70, 13)), taps=["joint"]))
            os.write(writer, str(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before).encode())

        assert os.waitpid(in_child(measure), 0)[1] == 0
        os.close(writer)
        with os.fdopen(reader) as file:
            return int(file.read())

    short, long = peak(60), peak(600)
    feature_kilobytes = 540 * 100 * 128 * 4 // 1024
    assert long - short < feature_kilobytes // 2
