"""Import: another library's autoencoder as the autoencoder of one cell."""

from __future__ import annotations

import logging
from pathlib import Path

from omegaconf import DictConfig

from diffusae.runs.record import state
from diffusae.sae.exchange import content_hashes, detect, import_sae
from diffusae.sae.settings import ImportSettings
from diffusae.sae.storage import save_sae
from diffusae.sources import require_own_files
from diffusae.study.study import Study
from diffusae.training.pulled import require_width

log = logging.getLogger(__name__)


def import_cell(cfg: DictConfig) -> bool:
    """Write `sae/<cell>/` from the directory `source`; `label` and `evaluate` go on with it under
    the same `sae.tag`. False: it is finished already.
    """
    study = Study(cfg)
    study.check()
    settings = ImportSettings.of(cfg)
    source = Path(settings.source)
    require_own_files(source)
    format = settings.format or detect(source)
    sae = import_sae(source, format=format)
    hookpoint = study.hookpoints[study.cell.block]
    require_width(study, sae, of=str(source))
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
