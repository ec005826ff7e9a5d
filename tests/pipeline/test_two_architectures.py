"""One study over two architectures: a U-Net and a transformer without training, from their folders
to the common page.
"""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers.models.transformers.pixart_transformer_2d import PixArtTransformer2DModel

from command import Started, diffusae
from miniature.test_training import short

MODELS = ("miniature_scenes", "miniature_dit")
# Untrained models draw noise: whatever the annotator believes to see is labelled, however small.
LENIENT = [
    "annotator.minimum_pixels=1",
    "dictionary.iou_threshold=0.001",
    "dictionary.activation_threshold=0.0",
]
SMALL = [
    "debug=tiny",
    "prompts.counts.test=12",
    "prompts.counts.tune=8",
    "grid.blocks=[mid]",
    "grid.timesteps=[1.0,0.0]",
    "metrics_at.decisions=[mid-t1.00-cond]",
    "metrics_at.spatial=[mid-t1.00-cond]",
    "metrics_at.global=[mid-t1.00-cond]",
    "metric_settings.decisions.captions=2",
    "metric_settings.decisions.moments=[0.5]",
    "metric_settings.spatial={strengths: [3.0], tune_prompts: 1, test_prompts: 1, steps: 5}",
    "metric_settings.global={strengths: [1.0], tune_prompts: 1, test_prompts: 1, steps: 5}",
]


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_the_same_experiment_studies_both_models_and_one_page_has_both(tmp_path):
    unet = short(tmp_path / "unet", "world=scenes", scenes=16)
    unet.assemble(tmp_path / "miniature_scenes")
    parts = str(tmp_path / "unet")
    dit = short(tmp_path / "dit", "world=scenes", "denoiser=dit", scenes=16, parts_from=parts)
    dit.assemble(tmp_path / "miniature_dit")
    _open_the_gates(tmp_path / "miniature_dit" / "transformer")
    study = ["experiment=two_architectures", f"paths.outputs={tmp_path}/outputs", *SMALL, *LENIENT]
    source = f"model.source={tmp_path}/${{model.name}}"
    both = ["metrics=[composition,reconstruction]", source, f"model={','.join(MODELS)}"]
    done = Started("run", "-m", *study, *both).ended(timeout=1000)
    assert done.returncode == 0, done.stderr[-3000:]
    diffusae("compare", *study)
    place = tmp_path / "outputs" / "tiny"
    figures = json.loads((place / "index.json").read_text())
    assert list(figures) == list(MODELS)
    for name in MODELS:
        assert (place / name / "report" / "index.html").is_file()
        decided = {decision["attribute"] for decision in figures[name]["decisions"]}
        assert decided == {"noun", "colour", "style", "tone", "grain"}
        cells = {row["cell"]["block"] for row in figures[name]["composition"]}
        assert cells == {"mid"}
        assert {row["cell"]["model"] for row in figures[name]["composition"]} == {name}
        assert figures[name]["claims"] == []  # `diffusae claims` has judged nothing
    page = (place / "index.html").read_text()
    assert all(f'href="{name}/report/index.html"' in page for name in MODELS)


def _open_the_gates(folder: Path) -> None:
    """An untrained transformer multiplies its updates by 0 (adaLN-Zero): nothing could be learnt of
    them.
    """
    transformer: Any = PixArtTransformer2DModel.from_pretrained(folder)
    torch.manual_seed(0)
    for name, weight in transformer.named_parameters():
        if "scale_shift_table" in name or "adaln_single.linear" in name:
            torch.nn.init.normal_(weight, std=0.5)
    transformer.save_pretrained(folder)
