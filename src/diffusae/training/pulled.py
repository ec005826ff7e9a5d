"""Placing a fetched autoencoder as one cell of a study."""

from __future__ import annotations

import logging
import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from diffusae.activations.manifest import MANIFEST, Manifest
from diffusae.errors import UserError, together
from diffusae.files import TEMPORARY_SUFFIX, flush_directory, sha256_of
from diffusae.hub.contents import CARD, CONFIG, RemoteFile, autoencoder_files, folder_of
from diffusae.hub.repository import HubRepository, LocalRepository
from diffusae.hub.settings import PullSettings
from diffusae.runs.disk import free_bytes
from diffusae.runs.record import state
from diffusae.runs.survey import finished_runs
from diffusae.sae.autoencoder import SparseAutoencoder
from diffusae.sae.storage import load_sae
from diffusae.study.streams import stream_of, target_block, target_stream_of
from diffusae.study.study import Study

log = logging.getLogger(__name__)


def pulled_before(study: Study, repo: str) -> bool:
    """Whether the study's cell holds an autoencoder from this repository already."""
    return any(
        record.stage == "pull" and record.determines.get("repo") == repo
        for _, record in finished_runs(study.sae, ".")
    )


def pull_from(study: Study, settings: PullSettings) -> bool:
    """Fetch an autoencoder from a directory or the hub, check it, and place it as the study's cell;
    False: it is there already.

    Raises:
        UserError: damaged files, a full disk, an autoencoder of another cell.
    """
    local_copy = Path(settings.repo)
    repository = LocalRepository(local_copy) if local_copy.is_dir() else HubRepository(settings)
    where = repository.repo
    commit = repository.commit()
    listed = repository.files(commit)
    folder = folder_of(listed, folder=settings.folder, prefix=study.cell.key, where=where)
    files = autoencoder_files(listed, folder, where=where)
    study.sae.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=study.sae.parent, suffix=TEMPORARY_SUFFIX) as temporary:
        local = _fetched(repository, files, Path(temporary), commit)
        got = local[0].parent
        sae, metadata = load_sae(got)  # checks the weights against the hash in cfg.json
        if not settings.another_cell:
            _require_cell(study, metadata, where=where)
        require_width(study, sae, of=f"the SAE in {where}")
        determines = {
            "cell": study.cell.coordinates(),
            "repo": (
                Path(where).name if isinstance(repository, LocalRepository) else where
            ),  # no path goes into a card
            "folder": folder,
            "files": {path.name: sha256_of(path) for path in local if path.name != CARD},
        }
        if state(study.sae, determines=determines, parents={}) == "finished":
            log.info("%s is pulled already", study.sae)
            return False
        with study.recorded(study.sae, "pull", determines=determines, seed=None, commit=commit):
            # The configuration last.
            for path in sorted(local, key=lambda path: path.name == CONFIG):
                os.replace(path, study.sae / path.name)
            flush_directory(study.sae)
    log.info(
        "%s: an SAE of %d latents, %s, from %s", study.sae, sae.d_sae, sae.sparsity.name, where
    )
    return True


def _fetched(
    repository: HubRepository | LocalRepository,
    files: Sequence[RemoteFile],
    directory: Path,
    commit: str,
) -> list[Path]:
    """Fetch the files into `directory`.

    Raises:
        UserError: a file has not the size and the hash that the repository lists, or the disk does
            not hold the files.
    """
    if (needed := sum(file.size for file in files)) > (free := free_bytes(directory)):
        raise UserError(
            f"{repository.repo} lists {needed} bytes, {free} are free at {directory.parent}; free"
            " some space"
        )
    local = [repository.fetch(file, directory, commit) for file in files]
    faults = [fault for file, path in zip(files, local, strict=True) if (fault := file.fault(path))]
    together(f"{repository.repo}: {fault}; pull it again" for fault in faults)
    return local


def _require_cell(study: Study, metadata: Mapping[str, Any], *, where: str) -> None:
    """Refuse an SAE of another cell."""
    named, ours = metadata.get("cell"), study.cell.coordinates()
    theirs = named if isinstance(named, Mapping) else {}  # another's file may say anything
    differing = [
        f"{name} {theirs.get(name)} -> {value}"
        for name, value in ours.items()
        if theirs.get(name) != value
    ]
    if differing:
        raise UserError(
            f"the SAE in {where} was trained on another cell (there -> here):"
            f" {', '.join(differing)}; choose its cell by timestep.t, block and conditioning, or"
            " another_cell=true"
        )


def require_width(study: Study, sae: SparseAutoencoder, *, of: str) -> None:
    """Refuse a foreign SAE (`of`) that cannot take the updates of this cell, or that gives others
    than those of its target, if there are any; and a transcoder where `sae.target` names none.
    """
    if sae.transcodes != (target_block(study) is not None):
        what, how = ("a transcoder", "BLOCK") if sae.transcodes else ("no transcoder", "null")
        raise UserError(f"{of} is {what}; set sae.target={how}")
    if not (Path(study.cfg.paths.activations) / MANIFEST).is_file():
        return
    manifest = Manifest.load(study.activations)
    expected, target = stream_of(study, manifest).d_in, target_stream_of(study, manifest)
    if sae.d_in != expected:
        raise UserError(
            f"{of} takes vectors of d_in={sae.d_in}, the updates of {study.cell.key} have"
            f" {expected}; choose the cell that it was trained on"
        )
    if target is not None and sae.d_target != target.d_in:
        raise UserError(
            f"{of} gives vectors of {sae.d_target} channels, those of its target {target.folder}"
            f" have {target.d_in}; choose the target that it was trained on"
        )
