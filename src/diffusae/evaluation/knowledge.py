"""What a block knows at a moment: accuracies of readers of picture labels (after Revelio).

Revelio is arXiv 2411.16725. One row a task and reader, `accuracy_<task>_<reader>`: the share of
test pictures whose label the reader predicts; range [0, 1], higher is better, n = test pictures
with that label, 95 % Wilson interval over pictures. Readers:

- updates: a linear probe on the raw updates, averaged over positions;
- codes: the same on the SAE's codes, averaged over positions;
- diff_c: the light convolutional classifier on the raw updates at every position.

Baselines on the same pictures: `majority`, the fitting pictures' most frequent class; `pixels`, the
linear probe on the picture itself; `random_weights`, the same reader at the same place of an
untrained denoiser of the same shape.

Empty case: a task with fewer than two classes among the fitting pictures, or without tuning or test
pictures, is no data.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Int

from diffusae.evaluation.label_probe import Reading
from diffusae.evaluation.proportion import share
from diffusae.evaluation.result import NO_DATA, Estimate, Result

VERSION = 1
READERS = ("updates", "codes", "diff_c")
PREFIX = "accuracy_"


def majority(fitting: Int[np.ndarray, " n"], test: Int[np.ndarray, " m"]) -> Estimate:
    """The accuracy of always predicting the fitting pictures' most frequent class."""
    if len(fitting) == 0:
        return NO_DATA
    return share(test == np.bincount(fitting).argmax())


def knowledge_row(
    task: str,
    reader: str,
    reading: Reading | None,
    *,
    baselines: Mapping[str, Estimate],
    cell: Mapping[str, Any],
    details: Mapping[str, Any],
) -> Result:
    """The row of one task and reader; `reading` None: no data."""
    known: dict[str, Any] = {"task": task, "reader": reader, **details}
    if reading is not None:
        known |= {"tune_accuracy": reading.tune_accuracy, **reading.chosen}
    return Result(
        metric=f"{PREFIX}{task}_{reader}",
        estimate=NO_DATA if reading is None else share(reading.correct),
        higher_is_better=True,
        unit="accuracy",
        cell=dict(cell),
        baselines=dict(baselines),
        details=known,
        version=VERSION,
    )
