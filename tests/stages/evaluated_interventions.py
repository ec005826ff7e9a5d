"""What `diffusae evaluate` leaves of interventions, made by hand: results.json, the cases,
examples.parquet, run.json.
"""

import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image

from diffusae.evaluation.result import Estimate, Result, bootstrap_mean, save_results
from diffusae.files import outputs_in, write_sealed
from diffusae.interventions.windows import window_at
from diffusae.runs.record import RECORD, read_record, run_record
from diffusae.study.study import Study

REGIONS = ("top_left", "top_right", "bottom_left", "bottom_right")
METHODS = ("no_edit", "concepts", "difference_of_means", "random_latent", "neuron")
STRENGTHS = {"concepts": 3.0, "difference_of_means": 1.0, "random_latent": 3.0, "neuron": 1.0}
Outcomes = Mapping[str, Sequence[float]]
"""Method -> the outcome of every case; pictures have four cases each, in order."""


def png(colour: tuple[int, int, int], at: tuple[int, int] = (8, 8)) -> bytes:
    """A picture of a square at (row, column)."""
    image = np.full((64, 64, 3), 225, np.uint8)
    image[at[0] : at[0] + 20, at[1] : at[1] + 20] = colour
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG")
    return buffer.getvalue()


def place_spatial(
    study: Study,
    successes: Outcomes,
    *,
    block: str = "down",
    t: float = 1.0,
    rest: float = 0.05,
    tag: str = "k10",
    examples: bool = True,
) -> Path:
    """A spatial evaluation with these successes; the object is always found."""
    table = pd.DataFrame(
        {
            **about,
            "noun": "fish",
            "image_id": f"p{number // 4}",
            "region": REGIONS[number % 4],
            "found": True,
            "success": success,
            "rest": 0.0 if about["method"] == "no_edit" else rest,
        }
        for about, number, success in _cases(successes)
    )
    details = {"strength": 3.0, **_details(t)}
    measures = (
        ("success", "spatial_success", True, "share"),
        ("found", "spatial_recognised", True, "share"),
        ("rest", "spatial_rest_changed", False, "RMS of full scale"),
    )
    results = [
        _row(table, column, metric, higher, unit, _cell(block, t), details)
        for column, metric, higher, unit in measures
    ]
    shown = [
        (f"fish to {region}", method, bool(successes[method][number]), png((200, 60, 40), place))
        for number, region in enumerate(REGIONS[:2])
        for place in [(6 + 30 * number, 8)]
        for method in METHODS
        if method in successes
    ]
    return _place(study, "spatial", tag, results, {"objects": table}, shown if examples else [])


def place_global(
    study: Study,
    rose: Mapping[str, Outcomes],
    *,
    block: str = "down",
    t: float = 0.5,
    similarity: float = 0.8,
    distance: float | None = 0.3,
    blocks: Sequence[str] | None = None,
    tag: str = "k10",
) -> Path:
    """A global evaluation, {factor: outcomes}; with `blocks`, of these together. Each picture has
    one case a factor.
    """
    distances = {} if distance is None else {"feature_distance": distance}
    table = pd.DataFrame(
        {
            **about,
            "factor": factor,
            "target": "mosaic",
            "image_id": f"p{number}",
            "rose": success,
            "reached": success and number % 2 == 0,
            "similarity": similarity,
            "kept": True,
            **distances,
        }
        for factor, successes in rose.items()
        for about, number, success in _cases(successes)
    )
    metric = "global" if blocks is None else "global_together"
    ending = "" if blocks is None else "_together"
    unedited = {"rose": 0.0, "reached": 0.0, "similarity": 1.0, "kept": 1.0}
    unedited |= dict.fromkeys(distances, 0.0)
    results = [
        _row(
            table.query("factor == @factor"),
            column,
            f"{factor}_{column}{ending}",
            column != "feature_distance",
            "SSIM" if column == "similarity" else "share",
            _cell(block, t),
            {"factor": factor, "blocks": list(blocks or [block]), **_details(t)},
            no_edit=value,
        )
        for factor in rose
        for column, value in unedited.items()
    ]
    first = next(iter(rose.values()))
    shown = [("mosaic", method, bool(first.get(method, [0.0])[0]), png((40, 90, 200), (20, 20)))
             for method in METHODS if method in first or method == "no_edit"]  # fmt: skip
    return _place(study, metric, tag, results, {"pictures": table}, shown)


def _cases(successes: Outcomes) -> Iterator[tuple[dict[str, Any], int, bool]]:
    """What all tables say of a case, its number, and its success: in tuning the contrary."""
    for split in ("tune", "test"):
        for method, outcomes in successes.items():
            about = {"split": split, "method": method, "strength": STRENGTHS.get(method, 0.0)}
            for number, outcome in enumerate(outcomes):
                yield {**about, "prompt": "a fish"}, number, bool(outcome) == (split == "test")


def _details(t: float) -> dict[str, Any]:
    return {"window": list(window_at(t)), "strengths": STRENGTHS, "conditionings": ["cond"]}


def _cell(block: str, t: float) -> dict[str, Any]:
    return {"model": "miniature", "block": block, "t": t, "conditioning": "cond"}


def record_again(directory: Path) -> None:
    """Let run.json tell the files as they are now: they were changed by hand, and are to count as
    what was evaluated.
    """
    record = read_record(directory)
    assert record is not None
    write_sealed(directory / RECORD, asdict(replace(record, outputs=outputs_in(directory))))


def _row(
    table: pd.DataFrame,
    column: str,
    metric: str,
    higher: bool,
    unit: str,
    cell: dict[str, Any],
    details: dict[str, Any],
    *,
    no_edit: float | None = None,
) -> Result:
    tested = table[table["split"] == "test"]

    def estimate(method: str) -> Estimate:
        rows = tested[tested["method"] == method]
        return bootstrap_mean(
            rows[column].astype(float).tolist(), groups=rows["image_id"].tolist(), n_resamples=200
        )

    made = set(tested["method"])
    controls = {n: estimate(n) for n in METHODS if n != "concepts" and n in made}
    if no_edit is not None:
        controls = {"no_edit": Estimate(no_edit, None, 4), **controls}
    return Result(metric, estimate("concepts"), higher, unit, cell, controls, details)


def _place(
    study: Study,
    metric: str,
    tag: str,
    results: Sequence[Result],
    tables: Mapping[str, pd.DataFrame],
    shown: Sequence[tuple[str, str, bool, bytes]],
) -> Path:
    cell = results[0].cell
    name = f"{cell['block']}-t{cell['t']:.2f}-{cell['conditioning']}-{tag}"
    directory = study.directory / "evaluation" / metric / name
    config = {"sae": {"tag": tag}, "evaluation": {"name": metric, "regions": list(REGIONS)}}
    determines = {"cell": cell, "values": [result.value for result in results]}
    with run_record(
        directory, stage="evaluate", config=config, determines=determines, parents={}, seed=0
    ):
        for file, table in tables.items():
            table.to_parquet(directory / f"{file}.parquet", index=False)
        if shown:
            pd.DataFrame(
                [{"case": case, "image_id": "p0", "prompt": "a fish", "method": method,
                  "strength": STRENGTHS.get(method, 0.0), "success": success, "picture": picture}
                 for case, method, success, picture in shown]
            ).to_parquet(directory / "examples.parquet", index=False)  # fmt: skip
        save_results(directory / "results.json", results)
    return directory
