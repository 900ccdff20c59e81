"""The greedy decoder against NeMo's own label looping, every step, on thousands of random chunks of random models."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from streamparity.decode import CtcDecoder, GreedyDecoder
from streamparity.dump import Decoder
from streamparity.dump.trace import emitted
from streamparity.reference.nemo import import_nemo

torch = pytest.importorskip("torch")

WIDTH = 6
JUMPS = [(), (0, 1, 2, 3, 4), (1, 2), (0, 1, 8), (0,), (2, 0, 1)]


class RandomModel:
    """NeMo's prediction network and joint with random weights, and NeMo's greedy loop over them."""

    def __init__(self, seed: int) -> None:
        from nemo.collections.asr.modules import RNNTDecoder, RNNTJoint

        draw = np.random.default_rng(seed)
        torch.manual_seed(seed)
        self.draw = draw
        vocabulary, durations = int(draw.integers(1, 12)), JUMPS[int(draw.integers(len(JUMPS)))]
        max_symbols = [None, 1, 2, 3, 10][int(draw.integers(5))]
        # Labels of duration 0 for ever would hang NeMo's loop as well.
        max_symbols = max_symbols or (None if durations and min(durations) > 0 else 5)
        self.rules = Decoder("tdt" if durations else "rnnt", vocabulary, max_symbols, durations, ())
        layers = int(draw.integers(1, 3))
        network = {"pred_hidden": WIDTH, "pred_rnn_layers": layers}
        joint = {"encoder_hidden": WIDTH, "pred_hidden": WIDTH, "joint_hidden": WIDTH, "activation": "relu"}
        self.decoder = RNNTDecoder(prednet=network, vocab_size=vocabulary).eval()
        self.joint = RNNTJoint(
            jointnet=joint,
            num_classes=vocabulary,
            num_extra_outputs=len(durations),
            log_softmax=[None, True, False][int(draw.integers(3))],
        ).eval()
        for parameter in [*self.decoder.parameters(), *self.joint.parameters()]:
            parameter.requires_grad_(False)
            parameter.mul_(4.0)
        # From nearly always blank to nearly never.
        self.joint.joint_net[-1].bias[vocabulary] += float(draw.uniform(-2, 4))
        self.device = torch.device("cpu")

    def chunks(self):
        """Encoder frames ``[T, D]`` of some chunks: none, one, several, and some that are all but constant."""
        lengths = self.draw.choice([0, 1, 1, 2, 2, 3, 5, 7, 14], size=12)
        scales = self.draw.choice([0.0, 1.0, 1.0, 3.0], size=12)
        return [
            (scale * self.draw.standard_normal((length, WIDTH))).astype(np.float32)
            for length, scale in zip(lengths, scales, strict=True)
        ]

    def nemo_loop(self):
        import_nemo()  # silences the warnings that every loop made would print
        from nemo.collections.asr.parts.submodules.transducer_decoding.rnnt_label_looping import (
            GreedyBatchedRNNTLabelLoopingComputer,
        )
        from nemo.collections.asr.parts.submodules.transducer_decoding.tdt_label_looping import (
            GreedyBatchedTDTLabelLoopingComputer,
        )

        common = {
            "decoder": self.decoder,
            "joint": self.joint,
            "blank_index": self.rules.blank_id,
            "max_symbols_per_step": self.rules.max_symbols,
            "preserve_alignments": True,  # NeMo then keeps every step, blanks included
            "allow_cuda_graphs": False,
        }
        if not self.rules.durations:
            return GreedyBatchedRNNTLabelLoopingComputer(**common)
        return GreedyBatchedTDTLabelLoopingComputer(
            **common, durations=list(self.rules.durations), include_duration=True
        )


def nemo_steps(loop, frames, state, offset):
    """Label, frame, duration and logits of every step that NeMo takes in a chunk; its state after.

    NeMo gets padding behind the frames: it cannot take a tensor of no frames.
    """
    padded = np.pad(frames, ((0, 2), (0, 0)), constant_values=7)
    with torch.inference_mode():
        found, state = loop.torch_impl(torch.from_numpy(padded)[None], torch.tensor([len(frames)]), state)
    count = int(found.current_lengths[0])
    durations = found.token_durations[0, :count].tolist() if found.with_durations else [None] * count
    return (
        found.transcript[0, :count].tolist(),
        [frame - offset for frame in found.timestamps[0, :count].tolist()],
        durations,
        found.logits[0, :count].numpy(),
        state,
    )


@pytest.mark.parametrize("block", range(4))
def test_every_step_is_the_one_that_nemo_takes(block):
    from streamparity.runners.torch_decoder import TorchTransducer

    compared, kinds, silent, limited, jumped = 0, set(), 0, 0, 0
    for seed in range(45 * block, 45 * (block + 1)):
        model = RandomModel(seed)
        kinds.add(model.rules.kind)
        loop, state, offset = model.nemo_loop(), None, 0
        ours = GreedyDecoder(TorchTransducer(SimpleNamespace(**vars(model)), torch.float32), model.rules)
        for frames in model.chunks():
            labels, places, durations, logits, state = nemo_steps(loop, frames, state, offset)
            offset += len(frames)
            done = ours.chunk(frames)
            assert [line["label"] for line in done.lines] == labels, seed
            assert [line["frame"] for line in done.lines] == places, seed
            if model.rules.durations:
                # Of a blank of duration 0 NeMo writes down 0 or 1, by the loop that it met it in.
                blanks = [label == model.rules.blank_id for label in labels]
                moved = [max(line["duration"], blank) for line, blank in zip(done.lines, blanks, strict=True)]
                assert moved == [max(d, blank) for d, blank in zip(durations, blanks, strict=True)], seed
                assert ours.skipped == int(state.time_jumps[0]), seed
            np.testing.assert_allclose(done.logits, logits, rtol=1e-6, atol=1e-5)
            assert emitted(done.lines, model.rules) == done.labels == [v for v in labels if v != model.rules.blank_id]
            for part, nemo_part in zip(ours.memory.after or (), state.predictor_states, strict=True):
                np.testing.assert_allclose(part, nemo_part.numpy(), atol=1e-5)
            compared += 1
            silent += not done.labels
            limited += any(line["step"] + 1 == model.rules.max_symbols for line in done.lines)
            jumped += ours.skipped > 0
    # What was drawn must have been worth comparing.
    assert kinds == {"rnnt", "tdt"}
    assert compared == 45 * 12
    assert min(silent, limited, jumped) > 30


def test_ctc_emits_what_nemo_emits():
    from nemo.collections.asr.parts.submodules.ctc_decoding import CTCDecoding
    from omegaconf import OmegaConf

    import_nemo()
    compared = repeated = 0
    for seed in range(20):
        draw = np.random.default_rng(seed)
        vocabulary = list("abcdefgh"[: int(draw.integers(1, 9))])
        rules = Decoder("ctc", len(vocabulary), None, (), tuple(vocabulary))
        nemo = CTCDecoding(OmegaConf.create({"strategy": "greedy_batch"}), vocabulary=vocabulary)
        rows: list[np.ndarray] = []
        ours = CtcDecoder(SimpleNamespace(scores=lambda frames: frames), rules)
        emitted_so_far: list[int] = []
        for length in draw.choice([0, 1, 1, 2, 5], size=30):
            scores = np.log(draw.dirichlet(np.full(rules.labels, 0.2), length) + 1e-9).astype(np.float32)
            if rows and length and draw.random() < 0.5:
                scores[0] = rows[-1]  # a label that lasts over the boundary
            rows += list(scores)
            emitted_so_far += ours.chunk(scores).labels
            compared += 1
            if not rows or compared % 6:
                continue
            whole = torch.from_numpy(np.stack(rows))[None]
            text = nemo.ctc_decoder_predictions_tensor(whole, decoder_lengths=torch.tensor([len(rows)]))[0].text
            assert "".join(vocabulary[label] for label in emitted_so_far) == text, seed
        best = np.argmax(np.stack(rows), axis=1)
        repeated += int((best[1:] == best[:-1]).sum())
    assert compared == 600
    assert repeated > 100
