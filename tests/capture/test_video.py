"""Videos: captured with (frames, rows, columns) as grids, edited, replayed, with attention to the
text. Wan runs guidance in two passes, LTX in one batch over packed latents.
"""

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from diffusae.backbone.describe import describe
from diffusae.backbone.families.table import adapter_of, list_hookpoints
from diffusae.backbone.hookpoints import denoiser_of
from diffusae.backbone.load import load_pipeline
from diffusae.capture.attention import capture_cross_attention, mean_map
from diffusae.capture.conditions import conditions
from diffusae.capture.generate import generate
from diffusae.capture.hooks import capture_updates
from diffusae.capture.replay import recorded_outputs, replayed_outputs
from diffusae.errors import UserError
from diffusae.interventions.edits import Edit, SpatialMove, concept_direction
from diffusae.interventions.regions import Region
from diffusae.interventions.steer import steer
from diffusae.sae.autoencoder import SparseAutoencoder
from diffusae.sae.sparsity import TopK
from tiny_families.video import ltx, wan
from tiny_pipeline import seeded

TOKENS, STEPS, GRID = 24, 3, (3, 2, 3)


@dataclass(frozen=True)
class Video:
    """A tiny pipeline, and how its published code runs."""

    make: Callable[[], Any]
    blocks: str
    latents: tuple[int, ...]
    """Of one video: channels, frames, rows, columns."""
    size: dict[str, int]
    passes: tuple[tuple[str, ...], ...]


_WAN: dict[str, Any] = {
    "blocks": "blocks",
    "latents": (16, 3, 4, 6),
    "size": {"height": 32, "width": 48, "num_frames": 9},
    "passes": (("cond",), ("uncond",)),
}
VIDEOS = {
    "wan": Video(wan, **_WAN),
    "wan_ti2v": Video(partial(wan, expand_timesteps=True), **_WAN),
    "ltx": Video(
        ltx,
        "transformer_blocks",
        (8, 3, 2, 3),
        {"height": 64, "width": 96, "num_frames": 17},
        (("uncond", "cond"),),
    ),
}


class Case:
    def __init__(self, name: str) -> None:
        self.video = VIDEOS[name]
        self.pipe = seeded(self.video.make, 0)
        self.hookpoints: dict[str, str | int] = {
            block: f"{self.video.blocks}.{place}"
            for place, block in enumerate(("down", "mid", "up"))
        }

    @property
    def times(self) -> list[float]:
        positions = int(np.prod(GRID))
        return adapter_of(self.pipe).schedule(self.pipe.scheduler, STEPS, positions).tolist()

    def latents(self) -> Tensor:
        return torch.stack(
            [
                torch.randn(self.video.latents, generator=torch.Generator().manual_seed(seed))
                for seed in (1, 2)
            ]
        )

    def call(self, latents: Tensor | None = None, **options: Any) -> Tensor:
        """The final latents of two videos, in the pipeline's own form."""
        latents = self.latents() if latents is None else latents
        if hasattr(self.pipe, "_pack_latents"):
            latents = self.pipe._pack_latents(latents)
        given = {"guidance_scale": 5.0, "num_inference_steps": STEPS, "output_type": "latent"}
        given |= {"max_sequence_length": TOKENS, "latents": latents, **self.video.size, **options}
        return self.pipe(["a cat", "dogs"], **given)[0]

    def record(self, edits: list[Edit] | None = None) -> dict[Any, Tensor]:
        steered = steer(self.pipe, edits) if edits else nullcontext()
        with steered, capture_updates(self.pipe, self.hookpoints, self.times) as captured:
            self.call()
        assert captured.grids == dict.fromkeys(self.hookpoints, GRID)
        return captured.updates

    @contextmanager
    def spied(self, block: str) -> Iterator[list[tuple[Tensor, Tensor]]]:
        """(input, output) of a block in every denoiser call, without the library's hooks."""
        module, seen = denoiser_of(self.pipe).get_submodule(str(self.hookpoints[block])), []
        forward, names = module.forward, inspect.signature(module.forward)

        def spy(*args: Any, **kwargs: Any) -> Tensor:
            after = forward(*args, **kwargs)
            seen.append((names.bind(*args, **kwargs).arguments["hidden_states"], after))
            return after

        module.forward = spy  # type: ignore[method-assign]
        try:
            yield seen
        finally:
            del module.forward


@pytest.fixture(scope="module", params=VIDEOS)
def case(request: pytest.FixtureRequest) -> Case:
    return Case(request.param)


def test_updates_are_those_of_a_plain_look_for_every_video_branch_and_step(case: Case) -> None:
    with case.spied("mid") as seen:
        updates = case.record()
    passes = case.video.passes
    assert len(seen) == STEPS * len(passes)
    for number, (before, after) in enumerate(seen):
        step, place = divmod(number, len(passes))
        for part, branch in enumerate(passes[place]):
            rows = slice(2 * part, 2 * part + 2)
            update = updates["mid", case.times[step], branch]
            assert update.shape == (2, 18, 32) and update.abs().max() > 0
            assert torch.equal(update, (after - before)[rows])
    first = case.times[0]
    assert (updates["mid", first, "cond"] - updates["mid", first, "uncond"]).abs().max() > 1e-4


def test_recording_changes_no_bit_of_a_video(case: Case) -> None:
    plain = case.call()
    with (
        capture_updates(case.pipe, case.hookpoints, case.times),
        capture_cross_attention(case.pipe, case.times),
    ):
        hooked = case.call()
    assert torch.equal(hooked, plain)


def test_the_foretold_timesteps_are_those_of_the_schedulers_steps(
    case: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[float] = []
    step = case.pipe.scheduler.step

    def spy(output: Tensor, timestep: Tensor, *args: Any, **options: Any) -> Any:
        seen.append(float(timestep))
        return step(output, timestep, *args, **options)

    monkeypatch.setattr(case.pipe.scheduler, "step", spy)
    case.call()
    assert seen == case.times


def test_positions_are_frame_by_frame_and_row_major_within_a_frame(case: Case) -> None:
    """A change of the first latents at one place changes one position of the first block's input
    most."""
    latents = case.latents()
    patch = latents.shape[-1] // GRID[2]
    with case.spied("down") as seen:
        case.call(latents, guidance_scale=1.0)
        latents[:, :, 2, 1 * patch, 2 * patch] += 10.0
        case.call(latents, guidance_scale=1.0)
    changed = (seen[STEPS][0] - seen[0][0]).norm(dim=-1)
    assert changed.argmax(dim=1).tolist() == [2 * 6 + 1 * 3 + 2] * 2


@pytest.mark.parametrize("conditioning", ["cond", "uncond"])
def test_an_edit_acts_in_its_region_of_every_frame_at_its_time_and_branch(
    case: Case, conditioning: str
) -> None:
    sae = SparseAutoencoder(32, 96, TopK(4), seed=5)
    move = SpatialMove(
        sae, concept_direction(sae, [1, 2]), Region("left"), strength=2.0, outside="keep"
    )
    edit = Edit(str(case.hookpoints["mid"]), move, window=(0.6, 0.4), conditionings=(conditioning,))
    plain, edited = case.record(), case.record([edit])
    first, second, last = case.times
    other = "uncond" if conditioning == "cond" else "cond"
    before, after = (made["mid", second, conditioning] for made in (plain, edited))
    torch.testing.assert_close(after, edit(before, GRID), rtol=1e-4, atol=1e-5)
    left = torch.tensor([True, False, False] * 6)  # the middle column lies half inside
    right = torch.tensor([False, False, True] * 6)
    assert (after - before)[:, left].norm(dim=-1).min() > 1e-2
    torch.testing.assert_close(after[:, right], before[:, right])
    for place in (("mid", first, conditioning), ("mid", second, other), ("down", second, other)):
        assert torch.equal(edited[place], plain[place])
    assert not torch.equal(edited["up", second, conditioning], plain["up", second, conditioning])
    assert not torch.equal(edited["down", last, "cond"], plain["down", last, "cond"])


@pytest.mark.parametrize("conditioning", ["cond", "uncond"])
def test_one_pass_with_the_pipelines_conditions_is_its_own_first_pass(
    case: Case, conditioning: str
) -> None:
    """Of the pipeline's default number of frames: 21 positions in time."""
    size = {side: case.video.size[side] for side in ("height", "width")}
    asked: dict[str, Any] = {"guidance": 5.0, "text_tokens": TOKENS, **size}
    given = conditions(case.pipe, ["a cat", "dogs"], conditioning, **asked)
    channels, _, rows, columns = case.video.latents
    latents = torch.randn(2, channels, 21, rows, columns)
    frames = inspect.signature(type(case.pipe).__call__).parameters["num_frames"].default
    adapter, time = adapter_of(case.pipe), case.times[0]
    mid = {"mid": case.hookpoints["mid"]}
    with capture_updates(case.pipe, mid, [time], conditionings=[conditioning]) as captured:
        case.call(latents, num_frames=frames)
    with torch.no_grad(), case.spied("mid") as seen:
        predicted = adapter.predict(given, latents, time)
    ((before, after),) = seen
    own = captured.updates["mid", time, conditioning]
    torch.testing.assert_close(after - before, own, rtol=1e-4, atol=1e-5)
    assert predicted.shape == latents.shape
    assert torch.equal(adapter.unpack(adapter.pack(latents), rows, columns), latents)


def test_a_replayed_call_is_the_recorded_one(case: Case) -> None:
    with recorded_outputs(case.pipe) as outputs:
        whole = case.call()
    with case.spied("mid") as seen, replayed_outputs(case.pipe, outputs, list(outputs)[:2]):
        assert torch.equal(case.call(), whole)
    assert len(seen) == len(case.video.passes)


def test_attention_to_the_text_is_what_the_layer_computes(
    case: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    own, seen = torch.nn.functional.scaled_dot_product_attention, []

    def spy(query: Tensor, key: Tensor, value: Tensor, *args: Any, **options: Any) -> Tensor:
        if (query.shape[-2], key.shape[-2]) == (18, TOKENS):
            scores = query @ key.transpose(-1, -2) * query.shape[-1] ** -0.5
            mask = args[0] if args else options.get("attn_mask")
            seen.append((scores if mask is None else scores + mask).softmax(-1).mean(1))
        return own(query, key, value, *args, **options)

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", spy)
    with capture_cross_attention(case.pipe, case.times) as captured:
        case.call()
    per_call, calls = 3, len(case.video.passes)
    assert len(seen) == per_call * calls * STEPS
    for step, time in enumerate(case.times):
        for place, path in enumerate(case.hookpoints.values()):
            maps = captured.maps[str(path), time]
            assert maps.shape == (2, 18, TOKENS)
            expected = seen[step * calls * per_call + place][-2:]  # cond: alone, or the last rows
            torch.testing.assert_close(maps, expected, rtol=1e-3, atol=1e-5)
    assert mean_map(captured, case.times[0], grid=GRID).shape == (2, 18, TOKENS)


def test_several_videos_a_prompt_are_counted(case: Case) -> None:
    latents = case.latents().repeat(2, 1, 1, 1, 1)
    with capture_updates(case.pipe, case.hookpoints, case.times) as captured:
        case.call(latents, num_videos_per_prompt=2)
    assert captured.updates["mid", case.times[0], "uncond"].shape == (4, 18, 32)


def test_what_makes_pictures_refuses_videos(case: Case) -> None:
    with pytest.raises(UserError, match=r"makes videos, and this needs pictures"):
        generate(case.pipe, ["a cat"], [1], steps=2, guidance=5.0)


def test_a_pipeline_of_two_denoisers_is_refused_by_name_and_the_remedy_helps() -> None:
    pipe = seeded(partial(wan, two_denoisers=True), 0)
    edit = Edit("blocks.1", lambda updates, _grid: updates)
    for around in (capture_updates(pipe, {"mid": 1}, [999.0]), steer(pipe, [edit])):
        with pytest.raises(UserError, match=r"second denoiser \(transformer_2\).*0\.875"), around:
            pass
    one: Any = type(pipe)(**{**pipe.components, "transformer_2": None})
    one.set_progress_bar_config(disable=True)
    with capture_updates(one, {"mid": 1}, [600.0], conditionings=["cond"]) as captured:
        one(
            ["a cat"], guidance_scale=1.0, num_inference_steps=STEPS, output_type="latent",
            max_sequence_length=TOKENS, **_WAN["size"],
        )  # fmt: skip
    assert captured.updates["mid", 600.0, "cond"].shape == (1, 18, 32)


def test_a_folder_of_videos_is_described_and_no_stage_loads_it(case: Case, tmp_path: Path) -> None:
    case.pipe.save_pretrained(tmp_path)
    with pytest.raises(UserError, match="makes videos, and this needs pictures"):
        load_pipeline(tmp_path, dtype=torch.float32, device="cpu", scheduler="keep")
    described = describe(tmp_path)
    assert described.frames == 21 and list(described.hookpoints) == list(case.hookpoints.values())
    assert described.latent_scale == case.video.size["height"] // case.video.latents[2]
    assert described.layout == adapter_of(case.pipe).layout


def test_the_blocks_of_videos_are_listed(case: Case) -> None:
    known = list_hookpoints(denoiser_of(case.pipe))
    assert list(known) == list(case.hookpoints.values())
    assert {info.grid(*GRID) for info in known.values()} == {GRID}
    assert {info.kind for info in known.values()} == {
        type(denoiser_of(case.pipe).get_submodule(path)).__name__ for path in known
    }


def test_ltx_without_the_numbers_of_frames_rows_and_columns_has_no_grid() -> None:
    adapter = adapter_of(seeded(ltx, 0))
    with pytest.raises(UserError, match="num_frames, height and width"):
        adapter.size({"hidden_states": torch.zeros(1, 6, 8)})
