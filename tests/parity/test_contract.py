"""Contracts against real exports, dumps and a model: what is wrong is named, what is right passes."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import jsonschema
import pytest

from streamparity.contract import Contract
from streamparity.contract.check import STATELESS
from streamparity.contract.derive import frame_grid
from streamparity.contract.model import contract_schema
from streamparity.contract.parts import Profile, ShapeRange, TensorRT
from streamparity.contract_check import probe
from streamparity.contract_check.targets import check
from streamparity.errors import StreamparityError
from streamparity.schedule import SCHEDULES, steps
from streamparity.tensors import CACHE_FEEDBACK

from .doctor_edits import always_two


@pytest.fixture(scope="module")
def contract(loaded) -> Contract:
    """As ``contract write demo.nemo --att-context 70,1`` has it."""
    from streamparity.reference.contract import contract_of
    from streamparity.reference.nemo import StreamingOptions, configure_streaming

    return contract_of(loaded, configure_streaming(loaded.module, StreamingOptions((70, 1))), "test")


def disagreements(contract: Contract, target: Path) -> dict[str, tuple]:
    checked = check(contract, target)
    assert checked.ledger.compared
    return {each.name: (each.contract, each.target) for each in checked.ledger.disagreements}


def section(contract: Contract, name: str, **changes) -> Contract:
    return replace(contract, **{name: replace(getattr(contract, name), **changes)})


def test_a_contract_is_valid_the_same_when_written_twice_and_true_to_its_model(contract, loaded, demo_path, workshop):
    from streamparity.reference.contract import contract_of
    from streamparity.reference.nemo import StreamingOptions, configure_streaming

    jsonschema.Draft202012Validator(contract_schema()).validate(json.loads(contract.to_bytes()))
    workshop.export((70, 13))  # changes the model's export settings, not its contract
    again = contract_of(loaded, configure_streaming(loaded.module, StreamingOptions((70, 1))), "test")
    assert again.to_bytes() == contract.to_bytes()
    assert str(demo_path.parent).encode() not in contract.to_bytes()
    assert disagreements(contract, demo_path) == {}


@pytest.mark.parametrize(
    ("name", "changes", "found"),
    [
        ("model", {"sha256": "0" * 64}, "model/sha256"),
        ("features", {"normalize": "per_feature"}, "features/normalize"),
        ("features", {"window_size": 0.02}, "features/window_size"),
        ("features", {"features": 80}, "features/features"),
        ("features", {"log_zero_guard_value": 1e-5}, "features/log_zero_guard_value"),
        ("decoding", {"blank_id": 0}, "decoding/blank_id"),
        ("decoding", {"vocabulary": tuple("abc")}, "decoding/vocabulary"),
        ("decoding", {"max_symbols": None}, "decoding/max_symbols"),
        ("streaming", {"chunk_size": (9, 17)}, "streaming/chunk_size"),
        ("streaming", {"att_context_size": (56, 1)}, "streaming/att_context_size"),
        ("encoder", {"xscaling": True}, "encoder/xscaling"),
        ("tokenizer", {"size": 41}, "tokenizer/size"),
    ],
)
def test_a_contract_that_says_otherwise_than_its_model(contract, demo_path, name, changes, found):
    names = disagreements(section(contract, name, **changes), demo_path)
    assert found in names
    # An engine's profiles follow from how the model streams.
    assert {each.split("/")[0] for each in names} - ({"tensorrt"} if name == "streaming" else set()) == {name}


def test_an_export_keeps_the_contract_of_its_model(contract, workshop):
    export = workshop.export()
    for target in (export, export / "encoder.onnx", export / "decoder_joint.onnx", export / "contract.json"):
        assert disagreements(contract, target) == {}
    written = Contract.read(export / "contract.json")
    jsonschema.Draft202012Validator(contract_schema()).validate(json.loads((export / "contract.json").read_bytes()))
    assert disagreements(written, export) == {}
    assert written.graphs["encoder.onnx"].inputs[2].valid == contract.encoder.inputs[2].valid


def test_an_encoder_with_another_context_baked_in_is_found_by_running_it(contract, workshop):
    found = disagreements(contract, workshop.export((70, 13)) / "encoder.onnx")
    assert found == {"step/encoded_lengths of step 2, fed 281 frames": (2, 14)}
    narrowed = section(contract, "streaming", last_channel_cache_size=56)
    (failed,) = disagreements(narrowed, workshop.export() / "encoder.onnx").items()
    assert failed[0] == "step/end of step 0, fed 25 frames"
    assert failed[1][1].startswith("failure: ")
    dropping = section(contract, "streaming", drop_extra_pre_encoded=1)
    assert "step/cache_last_channel_next_len of step 0, fed 25 frames" in disagreements(dropping, workshop.export())


def test_another_export_is_told_from_the_one_that_the_contract_is_of(workshop):
    written = Contract.read(workshop.export() / "contract.json")
    found = disagreements(written, workshop.export((70, 13)))
    assert {"graphs/encoder.onnx/sha256", "streaming/att_context_size", "streaming/chunk_size"} <= set(found)
    assert found["streaming/att_context_size"] == ([70, 1], [70, 13])


def stateless(model):
    kept = [port for port in model.graph.output if not port.name.startswith("cache")]
    del model.graph.output[:]
    model.graph.output.extend(kept)


def other_dtype(model):
    from onnx import TensorProto

    for port in model.graph.input:
        if port.name == "cache_last_time":
            port.type.tensor_type.elem_type = TensorProto.FLOAT16


def other_shape(model):
    for port in model.graph.input:
        if port.name == "cache_last_channel":
            port.type.tensor_type.shape.dim[2].dim_value = 71


def renamed(model):
    """Under an alias that is known."""
    for port, new in ((model.graph.input[0], "processed_signal"), (model.graph.output[0], "encoded")):
        for node in model.graph.node:
            for names in (node.input, node.output):
                names[:] = [new if name == port.name else name for name in names]
        port.name = new
    model.doc_string = "touched"


def fixed_batch(model):
    for port in [*model.graph.input, *model.graph.output]:
        port.type.tensor_type.shape.dim[0].dim_value = 1


@pytest.mark.parametrize(
    ("edit", "names"),
    [
        (stateless, [f"encoder/outputs/{name}" for name in CACHE_FEEDBACK]),
        (other_dtype, ["encoder/inputs/cache_last_time/dtype"]),
        (other_shape, ["encoder/inputs/cache_last_channel/shape"]),
        (renamed, []),
        (fixed_batch, []),
    ],
)
def test_ports(contract, workshop, tmp_path_factory, edit, names):
    export = workshop.edited(f"contract-{edit.__name__}", edit)
    assert sorted(disagreements(contract, export / "encoder.onnx")) == sorted(names)


def test_a_graph_whose_ports_are_wrong_is_not_run_and_a_missing_contract_part_is_told(contract, workshop):
    export = workshop.edited("contract-not-run", stateless)
    checked = check(contract, export / "encoder.onnx")
    assert checked.notes == ["encoder.onnx was not run: its ports are not those promised"]
    assert {each.breaks for each in checked.ledger.disagreements} == {STATELESS}
    silent = replace(contract, decoder=None, encoder=None)
    assert check(silent, workshop.reference().folder).ledger.disagreements == []


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("context", [(70, 1), (70, 0)])
def test_dumps(contract, workshop, context, schedule):
    found = disagreements(contract, workshop.reference(context, schedule).folder)
    expected = {"streaming/schedule"} if schedule == "native" else set()
    if context == (70, 0):
        expected |= {f"streaming/{key}" for key in ("att_context_size", "chunk_size", "shift_size", "valid_out_len")}
    assert set(found) == expected


def test_a_dump_of_another_model_with_another_decoder(contract, workshop, tmp_path):
    dump = shutil.copytree(workshop.reference().folder, tmp_path / "dump")
    manifest = json.loads((dump / "dump.json").read_text())
    manifest["model"]["sha256"] = "1" * 64
    manifest["decoder"]["vocabulary"][3] = "x"
    manifest["decoder"]["blank_id"] = 39
    (dump / "dump.json").write_text(json.dumps(manifest))
    assert set(disagreements(contract, dump)) == {"model/sha256", "decoding/blank_id", "decoding/vocabulary"}
    older = replace(contract, sources={})
    assert set(disagreements(older, dump)) == {"model/sha256", "decoding/blank_id", "decoding/vocabulary"}
    silent = section(older, "decoding", max_symbols=None)
    assert check(silent, workshop.reference().folder).ledger.unknown == ["decoding/max_symbols"]
    wider = section(contract, "encoder", d_model=65)
    assert "encoder/inputs/cache_last_channel/shape" in disagreements(wider, workshop.reference().folder)


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("context", [(70, 13), (70, 1), (70, 0)])
def test_the_table_says_what_the_reference_dump_holds(contract, workshop, context, schedule):
    reference = workshop.reference(context, schedule)
    audio = reference.manifest.audio
    grid = frame_grid(contract.features)
    samples = round(audio["seconds"] * audio["sample_rate"])
    assert grid.frames(samples) == audio["feature_frames"]
    table = list(steps(reference.manifest.streaming, contract.encoder.subsampling, grid, samples, schedule))
    assert len(table) == reference.chunk_count
    for step, chunk in zip(table, reference, strict=True):
        assert step.chunk.frames == int(chunk["in/length"][0]) == chunk["in/audio_signal"].shape[2]
        assert step.out == int(chunk["out/encoded_lengths"][0])
        assert step.cache_length == int(chunk["out/cache_last_channel_next_len"][0])


def sidecar(contract: Contract, **changes) -> dict:
    """As ``streamparity build`` writes it, but for what a contract does not speak of."""
    inputs, outputs = (
        [{"name": port.name, "dtype": port.dtype, "shape": list(port.shape)} for port in group]
        for group in (contract.encoder.inputs, contract.encoder.outputs)
    )
    outputs.append({"name": "/layers.0/Add", "dtype": "float32", "shape": [None, None, 64]})
    shapes = {
        "audio_signal": [[1, 128, 17], [1, 128, 25], [1, 128, 41]],
        "cache_last_channel": [[1, 3, 70, 64]] * 3,
        "cache_last_time": [[1, 3, 64, 8]] * 3,
    }
    return {
        "schema": "streamparity.engine/1",
        "inputs": inputs,
        "outputs": outputs,
        "taps": {"encoder.layers.0": "/layers.0/Add"},
        "profiles": [{"name": "step", "shapes": shapes}],
        "model": {"id": "demo", "sha256": contract.model.sha256},
        "streaming": contract.streaming.to_json(),
        **changes,
    }


@pytest.fixture
def engine(tmp_path):
    def write(document: dict) -> Path:
        (tmp_path / "encoder.engine").write_bytes(b"\0")
        (tmp_path / "encoder.engine.json").write_text(json.dumps(document))
        return tmp_path / "encoder.engine"

    return write


def test_engines(contract, engine, workshop):
    sound = sidecar(contract)
    path = engine(sound)
    assert disagreements(contract, path) == disagreements(contract, Path(f"{path}.json")) == {}
    sound["inputs"][2]["shape"][2] = 56
    assert disagreements(contract, engine(sound)) == {
        "encoder/inputs/cache_last_channel/shape": ([None, 3, 70, 64], [None, 3, 56, 64])
    }
    narrow = sidecar(contract)
    narrow["profiles"][0]["shapes"]["audio_signal"][2] = [1, 128, 24]
    assert set(disagreements(contract, engine(narrow))) == {"tensorrt/profiles/audio_signal", "tensorrt/profiles/step"}
    another = sidecar(contract, model={"sha256": "3" * 64}, taps={})
    assert set(disagreements(contract, engine(another))) == {"model/sha256", "encoder/outputs//layers.0/Add"}
    baked = sidecar(contract, streaming={**contract.streaming.to_json(), "valid_out_len": 1})
    assert set(disagreements(contract, engine(baked))) == {"streaming/valid_out_len"}
    exported = Contract.read(workshop.export() / "contract.json")
    made_of = exported.graphs["encoder.onnx"].sha256
    assert disagreements(exported, engine(sidecar(contract, source={"sha256": made_of}))) == {}
    assert set(disagreements(exported, engine(sidecar(contract, source={"sha256": "2" * 64})))) == {"graphs/sha256"}


def test_profiles_that_the_contract_promises(contract, engine):
    described = sidecar(contract)
    shapes = {port: ShapeRange(*map(tuple, three)) for port, three in described["profiles"][0]["shapes"].items()}
    promising = replace(contract, tensorrt=TensorRT((Profile("step", shapes),)))
    assert disagreements(promising, engine(described)) == {}
    # A profile under another name, likeliest at another length or open to more, takes what is promised all the same.
    described["profiles"][0]["name"] = "batch"
    described["profiles"][0]["shapes"]["audio_signal"][1] = [1, 128, 24]
    described["profiles"][0]["shapes"]["audio_signal"][2] = [4, 128, 60]
    assert disagreements(promising, engine(described)) == {}
    described["profiles"][0]["shapes"]["audio_signal"][0] = [1, 128, 30]
    found = set(disagreements(promising, engine(described)))
    assert found == {"tensorrt/profiles/step", "tensorrt/profiles/audio_signal"}


def test_a_graph_that_returns_one_length_for_every_input_disagrees(contract, workshop):
    edited = workshop.edited("contract: constant lengths", always_two)
    found = disagreements(contract, edited / "encoder.onnx")
    assert any(name.startswith("step/encoded_lengths of step 3") for name in found), found


def test_inputs_that_no_graph_takes_are_not_made(contract, workshop):
    caches = probe.empty_caches((1, 3, 70, 64), (1, 3, 64, 8))
    with pytest.raises(StreamparityError, match="which no graph takes"):
        probe.observe(workshop.export() / "encoder.onnx", 2**23, contract.streaming, caches, [2**23])
    assert len(probe.observe(workshop.export() / "encoder.onnx", 128, contract.streaming, caches, [25])) == 1
