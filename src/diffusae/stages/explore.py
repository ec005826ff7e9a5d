"""Explore: a study in the browser."""

from __future__ import annotations

from pathlib import Path

from omegaconf import DictConfig

import diffusae
from diffusae.explorer.app import build_app
from diffusae.explorer.explored import Explored
from diffusae.explorer.export import export_study
from diffusae.explorer.security import Security
from diffusae.explorer.serving import serve
from diffusae.explorer.settings import ExploreSettings
from diffusae.exploring.opened import OpenStudy
from diffusae.study.study import Study


def explore(cfg: DictConfig) -> None:
    """Serve a study until Ctrl-C, or write its pages to files with `export`.

    Raises:
        UserError: there is no study, it has no trained cell, the port is in use, or the directory
            of the export holds something else.
    """
    configured = Study(cfg)
    configured.check(ExploreSettings)
    settings = ExploreSettings.of(cfg)
    if settings.study is None:
        study = OpenStudy(configured)
    else:
        study = diffusae.open(settings.study, model_source=settings.model_source)
    others = [diffusae.open(directory) for directory in settings.others]
    if settings.export is not None:
        directory = Path(settings.export).expanduser()
        export_study(Explored(study, others, static=True), directory, most=settings.export_latents)
        return
    explored = Explored(study, others)
    security = Security(settings.host)
    serve(build_app(explored, security), security, host=settings.host, port=settings.port)
