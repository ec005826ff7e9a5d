"""Faithfulness at one cell: pictures made again with the reconstruction, the mean or nothing in the
update's place. A transcoder stands in the place of its target, such as an MLP's output.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import lru_cache, partial
from itertools import islice
from typing import Annotated, Any

import numpy as np
import torch
from torch import Tensor

from diffusae.activations.manifest import Manifest
from diffusae.activations.reader import load_updates, read_images, require_sound
from diffusae.activations.schema import IMAGES
from diffusae.backbone.families.table import adapter_of
from diffusae.backbone.hookpoints import execution_device
from diffusae.backbone.latents import encode_pictures
from diffusae.backbone.schedule import step_index, t_of
from diffusae.backbone.settings import ModelSettings
from diffusae.capture.conditions import conditions
from diffusae.capture.generate import first_latents, generate
from diffusae.capture.replay import Outputs, recorded_outputs, replayed_outputs
from diffusae.errors import UserError
from diffusae.evaluation.faithfulness_gate import (
    CONTROL,
    MEAN,
    OWN,
    EditOutcome,
    Gate,
    faithfulness_results,
)
from diffusae.evaluation.metric_settings import Count, MetricSettings
from diffusae.evaluation.result import Result
from diffusae.interventions.denoising import denoising_errors
from diffusae.interventions.edits import Edit, Reconstruct, ReplaceBy, Transcode
from diffusae.interventions.steer import steer
from diffusae.metrics.metric import Embedding, Metric
from diffusae.sae.storage import load_sae
from diffusae.settings import Within
from diffusae.study.model import load_model, sampling, scheduler_timestep
from diffusae.study.pictures_at_once import pictures_at_once
from diffusae.study.streams import stream_of, target_block, target_stream_of
from diffusae.study.study import Study, build


@dataclass(frozen=True, kw_only=True)
class FaithfulnessSettings(MetricSettings):
    """`conf/evaluation/faithfulness.yaml`."""

    pictures: Count
    """Of the test split, generated again with each edit."""
    denoising_pictures: Count
    """Of the test split, noised to the cell's timestep and denoised in one pass."""
    half_width: Annotated[float, Within(0, 1)]
    """The update is replaced at every step within this distance of the cell's t."""
    gate: Gate
    n_halves: Count
    """Random halves of the unedited pictures."""
    n_resamples: Count


def faithfulness_rows(
    study: Study, settings: FaithfulnessSettings, _embedding: Embedding
) -> list[Result]:
    """Rows of the cell. The mean update of the split `dictionary`, or of `validation` where only
    codes of that one are stored, stands beside the reconstruction, position by position.
    """
    manifest = Manifest.load(study.activations)
    averaged = "validation" if study.held_out.coded else "dictionary"
    written = target_stream_of(study, manifest) or stream_of(study, manifest)
    require_sound(study.activations, manifest, streams=[written.folder])
    root = study.held_out.activations
    require_sound(root, Manifest.load(root), streams=[IMAGES])
    made = reference(_request(study, settings.pictures))
    edits = _edits(study, manifest, made.pipe, settings.half_width, averaged)
    denoising = _denoising_inputs(study, made.pipe, settings.denoising_pictures)
    annotator = build(study.cfg.annotator, "annotator")

    def outcome(edits: Sequence[Edit] = ()) -> EditOutcome:
        pictures = made.again(edits) if edits else made.pictures
        nouns = [
            set(annotation.masks)
            for annotation in annotator.annotate(pictures, list(made.request.prompts))
        ]
        return EditOutcome(_errors(made.pipe, edits, denoising), pictures, nouns)

    return faithfulness_results(
        outcome(),
        {name: outcome(one) for name, one in edits.items()},
        gate=settings.gate,
        cell=study.cell.coordinates(),
        details={
            "half_width": settings.half_width,
            "n_pictures": len(made.pictures),
            **({} if averaged == "dictionary" else {"mean_update_of": averaged}),
            **({"target": written.block} if target_block(study) else {}),
        },
        n_halves=settings.n_halves,
        n_resamples=settings.n_resamples,
        seed=study.seed,
    )


@dataclass(frozen=True)
class Request:
    """What decides the unedited pictures."""

    model: ModelSettings
    prompts: tuple[str, ...]
    seeds: tuple[int, ...]

    def __hash__(self) -> int:
        return hash((self.prompts, self.seeds))

    def batches(self, pipe: Any) -> list[slice]:
        """The pictures in batches."""
        size = pictures_at_once(self.model, pipe)
        return [slice(i, i + size) for i in range(0, len(self.prompts), size)]

    def generate(self, pipe: Any, batch: slice) -> np.ndarray:
        """One batch of pictures."""
        made = generate(pipe, self.prompts[batch], self.seeds[batch], **sampling(self.model))
        assert made.images is not None
        return made.images


@dataclass(frozen=True)
class Reference:
    """The pipeline, its unedited pictures, and what its denoiser returned for each batch of
    them.
    """

    request: Request
    pipe: Any
    pictures: np.ndarray
    outputs: Sequence[Outputs]

    def again(self, edits: Sequence[Edit]) -> np.ndarray:
        """The same pictures under edits of one window. The steps before it are replayed."""
        parts = []
        for batch, outputs in zip(self.request.batches(self.pipe), self.outputs, strict=True):
            before = [
                timestep
                for index, timestep in enumerate(outputs)
                if t_of(index, self.request.model.steps) > edits[0].window[0]
            ]
            with ExitStack() as stack:
                stack.enter_context(replayed_outputs(self.pipe, outputs, before))
                stack.enter_context(steer(self.pipe, edits))
                parts.append(self.request.generate(self.pipe, batch))
        return np.concatenate(parts)


@lru_cache(maxsize=1)
def reference(request: Request) -> Reference:
    """Made once for all cells of a study that one process evaluates."""
    pipe = load_model(request.model)
    pictures, recorded = [], []
    for batch in request.batches(pipe):
        with recorded_outputs(pipe) as outputs:
            pictures.append(request.generate(pipe, batch))
        recorded.append(outputs)
    return Reference(request, pipe, np.concatenate(pictures), recorded)


def _request(study: Study, n: int) -> Request:
    prompts = [prompt for prompt in study.prompts if prompt.split == "test"][:n]
    if not prompts:
        raise UserError("the split test has no prompts; raise prompts.counts.test")
    return Request(
        ModelSettings.of(study.cfg),
        prompts=tuple(prompt.text for prompt in prompts),
        seeds=tuple(prompt.seed for prompt in prompts),
    )


def _edits(
    study: Study, manifest: Manifest, pipe: Any, half_width: float, averaged: str
) -> dict[str, list[Edit]]:
    """What takes the place of the cell's stream, or of its transcoder's target."""
    stream, target = stream_of(study, manifest), target_stream_of(study, manifest)
    written = target or stream
    sae = load_sae(study.sae)[0].to(execution_device(pipe))
    _, stored = load_updates(study.activations, manifest, written, averaged)
    steps = study.cfg.model.steps
    t = t_of(step_index(study.cell.t, steps), steps)
    kind = Reconstruct if target is None else Transcode
    changes = {
        OWN: kind(sae),
        MEAN: ReplaceBy(torch.from_numpy(stored).float().mean(dim=0)),
        CONTROL: kind(sae, with_error=True),
    }
    window = (min(t + half_width, 1.0), max(t - half_width, 0.0))
    edit = partial(Edit, window=window, conditionings=(study.cell.conditioning,))
    edits = {name: [edit(written.hookpoint, change)] for name, change in changes.items()}
    for name, change in changes.items():
        if isinstance(change, Transcode):
            edits[name].insert(0, edit(stream.hookpoint, change.watch, watches=True))
    return edits


@torch.no_grad()
def _denoising_inputs(study: Study, pipe: Any, n: int) -> dict[str, Any]:
    """Latents of test pictures, noise of their own seeds, the cell's timestep, and the branch's
    conditions by batch.
    """
    root = study.held_out.activations
    rows = list(islice(read_images(root, Manifest.load(root), "test"), n))
    model, adapter = ModelSettings.of(study.cfg), adapter_of(pipe)
    batch, device = pictures_at_once(model, pipe), execution_device(pipe)
    pictures = torch.from_numpy(np.stack([picture for _, picture, _ in rows]))
    latents = encode_pictures(pipe, pictures, batch_size=batch)
    generators = [torch.Generator().manual_seed(meta["seed"]) for *_, meta in rows]
    _, channels, height, width = latents.shape
    asked = sampling(model)
    asked.pop("steps")
    texts = [meta["prompt"] for *_, meta in rows]
    noise = first_latents(generators, channels=channels, height=height, width=width)
    return {
        "latents": latents.to(device).split(batch),
        "noise": noise.to(device).split(batch),
        "conditions": [
            conditions(pipe, texts[i : i + batch], study.cell.conditioning, **asked)
            for i in range(0, len(texts), batch)
        ],
        "timestep": scheduler_timestep(pipe, adapter, model, study.cell.t),
    }


def _errors(pipe: Any, edits: Sequence[Edit], inputs: dict[str, Any]) -> Tensor:
    names = ("latents", "noise", "conditions")
    batches = zip(*(inputs[name] for name in names), strict=True)
    parts = [dict(zip(names, batch, strict=True)) for batch in batches]
    watching, edit = (edits[:-1], edits[-1]) if edits else ((), None)
    return torch.cat(
        [
            denoising_errors(pipe, edit, watching=watching, timestep=inputs["timestep"], **part)
            for part in parts
        ]
    ).cpu()


METRIC = Metric(
    name="faithfulness",
    title="What becomes of the picture when the reconstruction takes the update's place?",
    section="quality",
    chart={
        "loss_recovered": "Faithfulness: loss recovered",
        "picture_ssim": "Faithfulness: SSIM with the unedited picture",
        "usable": "Faithfulness: gate passed",
    }.get,
    claims={"content_kept": "Pictures keep their content under the autoencoder's reconstruction"},
    settings=FaithfulnessSettings,
    rows=faithfulness_rows,
    made_from=("train", "annotate"),
    needs="captions",
    judges=True,
)
