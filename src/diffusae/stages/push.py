"""Push: one cell's autoencoder with its card to a model hub."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping
from pathlib import Path

from omegaconf import DictConfig

from diffusae.files import sha256_of
from diffusae.hub.contents import CARD, CONFIG, RemoteFile, listing_lines
from diffusae.hub.repository import HubRepository, HubUnreachable
from diffusae.hub.settings import PushSettings
from diffusae.report.card import render_card
from diffusae.report.card_contents import card_of
from diffusae.runs.record import parent_signature
from diffusae.sae.exchange import FORMATS
from diffusae.sae.storage import load_sae, weight_files
from diffusae.stages.export_cell import export_to
from diffusae.study.study import Study
from diffusae.training.imported import with_quantity

log = logging.getLogger(__name__)


def push(cfg: DictConfig) -> None:
    """Commit weights, configuration and card in one commit; with `dry_run`, only tell which files
    that would be.
    """
    study = Study(cfg)
    study.check()
    settings = PushSettings.of(cfg)
    contents = _contents(study, settings)
    folder = study.cell_name if settings.folder is None else str(settings.folder).strip("/.")
    files = {f"{folder}/{name}" if folder else name: content for name, content in contents.items()}
    log.info(
        "%s of %s:\n  %s",
        settings.format,
        study.cell_name,
        "\n  ".join(listing_lines(_described(files))),
    )
    if settings.dry_run:
        log.info("dry run: nothing has gone to %s", settings.repo)
        return
    message = f"{study.name} {study.cell_name} ({settings.format})"
    try:
        address = HubRepository(settings).push(files, message=message, private=settings.private)
    except HubUnreachable as error:
        raise HubUnreachable(
            f"{error}; nothing is lost: {study.sae} holds the SAE, and the same command pushes it"
            " later"
        ) from error
    log.info("pushed: %s", address)


def _contents(study: Study, settings: PushSettings) -> Mapping[str, Path | bytes]:
    if settings.format != "diffusae":
        directory = export_to(study, settings.format)
        return {name: directory / name for name in (FORMATS[settings.format].weights, CONFIG, CARD)}
    parent_signature(study.sae, stage="train")  # there is one, and it is finished
    sae, metadata = load_sae(study.sae)  # and it is whole
    metadata = with_quantity(study, metadata)
    card = render_card(card_of(study, sae, metadata, format=settings.format, code_units="data"))
    files = {name: study.sae / name for name in (*weight_files(study.sae), CONFIG)}
    return {**files, CARD: card.encode()}


def _described(files: Mapping[str, Path | bytes]) -> list[RemoteFile]:
    return [
        (
            RemoteFile(path, len(content), sha256=hashlib.sha256(content).hexdigest())
            if isinstance(content, bytes)
            else RemoteFile(path, content.stat().st_size, sha256=sha256_of(content))
        )
        for path, content in files.items()
    ]
