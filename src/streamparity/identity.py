"""Do a dump and a model under test belong together?"""

from __future__ import annotations

from pathlib import Path

from .contract import CONTRACT, Contract, check_against
from .contract.check import Ledger, check_streaming
from .dump import DumpReader
from .errors import StreamparityError, first_of
from .graph.onnx_graph import OnnxGraph
from .provenance import file_sha256
from .runners import Runner


def check_identity(
    runner: Runner, reference: DumpReader, model: Path, allow_mismatch: bool
) -> tuple[str | None, list[str]]:
    """Make sure that model and dump belong together.

    Args:
        runner: the opened model, which may know what it was made from.
        reference: the dump.
        model: file or folder of the model under test; a ``contract.json`` beside it must hold.
        allow_mismatch: accept a dump of another model.

    Returns:
        Hash of the NeMo model that the model under test came from, ``None`` where that cannot be told; and lines that
        the user should see.

    Raises:
        StreamparityError: they do not belong together, or the contract does not hold.
    """
    notes = []
    identity = runner.model_sha256
    path = model / "encoder.onnx" if model.is_dir() else model
    contract_path = path.parent / CONTRACT
    if identity is None and contract_path.is_file():
        contract = Contract.read(contract_path)
        if path.name in contract.graphs or not contract.graphs:
            _check_contract(contract, path, reference)
            notes += _changed_files(contract, path.parent)
            identity = contract.model.sha256
        else:
            notes.append(f"{contract_path} does not speak of {path.name}: its ports speak for themselves")
    elif identity is None:
        notes.append(f"no {CONTRACT} beside the model: its ports speak for themselves")
    return identity, notes + _of_one_model(identity, reference, "the model under test", allow_mismatch)


def check_candidate_dump(candidate: DumpReader, reference: DumpReader, allow_mismatch: bool) -> list[str]:
    """Make sure that two dumps are of one model and of decisions of one kind.

    Args:
        candidate: the dump under test.
        reference: the reference.
        allow_mismatch: accept a dump of another model.

    Returns:
        Lines that the user should see.

    Raises:
        StreamparityError: they do not belong together.
    """
    ours, theirs = reference.manifest.decoder, candidate.manifest.decoder
    if ours is not None and theirs is not None and ours != theirs:
        differing = [name for name, value in vars(ours).items() if getattr(theirs, name) != value]
        raise StreamparityError(
            f"{candidate.folder} is of other decisions than the reference: its decoder's {', '.join(differing)} differ",
            "compare dumps of the same head of the same model (dump --decoder rnnt|ctc)",
        )
    identity = candidate.manifest.model.get("sha256")
    return _of_one_model(identity, reference, f"the candidate {candidate.folder}", allow_mismatch)


def _of_one_model(identity: str | None, reference: DumpReader, what: str, allow_mismatch: bool) -> list[str]:
    expected = reference.manifest.model["sha256"]
    if identity is None or identity == expected:
        return []
    if not allow_mismatch:
        raise StreamparityError(
            f"the dump is of another model: {expected[:12]}... ({reference.manifest.model['id']}), "
            f"{what} is of {identity[:12]}...",
            "dump the model under test, or pass --allow-model-mismatch",
        )
    return [f"the dump is of another model than {what}, as allowed"]


def _check_contract(contract: Contract, graph_path: Path, reference: DumpReader) -> None:
    graph, ledger = OnnxGraph(graph_path), Ledger(contract.source)
    ports = {port.name: (port.dtype, port.shape) for port in [*graph.inputs, *graph.outputs]}
    # Whether the dump's schedule fits an export is for the loop to say, chunk by chunk.
    check_streaming(ledger, contract.streaming, reference.manifest.streaming, contract.schedule)
    problems = check_against(contract, graph_path.name, ports) + [each.sentence for each in ledger.disagreements]
    if problems:
        raise StreamparityError(
            f"the contract beside {graph_path.name} does not hold: {first_of(problems)}",
            "export and dump with the same --att-context, or move contract.json away to run on the ports alone",
        )


def _changed_files(contract: Contract, folder: Path) -> list[str]:
    """A line for every graph or weights file that is no longer what was exported."""
    promised: dict[str, str | None] = {name: graph.sha256 for name, graph in contract.graphs.items()}
    promised |= {f"{name}.data": graph.weights_sha256 for name, graph in contract.graphs.items()}
    return [
        f"{name} was changed after it was exported (its hash is not the contract's)"
        for name, sha256 in promised.items()
        if sha256 is not None and (folder / name).is_file() and file_sha256(folder / name) != sha256
    ]
