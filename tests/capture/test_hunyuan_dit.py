"""What is particular to HunyuanDiT: arguments that all rows share, and perturbed attention."""

from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers.pipelines.pag.pipeline_pag_hunyuandit import HunyuanDiTPAGPipeline
from torch import Tensor

from diffusae.backbone.describe import describe
from diffusae.backbone.families.table import adapter_of, list_hookpoints
from diffusae.backbone.load import load_pipeline
from diffusae.capture.conditions import conditions
from diffusae.capture.generate import generate
from tiny_families.hunyuan_dit import hunyuan_dit
from tiny_pipeline import seeded


@pytest.fixture(scope="module")
def pipe() -> Any:
    return seeded(hunyuan_dit, 0)


def test_rotary_positions_are_whole_where_there_are_as_many_as_rows(pipe: Any) -> None:
    """4 positions, and 4 rows: [uncond, cond] of two pictures."""
    given = conditions(pipe, ["a cat", "dogs"], "cond", guidance=5.0, height=32, width=32)
    assert [part.shape for part in given["image_rotary_emb"]] == [(4, 16)] * 2
    assert given["image_meta_size"].tolist() == [[1024, 1024, 32, 32, 0, 0]] * 2
    assert given["style"].shape == (2,) and given["encoder_hidden_states"].shape == (2, 77, 32)
    predicted = adapter_of(pipe).predict(given, torch.randn(2, 4, 4, 4), 334.0)
    assert predicted.shape == (2, 4, 4, 4)  # without the variance


def test_with_perturbed_attention_the_rows_of_cond_and_uncond_are_those_of_a_plain_look(
    pipe: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    absent: Any = {"safety_checker": None, "feature_extractor": None}
    parts = {name: part for name, part in pipe.components.items() if name not in absent}
    pag: Any = HunyuanDiTPAGPipeline(
        **parts, **absent, requires_safety_checker=False, pag_applied_layers=["blocks.1"]
    )
    pag.set_progress_bar_config(disable=True)
    block, deltas = pag.transformer.blocks[3], []
    forward = block.forward

    def spy(before: Tensor, **options: Any) -> Tensor:
        after = forward(before, **options)
        deltas.append(after - before)
        return after

    monkeypatch.setattr(block, "forward", spy)
    times = adapter_of(pag).schedule(pag.scheduler, 3, 24).tolist()
    made = generate(
        pag, ["a cat", "dogs"], [1, 2], steps=3, guidance=5.0, hookpoints={"mid": "blocks.3"},
        timesteps=times, height=64, width=96, decode=False,
    )  # fmt: skip
    assert [len(delta) for delta in deltas] == [6, 6, 6]
    for time, delta in zip(times, deltas, strict=True):
        assert torch.equal(made.updates["mid", time, "uncond"], delta[:2])
        assert torch.equal(made.updates["mid", time, "cond"], delta[2:4])


def test_a_folder_is_described_and_makes_the_same_latents(pipe: Any, tmp_path: Path) -> None:
    pipe.save_pretrained(tmp_path)
    described = describe(tmp_path, text_layers=True)
    assert list(described.hookpoints) == list(list_hookpoints(pipe.transformer))
    assert (described.tokens, described.latent_scale, described.layout) == (77, 8, "one_batch")
    loaded = load_pipeline(tmp_path, dtype=torch.float32, device="cpu", scheduler="ddim")
    asked: dict[str, Any] = {"steps": 2, "guidance": 5.0, "decode": False}
    own, again = (
        generate(one, ["a cat"], [1], height=64, width=96, **asked) for one in (pipe, loaded)
    )
    assert torch.equal(own.latents, again.latents)
