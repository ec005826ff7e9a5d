"""Explore: a study in the browser."""

from __future__ import annotations

import logging
from pathlib import Path
from threading import Thread

from omegaconf import DictConfig

import diffusae
from diffusae.explorer.app import build_app
from diffusae.explorer.explored import Explored
from diffusae.explorer.export import export_study
from diffusae.explorer.security import Security
from diffusae.explorer.serving import serve
from diffusae.explorer.settings import ExploreSettings
from diffusae.exploring.opened import NOWHERE, OpenStudy, UntrustedSource
from diffusae.study.study import Study

log = logging.getLogger(__name__)


def explore(cfg: DictConfig) -> None:
    """Serve a study until Ctrl-C, or write its pages to files with `export`.

    Raises:
        UserError: there is no study, the server cannot listen at the address, or the directory of
            the export holds something else.
    """
    configured = Study(cfg)
    configured.check(ExploreSettings)
    settings = ExploreSettings.of(cfg)
    study = OpenStudy(configured) if settings.study is None else _opened(settings.study, settings)
    others = [_opened(directory, settings) for directory in settings.others]
    explored = Explored(study, others, static=settings.export is not None)
    if not explored.cells:
        log.warning("%s has no trained cell yet", explored.directory)
    if settings.export is not None:
        export_study(
            explored,
            Path(settings.export).expanduser(),
            most_latents=settings.export_latents,
            most_pictures=settings.export_pictures,
        )
        return
    # The first page waits for the list of all latents, some two seconds of a study of 88 cells.
    Thread(target=explored.warm, name="catalogue", daemon=True).start()
    security = Security(settings.host)
    serve(build_app(explored, security), security, host=settings.host, port=settings.port)


def _opened(directory: str, settings: ExploreSettings) -> OpenStudy:
    """The study of a directory; without its model where the user does not name it."""
    try:
        return diffusae.open(directory, model_source=settings.model_source)
    except UntrustedSource as error:
        if error.source is None:
            log.warning("no pictures are made: %s", error)
        else:
            log.warning(
                "%s names the model source %s, and diffusae's own configuration does not: no"
                " pictures are made. If you trust it, add model_source=%s",
                *(directory, error.source, error.source),
            )
        return diffusae.open(directory, model_source=NOWHERE)
