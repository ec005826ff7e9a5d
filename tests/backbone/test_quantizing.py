"""Quantised weights: what loads is captured and steered in the model's dtype, what cannot is
refused.

`bitsandbytes` never ran here: diffusers needs a GPU for it. Only its configurations are made. Hooks
are tried on weights that torchao and GGUF quantise on a CPU."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from diffusae.backbone.hookpoints import denoiser_of
from diffusae.backbone.load import load_pipeline
from diffusae.backbone.quantizing import quantized_components, quantizing_options
from diffusae.backbone.settings import Quantization, Saving
from diffusae.capture.generate import generate
from diffusae.errors import UserError
from diffusae.interventions.edits import Edit
from diffusae.interventions.steer import steer
from tiny_families import FAMILIES, PIXELS, tiny_family

PLACE = FAMILIES["flux"].blocks["mid"][0]


def load(folder: Path, **saving: Any) -> Any:
    return load_pipeline(
        folder, dtype=torch.bfloat16, device="cpu", scheduler="keep", saving=Saving(**saving)
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("flux") / "pipeline"
    tiny_family("flux").to(torch.bfloat16).save_pretrained(path)
    return path


def updates(pipe: Any, *, edited: bool = False) -> tuple[torch.Tensor, torch.Tensor]:
    """(updates of the middle block at the first step, final latents) of two pictures."""
    times = [1000.0]

    def run() -> Any:
        return generate(
            pipe, ["a cat", "dogs"], [1, 2], steps=2, height=PIXELS, width=PIXELS, decode=False,
            hookpoints={"mid": PLACE}, timesteps=times, **FAMILIES["flux"].asked,
        )  # fmt: skip

    if not edited:
        made = run()
    else:
        with steer(pipe, [Edit(PLACE, lambda changed, _grid: -changed)]) as steering:
            made = run()
        assert steering.steps == {0: 2}
    return made.updates["mid", 1000.0, "cond"], made.latents


def require_hooked_as_ever(pipe: Any, plain: Any) -> None:
    """Updates near those of the unquantised model, in its dtype; an edit acts."""
    (update, latents), (expected, _) = updates(pipe), updates(plain)
    assert update.dtype == torch.bfloat16
    assert not torch.equal(update, expected)
    relative = (update.float() - expected.float()).norm() / expected.float().norm()
    assert 0 < relative < 0.1
    removed, changed = updates(pipe, edited=True)
    assert removed.float().norm() < 0.1 * update.float().norm()  # bfloat16 rounds
    assert not torch.equal(changed, latents)


def test_torchao_weights_are_hooked_and_edited_as_ever(folder: Path) -> None:
    for package in ("torchao", "accelerate"):
        pytest.importorskip(package)
    pipe = load(folder, quantization="torchao_int8")
    for component in ("transformer", "text_encoder_2"):
        kinds = {type(p).__module__.split(".")[0] for p in pipe.components[component].parameters()}
        assert "torchao" in kinds
    assert all(type(p) is torch.nn.Parameter for p in pipe.text_encoder.parameters())
    require_hooked_as_ever(pipe, load(folder))


def test_a_gguf_file_takes_the_place_of_the_denoisers_weights(folder: Path, tmp_path: Path) -> None:
    gguf = pytest.importorskip("gguf")
    pytest.importorskip("accelerate")
    plain = load(folder)
    denoiser = denoiser_of(plain)
    file = tmp_path / "denoiser.gguf"
    writer = gguf.GGUFWriter(file, "flux")
    kind = gguf.GGMLQuantizationType.Q8_0
    for name, weight in denoiser.state_dict().items():
        numbers = weight.float().numpy()
        if weight.ndim == 2 and weight.shape[1] % 32 == 0:
            writer.add_tensor(name, gguf.quantize(numbers, kind), raw_dtype=kind)
        else:
            writer.add_tensor(name, numbers)
    for step in ("write_header_to_file", "write_kv_data_to_file", "write_tensors_to_file", "close"):
        getattr(writer, step)()
    without = tmp_path / "pipeline"
    plain.save_pretrained(without)
    for weights in (without / "transformer").glob("*.safetensors"):
        weights.unlink()
    pipe = load(without, gguf=str(file))
    stored = {parameter.dtype for parameter in pipe.transformer.parameters()}
    assert torch.uint8 in stored
    require_hooked_as_ever(pipe, plain)


@pytest.mark.parametrize("quantization", ["bnb4", "bnb8"])
def test_bitsandbytes_without_a_gpu_is_refused_with_what_works(
    quantization: Quantization, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("diffusae.backbone.packages.find_spec", lambda _name: True)
    with pytest.raises(UserError, match=rf"{quantization} needs a GPU.*torchao_int8"):
        load(tmp_path, quantization=quantization)


@pytest.mark.parametrize(
    ("saving", "missing", "extra"),
    [
        ({"quantization": "bnb4"}, "bitsandbytes and accelerate", "bitsandbytes"),
        ({"quantization": "torchao_int8"}, "torchao and accelerate", "torchao"),
        ({"gguf": "x.gguf"}, "gguf and accelerate", "gguf"),
    ],
)
def test_every_missing_package_is_named_with_its_extra(
    saving: Any, missing: str, extra: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("diffusae.backbone.packages.find_spec", lambda _name: None)
    with pytest.raises(UserError, match=rf"needs {missing}, .*pip install 'diffusae\[{extra}\]'"):
        load(tmp_path, **saving)


def test_a_pickle_is_no_gguf_file_whatever_its_name(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("diffusae.backbone.packages.find_spec", lambda _name: True)
    file = tmp_path / "weights.gguf"
    torch.save({"weight": torch.zeros(2)}, file)
    with pytest.raises(UserError, match="is no GGUF file"):
        load(folder, gguf=str(file))
    with pytest.raises(UserError, match="cannot be read"):
        load(folder, gguf=str(tmp_path / "nothing.gguf"))


def test_the_denoiser_and_encoders_other_than_clip_are_quantised(folder: Path) -> None:
    index = json.loads((folder / "model_index.json").read_text())
    chosen = quantized_components(index, Saving(quantization="bnb4"))
    assert chosen == ["transformer", "text_encoder_2"]
    assert quantized_components(index, Saving(gguf="x.gguf")) == ["transformer"]
    assert quantized_components(index, Saving()) == []


@pytest.mark.parametrize(("quantization", "bits"), [("bnb4", 4), ("bnb8", 8)])
def test_bitsandbytes_is_configured_for_either_library_in_the_models_dtype(
    quantization: Quantization, bits: int, folder: Path
) -> None:
    pytest.importorskip("bitsandbytes")
    index = json.loads((folder / "model_index.json").read_text())
    saving = Saving(quantization=quantization)
    options = quantizing_options(folder, index, saving, torch.bfloat16)
    chosen = options["quantization_config"].quant_mapping
    assert [type(one).__module__.split(".")[0] for one in chosen.values()] == [
        "diffusers",
        "transformers",
    ]
    for one in chosen.values():
        assert getattr(one, f"load_in_{bits}bit")
        assert bits == 8 or one.bnb_4bit_compute_dtype is torch.bfloat16


def test_a_folder_with_quantised_weights_is_refused_by_component(
    folder: Path, tmp_path: Path
) -> None:
    copy = shutil.copytree(folder, tmp_path / "copy")
    path = copy / "transformer" / "config.json"
    config = json.loads(path.read_text()) | {"quantization_config": {"quant_method": "x"}}
    path.write_text(json.dumps(config))
    with pytest.raises(UserError, match="transformer is stored with quantised weights"):
        load(copy)


@pytest.mark.parametrize("offload", ["sequential", "group"])
def test_quantised_layers_are_not_moved_one_by_one(offload: Any) -> None:
    with pytest.raises(UserError, match=r"cannot be moved so; set model\.offload=model"):
        Saving(offload=offload, quantization="bnb8")
