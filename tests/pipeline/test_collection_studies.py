"""`diffusae run` of given pictures and of texts, through the real command: nothing is annotated or
labelled unasked.
"""

from pathlib import Path

import pytest

from command import diffusae
from diffusae.evaluation.result import load_results

COMMON = [
    "debug=tiny",
    "metrics=[reconstruction]",
    "model.batch_size=8",
    "activations.group_size=8",
]
STUDIES = {
    "text": (["collection=text", "grid.blocks=[text_1]"], "text_1-t1.00-cond-k4"),
    "pictures": (
        [
            "collection=pictures_world",
            "grid.blocks=[mid]",
            "grid.timesteps=[0.5]",
            "collection.pooled=true",
            "activations.batch_size=16",
            "collection.counts={train: 32, validation: 16, dictionary: 8, tune: 0, test: 16}",
        ],
        "mid-t0.50-uncond-k4",
    ),
}


@pytest.mark.parametrize("kind", ["text", pytest.param("pictures", marks=pytest.mark.slow)])
def test_a_study_without_generated_pictures_runs_whole(kind: str, tmp_path: Path) -> None:
    overrides, cell = STUDIES[kind]
    diffusae("run", *COMMON, *overrides, f"paths.outputs={tmp_path}")
    root = tmp_path / "tiny"
    rows = load_results(root / "evaluation" / "reconstruction" / cell / "results.json")
    assert all(row.baselines for row in rows if row.metric == "fvu")
    assert (root / "report" / "index.html").is_file()
    assert not (root / "annotations").exists() and not (root / "concepts").exists()
