"""``contract.json``, schema ``streamparity.contract/1``: what a model, or an export of it, promises.

A ``null`` means that there is none, or, where ``sources`` says so, that it is not known.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from ..errors import StreamparityError
from ..schedule import Schedule, StreamingConfig
from .codec import encode, read, text
from .json_schema import schema
from .network import Context, Decoder, Encoder
from .parts import ContractTolerance, Decoding, Features, Graph, Model, Producer, TensorRT, Timebase, Tokenizer

SCHEMA = "streamparity.contract/1"
CONTRACT = "contract.json"
LARGEST_SIZE = 2**24  # frames, samples or bands: a chunk of that many frames is two days of speech

Origin = Literal["file", "nemo-default", "published", "example", "computed", "unknown"]


@dataclass(frozen=True)
class Contract:
    """What a model, or an export of it, promises.

    Attributes:
        model: which model.
        streaming: the configuration baked into the graphs, or that an export would have baked in.
        features: what the encoder is fed.
        decoding: how encoder frames become labels, null for an encoder alone.
        graphs: exported files by name, empty for a model that was not exported.
        producer: what wrote this.
        timebase: samples, feature frames, encoder frames.
        tokenizer: labels.
        encoder: architecture and ports.
        contexts: how the model streams at each attention context.
        decoder: prediction network and joint.
        tolerances: by dtype of the arithmetic; a measured noise floor is better.
        tensorrt: optimization profiles.
        sources: where values come from, by JSON pointer; the longest pointer that leads to a value counts. file: read
            from the model's file. nemo-default: the file leaves it to NeMo. published: from the model's description.
            example: from NeMo's example configuration of the architecture or NeMo's defaults, not confirmed for this
            model. computed: from the others. unknown: null, read it from the .nemo.
    """

    model: Model
    streaming: StreamingConfig
    features: Features
    decoding: Decoding | None
    graphs: dict[str, Graph]
    producer: Producer
    timebase: Timebase | None = None
    tokenizer: Tokenizer | None = None
    encoder: Encoder | None = None
    contexts: tuple[Context, ...] = ()
    decoder: Decoder | None = None
    tolerances: dict[str, ContractTolerance] = field(default_factory=dict)
    tensorrt: TensorRT = field(default_factory=TensorRT)
    sources: dict[str, Origin] = field(default_factory=dict)

    @property
    def schedule(self) -> Schedule:
        """An exported encoder always drops its pre-encode history: only the padded schedule fits it."""
        return "padded"

    def to_json(self) -> dict[str, Any]:
        """As written to disk."""
        document: dict[str, Any] = {"schema": SCHEMA, **encode(self)}
        document["streaming"] = {"schedule": self.schedule, **document["streaming"]}
        return document

    def to_bytes(self) -> bytes:
        """The file's content: the same for the same contract."""
        return f"{text(self.to_json())}\n".encode()

    def source(self, name: str) -> Origin | None:
        """Where the value at a name, such as ``features/preemph``, comes from; ``None`` where that is not said."""
        parts = f"/{name}".split("/")
        prefixes = ("/".join(parts[:count]) for count in range(len(parts), 0, -1))
        return next((self.sources[prefix] for prefix in prefixes if prefix in self.sources), None)

    def knows(self, name: str) -> bool:
        """Whether a ``null`` at a name says that there is none, rather than that it is not known."""
        return self.source(name) not in (None, "unknown")

    @classmethod
    def read(cls, path: Path) -> Contract:
        """Read ``contract.json``.

        Raises:
            StreamparityError: not there, not JSON, another schema, or a field of the wrong kind.
        """
        hint = "write it again with `streamparity contract write` or `export`, or move it away"
        contract = read(cls, path, SCHEMA, "a contract", hint, {"streaming/schedule": "padded"})
        wrong = contract._senseless()
        if wrong is not None:
            raise StreamparityError(f"{path} is not a contract that can be read: {wrong}", hint)
        return contract

    def _senseless(self) -> str | None:
        """A size that no stream and no features can have, with what it should be."""
        streaming, features = self.streaming, self.features
        least = {
            "streaming/chunk_size": (1, streaming.chunk_size),
            "streaming/shift_size": (1, streaming.shift_size),
            "streaming/pre_encode_cache_size": (0, streaming.pre_encode_cache_size),
            "streaming/sampling_frames": (0, streaming.sampling_frames),
            "streaming/subsampling_factor": (1, (streaming.subsampling_factor,)),
            "features/sample_rate": (1, (features.sample_rate,)),
            "features/hop_samples": (1, (features.hop_samples,)),
            "features/window_samples": (1, (features.window_samples,)),
            "features/features": (1, (features.features,)),
        }
        for name, (low, sizes) in least.items():
            for size in sizes:
                if size is not None and not low <= size <= LARGEST_SIZE:
                    return f"/{name} is {size}, not from {low} to {LARGEST_SIZE}"
        return None


def contract_schema() -> Mapping[str, Any]:
    """JSON Schema of ``streamparity.contract/1``."""
    document = schema(Contract)
    schedule = {"properties": {"schedule": {"const": "padded"}}, "required": ["schedule"]}
    streaming = {**schedule, **document["properties"]["streaming"]}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": SCHEMA,
        **document,
        "properties": {"schema": {"const": SCHEMA}, **document["properties"], "streaming": streaming},
        "required": ["schema", *document["required"]],
    }
