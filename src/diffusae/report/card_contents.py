"""What a model card says of one cell's autoencoder."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from diffusae.activations.manifest import MANIFEST, Manifest
from diffusae.evaluation.result import Result, load_results
from diffusae.report.card import ModelCard
from diffusae.report.card_summary import VERSION, CardSummary, Figure
from diffusae.report.how_collected import how_collected
from diffusae.runs.record import RunRecord, parent_signature, read_record
from diffusae.runs.survey import finished_runs
from diffusae.sae.autoencoder import SparseAutoencoder
from diffusae.sae.folded import CodeUnits
from diffusae.study.streams import stream_of
from diffusae.study.study import Study

log = logging.getLogger(__name__)


def card_of(
    study: Study,
    sae: SparseAutoencoder,
    metadata: Mapping[str, Any],
    *,
    format: str,
    code_units: CodeUnits,
) -> ModelCard:
    """The card of the study's autoencoder, with the results that were measured on this very one."""
    signature = parent_signature(study.sae, stage="train")
    record = read_record(study.sae)
    assert record is not None  # or it would have no signature
    results, hookpoint = _results(study, signature), str(metadata.get("hookpoint", "unknown"))
    return ModelCard(
        name=f"{study.name} {study.cell_name}",
        format=format,
        base_model=_base_model(study),
        cell={
            **study.cell.coordinates(),
            "hookpoint": metadata.get("hookpoint", "unknown"),
            **({"target": _target(metadata)} if sae.transcodes else {}),
        },
        shape={
            "d_in": sae.d_in,
            **({"d_target": sae.d_target} if sae.transcodes else {}),
            "d_sae": sae.d_sae,
            "sparsity": sae.sparsity.name,
        },
        code_units=code_units,
        data=_data(study),
        training=_training(record),
        validation=(
            validation if isinstance(validation := metadata.get("validation"), Mapping) else {}
        ),
        results=results,
        provenance={"signature": signature, "commit": record.git_commit or "not from a repository"},
        quantity=str(metadata.get("quantity", "update")),
        summary=CardSummary(
            version=VERSION,
            **study.cell.coordinates(),
            hookpoint=hookpoint,
            d_in=sae.d_in,
            d_sae=sae.d_sae,
            sparsity=sae.sparsity.name,
            results=tuple(map(Figure.of, results)),
        ),
    )


def _target(metadata: Mapping[str, Any]) -> str:
    """Where a transcoder's target was read."""
    target = metadata.get("target")
    return str(target.get("hookpoint", "unknown")) if isinstance(target, Mapping) else "unknown"


def _base_model(study: Study) -> str:
    """The hub id, or the model's short name where it is a folder: a folder's path means nothing
    elsewhere.
    """
    source = str(study.cfg.model.source)
    return study.cfg.model.name if Path(source).is_absolute() or Path(source).is_dir() else source


def _data(study: Study) -> dict[str, Any]:
    """What the collection says of itself; nothing where it has been removed."""
    if not (study.activations / MANIFEST).is_file():
        return {}
    manifest = Manifest.load(study.activations)
    stream = stream_of(study, manifest)
    splits, held_out = dict(manifest.splits), study.held_out
    if held_out.coded and (held_out.activations / MANIFEST).is_file():
        splits |= Manifest.load(held_out.activations).splits
    return {
        "prompts and pictures": ", ".join(f"{n['images']} {split}" for split, n in splits.items()),
        "training vectors": (
            manifest.vectors(stream, "train")
            if "train" in manifest.splits
            else "made while training, not stored"
        ),
        "positions a picture": stream.positions,
        **{
            what: how
            for what, how in how_collected(manifest.header).items()
            if what != "truncated prompts"
        },
    }


def _training(record: RunRecord) -> dict[str, Any]:
    """The settings of the training that the SAE's own run.json holds; of an import, what was
    imported.
    """
    if record.stage != "train":
        return {name: value for name, value in record.determines.items() if name != "cell"}
    settings = record.determines
    sae = record.config.get("sae", settings["sae"])  # in which "auto" is what it took
    sparsity = {name: value for name, value in sae["sparsity"].items() if name != "_target_"}
    return {
        **{name: value for name, value in (sae | sparsity).items() if name != "sparsity"},
        **{name: settings[name] for name in ("steps", "batch_size", "seed")},
    }


def _results(study: Study, signature: str) -> list[Result]:
    """The finished results that were measured on this very SAE."""
    of_sae = {signature}
    for _, concepts in finished_runs(study.concepts, "."):
        if concepts.parents.get("train") == signature:
            of_sae.add(concepts.signature)
    results: list[Result] = []
    for metric in ("reconstruction", "composition"):
        directory = study.evaluation(metric)
        for _, record in finished_runs(directory, "."):
            if of_sae & set(record.parents.values()):
                results += load_results(directory / "results.json")
    return results
