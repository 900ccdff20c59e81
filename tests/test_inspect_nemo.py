"""What `inspect` says of a .nemo: members, streaming modes, and what should not be in one."""

from __future__ import annotations

import io
import json
import tarfile

import pytest
import yaml

from streamparity.errors import StreamparityError
from streamparity.inspection import inspect
from streamparity.inspection.modes import streaming_modes


@pytest.fixture(scope="module")
def original(demo_path):
    """Members of the shipped model, by name, with content."""
    with tarfile.open(demo_path) as archive:
        return {m.name: archive.extractfile(m).read() for m in archive.getmembers() if m.isfile()}


@pytest.fixture
def repacked(original, tmp_path):
    """Make an archive of the shipped model's members with some of them, or its configuration, altered."""

    def make(extra=(), change=None, **replaced):
        members = {**original, **replaced}
        if change is not None:
            config = yaml.safe_load(members["./model_config.yaml"])
            change(config)
            members["./model_config.yaml"] = yaml.safe_dump(config).encode()
        path = tmp_path / "model.nemo"
        with tarfile.open(path, "w") as archive:
            for name, content in members.items():
                info = tarfile.TarInfo(name)
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))
            for info in extra:
                archive.addfile(info, io.BytesIO(bytes(info.size)))
        return path

    return make


def codes(document):
    return [finding["code"] for finding in document["findings"]]


def test_members_and_modes_of_the_shipped_model(demo_path, repacked):
    document = inspect(demo_path)
    assert document["findings"] == []
    assert document["summary"]["members"]["model_weights.ckpt"] > 1_000_000
    modes = {tuple(mode["att_context_size"]): mode for mode in document["summary"]["modes"]}
    assert list(modes) == [(70, 13), (70, 6), (70, 1), (70, 0)]
    assert modes[70, 1]["chunk_size"] == [9, 16]
    assert modes[70, 1]["chunk_ms"] == 160
    assert inspect(repacked()) == document
    assert json.dumps(document)


def test_modes_are_what_nemo_sets_up(loaded):
    from omegaconf import OmegaConf

    from streamparity.reference.nemo import StreamingOptions, configure_streaming

    modes = streaming_modes(OmegaConf.to_container(loaded.module.cfg.encoder))
    assert modes == [configure_streaming(loaded.module, StreamingOptions(mode.att_context_size)) for mode in modes]


@pytest.mark.parametrize(
    ("context", "style", "convolution"),
    [([-1, -1], "regular", None), ([32, 2], "regular", "causal"), ([16, 4], "regular", [5, 3])],
)
def test_modes_of_regular_attention_are_what_nemo_sets_up(context, style, convolution):
    """Without building a model: NeMo's own method on a tiny encoder."""
    from streamparity.reference.nemo import StreamingOptions, configure_streaming, import_nemo, quiet

    import_nemo()
    from nemo.collections.asr.modules import ConformerEncoder

    config = {
        "feat_in": 16,
        "n_layers": 2,
        "d_model": 8,
        "n_heads": 2,
        "subsampling": "dw_striding",
        "subsampling_factor": 8,
        "subsampling_conv_channels": 4,
        "att_context_size": context,
        "att_context_style": style,
        "conv_kernel_size": 9,
        "conv_context_size": convolution,
    }
    with quiet():
        encoder = ConformerEncoder(**config)
    holder = type("Holder", (), {"encoder": encoder})()
    assert streaming_modes(config) == [configure_streaming(holder, StreamingOptions())]


def test_a_front_end_with_other_framing_offers_no_modes_that_were_guessed(repacked):
    document = inspect(repacked(change=lambda config: config["encoder"].update(subsampling="stacking")))
    assert document["summary"]["modes"] == []


def link(name, target, kind=tarfile.SYMTYPE):
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


@pytest.mark.parametrize(
    ("extra", "evidence", "value"),
    [
        (tarfile.TarInfo("../../outside"), "escaping", ["../../outside"]),
        (tarfile.TarInfo("/etc/cron.d/job"), "escaping", ["/etc/cron.d/job"]),
        (link("weights", "/etc/passwd"), "links_or_devices", ["weights"]),
        (link("weights", "model_config.yaml", tarfile.LNKTYPE), "links_or_devices", ["weights"]),
        (link("null", "", tarfile.CHRTYPE), "links_or_devices", ["null"]),
        (tarfile.TarInfo("other/model_config.yaml"), "twice", ["model_config.yaml"]),
    ],
    ids=lambda value: getattr(value, "name", None),
)
def test_members_that_no_model_needs(repacked, extra, evidence, value):
    document = inspect(repacked([extra]))
    assert codes(document) == ["unsafe-archive"]
    assert document["findings"][0]["evidence"][evidence] == value


def test_a_further_plain_member_is_nobodys_business(repacked):
    assert codes(inspect(repacked([tarfile.TarInfo("notes.txt")]))) == []


def test_classes_that_are_not_nemos_are_named_and_not_called(repacked, tmp_path):
    target = tmp_path / "proof"

    def plant(config):
        config["encoder"]["extra"] = [{"_target_": "pathlib.Path.touch", "_args_": [str(target)]}]

    document = inspect(repacked(change=plant))
    assert codes(document) == ["foreign-target"]
    assert document["findings"][0]["evidence"]["targets"] == ["pathlib.Path.touch"]
    assert not target.exists()


def test_tags_that_make_objects_are_refused_and_not_called(repacked, original, tmp_path):
    target = tmp_path / "proof"
    tag = f"\nplanted: !!python/object/apply:os.mkdir ['{target}']\n".encode()
    path = repacked(**{"./model_config.yaml": original["./model_config.yaml"] + tag})
    with pytest.raises(StreamparityError, match="is not YAML"):
        inspect(path)
    assert not target.exists()


def test_features_and_encoders_that_do_not_stream(repacked):
    path = repacked(change=lambda config: config["preprocessor"].update(normalize="per_feature"))
    assert codes(inspect(path)) == ["whole-utterance-normalization"]
    unlimited = {"att_context_size": [-1, -1], "att_context_style": "regular"}
    path = repacked(change=lambda config: config["encoder"].update(unlimited))
    assert codes(inspect(path)) == ["unlimited-context"]
    path = repacked(change=lambda config: config["encoder"].update(_target_="nemo.collections.asr.modules.Jasper"))
    document = inspect(path)
    assert codes(document) == ["not-a-streaming-encoder"]
    assert not document["can_stream"]


CONFORMER = b"encoder: {_target_: nemo.ConformerEncoder, "


@pytest.mark.parametrize(
    "config",
    [
        b"",
        b"- 1\n",
        b"encoder: 3\n",
        b"[" * 5000,
        b"\xff\xfe\x00",
        CONFORMER + b"n_layers: []}",
        CONFORMER + b"d_model: 1}",
    ],
)
def test_configurations_that_are_none(repacked, config):
    with pytest.raises(StreamparityError, match="model_config"):
        inspect(repacked(**{"./model_config.yaml": config}))
