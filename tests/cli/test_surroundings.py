"""What a command keeps to itself."""

import logging

import pytest

from diffusae.cli.surroundings import quieten


@pytest.mark.parametrize(
    ("name", "level", "is_shown"),
    [
        ("pytorch_lightning.utilities.rank_zero", logging.INFO, False),
        ("pytorch_lightning.utilities.rank_zero", logging.WARNING, True),
        ("pytorch_lightning_of_another", logging.INFO, True),
        ("diffusae.training", logging.INFO, True),
    ],
)
def test_small_talk_of_a_library_is_not_logged_whenever_it_is_imported(
    caplog, monkeypatch, name, level, is_shown
):
    root = logging.getLogger()
    monkeypatch.setattr(root, "handlers", [caplog.handler])
    quieten()
    logger = logging.getLogger(name)
    monkeypatch.setattr(logger, "level", logging.INFO)  # as Lightning does when it is imported
    logger.log(level, "a tip")
    caplog.handler.filters.clear()
    assert ("a tip" in caplog.text) is is_shown
