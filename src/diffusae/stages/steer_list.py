"""`diffusae steer edits=FILE.yaml`: one prompt as it is, and with all edits of a list."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import Any

from omegaconf import DictConfig

from diffusae.backbone.hookpoints import execution_device
from diffusae.errors import UserError
from diffusae.exploring.cells import trained_cells
from diffusae.exploring.listed_edits import EditPreparer
from diffusae.exploring.making import PictureMaker
from diffusae.files import atomic_path
from diffusae.report.strip import strip
from diffusae.runs.record import state
from diffusae.steering.edit_list import EditList
from diffusae.steering.settings import EditListSettings, file_name
from diffusae.steering.trials import save_picture
from diffusae.study.model import load_model
from diffusae.study.study import Study
from diffusae.training.cell import mirror_of

log = logging.getLogger(__name__)


def steer_list(cfg: DictConfig) -> bool:
    """Write before.png, after.png and strip.png; False: they are there already.

    Raises:
        UserError: a wrong list, or one that asks for what the study does not have.
    """
    study = Study(cfg)
    study.check(EditListSettings)
    if cfg.with_text.concept is not None:
        raise UserError("with_text is for one edit; give the edit list an edit with a layer")
    edits = _given(EditListSettings.of(cfg))
    prompt, seed = str(edits.prompt), edits.picture_seed or 0
    cells = {cell.name: cell for cell in trained_cells(study)}
    maker = PictureMaker(lambda: load_model(maker.model), study)
    preparer = EditPreparer(study, cells, lambda: execution_device(maker.pipe))
    preparer.check(edits)
    directory = study.directory / "steer" / file_name("edits", edits.digest[:8], prompt, seed)
    determines: dict[str, Any] = {
        "model": study.model_determines(),
        "intervention": {"name": "edits"},
        **edits.to_json(),
    }
    parents = preparer.parents(edits)
    if state(directory, determines=determines, parents=parents) == "finished":
        log.info("%s is there already", directory / "strip.png")
        return False
    with (
        mirror_of(preparer.settings_of(edits.edits[0])) as mirror,
        study.recorded(directory, "steer", determines=determines, parents=parents, seed=seed),
    ):
        before = maker.unedited(prompt, seed)
        after = maker.edited(prompt, seed, preparer.prepare(edits))
        for name, picture in (("before", before), ("after", after)):
            save_picture(directory / f"{name}.png", picture)
        shown = [("before", before), ("after", after)]
        with atomic_path(directory / "strip.png") as temporary:
            temporary.write_bytes(strip(shown, title=f"{len(edits.edits)} edits, {prompt!r}"))
        mirror.panel("before_after", shown)
    log.info("wrote %s", directory / "strip.png")
    return True


def _given(settings: EditListSettings) -> EditList:
    """The list with its prompt and seed, of which the settings have the last word."""
    edits = EditList.read(settings.edits)
    prompt = edits.prompt if settings.prompt is None else settings.prompt
    seed = edits.picture_seed if settings.picture_seed is None else settings.picture_seed
    if prompt is None:
        raise UserError(f"{settings.edits} has no prompt; add one to it, or give prompt='...'")
    return replace(edits, prompt=prompt, picture_seed=seed or 0)
