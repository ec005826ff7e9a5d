"""A small study, made by hand: every figure that a test looks for is written here."""

from dataclasses import replace

import numpy as np
import pytest

from diffusae.evaluation.result import Result
from diffusae.report.study import (
    Concept,
    EditedPicture,
    Example,
    Examples,
    FinishedStudy,
    Picture,
    Prediction,
    Run,
    RunRow,
)
from report.rows import CHANCE, emerged, figure, result, staged


@pytest.fixture(autouse=True)
def _without_the_library(monkeypatch: pytest.MonkeyPatch) -> None:
    """The charts' library takes seconds to bundle; `test_vega.py` has the real one."""
    monkeypatch.setattr("diffusae.report.vega.library", lambda: "/* library */")


@pytest.fixture
def results() -> list[Result]:
    """Three cells of composition, out of order and one without data, and one of dead fraction."""
    return [
        result("up", 0.0, "cond", figure(0.6123, (0.5811, 0.6477), 91), baselines=CHANCE),
        result("mid", 0.5, "uncond", figure(None), baselines=CHANCE),
        result("mid", 1.0, "cond", figure(0.3127, (0.2819, 0.3431), 87), baselines=CHANCE),
        result(
            "mid",
            1.0,
            "cond",
            figure(0.0625, None, 64),
            metric="dead_fraction",
            higher_is_better=False,
        ),
    ]


@pytest.fixture
def study(results: list[Result]) -> FinishedStudy:
    """A study with something in every section."""
    image = np.full((8, 8, 3), 200, dtype=np.uint8)
    image[2:5, 1:4] = (0, 0, 255)
    mask = np.zeros((8, 8), dtype=bool)
    mask[2:5, 1:4] = True
    score = np.array([[0.9, 0.1], [0.2, 0.3]])
    keys = [
        ("mid", conditioning, t, "cat") for conditioning in ("cond", "uncond") for t in (1.0, 0.0)
    ]
    return FinishedStudy(
        name="miniature",
        model="tiny",
        facts={"steps": "50", "guidance": "4.0"},
        contact_sheet=[Picture("a blue cat", image, "seed 7", Run("activations"))],
        results=results,
        emergence=[
            emerged(
                "mid",
                "cond",
                {1.0: 0.1521, 0.5: 0.2632, 0.0: 0.3743},
                figure(0.2464, (0.2135, 0.2797), 83),
                readers={"noun_probe": figure(0.5791, (0.5182, 0.6293), 83)},
            )
        ],
        predictions=[
            Prediction(
                caption="a blue cat and a dog",
                image=image,
                nouns=["cat", "dog"],
                true_masks={"cat": mask},
                predicted=dict.fromkeys(keys, (score, mask)),
                iou=dict.fromkeys(keys[:-1], 0.4567),
                runs={("mid", "cond", 1.0): Run("evaluation/composition/mid-t1.00-cond-k4")},
            )
        ],
        concepts=[
            Concept(
                "mid-t1.00-cond",
                "mid",
                1.0,
                "cond",
                412,
                [("cat", 31), ("dog", 4)],
                31 / 35,
                0.021,
                [(image, score)],
                Run("concepts/mid-t1.00-cond-k4", "p/mini-mid-t100-cond-k4"),
            ),
            Concept("up-t0.00-uncond", "up", 0.0, "uncond", 7, [], None, 0.0, []),
        ],
        runs=[
            RunRow("collect", "", "finished", 200.4, "00aa11bb22cc33dd"),
            RunRow("train", "mid-t1.00-cond", "failed", None, "44ee55ff66778899"),
        ],
    )


@pytest.fixture
def intervened(study: FinishedStudy) -> FinishedStudy:
    """The same study with a spatial intervention: its two rows, and a case with two
    pictures.
    """
    image = study.contact_sheet[0].image
    controls = {
        "no_edit": figure(0.2513, (0.1, 0.4), 24),
        "random_latent": figure(0.3126, (0.2, 0.5), 24),
    }
    differences = {
        "no_edit": figure(0.6948, (0.5, 0.9), 20),
        "random_latent": figure(0.0312, (-0.2, 0.3), 20),
    }
    standing = {"no_edit": "better", "random_latent": "unclear"}
    return replace(
        study,
        three_stages=[
            staged(
                "spatial",
                figure(0.9461, (0.85, 1.0), 20),
                controls=controls,
                differences=differences,
                standing=standing,
                chance=0.25,
            ),
            staged(
                "spatial",
                figure(0.0543, (0.04, 0.07), 20),
                measure="distance",
                unit="RMS of full scale",
            ),
        ],
        examples=[
            Examples(
                "spatial",
                "early",
                (1.0, 0.6),
                ["down"],
                0.8,
                "cond",
                "k10",
                [
                    Example(
                        "fish to top_left",
                        "a blue fish",
                        [
                            EditedPicture("no_edit", 0.0, False, image),
                            EditedPicture("concepts", 3.0, True, image[::-1].copy()),
                            EditedPicture("random_latent", 1.0, False, image[:, ::-1].copy()),
                        ],
                    )
                ],
                Run("evaluation/spatial/down-t0.80-cond-k10", "p/mini-down-t080-cond-k10"),
            )
        ],
    )
