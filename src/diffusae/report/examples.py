"""Pictures before and after interventions, as the page's tables: a line a case, a column a
method.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from diffusae.report.pictures import PictureBook
from diffusae.report.study import EditedPicture, Examples, Run
from diffusae.report.tables import cell_order
from diffusae.report.three_stages import place_of

_EXAMPLES = ("spatial", "global", "global_together")


@dataclass(frozen=True)
class ExampleTable:
    """Pictures before and after, of one evaluation at one cell: a line a case, a column a method;
    None was not made.
    """

    edit: str
    rank: int
    window: str
    place: str
    opened: bool
    methods: list[str]
    lines: list[
        tuple[str, str, list[tuple[EditedPicture, Markup] | None]]
    ]  # case, prompt, pictures
    run: Run | None


def example_tables(examples: Sequence[Examples], book: PictureBook) -> list[ExampleTable]:
    """The tables in the order: kind of edit, window, cell; the first of each kind is shown
    unfolded.
    """
    edits = [*_EXAMPLES, *sorted({shown.edit for shown in examples} - set(_EXAMPLES))]
    ordered = sorted(
        examples,
        key=lambda shown: (
            edits.index(shown.edit),
            -shown.bounds[0],
            cell_order(shown.blocks[0] if shown.blocks else "", shown.t, shown.conditioning),
            shown.tag,
        ),
    )
    seen: set[str] = set()
    tables = []
    for shown in ordered:
        methods = list(
            dict.fromkeys(picture.method for case in shown.cases for picture in case.pictures)
        )
        lines = []
        for case in shown.cases:
            made = {picture.method: picture for picture in case.pictures}
            drawn = [
                (
                    None
                    if (picture := made.get(method)) is None
                    else (picture, _edited(picture, case.case, book))
                )
                for method in methods
            ]
            lines.append((case.case, case.prompt, drawn))
        place = f"{place_of(shown.blocks, shown.t, shown.conditioning)} · {shown.tag}"
        tables.append(
            ExampleTable(
                shown.edit,
                edits.index(shown.edit),
                shown.window,
                place,
                shown.edit not in seen,
                methods,
                lines,
                shown.run,
            )
        )
        seen.add(shown.edit)
    return tables


def _edited(picture: EditedPicture, case: str, book: PictureBook) -> Markup:
    return book.picture(picture.image, alt=f"{case}: {picture.caption}")
