"""What faults are planted in: a model, its reference dump with a noise floor, and its export."""

from __future__ import annotations

import os
import shutil
from copy import deepcopy
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import onnx

from streamparity.demo import demo_audio, demo_model, demo_recordings
from streamparity.dump import DumpReader

REGULAR_LAYERS = 6
REGULAR_D_MODEL = 128
REGULAR_CONTEXT = (32, 2)


@dataclass
class Bench:
    """A model to break.

    Attributes:
        name: for tables.
        folder: where everything lies.
        loaded: the restored NeMo model.
        streaming: how it streams.
    """

    name: str
    folder: Path
    loaded: Any
    streaming: Any
    _references: dict[str, DumpReader] = field(default_factory=dict)

    @cached_property
    def export(self) -> Path:
        from streamparity.export import export

        export(self.loaded, self.folder / "export", self.streaming)
        return self.folder / "export"

    @property
    def layers(self) -> int:
        return len(self.loaded.module.encoder.layers)

    def reference(
        self, name: str = "speech", audio: Path | None = None, streaming: Any = None, schedule: str = "padded"
    ) -> DumpReader:
        """A dump with a noise floor, made once."""
        from streamparity.reference.dumper import DumpOptions, dump

        if name not in self._references:
            out = self.folder / f"reference-{name}"
            options = DumpOptions(streaming or self.streaming, schedule, noise_floor=True)
            if audio is None:
                with demo_audio(demo_recordings()[1]) as speech:
                    dump(self.loaded, speech, out, options)
            else:
                dump(self.loaded, audio, out, options)
            self._references[name] = DumpReader(out)
        return self._references[name]

    def edited(self, name: str, edit: Any, graph: str = "encoder.onnx") -> Path:
        """A copy of the export with one of its graphs edited, and no contract beside it."""
        out = self.folder / "edited" / name
        shutil.rmtree(out, ignore_errors=True)
        out.mkdir(parents=True)
        for path in self.export.glob("*.onnx*"):
            shutil.copy(path, out)
        model = onnx.load(out / graph)
        edit(model)
        onnx.save(model, out / graph)
        return out


def demo_bench(folder: Path) -> Bench:
    """The shipped model: 3 layers, d_model 64, chunked_limited, layer norm in its convolutions."""
    from streamparity.reference.nemo import StreamingOptions, load_model

    with demo_model() as path:
        loaded = load_model(str(path))
    return Bench("demo", folder / "demo", loaded, StreamingOptions((70, 1)))


def regular_bench(folder: Path) -> Bench:
    """Random weights: 6 layers, d_model 128, regular attention with look-ahead, batch norm in its convolutions."""
    from streamparity.reference.nemo import StreamingOptions, load_model

    path = folder / "regular.nemo"
    if not path.exists():
        _make_regular(path)
    return Bench("regular", folder / "regular", load_model(str(path)), StreamingOptions(REGULAR_CONTEXT, 6, 4, 2))


def _make_regular(path: Path) -> None:
    from streamparity.reference.nemo import import_nemo

    models = import_nemo()
    import torch
    from omegaconf import OmegaConf

    from demo_model.model import configuration, train_tokenizer

    home = os.getcwd()
    path.parent.mkdir(parents=True, exist_ok=True)
    os.chdir(path.parent)
    try:
        train_tokenizer(path.parent / "tokenizer")
        torch.manual_seed(7)
        config = deepcopy(configuration("tokenizer"))
        config["model_defaults"] |= {"enc_hidden": REGULAR_D_MODEL}
        config["decoding"]["greedy"]["max_symbols"] = 2
        config["encoder"] |= {
            "n_layers": REGULAR_LAYERS,
            "d_model": REGULAR_D_MODEL,
            "att_context_size": list(REGULAR_CONTEXT),
            "att_context_probs": None,
            "att_context_style": "regular",
            "conv_norm_type": "batch_norm",
        }
        model = models.EncDecRNNTBPEModel(cfg=OmegaConf.create(config))
        _let_statistics_differ(model)
        _spread_features(model)
        _let_it_speak(model)
        model.save_to(str(path))
    finally:
        os.chdir(home)


def _let_statistics_differ(model: Any) -> None:
    """Batch norms and layer norms of a trained model are no identities; neither are these."""
    import torch

    with torch.no_grad():
        for part in model.encoder.modules():
            if isinstance(part, torch.nn.BatchNorm1d | torch.nn.LayerNorm):
                part.weight.uniform_(0.6, 1.4)
                part.bias.normal_(0, 0.2)
            if isinstance(part, torch.nn.BatchNorm1d):
                part.running_mean.normal_(0, 0.1)
                part.running_var.uniform_(0.02, 0.2)
        for layer in model.encoder.layers:
            layer.self_attn.pos_bias_u.normal_(0, 0.3)
            layer.self_attn.pos_bias_v.normal_(0, 0.3)


def _spread_features(model: Any) -> None:
    """Bring what the front end makes of log-mel features to a trained model's range."""
    import soundfile
    import torch

    from demo_model.model import initialise_from_data

    with demo_audio(demo_recordings()[1]) as audio:
        samples, _ = soundfile.read(audio, dtype="float32")
    model.eval()
    with torch.inference_mode():
        features, lengths = model.preprocessor(
            input_signal=torch.from_numpy(samples)[None], length=torch.tensor([len(samples)])
        )
    initialise_from_data(model, features.clone(), lengths.clone())


def _let_it_speak(model: Any) -> None:
    """Sharpen the joint, so that labels change from frame to frame, and let the blank win often enough."""
    import torch

    with torch.no_grad():
        last = model.joint.joint_net[-1]
        last.weight.mul_(6)
        model.joint.enc.weight.mul_(3)
        last.bias[-1] += 2.0
