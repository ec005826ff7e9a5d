"""Explore: a study in the browser."""

from __future__ import annotations

import logging

from omegaconf import DictConfig

import diffusae
from diffusae.explorer.app import build_app
from diffusae.explorer.explored import Explored
from diffusae.explorer.security import Security
from diffusae.explorer.serving import serve
from diffusae.explorer.settings import ExploreSettings
from diffusae.exploring.opened import OpenStudy, UntrustedSource
from diffusae.study.study import Study

NOWHERE = "(no model)"
"""In the place of a model source that only a study's record names: nothing is loaded from there."""

log = logging.getLogger(__name__)


def explore(cfg: DictConfig) -> None:
    """Serve a study until Ctrl-C.

    Raises:
        UserError: there is no study, or the server cannot listen at the address.
    """
    configured = Study(cfg)
    configured.check(ExploreSettings)
    settings = ExploreSettings.of(cfg)
    study = OpenStudy(configured) if settings.study is None else _opened(settings)
    explored, security = Explored(study), Security(settings.host)
    if not explored.cells:
        log.warning("%s has no trained cell yet", explored.directory)
    serve(build_app(explored, security), security, host=settings.host, port=settings.port)


def _opened(settings: ExploreSettings) -> OpenStudy:
    """The study of a directory; without its model where the user does not name it."""
    assert settings.study is not None
    try:
        return diffusae.open(settings.study, model_source=settings.model_source)
    except UntrustedSource as error:
        log.warning(
            "%s names the model source %s, and diffusae's own configuration does not: no pictures"
            " are made. If you trust it, add model_source=%s",
            *(settings.study, error.source, error.source),
        )
        return diffusae.open(settings.study, model_source=NOWHERE)
