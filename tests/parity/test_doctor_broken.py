"""Real exports, each broken in one way: the doctor names it, and names nothing else."""

from __future__ import annotations

import json
import os
import shutil
import sys
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from onnx import TensorProto, helper

from plant_fault import layer_norm_epsilon, zero_layer_cache
from streamparity.cli.inspect import command
from streamparity.inspection import InspectOptions, backends, inspect
from streamparity.inspection import onnx as checks

from ..faults.edits import after
from .doctor_edits import (
    EDITS,
    constant_for,
    dithered,
    extents,
    foreign_operator,
    future,
    half_ports,
    rolled,
    training_dropout,
)
from .test_doctor_sound import fixed_shapes


def findings(path, severities=("error", "warning"), **options):
    document = inspect(path, InspectOptions(**options))
    if any(finding["severity"] == "error" for finding in document["findings"]):
        assert not document["can_stream"]
    return {finding["code"]: finding for finding in document["findings"] if finding["severity"] in severities}


@pytest.mark.parametrize("name", EDITS)
def test_an_edited_export_is_named(workshop, name):
    edit, code = EDITS[name]
    assert set(findings(workshop.edited(f"doctor {name}", edit))) == {code}


def test_what_is_random_is_named_and_seen_to_differ(workshop):
    assert set(findings(workshop.edited("doctor dropout", training_dropout))) == {"training-mode", "not-repeatable"}
    assert set(findings(workshop.edited("doctor dither", dithered))) == {"random-numbers", "not-repeatable"}


def test_half_precision_without_casts(workshop):
    """Then the caches, in float32 as before, cannot return either."""
    found = findings(workshop.edited("doctor half", half_ports))
    assert set(found) == {"half-without-cast", "cache-cannot-return"}
    assert "audio_signal" in found["half-without-cast"]["evidence"]["inputs"]


def test_a_length_folded_into_the_masks(workshop):
    """Then it neither masks nor comes back."""
    edited = workshop.edited("doctor folded length", constant_for("cache_last_channel_len", np.array([70])))
    assert set(findings(edited)) == {"cache-unused", "cache-length-constant"}


def test_without_onnx_runtime_the_edges_tell(workshop, monkeypatch):
    folded, _ = EDITS["time cache folded"]
    edited = workshop.edited("doctor edges", folded)
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    found = findings(edited, ["error", "warning", "info"])
    assert {code: finding["severity"] for code, finding in found.items()} == {
        "cache-unused": "error",
        "backend-not-checked": "info",
    }
    assert found["cache-unused"]["evidence"] == {"port": "cache_last_time", "reached": False}
    assert set(findings(workshop.export(), ["error", "warning", "info"])) == {"backend-not-checked"}


def test_the_layer_that_lost_its_cache_is_in_the_evidence(workshop):
    found = findings(workshop.edited("doctor layer 2", zero_layer_cache("cache_last_time", 2)))
    assert found["cache-layer-unused"]["evidence"] == {"port": "cache_last_time", "layers": [2]}


def test_a_change_of_numbers_is_no_business_of_the_doctors(workshop):
    assert findings(workshop.edited("doctor epsilon", layer_norm_epsilon("layers.1.norm_out", 1e-3))) == {}


def test_what_turns_nothing_is_none_of_its_business_either(workshop):
    """Caches rolled by all their slots, axes turned and turned back, a batch of one."""

    def there_and_back(old, new):
        return [
            helper.make_node("Transpose", [old], ["planted_there"], perm=[0, 2, 1], name="/planted/There"),
            helper.make_node("Transpose", ["planted_there"], [new], perm=[0, 2, 1], name="/planted/Back"),
        ]

    def edit(model):
        rolled("cache_last_channel_next", 70, 2)(model)
        after(model, "outputs", there_and_back)
        extents(**dict.fromkeys(("audio_signal", "cache_last_channel", "cache_last_channel_next"), (0, 1)))(model)

    assert findings(workshop.edited("doctor harmless turns", edit)) == {}


def nemo_export(module, folder, change, **streaming):
    """NeMo's own exporter on an encoder that ``change`` has altered behind its back; put right again afterwards."""
    from streamparity.reference.nemo import StreamingOptions, configure_streaming, quiet

    encoder = module.encoder
    with quiet():
        module.set_export_config({"cache_support": "True"})
        configure_streaming(module, StreamingOptions(**(streaming or {"att_context": (70, 1)})))
        before = encoder.att_context_size
        change(encoder)
        module.export(str(folder / "model.onnx"), onnx_opset_version=17, check_trace=False)
        encoder.export_cache_support = True
        encoder.set_default_att_context_size(list(before))
    os.replace(folder / "encoder-model.onnx", folder / "encoder.onnx")


def test_exported_without_cache_support(loaded, tmp_path):
    nemo_export(loaded.module, tmp_path, lambda encoder: setattr(encoder, "export_cache_support", False))
    found = findings(tmp_path)
    assert set(found) == {"stateless-export"}
    assert "model.set_export_config({'cache_support': 'True'})" in found["stateless-export"]["fix"]
    assert "cache_last_channel_len" in found["stateless-export"]["evidence"]["missing"]


def test_exported_with_nothing_dropped(loaded, tmp_path):
    nemo_export(loaded.module, tmp_path, lambda encoder: setattr(encoder.streaming_cfg, "drop_extra_pre_encoded", 0))
    found = findings(tmp_path)
    assert set(found) == {"drop-against-schedule"}
    evidence = found["drop-against-schedule"]["evidence"]
    assert (evidence["baked"], evidence["needed"]) == (0, 2)


def test_exported_for_the_padded_schedule_and_fed_the_native_one(workshop):
    assert findings(workshop.export(), schedule="padded") == {}
    found = findings(workshop.export(), schedule="native")
    assert set(found) == {"drop-against-schedule"}
    assert found["drop-against-schedule"]["evidence"]["encoder_frames"] == 0


def test_another_attention_context_than_asked_for(workshop):
    found = findings(workshop.export(), att_context=(70, 6))
    assert set(found) == {"context-mismatch"}
    evidence = found["context-mismatch"]["evidence"]
    assert evidence == {"asked": [70, 6], "cache_slots": 70, "frames_per_chunk": 2, "mask": [70, 1]}


def test_another_attention_context_than_the_contract_says(workshop, tmp_path):
    export = shutil.copytree(workshop.export(), tmp_path / "export")
    shutil.copy(workshop.export((70, 0)) / "encoder.onnx", export)
    found = findings(export)
    assert "context-mismatch" in found
    assert found["context-mismatch"]["evidence"]["asked"] == [70, 1]


def test_mask_of_one_context_and_chunks_of_another(loaded, tmp_path):
    """The context set without the streaming parameters: nothing but the mask tells."""
    nemo_export(loaded.module, tmp_path, lambda encoder: setattr(encoder, "att_context_size", [70, 6]))
    found = findings(tmp_path, att_context=(70, 6))
    assert set(found) == {"context-mismatch"}
    assert "keeps 2 frames per chunk, not 7" in found["context-mismatch"]["message"]
    found = findings(tmp_path, att_context=(70, 1))
    assert "mask looks 6 frames ahead" in found["context-mismatch"]["message"]


def test_a_mask_of_one_chunk_shows_no_context_and_the_frames_make_one_wonder(workshop):
    fixed = workshop.edited("doctor one chunk", fixed_shapes)
    assert inspect(fixed)["summary"]["attention_context"] is None
    assert findings(fixed, att_context=(70, 1)) == {}
    found = findings(fixed, att_context=(70, 6))
    assert {code: finding["severity"] for code, finding in found.items()} == {"context-mismatch": "warning"}
    assert findings(fixed, att_context=(35, 6))["context-mismatch"]["severity"] == "error"  # the cache is certain


@pytest.fixture(scope="module")
def tdt(variants):
    from streamparity.reference.nemo import load_model

    return load_model(str(variants.path("tdt")))


def export_tdt(tdt, out, **streaming):
    from streamparity.export import export
    from streamparity.reference.nemo import StreamingOptions

    export(tdt, out, StreamingOptions(**{"att_context": (256, -1), "chunk_size": 6, "shift_size": 3, **streaming}))
    return out


def test_every_frame_kept_out_of_the_cache(tdt, tmp_path):
    found = findings(export_tdt(tdt, tmp_path / "export", cache_drop_size=6), ["error"])
    assert set(found) == {"cache-length-stuck", "cache-not-updated"}


def test_more_frames_kept_out_of_the_cache_than_a_chunk_has(tdt, tmp_path):
    export = export_tdt(tdt, tmp_path / "export")
    streaming = {"att_context": (256, -1), "chunk_size": 6, "shift_size": 3, "cache_drop_size": 8}
    nemo_export(tdt.module, export, lambda encoder: None, **streaming)
    found = findings(export, ["error"])
    assert "cache-length-negative" in found
    assert found["cache-length-negative"]["evidence"]["cache_length_after"] == -2


def test_nemos_own_first_chunk_makes_the_cache_length_negative(tdt, tmp_path):
    export = export_tdt(tdt, tmp_path / "export", att_context=(40, -1), chunk_size=None, shift_size=None)
    assert findings(export, ["error"]) == {}
    assert set(findings(export, ["error"], schedule="native")) == {"cache-length-negative", "drop-against-schedule"}


def log_softmax(model):
    """NeMo's exporter leaves it out; whoever exports the joint's forward by hand does not."""
    after(model, "outputs", lambda old, new: [helper.make_node("LogSoftmax", [old], [new], name="/joint/LogSoftmax")])


def test_log_softmax_in_the_joint(workshop, tdt, tmp_path):
    rnnt = workshop.edited("doctor log softmax", log_softmax, "decoder_joint.onnx") / "decoder_joint.onnx"
    found = findings(rnnt, ["error", "warning", "info"])
    assert {code: finding["severity"] for code, finding in found.items()} == {"log-softmax-in-joint": "info"}
    joint = export_tdt(tdt, tmp_path / "export") / "decoder_joint.onnx"
    assert findings(joint, ["error", "warning", "info"]) == {}
    model = onnx.load(joint)
    log_softmax(model)
    onnx.save(model, joint)
    assert set(findings(joint)) == {"log-softmax-across-heads"}


def test_weights_of_which_some_are_missing(workshop, tmp_path):
    target = tmp_path / "encoder.onnx"
    model = onnx.load(workshop.export() / "encoder.onnx")
    onnx.save_model(model, target, save_as_external_data=True, location="encoder.onnx.data", size_threshold=0)
    data = tmp_path / "encoder.onnx.data"
    whole = data.read_bytes()
    assert findings(target) == {}
    data.write_bytes(whole[:-100])
    assert set(findings(target)) == {"external-data-missing"}
    data.unlink()
    found = findings(target)
    assert set(found) == {"external-data-missing"}
    assert found["external-data-missing"]["evidence"]["files"] == ["encoder.onnx.data"]


@pytest.mark.parametrize("location", ["../secret", "/etc/passwd", "a/../../secret"])
def test_weights_from_outside_the_folder_are_refused(workshop, tmp_path, location):
    def edit(model):
        tensor = model.graph.initializer[0]
        size = len(tensor.raw_data)
        tensor.ClearField("raw_data")
        tensor.data_location = TensorProto.EXTERNAL
        for key, value in (("location", location), ("offset", "0"), ("length", str(size))):
            tensor.external_data.add(key=key, value=value)

    model = onnx.load(workshop.export() / "encoder.onnx")
    edit(model)
    (tmp_path / "model").mkdir()
    (tmp_path / "secret").write_bytes(bytes(1 << 20))
    (tmp_path / "model" / "encoder.onnx").write_bytes(model.SerializeToString())
    found = findings(tmp_path / "model")
    assert set(found) == {"external-data-escapes"}
    assert found["external-data-escapes"]["evidence"]["files"] == [location]


def test_an_opset_and_an_operator_that_the_backend_lacks(workshop):
    newer, plugin = workshop.edited("doctor opset", future), workshop.edited("doctor plugin", foreign_operator)
    assert findings(newer, backend="ort")["opset-unsupported"]["severity"] == "error"
    found = findings(plugin, backend="ort")
    assert set(found) == {"operator-unsupported"}
    assert "FastNorm" in found["operator-unsupported"]["message"]
    assert findings(plugin)["operator-unsupported"]["severity"] == "warning"  # another backend may have it


def test_a_backend_that_is_not_here_is_said_to_be_unchecked(workshop, monkeypatch):
    monkeypatch.setattr(backends, "TENSORRT_MODULES", ("no_such_tensorrt",))
    found = findings(workshop.export(), ["error", "warning", "info"], backend="trt")
    assert {code: finding["severity"] for code, finding in found.items()} == {"backend-not-checked": "info"}


@pytest.fixture(params=["real", "stand-in"])
def tensorrt(request, monkeypatch):
    """TensorRT-RTX where it is installed; and what it looks like to us, for machines that do not have it."""
    if request.param == "real":
        pytest.importorskip("tensorrt_rtx")
        return

    class Parser:
        num_errors = 1

        def __init__(self, network, logger):
            pass

        def parse_from_file(self, path):
            return all(not node.domain for node in onnx.load(path).graph.node)

        def get_error(self, index):
            said = {"desc": "Plugin not found", "node_operator": "FastNorm", "node_name": "/layers.1/norm_out"}
            return SimpleNamespace(**{name: lambda value=value: value for name, value in said.items()})

    builder = SimpleNamespace(create_network=lambda flags: "network")
    library = SimpleNamespace(ILogger=type("ILogger", (), {}), Builder=lambda logger: builder, OnnxParser=Parser)
    monkeypatch.setitem(sys.modules, "tensorrt_rtx", library)


def test_what_tensorrts_parser_objects_to(workshop, tensorrt, request, capfd):
    assert findings(workshop.export(), ["error", "warning", "info"], backend="trt") == {}
    plugin = workshop.edited(f"doctor {request.node.name}", foreign_operator)
    found = findings(plugin, ["error"], backend="trt")
    assert set(found) == {"operator-unsupported"}
    assert "FastNorm" in found["operator-unsupported"]["message"]
    assert found["operator-unsupported"]["evidence"]["backend"] == "trt"
    assert capfd.readouterr().out == ""


def test_half_precision_throughout_is_a_warning(workshop, tmp_path):
    from onnxruntime.transformers.float16 import convert_float_to_float16

    halved = convert_float_to_float16(onnx.load(workshop.export() / "encoder.onnx"))
    onnx.save(halved, tmp_path / "encoder.onnx")
    assert {code: found["severity"] for code, found in findings(tmp_path).items()}.get("half-inputs") == "warning"


def test_one_size_of_chunk_and_a_schedule_with_two(workshop):
    fixed = workshop.edited("doctor fixed", fixed_shapes)
    shutil.copy(workshop.export() / "contract.json", fixed)
    assert set(findings(fixed, schedule="native")) == {"chunk-size-fixed"}


def test_a_contract_that_cannot_be_read(workshop, tmp_path):
    export = shutil.copytree(workshop.export(), tmp_path / "export")
    (export / "contract.json").write_text("{}")
    assert set(findings(export)) == {"contract-unreadable"}
    contract = json.loads((workshop.export() / "contract.json").read_text())
    contract["features"]["normalize"] = "per_feature"
    (export / "contract.json").write_text(json.dumps(contract))
    assert set(findings(export)) == {"whole-utterance-normalization"}


def test_a_check_that_stumbles_says_so_and_the_others_go_on(workshop, monkeypatch):
    def stumble(subject):
        raise IndexError("no such axis")

    monkeypatch.setattr(checks, "feedback_findings", stumble)
    found = findings(workshop.edited("doctor stumble", zero_layer_cache("cache_last_time", 1)))
    assert set(found) == {"check-failed", "cache-layer-unused"}
    assert "feedback could not be examined: IndexError no such axis" in found["check-failed"]["message"]


def test_the_command_line_says_what_the_document_says(workshop, demo_path):
    def invoke(*arguments):
        done = CliRunner().invoke(command, [str(argument) for argument in arguments], standalone_mode=False)
        return done.return_value, done.output

    status, output = invoke(workshop.export(), "--att-context", "70,6", "--schedule", "padded", "--backend", "ort")
    assert status == 1
    assert "error: another attention context than [70, 6] is baked in" in output
    assert "[context-mismatch]" in output
    assert "  fix: export with --att-context 70,6" in output
    status, output = invoke(workshop.export(), "--att-context", "70,1")
    assert (status, "error" in output) == (0, False)
    assert "  attention_context: [70, 1]" in output
    status, output = invoke(demo_path)
    assert status == 0
    assert "    att_context_size [70, 1], chunk_size [9, 16], shift_size [9, 16]" in output
    status, output = invoke(workshop.export(), "--schedule", "native", "--json", "-")
    assert (status, json.loads(output)["findings"][0]["code"]) == (1, "drop-against-schedule")
