"""The page of one latent: its labels, its top pictures with maps, its activity, its partners in
other cells, and how to steer with it.

What is computed from codes and directions takes a moment, or seconds where autoencoders are large.
It stands on the page itself where it is quick, and else on a page of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from diffusae.evaluation.proportion import wilson
from diffusae.evaluation.result import Estimate
from diffusae.explorer.activity import SHOWN
from diffusae.explorer.catalogue import STATISTICS, CatalogueCell
from diffusae.explorer.explored import Explored
from diffusae.explorer.find_page import TITLES, address_of, text_of
from diffusae.explorer.generation import Full
from diffusae.explorer.jobs import JobRequest
from diffusae.explorer.latent_partners import Computed, is_quick
from diffusae.explorer.measured import measured_effects
from diffusae.explorer.pages import answer
from diffusae.report.sections.concepts import steer_command
from diffusae.report.study import Concept
from diffusae.steering.edit_list import EditList, edits_of

STRENGTH = 3.0
"""Of the push into an empty prompt."""


def routes(explored: Explored) -> list[Route]:
    """The addresses of latents."""

    def page(request: Request) -> Response:
        cell, latent = _asked(explored, request)
        computed = "activity" in request.url.path or is_quick(explored)
        values = latent_values(
            explored, cell.name, latent, computed=computed, exported=explored.static
        )
        return answer(request, "latent.html.j2", **values)

    def picture(request: Request) -> Response:
        cell, latent = _asked(explored, request)
        try:
            return JSONResponse({"id": empty_prompt_job(explored, cell, latent)}, 201)
        except Full as error:
            return JSONResponse({"error": str(error)}, 429)

    def data(request: Request) -> Response:
        cell, latent = _asked(explored, request)
        return JSONResponse(latent_data(explored, cell.name, latent))

    return [
        Route("/latents/{cell}/{latent}/", page),
        Route("/latents/{cell}/{latent}/activity/", page),
        Route("/latents/{cell}/{latent}/data.json", data),
        Route("/latents/{cell}/{latent}/empty-prompt/", picture, methods=["POST"]),
    ]


def _asked(explored: Explored, request: Request) -> tuple[CatalogueCell, int]:
    name = request.path_params["cell"]
    latent = explored.latent(name, request.path_params["latent"])
    return explored.catalogue.cell(name), latent


@dataclass(frozen=True)
class ShownLabel:
    """A label of the latent: in how many pictures it was gained, and in which share, with its
    interval, of the pictures in which the latent is active.
    """

    label: str
    count: int
    of_active: Estimate | None
    iou: str
    share: str


@dataclass(frozen=True)
class TopPicture:
    """One of the pictures where the latent is strongest: its id, the mean of the map, caption."""

    image_id: str
    value: float
    caption: str


def empty_prompt_job(explored: Explored, cell: CatalogueCell, latent: int) -> str:
    """The id of the generation that pushes a latent into an empty prompt. One that is still kept is
    given again.

    Raises:
        UserError: there is no model, or the queue is full.
    """
    jobs, key = explored.empty_prompts, (cell.name, latent)
    known = explored.generation.job(jobs.get(key, ""))
    if known is None or known.state in ("failed", "cancelled"):
        pushed = {"intervention": "global", "strength": STRENGTH}
        edits = edits_of([{"cell": cell.name, "latents": [latent], **pushed}])
        wanted = JobRequest("steer", "", (0,), EditList("", 0, edits), 0)
        known, _ = explored.generation.submit(wanted)
        jobs[key] = known.id
    return known.id


def latent_values(
    explored: Explored, name: str, latent: int, *, computed: bool, exported: bool = False
) -> dict[str, Any]:
    """What the page of a latent shows.

    Args:
        computed: with what is computed from codes and directions.
        exported: the page is one of a static site, which has no model.
    """
    values = explored.computed.get(
        (name, latent, computed), lambda: _values(explored, name, latent, computed=computed)
    )
    note, notes_fault = explored.notes.shown(name, latent)
    changing = {
        "exported": exported,
        "no_model": explored.generation.reason,
        "note": note,
        "notes_fault": notes_fault,
    }
    return values | changing


def _values(explored: Explored, name: str, latent: int, *, computed: bool) -> dict[str, Any]:
    """What stays as it is."""
    catalogue = explored.catalogue
    cell, row = catalogue.cell(name), catalogue.row_of(name, latent)
    entry = int(catalogue.main[row])
    tops = top_pictures(explored, cell, latent)
    shown = [one.image_id for one in tops]
    return {
        "cell": cell,
        "latent": latent,
        "label": catalogue.labels[catalogue.entry_labels[entry]] if entry >= 0 else "",
        "dead": bool(catalogue.dead[row]),
        "labels": shown_labels(explored, cell, row),
        "facts": [
            (TITLES[key], text_of(key, values[row]), STATISTICS[key])
            for key, values in catalogue.statistics.items()
        ],
        "top": tops,
        "no_pictures": explored.pictures.missing,
        "no_maps": explored.activity.no_maps(cell, latent, shown) if shown else "",
        "size": explored.pictures.size,
        "measured": measured_effects(cell, [one for one, *_ in catalogue.labels_of(row)]),
        "steer": Commands.of(explored, cell, latent, tops),
        "previous": address_of(name, latent - 1) if latent else "",
        "next": address_of(name, latent + 1) if latent + 1 < cell.size else "",
        "address": address_of(name, latent),
        "computed": Computed.of(explored, cell, latent, shown) if computed else None,
        "file": str(cell.cell.concepts_directory),
    }


def shown_labels(explored: Explored, cell: CatalogueCell, row: int) -> list[ShownLabel]:
    """The labels of a row, the most frequent first."""
    catalogue = explored.catalogue
    n = int(catalogue.active_pictures[row])
    return [
        ShownLabel(
            label,
            count,
            Estimate(count / n, wilson(count / n, n), n) if count <= n else None,
            text_of("iou", iou),
            text_of("share", share),
        )
        for label, count, iou, share in catalogue.labels_of(row)
    ]


def top_pictures(explored: Explored, cell: CatalogueCell, latent: int) -> list[TopPicture]:
    """The pictures where a latent is strongest, at most `SHOWN`."""
    return [
        TopPicture(image_id, value, explored.pictures.caption(image_id))
        for image_id, value in explored.top_pictures.of(cell, latent)[:SHOWN]
    ]


@dataclass(frozen=True)
class Commands:
    """How to steer with a latent: a command, and lines of Python. "" without a caption."""

    shell: str
    python: str

    @classmethod
    def of(
        cls, explored: Explored, cell: CatalogueCell, latent: int, tops: Sequence[TopPicture]
    ) -> Commands:
        """Those that steer the caption of the top picture."""
        prompt = next((one.caption for one in tops if one.caption), "")
        at, settings = cell.cell, explored.study.settings
        place = cell.name, at.block, at.t, at.conditioning, latent
        concept = Concept(*place, (), None, None, ())
        sae = {"tag": cell.tag}
        return cls(
            steer_command(settings, concept, sae, prompt),
            python_lines(explored, cell, latent, prompt),
        )


def python_lines(explored: Explored, cell: CatalogueCell, latent: int, prompt: str) -> str:
    """Lines that open the study and steer a prompt with a latent; "" without a prompt."""
    at = cell.cell
    if not prompt:
        return ""
    return "\n".join(
        [
            "import diffusae",
            "",
            f"study = diffusae.open({str(explored.directory)!r})",
            f"cell = study.cell({at.block!r}, t={at.t:g}, conditioning={at.conditioning!r},"
            f" tag={cell.tag!r})",
            f"run = study.generate({prompt!r}, seed=0, capture=[cell])",
            f'steered = study.steer(run, cell.latent({latent}), region="top_left", strength=3)',
            "steered.plot()",
        ]
    )


def latent_data(explored: Explored, name: str, latent: int) -> dict[str, Any]:
    """The same as JSON, without what is computed."""
    catalogue = explored.catalogue
    cell, row = catalogue.cell(name), catalogue.row_of(name, latent)
    statistics = {key: float(values[row]) for key, values in catalogue.statistics.items()}
    return {
        "cell": name,
        "block": cell.cell.block,
        "t": cell.cell.t,
        "branch": cell.cell.conditioning,
        "tag": cell.tag,
        "latent": latent,
        "labels": [
            {"label": label, "count": count, "iou": iou, "share": share}
            for label, count, iou, share in catalogue.labels_of(row)
        ],
        "statistics": {key: None if value != value else value for key, value in statistics.items()},
        "top_pictures": [
            {"image_id": image_id, "value": value}
            for image_id, value in explored.top_pictures.of(cell, latent)
        ],
        "missing": cell.missing,
    }
