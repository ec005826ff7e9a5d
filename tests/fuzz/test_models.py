"""Damaged folders of models: the index, the configurations of the components, their weights."""

import json
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from diffusae.backbone.component_configs import require_weights
from diffusae.backbone.describe import describe
from diffusae.backbone.load import load_pipeline
from fuzz.mutations import mutated, mutated_json, mutated_safetensors
from fuzz.only_user_errors import only_user_errors, replaced
from tiny_pipeline import tiny_pipeline

CONFIGS = (
    "model_index.json",
    "unet/config.json",
    "vae/config.json",
    "text_encoder/config.json",
    "scheduler/scheduler_config.json",
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model")
    tiny_pipeline().save_pretrained(path)
    return path


@given(st.sampled_from(CONFIGS[:4]), st.data())
def test_damaged_configurations_are_described_or_named(folder, name, data):
    path = folder / name
    whole = path.read_bytes()
    text = data.draw(st.one_of(mutated_json(json.loads(whole)), mutated(whole)))
    with replaced(path, text), only_user_errors():
        described = describe(folder, text_layers=True)
        assert all(info.d_in > 0 for info in described.hookpoints.values())


@settings(max_examples=settings().max_examples // 5)  # every example loads a pipeline
@given(st.sampled_from(CONFIGS), st.data())
def test_damaged_configurations_are_loaded_or_named(folder, name, data):
    path = folder / name
    with replaced(path, data.draw(mutated_json(json.loads(path.read_bytes())))), only_user_errors():
        load_pipeline(folder, dtype=torch.float32, device="cpu")


@given(st.sampled_from(["unet", "vae", "text_encoder"]), st.data())
def test_damaged_weights_are_named(folder, name, data):
    path = next((folder / name).glob("*.safetensors"))
    with replaced(path, data.draw(mutated_safetensors(path.read_bytes()))), only_user_errors():
        require_weights(folder, name)
