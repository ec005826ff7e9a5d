"""Explore: a study in the browser."""

from __future__ import annotations

from omegaconf import DictConfig

import diffusae
from diffusae.explorer.app import build_app
from diffusae.explorer.explored import Explored
from diffusae.explorer.security import Security
from diffusae.explorer.serving import serve
from diffusae.explorer.settings import ExploreSettings
from diffusae.exploring.opened import OpenStudy
from diffusae.study.study import Study


def explore(cfg: DictConfig) -> None:
    """Serve a study until Ctrl-C.

    Raises:
        UserError: there is no study, it has no trained cell, or the port is in use.
    """
    configured = Study(cfg)
    configured.check(ExploreSettings)
    settings = ExploreSettings.of(cfg)
    if settings.study is None:
        study = OpenStudy(configured)
    else:
        study = diffusae.open(settings.study, model_source=settings.model_source)
    explored = Explored(study)
    security = Security(settings.host)
    serve(build_app(explored, security), security, host=settings.host, port=settings.port)
