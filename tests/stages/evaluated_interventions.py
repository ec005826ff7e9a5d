"""What `diffusae evaluate` leaves of interventions, made by hand: results.json, the cases,
examples.parquet, run.json.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
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
    success: Outcomes,
    *,
    block: str = "down",
    t: float = 1.0,
    rest: float = 0.05,
    tag: str = "k10",
    examples: bool = True,
) -> Path:
    """A spatial evaluation with these successes; the object is always found."""
    rows = [
        {
            "split": split,
            "method": method,
            "strength": STRENGTHS.get(method, 0.0),
            "prompt": "a fish",
            "noun": "fish",
            "image_id": f"p{number // 4}",
            "region": REGIONS[number % 4],
            "found": True,
            "success": bool(each),
            "rest": 0.0 if method == "no_edit" else rest,
        }
        for split in ("tune", "test")
        for method, outcomes in success.items()
        for number, each in enumerate(
            outcomes if split == "test" else [1.0 - each for each in outcomes]
        )
    ]
    table = pd.DataFrame(rows)
    details = {
        "window": list(window_at(t)),
        "strength": 3.0,
        "strengths": STRENGTHS,
        "conditionings": ["cond"],
    }
    measures = (
        ("success", "spatial_success", True, "share"),
        ("found", "spatial_recognised", True, "share"),
        ("rest", "spatial_rest_changed", False, "RMS of full scale"),
    )
    cell = {"model": "miniature", "block": block, "t": t, "conditioning": "cond"}
    results = [
        _row(table, column, metric, higher, unit, cell, details)
        for column, metric, higher, unit in measures
    ]
    shown = [
        (
            f"fish to {region}",
            method,
            bool(success[method][number]),
            png((200, 60, 40), (6 + 30 * number, 8)),
        )
        for number, region in enumerate(REGIONS[:2])
        for method in METHODS
        if method in success
    ]
    return _place(
        study, "spatial", cell, tag, results, {"objects": table}, shown if examples else []
    )


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
    rows = [
        {
            "split": split,
            "method": method,
            "factor": factor,
            "target": "mosaic",
            "strength": STRENGTHS[method],
            "image_id": f"p{number}",
            "prompt": "a fish",
            "rose": bool(each),
            "reached": bool(each) and number % 2 == 0,
            "similarity": similarity,
            "kept": True,
        }
        | ({} if distance is None else {"feature_distance": distance})
        for split in ("tune", "test")
        for factor, success in rose.items()
        for method, outcomes in success.items()
        for number, each in enumerate(
            outcomes if split == "test" else [1.0 - each for each in outcomes]
        )
    ]
    table = pd.DataFrame(rows)
    metric = "global" if blocks is None else "global_together"
    ending = "" if blocks is None else "_together"
    cell = {"model": "miniature", "block": block, "t": t, "conditioning": "cond"}
    unedited = {
        "rose": 0.0,
        "reached": 0.0,
        "similarity": 1.0,
        "kept": 1.0,
        "feature_distance": 0.0,
    }
    results = []
    for factor in rose:
        details = {
            "factor": factor,
            "blocks": list(blocks or [block]),
            "window": list(window_at(t)),
            "strengths": STRENGTHS,
            "conditionings": ["cond"],
        }
        own = pd.DataFrame([row for row in rows if row["factor"] == factor])
        for column in unedited:
            if column in table:
                results.append(
                    _row(
                        own,
                        column,
                        f"{factor}_{column}{ending}",
                        column != "feature_distance",
                        "SSIM" if column == "similarity" else "share",
                        cell,
                        details,
                        no_edit=unedited[column],
                    )
                )
    first = next(iter(rose.values()))
    shown = [("mosaic", method, bool(first.get(method, [0.0])[0]), png((40, 90, 200), (20, 20)))
             for method in METHODS if method in first or method == "no_edit"]  # fmt: skip
    return _place(study, metric, cell, tag, results, {"pictures": table}, shown)


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

    controls = {
        name: estimate(name)
        for name in METHODS
        if name != "concepts" and name in set(tested["method"])
    }
    if no_edit is not None:
        controls = {"no_edit": Estimate(no_edit, None, 4), **controls}
    return Result(metric, estimate("concepts"), higher, unit, cell, controls, details)


def _place(
    study: Study,
    metric: str,
    cell: dict[str, Any],
    tag: str,
    results: Sequence[Result],
    tables: Mapping[str, pd.DataFrame],
    shown: Sequence[tuple[str, str, bool, bytes]],
) -> Path:
    name = f"{cell['block']}-t{cell['t']:.2f}-{cell['conditioning']}-{tag}"
    directory = study.directory / "evaluation" / metric / name
    config = {"sae": {"tag": tag}, "evaluation": {"name": metric, "regions": list(REGIONS)}}
    determines = {"cell": cell, "values": [result.value for result in results]}
    with run_record(
        directory, stage="evaluate", config=config, determines=determines, parents={}, seed=0
    ):
        for each, table in tables.items():
            table.to_parquet(directory / f"{each}.parquet", index=False)
        if shown:
            pd.DataFrame(
                [{"case": case, "image_id": "p0", "prompt": "a fish", "method": method,
                  "strength": STRENGTHS.get(method, 0.0), "success": success, "picture": picture}
                 for case, method, success, picture in shown]
            ).to_parquet(directory / "examples.parquet", index=False)  # fmt: skip
        save_results(directory / "results.json", results)
    return directory
