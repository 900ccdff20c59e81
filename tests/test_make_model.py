"""The script that makes random-weight models: their facts are those of docs and publications, on one layer each."""

from __future__ import annotations

import pytest

from streamparity.inspection import inspect

# chunk, shift, frames kept and cache slots per context; layers, mels, d_model; prediction layers, pieces and blank.
STREAMING = {
    (70, 13): ([105, 112], 14),
    (70, 6): ([49, 56], 7),
    (70, 1): ([9, 16], 2),
    (70, 0): ([1, 8], 1),
}
FACTS = {
    "nemotron-speech-streaming-en-0.6b": (128, 1024, 8, 2, 1025, 0),
    "stt_en_fastconformer_hybrid_large_streaming_multi": (80, 512, 8, 1, 1025, 0),
    "parakeet-tdt-0.6b-v3": (128, 1024, 4, 2, 8193, 5),
}


@pytest.fixture(scope="module", params=FACTS)
def made(request, tmp_path_factory):
    import make_model

    path = tmp_path_factory.mktemp("made") / "model.nemo"
    model = make_model.make(request.param, path, layers=1)
    yield request.param, path, model
    path.unlink()


def test_it_is_the_model_that_was_asked_for(made):
    import make_model

    name, path, model = made
    mels, width, time_slots, prediction_layers, labels, durations = FACTS[name]
    architecture = make_model.ARCHITECTURES[name]
    full = make_model.parameters_at_full_depth(model, name) / 1e6
    assert abs(full - architecture.published) <= architecture.rounding
    channel, time, _ = model.encoder.get_initial_cache_state(batch_size=1)
    assert list(channel.shape[:2]) == [1, 1]
    assert channel.shape[3] == width
    assert list(time.shape) == [1, 1, width, time_slots]
    assert model.encoder._feat_in == mels
    assert model.decoder.prediction["dec_rnn"].lstm.num_layers == prediction_layers
    assert model.decoder.prediction["dec_rnn"].lstm.hidden_size == 640
    assert model.joint.num_classes_with_blank == labels + durations
    assert model.tokenizer.vocab_size == labels - 1
    assert (getattr(model, "ctc_decoder", None) is not None) == name.startswith("stt_en")
    has_bias = model.encoder.layers[0].feed_forward1.linear1.bias is not None
    assert has_bias == name.startswith("stt_en")

    document = inspect(path)
    assert document["summary"]["layers"] == 1
    modes = {tuple(mode["att_context_size"]): mode for mode in document["summary"]["modes"]}
    codes = {finding["code"] for finding in document["findings"]}
    if name.startswith("parakeet"):
        assert codes == {"unlimited-context", "whole-utterance-normalization"}
    else:
        assert codes == set()
        assert {c: (m["chunk_size"], m["valid_out_len"]) for c, m in modes.items()} == STREAMING
        assert {mode["last_channel_cache_size"] for mode in modes.values()} == {70}


def test_a_changed_architecture_is_noticed(monkeypatch, tmp_path, capsys):
    """The published number of parameters is a check that can fail."""
    import dataclasses
    import sys

    import make_model

    name = "stt_en_fastconformer_hybrid_large_streaming_multi"
    wider = dataclasses.replace(make_model.ARCHITECTURES[name], prediction_layers=2)
    monkeypatch.setitem(make_model.ARCHITECTURES, name, wider)
    monkeypatch.setattr(sys, "argv", ["make_model.py", name, "--layers", "1", "--out", str(tmp_path / "m.nemo")])
    with pytest.raises(SystemExit, match="not the published number"):
        make_model.main()
    assert "at full depth 118.0 M, published 114 M" in capsys.readouterr().out
