"""Export: one cell's autoencoder in another library's format, with a model card."""

from __future__ import annotations

import logging
from pathlib import Path

from omegaconf import DictConfig

from diffusae.files import remove_left_overs
from diffusae.report.card import write_card
from diffusae.report.card_contents import card_of
from diffusae.runs.record import parent_signature, read_record
from diffusae.sae.exchange import export_sae
from diffusae.sae.settings import ExportSettings, FormatName
from diffusae.sae.storage import load_sae
from diffusae.study.study import Study
from diffusae.training.imported import with_quantity

log = logging.getLogger(__name__)


def export_cell(cfg: DictConfig) -> None:
    """Write `export/<format>/<cell>/`. It is written anew each time: results may have come
    since.
    """
    study = Study(cfg)
    study.check()
    log.info("%s is written", export_to(study, ExportSettings.of(cfg).format))


def export_to(study: Study, format: FormatName) -> Path:
    """Write the study's cell in a format; the directory."""
    signature = parent_signature(study.sae, stage="train")
    record = read_record(study.sae)
    assert record is not None  # or it would have no signature
    sae, metadata = load_sae(study.sae)
    metadata = with_quantity(study, metadata)
    directory = study.directory / "export" / format / study.cell_name
    facts = {
        **study.cell.coordinates(),
        "hookpoint": str(metadata.get("hookpoint", "unknown")),
        "quantity": metadata["quantity"],
        "sparsity": sae.sparsity.name,
        "diffusae_signature": signature,
        "diffusae_commit": record.git_commit,
    }
    remove_left_overs(directory)
    units = export_sae(directory, sae, format=format, metadata=facts)
    write_card(directory, card_of(study, sae, metadata, format=format, code_units=units))
    return directory
