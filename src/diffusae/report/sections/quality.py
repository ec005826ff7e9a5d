"""How good are the concepts, and how faithful the autoencoders?"""

from __future__ import annotations

from fnmatch import fnmatchcase

from diffusae.report.grid import grid_charts
from diffusae.report.sections import Books, Section, View
from diffusae.report.study import Study
from diffusae.report.tables import capital, plain, rows_of
from diffusae.report.verdicts import Verdict, case_of, judged

NAME = "quality"
TITLES = {
    "cohesion": "Cohesion: cosine of a concept's objects with their mean",
    "separability": "Separability: cosine of different concepts",
    "noun_entropy": "Nouns of a latent's top pictures: bits",
    "stability": "Stability over seeds: cosine",
    "loss_recovered": "Faithfulness: loss recovered",
    "picture_ssim": "Faithfulness: SSIM with the unedited picture",
    "usable": "Faithfulness: gate passed",
}
# The same figures of another embedding, never in one chart with the first's.
OTHER_EMBEDDINGS = ("cohesion_*", "separability_*")
EMBEDDINGS = {"text_encoder": "the model's own text space"}
METRICS = (
    *TITLES,
    *OTHER_EMBEDDINGS,
    "style_entropy",
    "context_free_fraction",
    "denoising_error_change",
    "picture_mse",
    "content_kept",
    "content_distance",
)
CLAIMS = {
    "cohesion": "The objects of a concept are alike",
    "separability": "Concepts differ from one another",
    "noun_entropy": "A latent's top pictures share their nouns",
    "stability": "Another seed finds the same latents",
    "context_free_fraction": "Latents say where, not only in which picture",
    "content_kept": "Pictures keep their content under the autoencoder's reconstruction",
}


def verdicts(study: Study) -> list[Verdict]:
    """Each quality against the strongest of its baselines."""
    return [
        judged(claim, NAME, map(case_of, rows_of(study.results, metric)))
        for metric, claim in CLAIMS.items()
    ]


def view(study: Study, books: Books) -> View | None:
    """The charts; each embedding has its own."""
    metrics = {row.metric for row in study.results}
    if not any(fnmatchcase(metric, pattern) for metric in metrics for pattern in METRICS):
        return None
    titles = dict(TITLES)
    for metric in sorted(metrics):
        if any(fnmatchcase(metric, pattern) for pattern in OTHER_EMBEDDINGS):
            name, _, embedding = metric.partition("_")
            titles[metric] = f"{capital(name)}, in {EMBEDDINGS.get(embedding, plain(embedding))}"
    return {"quality": grid_charts(study.results, titles, books.charts)}


SECTION = Section(NAME, "Quality", view, verdicts=verdicts, metrics=METRICS)
