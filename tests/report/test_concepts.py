"""The command on a card of the gallery."""

import shlex
from types import SimpleNamespace

from composing import compose
from diffusae.report.sections.concepts import steer_command
from diffusae.report.study import Concept

STUDY = SimpleNamespace(name="mini", cfg=SimpleNamespace(model=SimpleNamespace(name="miniature")))
CONCEPT = Concept("down-t0.50-cond-k20", "down", 0.5, "cond", 373, [("fish", 9)], 1.0, 0.1, [])
PROMPT = 'it\'s a "red" fish, ${name} at 5 $'


def test_a_cards_command_composes_to_its_cell_latent_and_prompt():
    command = steer_command(STUDY, CONCEPT, {"k": 20, "tag": "k20"}, PROMPT)
    first, stage, *overrides = shlex.split(command)
    assert (first, stage) == ("diffusae", "steer")
    cfg = compose("steer", overrides=overrides)
    assert (cfg.name, cfg.block.name, cfg.timestep.t, cfg.conditioning.branch) == (
        "mini",
        "down",
        0.5,
        "cond",
    )
    assert (cfg.sae.k, cfg.sae.tag, list(cfg.latents), cfg.prompt) == (20, "k20", [373], PROMPT)


def test_an_ordinary_command_reads_easily_and_without_a_prompt_there_is_none():
    command = steer_command(STUDY, CONCEPT, {"k": 20}, "a red fish")
    assert command.endswith('sae.k=20 "latents=[373]" "prompt=\'a red fish\'"')
    assert steer_command(STUDY, CONCEPT, {"k": 20}, "") == ""
