"""The contract as a document: written, published, read, compared. No model is needed."""

from __future__ import annotations

import json
from copy import deepcopy
from dataclasses import fields, replace
from pathlib import Path

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import make_contracts
from streamparity.contract import Contract
from streamparity.contract.check import BREAKS, Ledger, check_contract
from streamparity.contract.codec import Malformed, decode
from streamparity.contract.model import SCHEMA, contract_schema
from streamparity.contract.show import HEADINGS, explain
from streamparity.contract_check.targets import check
from streamparity.errors import StreamparityError
from streamparity.schedule import SCHEDULES

CONTRACTS = Path(__file__).parents[1] / "contracts"
NAMES = [published.id for published in make_contracts.MODELS]
VALIDATOR = jsonschema.Draft202012Validator(contract_schema())

# As published: chunk, shift, valid out, drop and cache shapes per context, in feature and encoder frames.
PUBLISHED = {
    "nemotron-speech-streaming-en-0.6b": {
        (70, 13): ([105, 112], [105, 112], 14, (1, 24, 70, 1024), (1, 24, 1024, 8), 1120),
        (70, 6): ([49, 56], [49, 56], 7, (1, 24, 70, 1024), (1, 24, 1024, 8), 560),
        (70, 1): ([9, 16], [9, 16], 2, (1, 24, 70, 1024), (1, 24, 1024, 8), 160),
        (70, 0): ([1, 8], [1, 8], 1, (1, 24, 70, 1024), (1, 24, 1024, 8), 80),
    },
    "stt_en_fastconformer_hybrid_large_streaming_multi": {
        (70, 13): ([105, 112], [105, 112], 14, (1, 17, 70, 512), (1, 17, 512, 8), 1120),
        (70, 0): ([1, 8], [1, 8], 1, (1, 17, 70, 512), (1, 17, 512, 8), 80),
    },
    "parakeet-tdt-0.6b-v3": {
        (256, -1): ([41, 48], [17, 24], 3, (1, 24, 256, 1024), (1, 24, 1024, 4), 480),
        (-1, -1): ([577, 584], [1, 8], 1, (1, 24, 10000, 1024), (1, 24, 1024, 4), 5840),
    },
}


def document(name: str = NAMES[0]) -> dict:
    return json.loads((CONTRACTS / f"{name}.json").read_text())


def leaves(value, where=()):
    """Paths to everything in a document that is neither an object nor a list of objects."""
    if isinstance(value, dict):
        for key, item in value.items():
            yield from leaves(item, (*where, key))
    elif isinstance(value, list) and value and isinstance(value[0], dict | list):
        for place, item in enumerate(value):
            yield from leaves(item, (*where, place))
    else:
        yield where


def changed(data: dict, path, value) -> dict:
    data = deepcopy(data)
    inner = data
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = value
    return data


@pytest.fixture
def read(tmp_path):
    def read(data: dict | bytes) -> Contract:
        path = tmp_path / "contract.json"
        path.write_bytes(data if isinstance(data, bytes) else json.dumps(data).encode())
        return Contract.read(path)

    return read


def test_the_files_are_what_the_script_writes(tmp_path, monkeypatch):
    monkeypatch.setattr("sys.argv", ["make_contracts.py", "--out", str(tmp_path)])
    make_contracts.main()
    written = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert written == {path.name: path.read_bytes() for path in CONTRACTS.iterdir()}
    assert len(written) == len(NAMES) + 1


@pytest.mark.parametrize("name", NAMES)
def test_published_contracts_follow_the_schema_and_survive_reading(name):
    jsonschema.Draft202012Validator.check_schema(contract_schema())
    VALIDATOR.validate(document(name))
    path = CONTRACTS / f"{name}.json"
    assert Contract.read(path).to_bytes() == path.read_bytes()


@pytest.mark.parametrize("name", NAMES)
def test_what_follows_from_the_architecture_is_what_is_published(name):
    contexts = {context.att_context_size: context for context in Contract.read(CONTRACTS / f"{name}.json").contexts}
    for size, (chunk, shift, out, channel, time, milliseconds) in PUBLISHED[name].items():
        context = contexts[size]
        assert [list(context.streaming.chunk_size), list(context.streaming.shift_size)] == [chunk, shift]
        assert (context.streaming.valid_out_len, context.streaming.drop_extra_pre_encoded) == (out, 2)
        assert (context.cache_last_channel, context.cache_last_time) == (channel, time)
        assert context.chunk_ms == milliseconds
    assert contexts.get((-1, -1), contexts.get((70, 1))).streaming.cache_drop_size == (
        72 if (-1, -1) in contexts else 0
    )


@pytest.mark.parametrize("name", NAMES)
def test_what_is_not_known_is_null_and_said_to_be(name):
    data, contract = document(name), Contract.read(CONTRACTS / f"{name}.json")
    spoken_of = {key: value for key, value in data.items() if key not in ("sources", "producer", "contexts")}
    nulls = {"/".join(map(str, path)) for path in leaves(spoken_of) if _at(data, path) is None}
    unknown = {pointer[1:] for pointer, source in contract.sources.items() if source == "unknown"}
    assert nulls == unknown
    assert "model/sha256" in unknown
    assert contract.source("features/window_samples") == "computed"
    assert contract.source("encoder/layers") == "published"


def _at(data, path):
    for key in path:
        data = data[key]
    return data


@pytest.mark.parametrize(
    ("path", "value", "says"),
    [
        (("schema",), "streamparity.contract/2", "its schema is 'streamparity.contract/2'"),
        (("streaming", "chunk_size"), [105], "/streaming/chunk_size has 1 entries, not 2"),
        (("streaming", "chunk_size", 1), "112", "/streaming/chunk_size/1 is '112', not a whole number"),
        (("streaming", "valid_out_len"), True, "/streaming/valid_out_len is True, not a whole number"),
        (("streaming",), [1], "/streaming is [1], not an object"),
        (("encoder", "layers"), 10**400, "/encoder/layers is a very large number, not a whole number"),
        (("encoder", "subsampling", "stride"), 0, "/encoder/subsampling: subsampling by 8 in 3 layers"),
        (("encoder", "subsampling", "layers"), 10**9, "/encoder/subsampling: subsampling by 8 in 1000000000 layers"),
        (("encoder", "inputs", 0, "valid"), "some", "/encoder/inputs/0/valid is 'some', not one of all"),
        (("decoding", "kind"), "beam", "/decoding/kind is 'beam', not one of rnnt, tdt, ctc"),
        (("decoding", "vocabulary"), [1], "/decoding/vocabulary/0 is 1, not text"),
        (("features", "preemph"), "0.97", "/features/preemph is '0.97', not a number"),
        (("sources", "/features"), "guessed", "/sources//features is 'guessed', not one of file"),
        (("model",), {"id": "x", "class": "y"}, "/model/sha256 is missing"),
    ],
)
def test_a_malformed_contract_is_refused_with_where_and_why(read, path, value, says):
    with pytest.raises(StreamparityError) as refused:
        read(changed(document(), path, value))
    assert says in refused.value.message
    assert "\n" not in refused.value.message + refused.value.hint
    assert not VALIDATOR.is_valid(changed(document(), path, value)) or path[-1] in ("stride", "layers")


@pytest.mark.parametrize(
    ("path", "value", "says"),
    [
        (("streaming", "chunk_size"), [-9, -16], "/streaming/chunk_size is -9, not from 1"),
        (("streaming", "chunk_size"), [9, 10**12], "/streaming/chunk_size is 1000000000000, not from 1"),
        (("streaming", "shift_size"), [0, 0], "/streaming/shift_size is 0"),
        (("streaming", "subsampling_factor"), 0, "/streaming/subsampling_factor is 0"),
        (("features", "hop_samples"), 0, "/features/hop_samples is 0"),
        (("features", "features"), 10**9, "/features/features is 1000000000"),
    ],
)
def test_sizes_that_no_stream_has_are_refused(read, path, value, says):
    with pytest.raises(StreamparityError) as refused:
        read(changed(document(), path, value))
    assert says in refused.value.message
    assert "\n" not in refused.value.message + refused.value.hint
    read(changed(document(), ("streaming", "chunk_size"), [1000, 10_000]))  # odd, and none of the reader's business


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "Expecting value"),
        (b"\xff\xfe", "utf-8"),
        (b"[]", "its schema is None"),
        (b"[" * 100_000, "recursion"),
        (b'{"schema": "streamparity.contract/1"}', "/model is missing"),
        (json.dumps(document()).replace("0.97", "NaN").encode(), "/features/preemph is nan"),
        (json.dumps(document()).replace("0.97", "1e999").encode(), "/features/preemph is inf"),
    ],
)
def test_what_is_no_contract_at_all_is_refused(read, data, says):
    with pytest.raises(StreamparityError) as refused:
        read(data)
    assert says in refused.value.message
    assert "\n" not in refused.value.message


def test_a_folder_and_an_absent_file_are_refused(tmp_path):
    for path in (tmp_path, tmp_path / "absent.json"):
        with pytest.raises(StreamparityError, match="not a contract that can be read"):
            Contract.read(path)


def test_keys_of_later_versions_are_passed_over(read):
    data = document()
    later = changed(changed(data, ("later",), {"a": 1}), ("features", "later"), 2)
    assert read(later) == read(data)
    assert VALIDATOR.is_valid(later)


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
PLACES = {
    name: [path[:depth] for path in leaves(document(name)) for depth in range(1, len(path) + 1)] for name in NAMES
}


def read_or_refused(path: Path) -> Contract | None:
    """The contract, or ``None`` where it is refused in two lines."""
    try:
        return Contract.read(path)
    except StreamparityError as error:
        lines = [error.message, error.hint]
    assert not any("\n" in line for line in lines)
    return None


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_no_document_brings_the_reader_or_what_follows_down(tmp_path_factory, data):
    name = data.draw(st.sampled_from(NAMES))
    broken = document(name)
    for _ in range(data.draw(st.integers(1, 3))):
        path = data.draw(st.sampled_from(PLACES[name]))
        try:
            broken = changed(broken, path, data.draw(ANYTHING | st.integers(-3, 600)))
        except (KeyError, IndexError, TypeError):
            continue  # an earlier change took the place away
    path = tmp_path_factory.getbasetemp() / "fuzzed.json"
    path.write_text(json.dumps(broken))
    contract = read_or_refused(path)
    if contract is None:
        return
    assert VALIDATOR.is_valid(broken)
    whole = Contract.read(CONTRACTS / f"{name}.json")
    for ours, theirs in ((contract, whole), (whole, contract)):
        ledger = Ledger(ours.source)
        check_contract(ledger, ours, theirs)
        assert all(each.sentence and each.breaks for each in ledger.disagreements)
    for schedule in SCHEDULES:
        try:
            table = explain(contract, None, 0.5, schedule)
        except StreamparityError:
            continue
        assert len(table.rows()) == len(table.steps)
        assert table.lines()


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=200))
def test_no_bytes_bring_the_reader_down(tmp_path_factory, data):
    path = tmp_path_factory.getbasetemp() / "bytes.json"
    path.write_bytes(data)
    with pytest.raises(StreamparityError):
        Contract.read(path)


def described_engine(data: dict) -> dict:
    """What ``streamparity build`` would write beside an engine of a published contract."""
    ports = {
        side: [{key: port[key] for key in ("name", "dtype", "shape")} for port in data["encoder"][side]]
        for side in ("inputs", "outputs")
    }
    shapes = {
        "audio_signal": [[1, 128, 17], [1, 128, 121], [1, 128, 121]],
        "cache_last_channel": [[1, 24, 70, 1024]] * 3,
        "cache_last_time": [[1, 24, 1024, 8]] * 3,
    }
    return {"schema": "streamparity.engine/1", **ports, "profiles": [{"name": "step", "shapes": shapes}]}


ENGINE = described_engine(document())
ENGINE_PLACES = [path[:depth] for path in leaves(ENGINE) for depth in range(1, len(path) + 1)]


@settings(max_examples=100, deadline=None)
@given(st.sampled_from(ENGINE_PLACES), ANYTHING | st.lists(st.lists(st.integers(-2, 200), max_size=4), max_size=4))
def test_no_description_of_an_engine_brings_the_check_down(tmp_path_factory, path, value):
    file = tmp_path_factory.getbasetemp() / "fuzzed.engine.json"
    file.write_text(json.dumps(changed(ENGINE, path, value)))
    contract = Contract.read(CONTRACTS / f"{NAMES[0]}.json")
    try:
        check(contract, file)
    except StreamparityError as error:
        lines = [error.message, error.hint]
        assert not any("\n" in line for line in lines)
    file.write_text(json.dumps(ENGINE))
    assert check(contract, file).ledger.disagreements == []


# Values that two contracts may differ in: who wrote them, what the model is called, and what follows from the rest.
HARMLESS = ("schema", "producer", "sources", "contexts")
PASSED = (("model", "id"), ("streaming", "schedule"))


def found(ours: Contract, theirs: Contract) -> Ledger:
    ledger = Ledger(ours.source)
    check_contract(ledger, ours, theirs)
    return ledger


def other(value):
    """A value of the same kind that is another."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, int | float):
        return value + 1
    if isinstance(value, list):
        return [*value[:-1], None] if value and value[-1] is not None else [*value[:-1], 7]
    return f"{value}x"


@pytest.mark.parametrize("name", NAMES)
def test_every_value_that_differs_is_found_and_nothing_else(read, name):
    data = document(name)
    whole, checked = read(data), 0
    for path in leaves(data):
        value = _at(data, path)
        if path[0] in HARMLESS or path in PASSED or value is None:
            continue
        try:
            ledger = found(whole, decode(Contract, changed(data, path, other(value))))
        except Malformed:
            continue  # a value of a closed list, or a list of a fixed length
        names = [each.name for each in ledger.disagreements]
        assert names, path
        assert all(each.startswith("/".join(map(str, path[:2])).removesuffix("/schedule")) for each in names), (
            path,
            names,
        )
        checked += 1
    assert checked > 80


def test_what_does_not_matter_is_no_disagreement(read):
    data = document()
    data["producer"] = {"program": "another", "versions": {"numpy": "9"}}
    data["model"]["id"] = "renamed"
    data["sources"] = dict(reversed(data["sources"].items()))
    ledger = found(read(document()), read(data))
    assert ledger.disagreements == []
    assert len(ledger.compared) > 150


def test_what_is_not_known_is_told_and_not_compared(read):
    data = document()
    known = changed(changed(data, ("features", "normalize"), "NA"), ("sources", "/features/normalize"), "file")
    ledger = found(read(data), read(known))
    assert ledger.disagreements == []
    assert "features/normalize" in ledger.unknown
    assert [
        each.name
        for each in found(read(known), read(changed(known, ("features", "normalize"), "per_feature"))).disagreements
    ] == ["features/normalize"]


def test_a_null_that_says_none_is_compared(read):
    data = changed(document(), ("decoding", "max_symbols"), None)
    ledger = found(read(data), read(document()))
    assert [(each.name, each.contract, each.target) for each in ledger.disagreements] == [
        ("decoding/max_symbols", None, 10)
    ]


def test_a_missing_port_a_missing_context_and_a_long_list_are_named(read):
    data = document()
    fewer = deepcopy(data)
    del fewer["encoder"]["inputs"][2], fewer["contexts"][2]
    names = {each.name: each.target for each in found(read(data), read(fewer)).disagreements}
    assert names == {"encoder/inputs/cache_last_channel": "missing", "contexts/70,1": "missing"}
    words = [f"w{number}" for number in range(1024)]
    spelt = changed(data, ("decoding", "vocabulary"), words)
    swapped = changed(data, ("decoding", "vocabulary"), [*words[:9], "other", *words[10:]])
    (only,) = found(read(spelt), read(swapped)).disagreements
    assert (only.contract, only.target) == ("1024 entries, entry 9 is 'w9'", "1024 entries, entry 9 is 'other'")
    assert only.breaks == BREAKS["decoding/vocabulary"]


def test_a_value_of_the_example_configuration_is_said_to_be_one(read):
    (only,) = found(read(document()), read(changed(document(), ("features", "preemph"), 0.5))).disagreements
    assert only.sentence == "features/preemph is 0.5, the contract says 0.97 (of NeMo's example configuration)"


def test_every_part_of_a_contract_has_a_consequence():
    parts = {each.name for each in fields(Contract)} - {"model", "producer", "sources"}
    assert {name.split("/")[0] for name in BREAKS} >= parts


def test_an_older_contract_is_read_and_compared_where_it_speaks(read):
    data = {
        key: document()[key] for key in ("schema", "model", "streaming", "features", "decoding", "graphs", "producer")
    }
    for key in ("log_zero_guard_value", "preemph", "streaming_safe"):
        del data["features"][key]
    older = read(data)
    assert found(older, read(document())).disagreements == []
    wrong = changed(document(), ("streaming", "shift_size"), [1, 2])
    assert [each.name for each in found(older, read(wrong)).disagreements] == ["streaming/shift_size"]
    with pytest.raises(StreamparityError, match="does not say how its encoder subsamples"):
        explain(older, None, 2, "padded")


def test_the_table_of_two_seconds():
    table = explain(Contract.read(CONTRACTS / f"{NAMES[0]}.json"), (70, 1), 2, "padded")
    rows = [dict(zip(HEADINGS, row, strict=True)) for row in table.rows()]
    assert len(rows) == 13
    assert rows[0]["zeros"] == "9"
    assert rows[1] == {
        "chunk": "1",
        "frames": "16..31",
        "history": "9",
        "zeros": "0",
        "fed": "25",
        "samples": "2240..5159",
        "count": "2920",
        "overlap": "360",
        "ms": "182.5",
        "ready at ms": "322.5",
        "computed": "4",
        "dropped": "2",
        "discarded": "0",
        "out": "2",
        "cache length": "4",
    }
    assert rows[-1]["ready at ms"] == "2000"


def test_frames_at_the_end_that_make_no_chunk_are_told():
    contract = Contract.read(CONTRACTS / f"{NAMES[0]}.json")
    # 33 feature frames at [70,0]: four chunks of 8, and one frame, fewer than the 8 that make an encoder frame.
    assert explain(contract, (70, 0), 0.32, "padded").left_over == 1
    assert any("the last 1 feature frames" in line for line in explain(contract, (70, 0), 0.32, "padded").lines())
    assert explain(contract, (70, 0), 0.31, "padded").left_over == 0


def test_an_unlimited_context_is_shown_not_to_stream():
    parakeet = Contract.read(CONTRACTS / "parakeet-tdt-0.6b-v3.json")
    table = explain(parakeet, (-1, -1), 8, "padded")
    assert table.steps[-1].cache_length < 0
    assert any("NeMo fails at chunk" in line for line in table.lines())
    assert not any("NeMo fails" in line for line in explain(parakeet, (256, -1), 1.44, "padded").lines())


def test_a_context_that_is_not_there_and_sizes_that_do_not_move_are_refused():
    contract = Contract.read(CONTRACTS / f"{NAMES[0]}.json")
    with pytest.raises(StreamparityError, match="no attention context") as refused:
        explain(contract, (70, 2), 2, "padded")
    assert "70,13 70,6 70,1 70,0" in refused.value.hint
    with pytest.raises(StreamparityError, match="cannot stream"):
        explain(replace(contract, streaming=replace(contract.streaming, shift_size=(0, 0))), None, 2, "padded")


def test_the_schema_names_itself():
    assert contract_schema()["properties"]["schema"] == {"const": SCHEMA}
