"""Loading a NeMo model, and setting it up to stream."""

from __future__ import annotations

import contextlib
import hashlib
import io
import logging
import lzma
import tarfile
import warnings
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..dump.manifest import Decoder
from ..errors import BackendMissing, StreamparityError, first_line
from ..provenance import file_sha256
from ..schedule import StreamingConfig


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep NeMo, Lightning and their dependencies off standard output, and their warnings out of the way."""
    with (
        warnings.catch_warnings(),
        contextlib.redirect_stdout(io.StringIO()),
        contextlib.redirect_stderr(io.StringIO()),
    ):
        warnings.simplefilter("ignore")
        yield


def import_nemo() -> Any:
    """``nemo.collections.asr.models``, silenced.

    Raises:
        BackendMissing: NeMo is not installed.
    """
    try:
        with quiet():
            import nemo.collections.asr.models as models
            from nemo.utils import logging as nemo_logging
    except ImportError as error:
        raise BackendMissing(
            f"NeMo cannot be imported: {error}", "pip install 'streamparity[nemo]' (or work from a dump made elsewhere)"
        ) from None
    nemo_logging.setLevel(logging.CRITICAL)
    for name in ("nv_one_logger", "torch", "pytorch_lightning", "lightning"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    return models


def import_torch() -> Any:
    """``torch``. Raises ``BackendMissing`` where it is not installed."""
    try:
        import torch
    except ImportError as error:
        raise BackendMissing(f"PyTorch cannot be imported: {error}", "pip install 'streamparity[nemo]'") from None
    return torch


@dataclass(frozen=True)
class LoadedModel:
    """A NeMo model ready for inference, and what identifies it.

    Attributes:
        module: the NeMo model in ``eval`` mode.
        id: file name without suffix, or hub name.
        sha256: hash of the ``.nemo`` file, or of the weights of a hub model.
    """

    module: Any
    id: str
    sha256: str


def load_model(source: str, device: str = "cpu") -> LoadedModel:
    """Restore a ``.nemo`` file, or a hub name through NeMo's own loader.

    Args:
        source: path to a ``.nemo`` file, or a name such as ``nvidia/parakeet-tdt-0.6b-v3``.
        device: torch device to put the model on.

    Raises:
        BackendMissing: NeMo or the device is missing.
        StreamparityError: no such file or model, or the archive is damaged.
    """
    path = Path(source)
    is_file = path.is_file()
    if not is_file and (path.suffix == ".nemo" or path.exists() or source.count("/") > 1):
        raise StreamparityError(f"{source} is not a .nemo file", "give a .nemo file or a hub name such as nvidia/NAME")
    if is_file:
        check_archive(path)
    models, torch = import_nemo(), import_torch()
    try:
        torch.device(device)
    except RuntimeError:
        raise StreamparityError(f"{device!r} is no torch device", "use cpu, cuda or cuda:N") from None
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise BackendMissing("torch sees no CUDA device", "use the CPU, or run on a machine with a GPU")
    try:
        with quiet():
            if is_file:
                module = models.ASRModel.restore_from(str(path), map_location=device)
            else:
                module = models.ASRModel.from_pretrained(source, map_location=device)
    except Exception as error:  # NeMo raises whatever its dependencies raise
        raise StreamparityError(
            f"NeMo cannot restore {source}: {first_line(error)}",
            "check the file with `streamparity inspect`" if is_file else "check the name and the network",
        ) from error
    module.eval()
    for parameter in module.parameters():
        parameter.requires_grad_(False)
    identifier = path.stem if is_file else source
    return LoadedModel(module, identifier, file_sha256(path) if is_file else weights_sha256(module))


def check_archive(path: Path) -> None:
    """Read a ``.nemo`` archive's table of contents to its end.

    Raises:
        StreamparityError: truncated, damaged, or without the members that make a model.
    """
    try:
        with tarfile.open(path) as archive:
            names = {Path(member.name).name for member in archive.getmembers()}
    except (tarfile.TarError, EOFError, OSError, ValueError, zlib.error, lzma.LZMAError) as error:
        raise StreamparityError(
            f"{path} is truncated or not a .nemo archive: {first_line(error).rstrip(':')}", "copy or download it again"
        ) from None
    missing = {"model_config.yaml", "model_weights.ckpt"} - names
    if missing:
        raise StreamparityError(f"{path} has no {' and no '.join(sorted(missing))}", "copy or download it again")


def weights_sha256(module: Any) -> str:
    """SHA-256 over names and values of a model's parameters and buffers."""
    import torch

    digest = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


@dataclass(frozen=True)
class StreamingOptions:
    """How the user wants the model to stream; ``None`` keeps the model's own value.

    Attributes:
        att_context: attention context ``(left, right)`` in encoder frames.
        chunk_size: encoder frames that a chunk computes (NeMo ``setup_streaming_params``).
        shift_size: encoder frames by which the stream moves on.
        cache_drop_size: newest encoder frames kept out of the caches.
    """

    att_context: tuple[int, ...] | None = None
    chunk_size: int | None = None
    shift_size: int | None = None
    cache_drop_size: int | None = None


def configure_streaming(module: Any, options: StreamingOptions) -> StreamingConfig:
    """Set attention context and streaming parameters on a model, through NeMo's own methods.

    Raises:
        StreamparityError: the encoder cannot stream, or was not trained for the context asked for.
    """
    encoder = module.encoder
    if not hasattr(encoder, "setup_streaming_params") or not hasattr(encoder, "att_context_size_all"):
        raise StreamparityError(
            f"{type(encoder).__name__} is not a cache-aware streaming encoder",
            "streamparity works on NeMo models with a ConformerEncoder",
        )
    if options.att_context is not None:
        _set_context(encoder, options.att_context)
    if (options.chunk_size is None) != (options.shift_size is None):
        raise StreamparityError("--chunk-size and --shift-size belong together", "pass both, in encoder frames")
    with quiet():
        encoder.setup_streaming_params(chunk_size=options.chunk_size, shift_size=options.shift_size)
    if options.cache_drop_size is not None:
        _override_cache_drop(encoder, options.cache_drop_size)
    return _streaming_config(encoder)


def _set_context(encoder: Any, context: tuple[int, ...]) -> None:
    trained = [tuple(size) for size in encoder.att_context_size_all]
    narrowed = encoder.att_context_style == "regular" and (-1, -1) in trained
    if context not in trained and not narrowed:
        listed = " ".join(",".join(str(part) for part in size) for size in trained)
        raise StreamparityError(
            f"the model was not trained for attention context {list(context)}",
            f"use --att-context with one of: {listed}",
        )
    with quiet():
        encoder.set_default_att_context_size(list(context))


def _override_cache_drop(encoder: Any, cache_drop_size: int) -> None:
    encoder.streaming_cfg.cache_drop_size = cache_drop_size
    for layer in encoder.layers.modules():
        if hasattr(layer, "cache_drop_size"):
            layer.cache_drop_size = cache_drop_size


def _pair(value: Any) -> tuple[int, int]:
    first, second = value if isinstance(value, list | tuple) else (value, value)
    return int(first), int(second)


def _streaming_config(encoder: Any) -> StreamingConfig:
    config = encoder.streaming_cfg
    sampling = encoder.pre_encode.get_sampling_frames() if hasattr(encoder.pre_encode, "get_sampling_frames") else 1
    return StreamingConfig(
        att_context_size=tuple(int(part) for part in encoder.att_context_size),
        att_context_style=str(encoder.att_context_style),
        chunk_size=_pair(config.chunk_size),
        shift_size=_pair(config.shift_size),
        pre_encode_cache_size=_pair(config.pre_encode_cache_size),
        sampling_frames=_pair(sampling),
        drop_extra_pre_encoded=int(config.drop_extra_pre_encoded),
        cache_drop_size=int(config.cache_drop_size),
        valid_out_len=int(config.valid_out_len),
        last_channel_cache_size=int(config.last_channel_cache_size),
        subsampling_factor=int(encoder.subsampling_factor),
    )


def ctc_head(module: Any) -> Any | None:
    """The module that scores frames for CTC: ``decoder`` of a CTC model, ``ctc_decoder`` of a hybrid."""
    if hasattr(module, "joint"):
        return getattr(module, "ctc_decoder", None)
    return module.decoder if hasattr(module.decoder, "decoder_layers") else None


def choose_decoder(module: Any, wanted: str | None) -> None:
    """Set which head of a hybrid decodes; ``None`` keeps what the model is set to.

    Args:
        module: the NeMo model.
        wanted: ``rnnt`` (TDT too) or ``ctc``.

    Raises:
        StreamparityError: the model has no such head.
    """
    hybrid = hasattr(module, "joint") and hasattr(module, "ctc_decoder")
    if wanted is None:
        return
    if hybrid:
        module.cur_decoder = wanted
        return
    own = "rnnt" if hasattr(module, "joint") else "ctc"
    if wanted != own:
        raise StreamparityError(
            f"{type(module).__name__} has no {wanted} decoder", f"leave --decoder out: it decodes by {own}"
        )


def decoder_of(module: Any) -> Decoder | None:
    """What is needed to decode the model's encoder frames and to spell the labels, by the head it is set to use."""
    tokenizer = getattr(module, "tokenizer", None)
    joint = getattr(module, "joint", None)
    if tokenizer is not None:
        vocabulary = tuple(tokenizer.ids_to_tokens(list(range(tokenizer.vocab_size))))
    else:
        vocabulary = tuple(str(label) for label in getattr(joint or module.decoder, "vocabulary", ()))
    if joint is None or getattr(module, "cur_decoder", "rnnt") == "ctc":
        return Decoder("ctc", len(vocabulary), None, (), vocabulary)
    durations = tuple(int(d) for d in module.cfg.get("model_defaults", {}).get("tdt_durations", ()) or ())
    if not durations and joint.num_extra_outputs:
        durations = tuple(int(d) for d in module.cfg.decoding.get("durations", ()))
    # Label looping settles what it obeys: the configuration may say max_symbols, max_symbols_per_step or nothing.
    computer = getattr(module.decoding.decoding, "decoding_computer", None)
    max_symbols = getattr(computer, "max_symbols", None)
    return Decoder(
        kind="tdt" if joint.num_extra_outputs else "rnnt",
        blank_id=int(joint.num_classes_with_blank - 1 - joint.num_extra_outputs),
        max_symbols=None if max_symbols is None else int(max_symbols),
        durations=durations,
        vocabulary=vocabulary,
    )
