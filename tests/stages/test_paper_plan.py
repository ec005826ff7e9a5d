"""The paper's experiment, planned without weights, captions or a GPU: its arithmetic is the
paper's.
"""

import json
from pathlib import Path

import pytest
from omegaconf import DictConfig

from composing import compose
from diffusae.errors import UserError
from diffusae.interventions.windows import window_at
from diffusae.planning import timing
from diffusae.stages import plan as stage
from diffusae.study.study import Study
from diffusae.training.train_grid import grid_members

from .sd14_folder import write_sd14


def composed(*overrides: str, root: str = "plan") -> DictConfig:
    return compose(root, overrides)


def planned(directory: Path, experiment: str, *overrides: str) -> dict:
    source = write_sd14(directory / "sd14")
    overrides_of_size = [
        f"experiment={experiment}",
        f"model.source={source}",
        f"paths.outputs={directory}",
        *overrides,
    ]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(timing, "load_model", None)
        patch.setattr(timing, "module_of", None)
        stage.plan(composed(*overrides_of_size))
    return json.loads((directory / experiment / "plan.json").read_text())


@pytest.fixture(scope="module")
def paper(tmp_path_factory) -> dict:
    return planned(tmp_path_factory.mktemp("paper"), "paper_sd14")


def test_the_plan_reproduces_the_papers_disk_sizes(paper):
    numbers = {
        stream["folder"]: stream["training_numbers_bytes"]
        for stream in paper["streams"]
        if stream["trained"]
    }
    assert len(numbers) == 18
    for folder, count in numbers.items():
        assert round(count / 1e9) == (33 if folder.startswith("mid") else 131), folder
    assert round(paper["training"]["numbers_bytes"] / 1e12, 2) == 1.77
    assert paper["training"]["numbers_bytes"] == sum(numbers.values())


def test_the_plan_has_the_papers_grids_steps_and_one_epoch(paper):
    for stream in paper["streams"]:
        if stream["trained"]:
            mid = stream["folder"].startswith("mid")
            assert (stream["grid"], stream["d_in"]) == ([8, 8] if mid else [16, 16], 1280)
            assert stream["training_steps"] == (3125 if mid else 12500)
            assert stream["epochs"] == pytest.approx(1)
    assert paper["pictures"] == {
        "train": 200_000,
        "validation": 200,
        "dictionary": 40_000,
        "tune": 500,
        "test": 5000,
    }
    assert paper["captions"] == "assumed"


def test_hours_follow_from_the_rates_that_are_given(paper, tmp_path):
    pictures = sum(paper["pictures"].values())
    assert paper["seconds"]["collect"] == pytest.approx(3.02 * pictures)
    vectors = 2 * 3 * 2 * (51.2e6 * 2 + 12.8e6)  # k, t, branches; down and up, mid
    assert paper["seconds"]["train"] == pytest.approx(vectors / 14200)
    few = "prompts.counts={train: 200, validation: 0, dictionary: 40, tune: 5, test: 5}"
    other = planned(
        tmp_path, "paper_sd14", few, "plan.seconds_per_picture=0.5", "plan.vectors_per_second=null"
    )
    assert other["seconds"] == {
        "collect": pytest.approx(0.5 * 250), "encode": None, "train": None,
    }  # fmt: skip


def test_storing_less_is_laid_beside_the_whole(paper):
    whole, *fewer = paper["alternatives"]
    assert whole["positions_per_image"] is None
    assert [plan["positions_per_image"] for plan in fewer] == [64, 16, 4]
    sizes = [plan["updates_bytes"] for plan in (whole, *fewer)]
    assert sizes == sorted(sizes, reverse=True)
    assert whole["updates_bytes"] == paper["bytes"]["updates"]
    assert [plan["max_vectors"] for plan in fewer] == [64 * 200_000, 16 * 200_000, 4 * 200_000]
    # The training pictures' share shrinks in proportion: what remains is the other splits' whole
    # grids.
    assert sizes[1] - sizes[2] == pytest.approx(4 * (sizes[2] - sizes[3]), rel=0.03)


def test_the_small_experiment_fits_its_hundred_gigabytes(tmp_path, capsys):
    small = planned(tmp_path, "paper_sd14_small")
    assert (
        small["bytes"]["updates"] + small["bytes"]["pictures_at_most"] < 85e9
    )  # masks and SAEs need room too
    assert {stream["training_steps"] for stream in small["streams"] if stream["trained"]} == {3125}
    shown = capsys.readouterr().out
    assert "what storing less would save" in shown
    assert "16 positions" in shown
    assert "24 positions" in shown  # as configured


def of(plan, *, store_training, held_out):
    """One of the plan's ways."""
    asked = (store_training, held_out)
    (way,) = (w for w in plan["ways"] if (w["store_training"], w["held_out"]) == asked)
    return way


def test_without_stored_training_pictures_one_epoch_makes_no_more_and_little_disk_is_left(
    paper, tmp_path, capsys
):
    online = planned(tmp_path, "paper_sd14_online")
    assert online["ways"] == paper["ways"]
    stored = of(online, store_training=True, held_out="updates")
    made = of(online, store_training=False, held_out="updates")
    coded = of(online, store_training=False, held_out="codes")
    assert stored["pictures"] == made["pictures"] == coded["pictures"] == 245_700
    assert stored["seconds"] == pytest.approx(made["seconds"])
    assert stored["bytes"] == paper["bytes"]["updates"] + paper["bytes"]["pictures_at_most"]
    # 45,700 of 245,700 pictures, and attention and PNG are of these alone.
    assert 0.21 < made["bytes"] / stored["bytes"] < 0.24
    parts = [online["bytes"][name] for name in ("updates", "codes", "pictures_at_most")]
    assert coded["bytes"] == sum(parts)
    # By hand: 45,500 pictures with (256 + 64 + 256) positions at 6 streams; a position takes a byte
    # for its count and 4 for each of 10 and 20 latents. Headers and padding add 830 bytes to every
    # picture of the 36 autoencoders.
    numbers = 45_500 * 6 * 576 * (2 + 4 * 30)
    assert parts[1] == pytest.approx(numbers + 45_500 * 36 * 830, rel=0.005)
    assert coded["bytes"] < 67e9 and parts[2] < 36e9
    # Attention to 21 tokens of the assumed caption (1.4 a word), of 5,500 pictures at 3 moments.
    attention = [one for one in online["streams"] if one["folder"].startswith("attention")]
    expected = sum(one["expected_bytes"] for one in attention)
    assert expected == pytest.approx(5_500 * 3 * 64 * 64 * 21 * 2, rel=0.02)
    assert expected < sum(one["bytes"] for one in attention) < 77 / 21 * expected
    assert online["bytes"]["expected"] == coded["expected_bytes"] < 59e9
    assert online["seconds"] == {
        "collect": pytest.approx(3.02 * 45_700),
        "encode": pytest.approx(45_500 * 6 * 576 * 2 / 14200),
        "make_in_training": pytest.approx(3.02 * 200_000),
        "train": paper["seconds"]["train"],
    }
    shown = capsys.readouterr().out
    assert "not kept; 200,000 are made while training" in shown
    assert "codes and PNG" in shown and "no linear probes" in shown
    assert "cheapest: made while training, codes of the others, with no more pictures" in shown


def test_every_further_epoch_makes_all_training_pictures_again_and_prices_decide(tmp_path, capsys):
    prices = ["plan.price_per_hour=2", "plan.price_per_tb_month=20"]
    small = planned(tmp_path, "paper_sd14_small", *prices)
    stored, made = (
        of(small, store_training=stores, held_out="updates") for stores in (True, False)
    )
    # 30,000 pictures of 24 vectors are 176 batches of 4096; 3,125 steps are in the 18th epoch, and
    # need three chunks of 64 batches, which are all of it.
    assert made["pictures"] - stored["pictures"] == 17 * 30_000
    hours = (stored["seconds"] / 3600, made["seconds"] / 3600)
    assert hours[1] - hours[0] == pytest.approx(17 * 30_000 * 3.02 / 3600)
    for way, count in zip((stored, made), hours, strict=True):
        assert way["price"] == pytest.approx(count * (2 + 20 * way["expected_bytes"] / 1e12 / 730))
    assert "cheapest: stored, codes of the others" in capsys.readouterr().out


def test_several_processes_divide_pictures_evenly_and_whole_streams(tmp_path, capsys):
    """Of the 12 streams of `down` and `up`, four processes of 8 have two. The 6 of `mid`, with a
    quarter of the work each, go to the other four.
    """
    prices = ["plan.price_per_hour=2", "plan.price_per_tb_month=20", "plan.processes=8"]
    plan = planned(
        tmp_path, "paper_sd14_online", *prices, "plan.encoded_per_second=50000",
        "plan.png_bytes_per_pixel=1.5",
    )  # fmt: skip
    way = of(plan, store_training=False, held_out="codes")
    one, eight = way["times"]
    large, small = 2 * 51.2e6 / 14200, 2 * 12.8e6 / 14200
    encoding = 45_500 * 6 * 576 * 2 / 50000
    assert one == {"processes": 1, "seconds": way["seconds"], "price": way["price"]}
    assert one["seconds"] == pytest.approx(3.02 * 245_700 + encoding + 12 * large + 6 * small)
    divided = (3.02 * 245_700 + encoding) / 8
    assert eight["seconds"] == pytest.approx(divided + 2 * large)
    disk = 20 * way["expected_bytes"] / 1e12 / 730
    assert eight["price"] == pytest.approx(eight["seconds"] / 3600 * (8 * 2 + disk))
    # 45,500 pictures of 512 x 512, with half of every pixel
    unpacked = plan["bytes"]["pictures_at_most"] - 45_500 * 512 * 512 * 1.5
    streams = sum(one["expected_bytes"] for one in plan["streams"])
    assert way["expected_bytes"] == pytest.approx(unpacked + streams)
    # Codes take .82 of the bound, and their tar what it took.
    codes = [one["expected_bytes"] - one["bytes"] for one in plan["streams"] if one["trained"]]
    assert 0.83 < sum(codes) / plan["bytes"]["codes"] < 0.86
    shown = capsys.readouterr().out
    assert "by 8" in shown and "pictures and encoding are divided evenly" in shown
    assert "1.50 bytes a PNG's pixel" in shown


def test_the_configuration_states_the_papers_settings():
    cfg = composed("experiment=paper_sd14", root="run")
    assert (cfg.model.steps, cfg.model.guidance, cfg.model.height, cfg.model.scheduler) == (
        50,
        7.5,
        512,
        "ddim",
    )
    assert dict(cfg.model.hookpoints) == {
        "down": "down_blocks.2.attentions.1",
        "mid": "mid_block.attentions.0",
        "up": "up_blocks.1.attentions.0",
    }
    assert (cfg.sae.d_sae, cfg.sae.lr, cfg.sae.k_aux, cfg.sae.aux_coefficient) == (
        5120,
        1e-4,
        256,
        1 / 32,
    )
    assert (cfg.activations.batch_size, list(cfg.grid.k)) == (4096, [10, 20])
    assert (cfg.dictionary.activation_threshold, cfg.dictionary.iou_threshold) == (0.1, 0.5)
    study = Study(cfg)
    assert len(study.grid) == 18
    steps = {cell.block: study.at(cell).cfg.trainer.steps for cell in study.grid}
    assert steps == {"down": 12500, "mid": 3125, "up": 12500}


@pytest.mark.parametrize(
    ("moment", "beta_spatial", "beta_global"),
    [("early", 4000, 10), ("middle", 400, 10), ("final", 1000, 8)],
)
def test_each_window_has_its_strengths(moment, beta_spatial, beta_global):
    options = ["experiment=paper_sd14", f"timestep={moment}"]
    spatial = composed(*options, "evaluation=spatial_paper", root="evaluate").evaluation
    assert spatial.paper_beta == beta_spatial
    assert spatial.forms.paper.strengths[-1] == beta_spatial
    assert list(spatial.regions) == ["top_left", "top_right", "bottom_left", "bottom_right"]
    everywhere = composed(*options, "evaluation=global_paper", root="evaluate").evaluation
    assert everywhere.paper_beta == beta_global
    assert everywhere.forms.paper.strengths[0] == beta_global
    assert everywhere.test_prompts == 1000
    assert {window_at(t) for t in (1.0, 0.5, 0.0)} == {(1.0, 0.6), (0.6, 0.2), (0.2, 0.0)}


def test_the_experiment_names_the_papers_annotators_and_its_distance():
    """Tags, boxes and masks name the latents; CLIPSeg and CLIP judge interventions (arXiv
    2504.15473, sections 4 and 6).
    """
    dictionary = composed("experiment=paper_sd14", root="annotate").annotator.objects
    assert dictionary._target_.endswith(".GroundedSam") and dictionary.tagger._target_.endswith(
        ".RamTagger"
    )
    judged = composed(
        "experiment=paper_sd14_interventions", "evaluation=global_paper", root="evaluate"
    )
    assert judged.name == "paper_sd14"
    assert judged.annotator.objects._target_.endswith(".ClipSeg")
    assert judged.annotator.objects.tagger._target_.endswith(".CaptionTagger")
    assert judged.evaluation.lpips == "alex"


def test_side_by_side_training_refuses_blocks_of_different_steps():
    options = ["experiment=paper_sd14", "embedding=minilm"]
    with pytest.raises(UserError, match=r"trainer.steps gives down 12500, mid 3125, up 12500"):
        grid_members(composed(*options, root="train_grid"))
    members = grid_members(composed(*options, "grid.blocks=[down,up]", root="train_grid"))
    assert len(members) == 2 * 3 * 2 * 2


def test_without_weights_captions_or_a_network_the_plain_command_is_enough(tmp_path, monkeypatch):
    cfg = composed("experiment=paper_sd14_small", f"paths.outputs={tmp_path}")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    stage.plan(cfg)
    assert (tmp_path / "paper_sd14_small" / "plan.json").exists()
