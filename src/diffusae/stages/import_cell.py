"""Import: another library's or another paper's autoencoder as the autoencoder of one cell."""

from __future__ import annotations

import logging
from pathlib import Path

from omegaconf import DictConfig

from diffusae.runs.record import state
from diffusae.sae.checkpoint import Stated
from diffusae.sae.exchange import read_foreign
from diffusae.sae.settings import ImportSettings, StatedSettings
from diffusae.sae.storage import save_sae
from diffusae.sources import require_own_files
from diffusae.study.streams import target_block
from diffusae.study.study import Study
from diffusae.training.imported import cell_belongs, cell_hookpoint, require_belongs
from diffusae.training.pulled import require_width

log = logging.getLogger(__name__)

_BELONGING = ("model", "hookpoint", "quantity", "t", "conditioning")


def import_cell(cfg: DictConfig) -> bool:
    """Write `sae/<cell>/` from `source`; `label` and `evaluate` go on with it under the same
    `sae.tag`. False: it is finished already.
    """
    study = Study(cfg)
    study.check()
    settings, stated = ImportSettings.of(cfg), StatedSettings.of(cfg)
    source = Path(settings.source).expanduser()
    if source.is_dir():
        require_own_files(source)
    ours, said = cell_belongs(study), stated.said()
    timestep = stated.timestep if stated.timestep is not None else ours.timestep
    foreign = read_foreign(
        source,
        format=settings.format,
        stated=Stated(
            k=stated.k, threshold=stated.threshold, scale=stated.scale, timestep=timestep
        ),
    )
    if foreign.depends_on_time:
        said["timestep"] = timestep
    theirs = foreign.belongs.replaced({name: said.get(name) for name in _BELONGING})
    if not settings.another_cell:
        require_belongs(study, theirs, ours=ours, of=str(source))
    require_width(study, foreign.sae, of=str(source))
    # The collection is no parent: the weights would be the same without it.
    determines = {
        "cell": study.cell.coordinates(),
        "format": foreign.format,
        "files": foreign.files,
        **({"stated": said} if said else {}),
    }
    if state(study.sae, determines=determines, parents={}) == "finished":
        log.info("%s is imported already", study.sae)
        return False
    with study.recorded(study.sae, "import", determines=determines, seed=None):
        metadata = {
            "cell": study.cell.coordinates(),
            "hookpoint": cell_hookpoint(study),
            "quantity": ours.quantity,
            "imported_from": foreign.format,
            "trained_on": {**theirs.known(), "scale": stated.scale},
            "validation": {},
        }
        if block := target_block(study):
            metadata["target"] = {"block": block, "hookpoint": study.hookpoints[block]}
        save_sae(study.sae, foreign.sae, metadata)
    log.info(
        "%s: an SAE of %d latents, %s", study.sae, foreign.sae.d_sae, foreign.sae.sparsity.name
    )
    return True
