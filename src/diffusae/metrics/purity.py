"""Purity at one cell: the codes of labelled pictures against their true classes, and a gallery of
the purest latents.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, zip_longest
from typing import Annotated

import numpy as np
import pandas as pd
import torch

from diffusae.activations.manifest import Manifest
from diffusae.activations.reader import read_images
from diffusae.concepts.gallery import gallery_of
from diffusae.concepts.montage import montage
from diffusae.concepts.taggers import Tagger
from diffusae.concepts.words import Vocabulary
from diffusae.evaluation.metric_settings import Count, MetricSettings
from diffusae.evaluation.purity import (
    ENTROPY,
    Labels,
    PurityJudging,
    TopPictures,
    class_counts,
    label_entropies,
    majority_labels,
    majority_tag,
    purity_rows,
    sigma_label,
    top_pictures,
)
from diffusae.evaluation.result import Result
from diffusae.labelling.class_labels import (
    ClassifiedSplit,
    Tasks,
    caption_of,
    class_tasks,
    classified_split,
)
from diffusae.labelling.codes import pooled_codes
from diffusae.metrics.metric import Embedding, Metric, Panel
from diffusae.report.purest import TABLE, load_purest, shared_labels
from diffusae.report.tables import capital, plain
from diffusae.sae.storage import load_sae
from diffusae.settings import Within
from diffusae.study.streams import stream_of
from diffusae.study.study import Study, build
from diffusae.table_files import write_table


@dataclass(frozen=True, kw_only=True)
class PuritySettings(PurityJudging, MetricSettings):
    """`conf/evaluation/purity.yaml`."""

    split: str
    """Of the pictures."""
    tasks: tuple[str, ...] | None
    """Of the collection's labels; None: all."""
    gallery_latents: Annotated[int, Within(0, 10**7)]
    """Shown for each task."""
    gallery_pictures: Annotated[int, Within(0, 10**7)]
    name_by_tagger: bool
    vocabulary: str | None
    """Of the tagger, a file; None: the class names."""
    n_resamples: Count


def purity_results(study: Study, settings: PuritySettings, _embedding: Embedding) -> list[Result]:
    """Two rows for each task. Beside them latents.parquet, with a row for each judged latent, and
    the gallery of the purest.
    """
    manifest = Manifest.load(study.activations)
    tasks, stream = class_tasks(manifest, settings.tasks), stream_of(study, manifest)
    split = classified_split(study.activations, manifest, stream, settings.split, tasks)
    sae, _ = load_sae(study.sae)
    strengths = pooled_codes(sae, split.updates)
    labels = {task: Labels(split.classes[task], names) for task, names in tasks.items()}
    overall = top_pictures(strengths, np.arange(len(strengths)), settings)
    table = _table(strengths, split, labels, overall, settings)
    if settings.name_by_tagger:
        table["name"], table["name_share"] = _tagged(
            study, settings, manifest, tasks, split, overall
        )
    shown = _purest(table, list(tasks), settings.gallery_latents)
    top = dict(zip(table["latent"], table["top_images"], strict=True))
    rows = {image_id: row for row, image_id in enumerate(split.image_ids)}

    def codes_of(image_id: str) -> tuple[torch.Tensor, torch.Tensor]:
        codes = sae.encode(torch.from_numpy(split.updates[rows[image_id]]).float())
        return codes.values.detach(), codes.indices

    gallery = gallery_of(
        shown,
        [list(top[latent])[: settings.gallery_pictures] for latent in shown],
        codes_of,
        stream.grid,
    )
    directory = study.evaluation("purity")
    gallery.save(directory)
    write_table(directory / TABLE, table)
    return purity_rows(
        strengths,
        labels,
        judging=settings,
        cell=study.cell.coordinates(),
        n_resamples=settings.n_resamples,
        seed=study.seed,
    )


def _table(
    strengths: np.ndarray,
    split: ClassifiedSplit,
    labels: Mapping[str, Labels],
    overall: TopPictures,
    judging: PurityJudging,
) -> pd.DataFrame:
    """One row a judged latent, the strongest first. `top_images` are of all pictures; what follows
    a task's name is of its labelled pictures: entropy (bits), sigma, the most frequent label and
    its share; NaN where it is active in too few.
    """
    table = pd.DataFrame(
        {
            "latent": overall.latents,
            "mean_activation": strengths[:, overall.latents].mean(axis=0),
            "picture_share": (strengths[:, overall.latents] > 0).mean(axis=0),
            "top_images": [[split.image_ids[row] for row in rows] for rows in overall.pictures],
        }
    )
    for task, of_task in labels.items():
        top = top_pictures(strengths, of_task.pictures, judging)
        counts = class_counts(of_task.classes[top.pictures], len(of_task.names))
        names, shares = majority_labels(top, of_task)
        figures = pd.DataFrame(
            {
                "latent": top.latents,
                f"{task}_entropy": label_entropies(counts),
                f"{task}_sigma": sigma_label(counts),
                f"{task}_label": names,
                f"{task}_share": shares,
            }
        )
        table = table.merge(figures, on="latent", how="left")
    return table


def _purest(table: pd.DataFrame, tasks: Sequence[str], a_task: int) -> list[int]:
    """The purest latents of every task (of equal ones the strongest), the tasks in turn, each
    latent once.
    """
    best = [
        table.sort_values(f"{task}_share", ascending=False, kind="stable")["latent"][
            :a_task
        ].tolist()
        for task in tasks
    ]
    mixed = chain.from_iterable(zip_longest(*best))
    return list(dict.fromkeys(int(latent) for latent in mixed if latent is not None))


def _tagged(
    study: Study,
    settings: PuritySettings,
    manifest: Manifest,
    tasks: Tasks,
    split: ClassifiedSplit,
    top: TopPictures,
) -> tuple[list[str | None], list[float]]:
    """What the tagger calls most of each latent's top pictures, and the share of them that it calls
    so.
    """
    if settings.vocabulary is None:
        vocabulary = Vocabulary.of(
            list(dict.fromkeys(name for names in tasks.values() for name in names))
        )
    else:
        vocabulary = Vocabulary.read(settings.vocabulary)
    tagger: Tagger = build(study.cfg.tagger, "tagger")
    wanted = {split.image_ids[row] for row in np.unique(top.pictures)}
    tags: dict[str, list[str]] = {}
    for image_id, picture, meta in read_images(study.activations, manifest, settings.split):
        if image_id in wanted:
            captions = [caption_of(meta)] if tagger.reads_captions else None
            tags[image_id] = tagger.tag(picture[None], vocabulary, captions)[0]
    named = [majority_tag([tags[split.image_ids[row]] for row in rows]) for rows in top.pictures]
    return [tag and tag[0] for tag in named], [np.nan if tag is None else tag[1] for tag in named]


def _chart(row: str) -> str | None:
    task = row.removeprefix(f"{ENTROPY}_")
    return f"{capital(plain(task))} of a latent's top pictures: bits" if task != row else None


def _panel(study: Study, settings: PuritySettings) -> list[tuple[str, np.ndarray]]:
    """The gallery as `WandbMirror.panel` takes it."""
    manifest = Manifest.load(study.activations)
    tasks = list(class_tasks(manifest, settings.tasks))
    gallery, table = load_purest(study.evaluation("purity"))
    wanted = {image_id for ids in gallery.image_ids for image_id in ids}
    images = {
        image_id: picture
        for image_id, picture, _ in read_images(study.activations, manifest, settings.split)
        if image_id in wanted
    }
    pictures = []
    for latent, image_ids, maps in zip(
        gallery.latents, gallery.image_ids, gallery.maps, strict=True
    ):
        labels = ", ".join(
            f"{name} {share:.0%}" for name, share in shared_labels(table, latent, tasks)
        )
        drawn = montage(
            [(images[i], heat.numpy()) for i, heat in zip(image_ids, maps, strict=True)]
        )
        pictures.append((f"latent {latent}: {labels}", drawn))
    return pictures


METRIC = Metric(
    name="purity",
    title="Do a latent's top pictures share a class?",
    section="knowledge",
    chart=_chart,
    settings=PuritySettings,
    rows=purity_results,
    needs="labels",
    parts=lambda settings: ("tagger",) if settings.name_by_tagger else (),
    panel=Panel("purity", _panel),
)
