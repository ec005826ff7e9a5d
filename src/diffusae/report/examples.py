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
    edits = [*_EXAMPLES, *sorted({each.edit for each in examples} - set(_EXAMPLES))]
    ordered = sorted(
        examples,
        key=lambda each: (
            edits.index(each.edit),
            -each.bounds[0],
            cell_order(each.blocks[0] if each.blocks else "", each.t, each.conditioning),
            each.tag,
        ),
    )
    seen: set[str] = set()
    found = []
    for each in ordered:
        methods = list(
            dict.fromkeys(picture.method for case in each.cases for picture in case.pictures)
        )
        lines = []
        for case in each.cases:
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
        place = f"{place_of(each.blocks, each.t, each.conditioning)} · {each.tag}"
        found.append(
            ExampleTable(
                each.edit,
                edits.index(each.edit),
                each.window,
                place,
                each.edit not in seen,
                methods,
                lines,
                each.run,
            )
        )
        seen.add(each.edit)
    return found


def _edited(picture: EditedPicture, case: str, book: PictureBook) -> Markup:
    return book.picture(picture.image, alt=f"{case}: {picture.caption}")
