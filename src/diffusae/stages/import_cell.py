"""Import: another library's autoencoder as the autoencoder of one cell."""

from __future__ import annotations

import logging
from pathlib import Path

from omegaconf import DictConfig

from diffusae.activations.manifest import MANIFEST, Manifest
from diffusae.errors import UserError
from diffusae.runs.record import state
from diffusae.sae.exchange import content_hashes, detect, import_sae
from diffusae.sae.storage import save_sae
from diffusae.sources import require_own_files
from diffusae.study.streams import stream_of
from diffusae.study.study import Study

log = logging.getLogger(__name__)


def import_cell(cfg: DictConfig) -> bool:
    """Write `sae/<cell>/` from the directory `source`; `label` and `evaluate` go on with it under
    the same `sae.tag`. False: it is finished already.
    """
    study = Study(cfg)
    study.check()
    if not cfg.source:
        raise UserError("source=null must be the directory of a foreign SAE; give source=DIR")
    source = Path(cfg.source)
    require_own_files(source)
    format = cfg.format or detect(source)
    sae = import_sae(source, format=format)
    hookpoint = cfg.model.hookpoints[study.cell.block]
    if (study.activations / MANIFEST).is_file():
        d_in = stream_of(study, Manifest.load(study.activations)).d_in
        if sae.d_in != d_in:
            raise UserError(
                f"{source} takes vectors of d_in={sae.d_in}, the updates of {study.cell.key} have"
                f" {d_in}; choose the cell that it was trained on"
            )
    # The collection is no parent: the weights would be the same without it.
    determines = {
        "cell": study.cell.coordinates(),
        "format": format,
        "files": content_hashes(source, format=format),
    }
    if state(study.sae, determines=determines, parents={}) == "finished":
        log.info("%s is imported already", study.sae)
        return False
    with study.recorded(study.sae, "import", determines=determines, seed=None):
        metadata = {
            "cell": study.cell.coordinates(),
            "hookpoint": hookpoint,
            "imported_from": format,
            "validation": {},
        }
        save_sae(study.sae, sae, metadata)
    log.info("%s: an SAE of %d latents, %s", study.sae, sae.d_sae, sae.sparsity.name)
    return True
