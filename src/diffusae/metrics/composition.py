"""Composition at one cell: thresholds from the tuning split, figures and baselines from the test
split.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from safetensors.torch import save_file
from torch import Tensor

from diffusae.activations.manifest import Manifest
from diffusae.activations.reader import Sample, read_updates
from diffusae.activations.schema import ATTENTION, CONCEPTS, Stream, stream_folder
from diffusae.concepts.annotations import Annotations
from diffusae.concepts.dictionary import ConceptDictionary
from diffusae.concepts.embeddings import embed_labels
from diffusae.concepts.words import Vocabulary, normal_words
from diffusae.devices import default_device
from diffusae.evaluation import composition_baselines as baselines
from diffusae.evaluation.composition import (
    ConceptSpace,
    Picture,
    Scale,
    Split,
    Weighting,
    build_split,
    evaluate,
    predict_scores,
    settings_grid,
    tune,
)
from diffusae.evaluation.linear_probe import linear_probes
from diffusae.evaluation.metric_settings import Count, MetricSettings
from diffusae.evaluation.result import Estimate, Resampling, Result
from diffusae.files import atomic_path
from diffusae.labelling.codes import CodeSource, code_source, coded_split
from diffusae.metrics.metric import Embedding, Metric
from diffusae.sae.storage import load_sae
from diffusae.study.study import Study, build
from diffusae.table_files import write_table

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Tried:
    """The values of the open choices, all combinations of which are tried on the tuning split
    (`evaluation.composition.Settings` says what they mean).
    """

    top_n: tuple[int, ...]
    weighting: tuple[Weighting, ...]
    centred: tuple[bool, ...]
    scale: tuple[Scale, ...]


@dataclass(frozen=True, kw_only=True)
class CompositionSettings(MetricSettings):
    """`conf/evaluation/composition.yaml`."""

    settings: Tried
    n_resamples: Count


def concept_space(
    dictionary: ConceptDictionary, nouns: Sequence[str], vectors: Float[Tensor, "nouns d"]
) -> ConceptSpace:
    """The concepts of a dictionary, and the nouns that they are compared with."""
    return ConceptSpace(
        d_sae=dictionary.facts["d_sae"],
        latents=dictionary.embedded_latents,
        embeddings=dictionary.embeddings,
        nouns=dict(zip(nouns, vectors, strict=True)),
        centre=vectors.mean(dim=0),
    )


def composition_rows(
    study: Study, settings: CompositionSettings, embedding: Embedding
) -> list[Result]:
    """One row: mean IoU of predicted composition. Scores and objects are kept beside it for the
    report.
    """
    vocabulary = build(study.cfg.annotator, "annotator").labels
    known, vectors = embed_labels(embedding(), vocabulary)
    source = code_source(study, load_sae(study.sae)[0])
    dictionary = ConceptDictionary.load(study.concepts)
    space = concept_space(dictionary, known, vectors).to(default_device())
    annotations = Annotations.load(study.annotations)
    nouns_by_split = {"dictionary": None, "tune": vocabulary, "test": vocabulary}
    fitting, tuned_on, tested = (
        _split(study, source, annotations, known, split, named)
        for split, named in nouns_by_split.items()
    )
    tuning, test = tuned_on[1], tested[1]
    tuned = tune(tuning, space, settings_grid(**vars(settings.settings)))
    resampling: Resampling = {"n_resamples": settings.n_resamples, "seed": study.seed}
    scores = predict_scores(test, space, tuned.settings)
    second = [
        annotations.second[i].get(noun) for i, noun in zip(test.groups, test.nouns, strict=True)
    ]
    # What else is known object by object is kept: for curves over t, and for claims.
    guesses = {
        "chance": baselines.chance_iou(test, seed=study.seed),
        "centre_prior": baselines.centre_prior_iou(tuning, test),
        "other_picture": baselines.other_picture_iou(
            scores, test, threshold=tuned.threshold.value, seed=study.seed
        ),
    }
    by_object = {
        **_own_maps(study.held_out, vocabulary, tuning, test),
        **_probes(fitting, tuned_on, tested),
    }

    def mean(name: str) -> Estimate:
        return baselines.mean_of_known((guesses | by_object)[name], test.groups, **resampling)

    beside: dict[str, Estimate] = {
        "chance": mean("chance"),
        "centre_prior": mean("centre_prior"),
        "centre_disc": baselines.centre_disc(tuning, test, **resampling),
        "other_picture": mean("other_picture"),
        **{name: mean(name) for name in by_object},
        "annotator_ceiling": baselines.annotator_ceiling(
            test, [None if mask is None else torch.as_tensor(mask) for mask in second], **resampling
        ),
    }
    result, rows = evaluate(
        test, space, tuned, cell=study.cell.coordinates(), baselines=beside, **resampling
    )
    objects = dictionary.gained(vocabulary)
    result.details["n_object_labels"] = objects
    result.details["n_other_labels"] = dictionary.gained() - objects
    directory = study.evaluation("composition")
    with atomic_path(directory / "scores.safetensors") as temporary:
        save_file({"scores": scores.half().cpu().contiguous()}, temporary)
    table = pd.DataFrame(rows, columns=["image_id", "noun", "iou"])
    # DAAM's maps are of no moment, so they have no curve over t.
    kept = {name: iou for name, iou in (by_object | guesses).items() if name != "daam"}
    columns = {name: iou.numpy() for name, iou in kept.items()}
    write_table(directory / "objects.parquet", table.assign(**columns))
    return [result]


def nouns_in(text: str, vocabulary: tuple[str, ...]) -> list[str]:
    """The labels that a caption names; plurals, synonyms and labels of several words: see
    `concepts/words.py`.
    """
    return Vocabulary.of(vocabulary).labels_in(text)


def _split(
    study: Study,
    source: CodeSource,
    annotations: Annotations,
    known: list[str],
    split: str,
    named: tuple[str, ...] | None,
) -> tuple[Tensor | None, Split]:
    """Updates [n, P, d_in], where they are stored, and objects of a split: those of the nouns of
    `named` that the caption names; None: all that the annotator found. Objects are on the GPU where
    there is one.
    """
    coded = coded_split(study, source, split, keep_updates=True)
    rows = zip(coded.image_ids, coded.prompts, coded.values, coded.indices, strict=True)
    pictures = [
        Picture(
            image_id,
            values,
            indices,
            known if named is None else nouns_in(text, named),
            annotations.masks[image_id],
        )
        for image_id, text, values, indices in rows
    ]
    split_of = build_split(pictures, grid=source.grid, known_nouns=known).to(default_device())
    return coded.updates, split_of


def _probes(*splits: tuple[Tensor | None, Split]) -> dict[str, Tensor]:
    """IoU of each test object with the linear probes, which read updates; nothing where only their
    codes are stored.
    """
    read = [(updates, split) for updates, split in splits if updates is not None]
    if len(read) < len(splits):
        log.info("no linear probes beside composition: only codes of the updates are stored")
        return {}
    return linear_probes(*read)


def tokens_naming(
    label: str, text: str, word_tokens: Mapping[str, Sequence[int]], vocabulary: tuple[str, ...]
) -> list[int]:
    """The places of the tokens by which a caption names a label: of its plural, synonym, and all
    its words.

    Args:
        word_tokens: the places of each word of the caption; none for one that was cut off.
    """
    naming = Vocabulary.of(vocabulary).named_in(text).get(label, set())
    return sorted(
        {
            token
            for word, tokens in word_tokens.items()
            if naming & set(normal_words(word))
            for token in tokens
        }
    )


def _own_maps(
    study: Study, vocabulary: tuple[str, ...], tuning: Split, test: Split
) -> dict[str, Tensor]:
    """IoU of each test object with maps that the model itself gives of the noun; nothing where they
    were not recorded, NaN where the noun has none.

    - `cross_attention`: attention to the noun's tokens at the same moment;
    - `daam`: its mean over all recorded moments (DAAM, arXiv 2210.04885, takes every step);
    - `concept_attention`: ConceptAttention (arXiv 2502.04320) at the same moment, of nouns that are
      among its concepts.
    """
    manifest = Manifest.load(study.activations)
    concepts = list(manifest.header.get("concepts", ()))

    def attention(sample: Sample, noun: str, stream: Stream) -> Tensor | None:
        meta = sample.meta
        tokens = tokens_naming(noun, meta["prompt"], meta["word_tokens"], vocabulary)
        if not tokens:
            return None
        kept = meta.get("columns", range(stream.d_in))
        shares = sample.updates[:, [kept.index(token) for token in tokens]]
        return torch.from_numpy(shares).float().mean(dim=1)

    def saliency(sample: Sample, noun: str, _stream: Stream) -> Tensor | None:
        if noun not in concepts:
            return None
        return torch.from_numpy(np.array(sample.updates[:, concepts.index(noun)])).float()

    found = {}
    for block, map_of in ((ATTENTION, attention), (CONCEPTS, saliency)):
        every = [stream for stream in manifest.streams if stream.block == block]
        now = [one for one in every if one.folder == stream_folder(block, study.cell.t, "cond")]
        names = {"cross_attention": now, "daam": every}
        for name, streams in (names if block == ATTENTION else {block: now}).items():
            if streams:
                found[name] = _maps_iou(study, manifest, streams, map_of, tuning, test)
    return found


def _maps_iou(
    study: Study,
    manifest: Manifest,
    streams: Sequence[Stream],
    map_of: Callable[[Sample, str, Stream], Tensor | None],
    tuning: Split,
    test: Split,
) -> Tensor:
    """IoU of each test object with the mean of its maps in these streams, each mean scaled by its
    own range.
    """

    def maps(split: Split, name: str) -> tuple[Tensor, Tensor]:
        """The map of every object, and whether it has one."""
        total = torch.zeros(len(split.nouns), streams[0].positions)
        known = torch.zeros(len(split.nouns), dtype=torch.bool)
        for stream in streams:
            samples = read_updates(study.activations, manifest, stream, name)
            by_id = {sample.image_id: sample for sample in samples}
            for row, (i, noun) in enumerate(zip(split.groups, split.nouns, strict=True)):
                if (found := map_of(by_id[i], noun, stream)) is not None:
                    total[row] += found / len(streams)
                    known[row] = True
        return total.reshape(-1, *streams[0].grid).to(split.masks.device), known

    # A map of zeros has the same IoU at every threshold, so that it has no say in the choice.
    (tuning_maps, _), (test_maps, known) = maps(tuning, "tune"), maps(test, "test")
    iou = baselines.score_map_iou(tuning_maps, test_maps, tuning=tuning, test=test, per_map=True)
    return torch.where(known, iou, math.nan)


METRIC = Metric(
    name="composition",
    title="Where will a noun be in the picture?",
    section="composition",
    chart={"composition": "Composition: IoU"}.get,
    seeded=True,
    settings=CompositionSettings,
    rows=composition_rows,
    made_from=("label", "annotate"),
    needs="captions",
)
