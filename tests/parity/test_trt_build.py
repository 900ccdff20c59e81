"""Engines built ahead of time by TensorRT-RTX, which needs no GPU for it, and everything that is known of them."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from click.testing import CliRunner

from streamparity.cli import cli
from streamparity.contract import Contract
from streamparity.contract.profiles import Profile
from streamparity.contract_check.targets import check
from streamparity.errors import Stateless, StreamparityError
from streamparity.graph.onnx_cache import time_slots
from streamparity.graph.onnx_graph import GraphPort, OnnxGraph
from streamparity.inspection import inspect
from streamparity.provenance import file_sha256
from streamparity.tensorrt.admission import admit
from streamparity.tensorrt.agreement import disagreements
from streamparity.tensorrt.builder import build
from streamparity.tensorrt.compile import CompileOptions, compile_network
from streamparity.tensorrt.metadata import differences, read_metadata, sidecar, write_engine
from streamparity.tensorrt.module import load_module, new_log
from streamparity.tensorrt.network import parse
from streamparity.tensorrt.options import BuildOptions

pytest.importorskip("tensorrt_rtx", reason="TensorRT-RTX is not installed: pip install 'streamparity[rtx]'")


def quick(out, **more) -> BuildOptions:
    """One profile, which builds in a moment."""
    return BuildOptions(out=out, tail=False, targets=("sm80",), **more)


@pytest.fixture(scope="module")
def export(workshop, tmp_path_factory):
    """The demo's export, in a folder of its own."""
    folder = tmp_path_factory.mktemp("trt") / "export"
    shutil.copytree(workshop.export(), folder)
    return folder


@pytest.fixture(scope="module")
def built(export):
    """The demo's encoder as the command builds it."""
    out = export / "encoder.engine"
    ran = CliRunner().invoke(cli, ["build", str(export / "encoder.onnx"), "--out", str(out)], standalone_mode=False)
    assert ran.exception is None
    assert f"{out}: tensorrt_rtx" in ran.output
    return out


def copied(built, folder):
    folder.mkdir(exist_ok=True)
    for path in (built, sidecar(built), built.parent / "contract.json"):
        shutil.copy(path, folder)
    return folder / built.name


def edited(export, folder, edit, contract=None):
    """The export with its encoder edited, and its contract by ``contract`` where given."""
    shutil.copytree(export, folder, ignore=shutil.ignore_patterns("*.engine*"))
    model = onnx.load(folder / "encoder.onnx")
    edit(model)
    onnx.save(model, folder / "encoder.onnx")
    recontracted(folder, contract)
    return folder / "encoder.onnx"


def recontracted(folder, change=None):
    """The contract of a folder with the hashes of the graph there, and ``change``."""
    data = json.loads((folder / "contract.json").read_text())
    graph, weights = data["graphs"]["encoder.onnx"], folder / "encoder.onnx.data"
    graph["sha256"] = file_sha256(folder / "encoder.onnx")
    graph["weights_sha256"] = file_sha256(weights) if weights.exists() else None
    if change is not None:
        change(data)
    (folder / "contract.json").write_text(json.dumps(data))


def test_what_is_written_beside_an_engine_is_true(built, export):
    metadata = read_metadata(built)
    module = load_module()
    assert metadata.engine_sha256 == file_sha256(built)
    assert (metadata.runtime, metadata.version) == ("tensorrt_rtx", module.version)
    assert (metadata.precision, metadata.tf32, metadata.role) == ("fp32", False, "encoder")
    assert metadata.source["sha256"] == file_sha256(export / "encoder.onnx")
    assert metadata.contract_sha256 == file_sha256(export / "contract.json")
    assert [profile.name for profile in metadata.profiles] == ["step", "tail"]
    assert {port.name: port.dtype for port in metadata.inputs}["length"] == "int64"
    contract = Contract.read(export / "contract.json")
    assert metadata.model == {"id": contract.model.id, "sha256": contract.model.sha256}
    assert disagreements(contract, built) == []


def test_inspect_reads_it_back_and_says_what_it_read(built):
    document = inspect(built)
    assert (document["kind"], document["can_stream"], document["findings"]) == ("engine", True, [])
    assert "what build wrote beside it" in document["summary"]["read"]
    assert document["summary"]["precision"] == "fp32"
    assert document["summary"]["profiles"]["tail"].startswith(
        "audio_signal 1x128x17 to 1x128x24, cache_last_channel 1x3x70x64"
    )
    assert {port["name"] for port in document["ports"]} >= {"cache_last_channel", "cache_last_time_next"}


def test_inspect_names_what_is_wrong_with_an_engine(built, tmp_path):
    changed = copied(built, tmp_path / "changed")
    changed.write_bytes(changed.read_bytes() + b"\0")
    assert [finding["code"] for finding in inspect(changed)["findings"]] == ["engine-changed"]

    alone = copied(built, tmp_path / "alone")
    metadata = read_metadata(alone)
    outputs = tuple(port for port in metadata.outputs if not port.name.startswith("cache_last_time"))
    write_engine(alone, alone.read_bytes(), replace(metadata, outputs=outputs))
    document = inspect(alone)
    assert [finding["code"] for finding in document["findings"]] == ["stateless-export"]
    assert not document["can_stream"]

    sidecar(alone).unlink()
    assert CliRunner().invoke(cli, ["inspect", str(alone)], standalone_mode=False).return_value == 1


def test_what_an_engine_says_otherwise_than_its_metadata_is_named(built):
    metadata = read_metadata(built)

    def port(name, dtype, shape):
        outputs = [GraphPort(name, dtype, shape) if p.name == name else p for p in metadata.outputs]
        return differences(metadata, replace(metadata, outputs=tuple(outputs)))

    assert differences(metadata, metadata) == []
    assert port("outputs", "float32", (1, 64, None)) == []  # the builder may know more than the network
    assert port("outputs", "float32", (1, 65, None)) == [
        "output outputs is float32 [1, 65, None] in the engine, float32 [None, 64, None] in the metadata"
    ]
    assert len(port("outputs", "float16", (None, 64, None))) == 1
    assert len(differences(metadata, replace(metadata, outputs=metadata.outputs[1:]))) == 1
    assert "profiles of other shapes" in differences(metadata, replace(metadata, profiles=metadata.profiles[:1]))[0]


def slots(profile: Profile, port: str, axis: int, size: int) -> Profile:
    shapes = dict(profile.shapes)
    shapes[port] = tuple(tuple(size if place == axis else n for place, n in enumerate(s)) for s in shapes[port])
    return Profile(profile.name, shapes)


def rewritten(built, folder, **changes):
    """A copy of an engine with other metadata beside it, and what disagrees with the contract there."""
    engine = copied(built, folder)
    write_engine(engine, engine.read_bytes(), replace(read_metadata(engine), **changes))
    return [each.sentence for each in disagreements(Contract.read(folder / "contract.json"), engine)]


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (
            lambda m: {"profiles": tuple(slots(p, "cache_last_channel", 2, 56) for p in m.profiles)},
            "tensorrt/profiles/step/cache_last_channel/C is 56, the contract says 70",
        ),
        (
            lambda m: {"profiles": tuple(slots(p, "audio_signal", 2, 41) for p in m.profiles)},
            "tensorrt/profiles/audio_signal is",
        ),
        (
            lambda m: {"outputs": tuple(p for p in m.outputs if p.name != "cache_last_channel_next")},
            "outputs/cache_last_channel_next is missing",
        ),
        (lambda m: {"streaming": replace(m.streaming, valid_out_len=7)}, "valid_out_len is 7, the contract says 2"),
        (lambda m: {"model": {"id": "other", "sha256": "0" * 64}}, "model/sha256 is 0000"),
        (lambda m: {"source": {**m.source, "sha256": "0" * 64}}, "graphs/sha256 is 0000"),
    ],
    ids=["cache shape", "profile", "stateless", "streaming", "model", "source"],
)
def test_an_engine_that_breaks_its_contract_is_named(built, tmp_path, change, expected):
    problems = rewritten(built, tmp_path / "engine", **change(read_metadata(built)))
    assert any(expected in problem for problem in problems), problems


def test_a_cache_that_may_change_its_size_is_named(built, tmp_path):
    profile = read_metadata(built).profiles[0]
    least, likeliest, _ = profile.shapes["cache_last_time"]
    grown = Profile("step", {**profile.shapes, "cache_last_time": (least, likeliest, (1, 3, 64, 16))})
    problems = rewritten(built, tmp_path / "engine", profiles=(grown,))
    assert [problem for problem in problems if "/cache_last_time/" in problem] == [
        "tensorrt/profiles/step/cache_last_time/K is 8 to 16, the contract says 8"
    ]
    longer = Profile("step", {**profile.shapes, "cache_last_time": ((1, 3, 64, 16),) * 3})
    problems = rewritten(built, tmp_path / "longer", profiles=(longer,))
    assert "tensorrt/profiles/step/cache_last_time/K is 16, the contract says 8" in problems
    engine = tmp_path / "longer" / built.name
    assert {finding["code"] for finding in inspect(engine)["findings"]} == {"profile"}
    assert any("tensorrt/profiles/audio_signal" in line for line in rewritten(built, tmp_path / "none", profiles=()))


@pytest.mark.parametrize("batch", [(1, 1, 1), (1, 2, 4), (2, 2, 2)])
def test_engines_without_a_tail_and_for_more_streams_are_sound(export, workshop, batch):
    """Inspected, checked against the contract, and let in by the runner."""
    out = export / f"batch-{batch[0]}-{batch[2]}.engine"
    build(export / "encoder.onnx", quick(out, batch=batch))
    assert inspect(out)["findings"] == []
    contract = Contract.read(export / "contract.json")
    checked = check(contract, out)
    assert checked.ledger.disagreements == []
    assert checked.notes == [
        "no profile takes the shorter last chunk of a stream: what drives the engine has to pad it"
    ]
    assert admit(out, {}, workshop.reference().manifest.streaming).notes == ()


def fix_cache(size):
    def edit(model):
        for value in [*model.graph.input, *model.graph.output]:
            if value.name.startswith("cache_last_channel") and "len" not in value.name:
                value.type.tensor_type.shape.dim[2].dim_value = size

    return edit


def test_a_graph_that_breaks_its_contract_is_not_built(export, tmp_path):
    graph = edited(export, tmp_path / "broken", fix_cache(56))
    with pytest.raises(
        StreamparityError, match=r"does not keep its contract: .*cache_last_channel/shape is \[None, 3, 56, 64\]"
    ):
        build(graph, quick(tmp_path / "broken" / "x.engine"))


def test_a_cache_of_the_wrong_size_is_not_built_even_where_the_contract_says_so(export, tmp_path):
    def agree(contract):
        for port in [*contract["graphs"]["encoder.onnx"]["inputs"], *contract["graphs"]["encoder.onnx"]["outputs"]]:
            if port["name"].startswith("cache_last_channel") and "len" not in port["name"]:
                port["shape"][2] = 56

    graph = edited(export, tmp_path / "wrong", fix_cache(56), agree)
    with pytest.raises(StreamparityError, match=r"cache_last_channel is fixed at 56 along C; .* needs 70"):
        build(graph, quick(tmp_path / "wrong" / "x.engine"))


def test_a_convolution_cache_other_than_the_contract_says_is_not_built(export, tmp_path):
    def longer(contract):
        contract["encoder"]["conv_context_size"][0] += 2

    graph = edited(export, tmp_path / "longer", lambda model: None, longer)
    with pytest.raises(StreamparityError, match="need a cache_last_time of 8 frames, the contract says 10"):
        build(graph, quick(tmp_path / "longer" / "x.engine"))


def test_a_cache_fixed_at_the_right_size_is_built(export, tmp_path):
    def agree(contract):
        for port in [*contract["graphs"]["encoder.onnx"]["inputs"], *contract["graphs"]["encoder.onnx"]["outputs"]]:
            if port["name"].startswith("cache_last_channel") and "len" not in port["name"]:
                port["shape"][2] = 70

    graph = edited(export, tmp_path / "fixed", fix_cache(70), agree)
    out = tmp_path / "fixed" / "encoder.engine"
    build(graph, quick(out))
    assert inspect(out)["findings"] == []


def test_a_graph_of_which_the_contract_has_another_hash_is_not_built(export, tmp_path):
    def other(contract):
        contract["graphs"]["encoder.onnx"]["sha256"] = "0" * 64

    graph = edited(export, tmp_path / "other", lambda model: None, other)
    with pytest.raises(StreamparityError, match=r"encoder\.onnx is not the file that contract\.json was written for"):
        build(graph, quick(tmp_path / "other" / "x.engine"))


def test_an_engine_file_that_is_garbage_disagrees(built, tmp_path):
    contract, engine = Contract.read(built.parent / "contract.json"), copied(built, tmp_path / "garbage")
    assert check(contract, engine).ledger.disagreements == []
    engine.write_bytes(b"garbage")
    assert [each.name for each in check(contract, engine).ledger.disagreements] == ["engine/sha256"]
    alone = check(contract, sidecar(engine))
    assert alone.ledger.disagreements == []
    assert alone.notes == ["the engine itself was not looked at: only what is written beside it"]


def test_a_stateless_graph_is_not_built(export, tmp_path):
    def forget(model):
        for group in (model.graph.input, model.graph.output):
            for value in [value for value in group if value.name.startswith("cache_")]:
                group.remove(value)

    graph = edited(export, tmp_path / "stateless", forget)
    with pytest.raises(Stateless, match="it has no cache_last_channel"):
        build(graph, quick(tmp_path / "stateless" / "x.engine"))


def test_a_node_that_the_parser_does_not_know_is_named_with_its_module(export, tmp_path):
    def strange(model):
        node = next(node for node in model.graph.node if node.name == "/layers.1/self_attn/Softmax")
        node.op_type, node.domain = "Hocus", "acme"
        model.opset_import.append(onnx.helper.make_opsetid("acme", 1))

    graph = edited(export, tmp_path / "strange", strange)
    with pytest.raises(
        StreamparityError, match=r"node /layers.1/self_attn/Softmax \(Hocus\) of encoder.layers.1.self_attn"
    ):
        build(graph, quick(tmp_path / "strange" / "x.engine"))


def test_a_profile_that_is_not_self_consistent_explains_itself_before_building(export, tmp_path):
    with pytest.raises(StreamparityError, match="network is not self-consistent"):
        build(export / "encoder.onnx", quick(tmp_path / "x.engine", schedule="native"))
    assert not list(tmp_path.iterdir())


def test_frames_of_the_native_first_chunk_that_are_lost_are_told(workshop, tmp_path):
    """At a context whose first chunk is long enough for something to be left."""
    folder = shutil.copytree(workshop.export((70, 6)), tmp_path / "long")
    told = {}
    for schedule in ("native", "padded"):
        notes, out = [], folder / f"{schedule}.engine"
        build(folder / "encoder.onnx", quick(out, schedule=schedule), note=notes.append)
        found = [(finding["code"], finding["severity"]) for finding in inspect(out)["findings"]]
        told[schedule] = (["drops 2 encoder frames" in note for note in notes], found)
    assert told == {"native": ([True], [("first-chunk-dropped", "warning")]), "padded": ([], [])}


def test_what_the_builder_finds_inconsistent_is_an_error_too(export):
    """A profile that no schedule makes: the builder's warning, which it would pass over."""
    module, graph = load_module(), OnnxGraph(export / "encoder.onnx")
    shapes = {
        "audio_signal": ((1, 128, 9), (1, 128, 25), (1, 128, 25)),
        "length": ((1,),) * 3,
        "cache_last_channel": ((1, 3, 70, 64),) * 3,
        "cache_last_time": ((1, 3, 64, 8),) * 3,
        "cache_last_channel_len": ((1,),) * 3,
    }
    parsed = parse(module, new_log(module), graph.proto.SerializeToString(), graph.path, "encoder.")
    with pytest.raises(StreamparityError, match="not self-consistent at a profile"):
        compile_network(module, parsed, [Profile("bad", shapes)], CompileOptions(targets=[(8, 0)]))


def test_tf32_is_off_unless_asked_for(export, tmp_path, monkeypatch):
    from streamparity.tensorrt import compile as compiling

    set_to, really = [], compiling._set_flag

    def watch(module, config, name, wanted):
        assert config.get_flag(getattr(module.trt.BuilderFlag, name)), "the builder's own default is on"
        really(module, config, name, wanted)
        set_to.append((name, config.get_flag(getattr(module.trt.BuilderFlag, name))))

    monkeypatch.setattr(compiling, "_set_flag", watch)
    for precision in ("fp32", "tf32"):
        written = build(export / "decoder_joint.onnx", quick(tmp_path / f"{precision}.engine", precision=precision))
        assert [metadata.tf32 for metadata in written.values()] == [precision == "tf32"]
    assert set_to == [("TF32", False), ("TF32", True)]


def test_reduced_precision_pins_taps_and_int8(export, workshop, tmp_path):
    encoder = export / "encoder.onnx"
    sizes = {}
    for precision, more in (
        ("fp16", {"fp32": ("*.Softmax", "*norm*"), "taps": ("encoder.layers.?.conv",)}),
        ("bf16", {}),
        ("int8", {"calibrate": workshop.reference().folder, "fp32": ("encoder.pre_encode",)}),
    ):
        out, notes = tmp_path / f"{precision}.engine", []
        written = build(encoder, quick(out, precision=precision, **more), note=notes.append)
        assert written[out].precision == precision
        assert {port.dtype for port in written[out].inputs} == {"float32", "int64"}
        sizes[precision] = out.stat().st_size
        if "taps" in more:
            marked = written[tmp_path / "fp16.taps.engine"]
            assert sorted(marked.taps) == [f"encoder.layers.{layer}.conv" for layer in range(3)]
            dtypes = {port.name: port.dtype for port in marked.outputs}
            assert {dtypes[tensor] for tensor in marked.taps.values()} == {"float16"}
            assert len(written[out].outputs) == 5
            assert notes == ["21 layers stay in float32"]
        elif "fp32" in more:
            assert notes == ["6 layers stay in float32"]
    build(encoder, quick(tmp_path / "fp32.engine"))
    weights = sum(int(np.prod(t.dims)) * 2 for t in onnx.load(encoder).graph.initializer if t.data_type == 1)
    assert (tmp_path / "fp32.engine").stat().st_size - sizes["fp16"] > 0.8 * weights  # halved, not cast at run time


def test_weights_in_an_external_file_are_found(export, tmp_path):
    folder = tmp_path / "external"
    shutil.copytree(export, folder, ignore=shutil.ignore_patterns("*.engine*"))
    onnx.save_model(
        onnx.load(export / "encoder.onnx"),
        folder / "encoder.onnx",
        save_as_external_data=True,
        location="encoder.onnx.data",
        size_threshold=0,
    )
    recontracted(folder)
    graph, weights, out = folder / "encoder.onnx", folder / "encoder.onnx.data", folder / "encoder.engine"
    (metadata,) = build(graph, quick(out, precision="fp16")).values()
    assert metadata.source["weights_sha256"] == file_sha256(weights)
    contract = Contract.read(folder / "contract.json")
    assert [check(contract, target).ledger.disagreements for target in (graph, out)] == [[], []]
    weights.write_bytes(weights.read_bytes()[:-4] + b"\0\0\0\0")
    names = [each.name for each in check(contract, graph).ledger.disagreements]
    assert names == ["graphs/encoder.onnx/weights_sha256"]
    with pytest.raises(StreamparityError, match=r"encoder\.onnx\.data is not the file that"):
        build(graph, quick(folder / "x.engine"))
    write_engine(out, out.read_bytes(), replace(metadata, source={**metadata.source, "weights_sha256": "0" * 64}))
    assert [each.name for each in check(contract, out).ledger.disagreements] == ["graphs/weights_sha256"]


def test_the_convolution_cache_is_read_off_the_graph(export):
    graph = OnnxGraph(export / "encoder.onnx")
    assert time_slots(graph.proto, export) == 8
    for node in graph.proto.graph.node:
        if node.name == "/layers.1/conv/depthwise_conv/Conv":
            next(item for item in node.attribute if item.name == "kernel_shape").ints[0] = 7
    assert time_slots(graph.proto, export) is None  # two answers are none


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        ({"targets": ("sm90",)}, "does not build for sm90"),
        ({"targets": ("hopper",)}, "does not build for hopper"),
        ({"fp32": ("*.Softmax",)}, "there is nothing to pin them against"),
        ({"precision": "fp16", "fp32": ("encoder.layers.9",)}, "no layer of the graph is called encoder.layers.9"),
        ({"precision": "int8"}, "int8 needs an encoder and a dump"),
        ({"taps": ("encoder.layers.9",)}, "fits no module"),
        ({"timing_cache": "cache"}, "TensorRT-RTX has no timing cache"),
        ({"batch": (4, 1, 1)}, "is no range"),
        ({"contract": "nowhere.json"}, "there is no nowhere.json"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_bad_options_are_refused_and_nothing_is_written(export, tmp_path, more, expected):
    more = {key: Path(value) if key in ("timing_cache", "contract") else value for key, value in more.items()}
    options = replace(BuildOptions(out=tmp_path / "x.engine", tail=False), **more)
    with pytest.raises(StreamparityError, match=expected):
        build(export / "encoder.onnx", options)
    assert not list(tmp_path.iterdir())


def test_tensors_that_survive_fusion_can_be_made_visible(export, tmp_path):
    steps = []
    out = tmp_path / "encoder.engine"
    build(export / "encoder.onnx", quick(out, unfused=True), progress=lambda done, total: steps.append((done, total)))
    metadata = read_metadata(out)
    assert metadata.debug["encoder.layers.1.conv"] == "/layers.1/conv/Transpose_3_output_0"
    assert len(metadata.outputs) == 5
    assert steps
    assert all(0 <= done <= total for done, total in steps)


def test_an_interrupted_build_leaves_nothing(export, tmp_path):
    def interrupt(done, total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build(export / "encoder.onnx", quick(tmp_path / "x.engine"), progress=interrupt)
    assert not list(tmp_path.iterdir())


def test_nothing_is_overwritten_without_force(built, export):
    before = file_sha256(built)
    with pytest.raises(StreamparityError, match=r"encoder\.engine already exists"):
        build(export / "encoder.onnx", quick(built))
    assert file_sha256(built) == before
