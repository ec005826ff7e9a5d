"""Every shipped option composes and builds or binds; a config reaches every part."""

import inspect
from itertools import zip_longest
from pathlib import Path

import pytest
from hydra.utils import get_class
from omegaconf import DictConfig, OmegaConf

from composing import compose
from diffusae.cli import STAGES, config_directory
from diffusae.collecting import collect
from diffusae.concepts import embeddings
from diffusae.concepts.florence import FlorenceTagger
from diffusae.concepts.grounding_dino import GroundingDino
from diffusae.concepts.image_text import ImageText
from diffusae.concepts.object_finders import ClipSeg, GroundedSam
from diffusae.concepts.picture_annotator import PictureAnnotator
from diffusae.concepts.picture_checks import NudeNetCheck, Q16Check
from diffusae.concepts.ram import RamTagger
from diffusae.concepts.sam import Sam
from diffusae.concepts.style_scores import StyleScorer
from diffusae.concepts.taggers import CaptionTagger, SimilarityTagger
from diffusae.errors import UserError
from diffusae.labelling import label
from diffusae.metrics import evaluate
from diffusae.metrics.schedule import chosen_metrics
from diffusae.miniature.annotator import MiniatureAnnotator
from diffusae.miniature.pictures import WorldPictures
from diffusae.miniature.prompts import WorldPrompts
from diffusae.miniature.settings import GateSettings, MiniatureSettings, TrainingSettings
from diffusae.pictures.folder import PictureFolder
from diffusae.pictures.tars import WebDatasetPictures
from diffusae.prompts.caption_source import FilePrompts
from diffusae.sae.sparsity import SPARSITIES
from diffusae.study.study import Study, build
from diffusae.training import cell

CONF = config_directory()
OPTIONS = sorted(
    (path.parent.name, path.stem)
    for path in CONF.glob("*/*.yaml")
    if path.parent.name not in ("experiment", "sweeps", "world", "denoiser")
    and not path.stem.startswith("_")
)
SUPPLIED = {"tokenizer", "text_encoder"}  # what a stage hands to a part


def composed(*overrides: str, stage: str = "run") -> DictConfig:
    return compose(stage, overrides)


def targets(node: DictConfig) -> list[DictConfig]:
    nodes = [node] if "_target_" in node else []
    for name in node:
        child = node._get_node(name)
        if isinstance(child, DictConfig):
            nodes += targets(child)
    return nodes


@pytest.mark.parametrize("stage", [stage for stage in STAGES if stage != "miniature"])
def test_every_stage_composes_and_passes_the_checks(stage):
    needed = {"import": "source=DIR", "push": "repo=owner/name", "pull": "repo=owner/name"}
    cfg = composed(*filter(None, [needed.get(stage)]), stage=stage)
    assert cfg.stage == stage
    Study(cfg).check()


@pytest.mark.parametrize("world", sorted(path.stem for path in CONF.glob("world/*.yaml")))
@pytest.mark.parametrize("denoiser", sorted(path.stem for path in CONF.glob("denoiser/*.yaml")))
def test_the_miniature_stage_fills_the_settings_of_its_parts(world, denoiser):
    cfg = composed(f"world={world}", f"denoiser={denoiser}", stage="miniature")
    assert TrainingSettings.of(cfg).denoiser == denoiser
    shared = {"unet": None, "dit": f"outputs/{world}/seed0"}
    assert cfg.training.parts_from == shared[denoiser]
    assert MiniatureSettings.of(cfg).part == "all"
    assert cfg.folder == f"{cfg.directory}/folder"  # and not the shipped weights in the package
    assert cfg.directory.startswith("outputs/")
    assert vars(TrainingSettings.of(cfg)).keys() == cfg.training.keys()
    assert vars(GateSettings.of(cfg)).keys() == cfg.gate.keys()


def rounds() -> list[list[str]]:
    """Every option once, with options of other groups: as few compositions as possible."""
    groups: dict[str, list[str]] = {}
    for group, option in OPTIONS:
        # A check is a part of the benchmark that uses it.
        name = {"check": "check@evaluation.check"}.get(group, group)
        groups.setdefault(name, []).append(f"{name}={option}")
    checks = [["evaluation=erasure", check] for check in groups.pop("check@evaluation.check")]
    return [
        [option for option in chosen if option] for chosen in zip_longest(*groups.values())
    ] + checks


@pytest.mark.parametrize("chosen", rounds(), ids=" ".join)
def test_every_option_composes_and_its_target_binds(chosen):
    steered = any(option.startswith("intervention=") for option in chosen)
    cfg = composed(*chosen, stage="steer" if steered else "run")
    for node in targets(cfg):
        target = node["_target_"]
        assert target.startswith("diffusae.")
        values = {str(name): None for name in node if name != "_target_"}
        supplied: dict[str, None] = dict.fromkeys(
            SUPPLIED & inspect.signature(get_class(target)).parameters.keys()
        )
        inspect.signature(get_class(target)).bind(**values, **supplied)


@pytest.mark.parametrize("path", sorted(CONF.glob("experiment/*.yaml")), ids=lambda p: p.stem)
def test_every_experiment_composes_and_passes_the_checks(path: Path):
    cfg = composed(f"experiment={path.stem}")
    assert path.stem.startswith(cfg.name)  # one that extends another may go on in its directory
    Study(cfg).check()


def test_an_experiment_has_the_last_word_over_a_stages_root():
    assert list(composed("experiment=miniature", stage="run").metrics_at.spatial) == [
        "down-t1.00-cond"
    ]
    assert not composed(stage="run").metrics_at


def test_the_full_study_names_only_cells_and_settings_that_exist():
    cfg = composed("experiment=miniature_full", stage="run")
    chosen = chosen_metrics(Study(cfg))
    assert len(chosen) == 88
    for metric, settings in cfg.metric_settings.items():
        option = composed(
            "experiment=miniature_full", f"evaluation={metric}", stage="run"
        ).evaluation
        assert set(settings) <= set(option)


@pytest.mark.parametrize("path", sorted(CONF.glob("sweeps/*.yaml")), ids=lambda p: p.stem)
def test_every_sweep_names_its_question_and_its_command(path: Path):
    text = path.read_text()
    assert "# Question:" in text
    assert "# Hypothesis" in text
    assert f"-m +sweeps={path.stem}" in text
    assert isinstance(composed(f"+sweeps={path.stem}", stage="train"), DictConfig)


@pytest.mark.parametrize("stage", [collect, cell, label, evaluate])
def test_summaries_over_t_are_no_part_of_a_cells_signature(stage):
    changed = ["emergence.share=0.5", "emergence.moments=7", "three_stages.margin=0.5"]
    assert stage._determines(Study(composed())) == stage._determines(Study(composed(*changed)))


def test_the_study_of_emergence_has_eleven_moments_from_the_first_to_the_last():
    cfg = composed("experiment=miniature_emergence")
    assert list(cfg.grid.timesteps) == [round(1 - i / 10, 1) for i in range(11)]


def test_no_part_is_out_of_reach_of_the_configs():
    named = {
        node["_target_"].rpartition(".")[2]
        for path in CONF.glob("*/*.yaml")
        for node in targets(OmegaConf.load(path))  # type: ignore[arg-type]
    }
    parts = {
        name
        for name, kind in vars(embeddings).items()
        if inspect.isclass(kind)
        and hasattr(kind, "embed")
        and not getattr(kind, "_is_protocol", False)
    }
    kinds = [WorldPrompts, FilePrompts, MiniatureAnnotator, *SPARSITIES.values()]
    kinds += [WorldPictures, PictureFolder, WebDatasetPictures, StyleScorer, ImageText]
    kinds += [CaptionTagger, SimilarityTagger, FlorenceTagger, RamTagger, NudeNetCheck, Q16Check]
    kinds += [PictureAnnotator, GroundedSam, GroundingDino, Sam, ClipSeg]
    parts |= {kind.__name__ for kind in kinds}
    assert parts == named


def test_a_config_cannot_build_what_is_not_ours():
    with pytest.raises(UserError, match="refused"):
        build(OmegaConf.create({"_target_": "os.system", "command": "true"}))


def test_a_config_cannot_build_what_is_not_ours_inside_what_is():
    target = "+annotator.objects.detector.x._target_=os.system"
    cfg = composed("annotator=grounded_sam", target)
    with pytest.raises(UserError, match=r"os\.system.*refused"):
        build(cfg.annotator)


@pytest.mark.parametrize("tagger", ["caption", "clip", "siglip", "florence2", "ram"])
@pytest.mark.parametrize("annotator", ["grounded_sam", "clipseg"])
def test_every_annotator_is_built_with_every_tagger_before_any_model_is_looked_for(
    annotator, tagger
):
    overrides = [f"annotator={annotator}", f"tagger={tagger}"]
    if tagger == "ram":
        overrides += ["tagger.weights=ram.safetensors"]
    made = build(composed(*overrides).annotator)
    assert isinstance(made, PictureAnnotator)
    assert isinstance(made.objects, GroundedSam | ClipSeg)
    names = {"clip": "similarity", "siglip": "similarity", "florence2": "florence"}
    assert type(made.objects.tagger).__name__.lower().startswith(names.get(tagger, tagger))
    assert made.labels.label_of("puppies") == "dog"
    assert made.factors["style"][0] == "photograph"


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["sae.k=900"], "k=900 exceeds d_sae=512; lower sae.k"),
        (["sae.k=0"], r"sae.k=0 must be a whole number from 1"),
        (["sae=matryoshka", "sae.sparsity.prefixes=[64,512]"], "must stay below d_sae=512"),
        (["sae=relu", "sae.l1=-1"], "l1=-1 must not be below 0"),
        (["sae.k=many"], r"sae.k=many must be a whole number"),
        (
            ["sae.input_scaling=std"],
            r"unknown sae.input_scaling 'std'; known: mean_norm, none, standardise",
        ),
        (
            ["sae.initial_bias=median"],
            r"unknown sae.initial_bias 'median'; known: geometric_median, mean, zero",
        ),
        (["sae.decoder_norm=1"], r"unknown sae.decoder_norm '1'; known: free, unit"),
        (["sae.lr=-1"], r"sae.lr=-1 must be a number from"),
        (["sae.ema=1"], r"sae.ema=1 must be a number from 0 to 1, or null"),
        (["sae.gradient_clip=0"], r"sae.gradient_clip=0 must be a number from .*, or null"),
        (
            ["sae.adam_betas=[0.9,1]"],
            r"sae.adam_betas=\[0.9, 1\] must be two numbers from 0 to below 1",
        ),
        (["sae.dead_after_vectors=0"], r"sae.dead_after_vectors=0 must be a whole number from 1"),
        (
            ["trainer.steps=100"],
            r"sae.warmup_steps=50 \+ sae.decay_steps=100 exceed trainer.steps=100; lower them",
        ),
        (
            ["grid.blocks=[mid,side]"],
            r"unknown block of model miniature: 'side'; known: down, down_inner, mid, up",
        ),
        (["timestep.t=1.5"], r"timestep.t=1.5 must be a number from 0 to 1"),
        (["grid.timesteps=[0.5,0.499]"], "fall on one of 15 steps"),
        (["model.guidance=1.0"], "needs classifier-free guidance"),
        (["emergence.share=1.5"], r"emergence.share=1.5 must be a number from"),
        (["emergence.moments=1"], r"emergence.moments=1 must be a whole number from 2"),
        (["three_stages.margin=0"], r"three_stages.margin=0 must be a number from"),
        (
            ["model=flux_dev"],
            (
                r"uncond needs .* flux_dev runs without: .* at most an input of the model.*"
                r" model.true_guidance above 1"
            ),
        ),
        (["model=sdxl_turbo"], r"uncond needs .* model.guidance=0.0 has none"),
        (["model.guidance_layout=none"], r"uncond needs .* which miniature does not have"),
        (["model=custom", "model.source=x"], r"give model.hookpoints.mid a path or a place"),
        (["model.dtype=float64"], r"'float64'; known: bfloat16, float16, float32"),
        (["model.compile=perhaps"], r"model.compile=perhaps must be true or false"),
        (
            ["model=sd3", "model.text_tokens=600"],
            r"text_tokens=600 must be a whole number from 1 to 512, or null",
        ),
        (["prompts.counts.train=-1"], "must be a whole number from 0"),
    ],
)
def test_what_cannot_work_is_refused_before_anything_loads(overrides, message):
    study = Study(composed(*overrides))

    def ask() -> None:
        study.check()
        study.prompts  # noqa: B018  (a property that validates)

    with pytest.raises(UserError, match=message):
        ask()


@pytest.mark.parametrize("model", ["sd14", "sd15", "sd21", "sdxl", "sd3", "pixart_alpha"])
def test_a_guided_model_takes_the_default_grid_as_it_is(model):
    study = Study(composed(f"model={model}"))
    study.check()
    assert study.branches == ("uncond", "cond")


@pytest.mark.parametrize(
    "overrides",
    [
        ["model=flux_dev", "model.true_guidance=2.0"],
        ["model=flux_schnell", "conditioning=cond", "grid.conditionings=[cond]"],
        ["model=sdxl_turbo", "conditioning=cond", "grid.conditionings=[cond]"],
    ],
)
def test_a_distilled_model_is_studied_without_uncond_or_with_a_pass_of_its_own(overrides):
    study = Study(composed(*overrides))
    study.check()
    assert len(study.branches) == (2 if "model.true_guidance=2.0" in overrides else 1)


def test_a_description_of_a_model_is_no_part_of_a_signature():
    """Nor is an option that is off: studies finished before it existed stay finished."""
    determines = Study(composed()).model_determines()
    of_model = {"name", "source", "revision", "dtype", "hookpoints", "scheduler"}
    of_call = {"steps", "guidance", "height", "width", "batch_size"}
    assert set(determines) == of_model | of_call
    assert Study(composed("model.compile=true")).model_determines()["compile"] is True


def test_all_faults_are_reported_together():
    with pytest.raises(UserError) as raised:
        Study(composed("sae.k=900", "model.steps=0", "grid.blocks=[side]")).check()
    for part in ("3 faults", "k=900", "model.steps=0", "'side'"):
        assert part in str(raised.value)


def test_captions_of_a_file_become_a_studys_prompts_with_splits_by_hash(tmp_path):
    path = tmp_path / "captions.jsonl"
    path.write_text("".join(f'{{"alt": "caption {n}", "score": {n % 7}}}\n' for n in range(400)))
    overrides = [
        "prompts=file",
        f"prompts.path={path}",
        "prompts.column=alt",
        'prompts.where=["score >= 3"]',
        "prompts.split=hash",
        "prompts.counts.train=null",
        "prompts.counts.test=4",
    ]
    prompts = Study(composed(*overrides)).prompts
    assert all(int(prompt.text.split()[1]) % 7 >= 3 for prompt in prompts)
    assert [prompt.split for prompt in prompts].count("test") == 4
    assert (prompts[0].split, prompts[0].where.split(",")[0]) == ("train", "captions.jsonl")
    assert [prompt.seed for prompt in prompts] == list(range(len(prompts)))
