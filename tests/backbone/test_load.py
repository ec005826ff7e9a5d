import json
import logging
import shutil
from pathlib import Path

import diffusers.utils.logging
import pytest
import torch
import transformers.utils.logging
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from diffusers.schedulers.scheduling_pndm import PNDMScheduler
from safetensors.torch import load_file

from diffusae.backbone.load import load_pipeline
from diffusae.errors import UserError
from tiny_families import tiny_family
from tiny_pipeline import tiny_pipeline


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("saved") / "pipeline"
    tiny_pipeline().save_pretrained(folder)
    return folder


@pytest.fixture
def own_copy(saved: Path, tmp_path: Path) -> Path:
    """A copy of the saved folder that the test may damage."""
    return shutil.copytree(saved, tmp_path / "pipeline")


def _load(folder: Path | str, **options):
    return load_pipeline(folder, **({"dtype": torch.float32, "device": "cpu"} | options))


def _modules(pipe) -> dict[str, torch.nn.Module]:
    return {
        name: part for name, part in pipe.components.items() if isinstance(part, torch.nn.Module)
    }


def _picture(pipe) -> torch.Tensor:
    generator = torch.Generator().manual_seed(3)
    return torch.from_numpy(
        pipe("a cat", num_inference_steps=2, generator=generator, output_type="np").images
    )


def test_a_saved_folder_gives_the_same_pictures_when_loaded(saved: Path) -> None:
    pipe = tiny_pipeline()
    pipe.unet.to(memory_format=torch.channels_last)  # as on every CPU; sums round in another way
    assert torch.equal(_picture(_load(saved)), _picture(pipe))
    assert torch.equal(_picture(_load(str(saved))), _picture(pipe))


@pytest.mark.parametrize("stored", [torch.float16, torch.float32])
@pytest.mark.parametrize("wanted", [torch.float32, torch.bfloat16])
def test_every_component_gets_the_wanted_dtype_whatever_was_stored(
    tmp_path: Path, stored: torch.dtype, wanted: torch.dtype
) -> None:
    tiny_pipeline().to(stored).save_pretrained(tmp_path)
    pipe = _load(tmp_path, dtype=wanted)
    assert set(_modules(pipe)) == {"unet", "vae", "text_encoder"}
    for module in _modules(pipe).values():
        assert {parameter.dtype for parameter in module.parameters()} == {wanted}
        assert not module.training
    assert torch.isfinite(_picture(pipe)).all()


def test_weights_stored_in_half_come_back_as_the_halved_values(tmp_path: Path) -> None:
    original = tiny_pipeline().to(torch.float16)
    original.save_pretrained(tmp_path)
    expected = {name: value.float() for name, value in original.unet.state_dict().items()}
    for name, value in _load(tmp_path).components["unet"].state_dict().items():
        assert torch.equal(value, expected[name])


def test_every_component_goes_to_the_device(saved: Path) -> None:
    for module in _modules(_load(saved, device="meta")).values():
        assert {parameter.device.type for parameter in module.parameters()} == {"meta"}


def test_a_variant_is_loaded_by_its_name(tmp_path: Path) -> None:
    tiny_pipeline().save_pretrained(tmp_path, variant="fp16")
    assert isinstance(_load(tmp_path, variant="fp16").components["unet"], torch.nn.Module)
    with pytest.raises(UserError, match="does not load"):
        _load(tmp_path, variant="bf16")


def test_ddim_takes_over_the_noise_schedule_and_does_not_clip_latents(own_copy: Path) -> None:
    PNDMScheduler(
        beta_start=0.001, beta_end=0.011, beta_schedule="scaled_linear", steps_offset=1
    ).save_pretrained(own_copy / "scheduler")
    index = json.loads((own_copy / "model_index.json").read_text())
    index["scheduler"] = ["diffusers", "PNDMScheduler"]
    (own_copy / "model_index.json").write_text(json.dumps(index))
    kept = _load(own_copy, scheduler="keep").components["scheduler"]
    made = _load(own_copy, scheduler="ddim").components["scheduler"]
    assert isinstance(kept, PNDMScheduler) and isinstance(made, DDIMScheduler)
    assert torch.equal(made.alphas_cumprod, kept.alphas_cumprod)
    assert made.config.clip_sample is False and made.config.steps_offset == 1  # pyright: ignore


def test_an_unknown_scheduler_lists_the_known(saved: Path) -> None:
    with pytest.raises(UserError, match="known: ddim, keep"):
        _load(saved, scheduler="euler")


def test_loading_and_sampling_show_no_progress_bar_and_settings_come_back(
    saved: Path, capfd
) -> None:
    libraries = (diffusers.utils.logging, transformers.utils.logging)
    before = [library.is_progress_bar_enabled() for library in libraries]
    _picture(_load(saved))
    assert [library.is_progress_bar_enabled() for library in libraries] == before
    assert "it/s" not in capfd.readouterr().err


def test_the_load_is_logged(saved: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="diffusae"):
        _load(saved)
    assert str(saved) in caplog.text


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=f"no folder {tmp_path}/nothing.*model.source"):
        _load(tmp_path / "nothing")


def test_a_folder_that_is_no_pipeline_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"holds no model_index\.json"):
        _load(tmp_path)


def test_an_unreachable_hub_names_the_folder_that_would_serve(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(UserError) as error:
        _load("some-owner/some-model", revision="v2")
    folder = tmp_path / "models" / "some-owner--some-model"
    assert f"model.source={folder}" in str(error.value)
    assert f"hf download some-owner/some-model --revision v2 --local-dir {folder}" in str(
        error.value
    )


def test_pickled_weights_are_refused_by_name(own_copy: Path) -> None:
    (own_copy / "unet/diffusion_pytorch_model.safetensors").rename(
        own_copy / "unet/diffusion_pytorch_model.bin"
    )
    with pytest.raises(
        UserError, match=r"unet holds its weights as a pickle only \(diffusion_pytorch_model\.bin\)"
    ):
        _load(own_copy)


def test_pickled_weights_are_not_read_beside_another_safetensors_file(own_copy: Path) -> None:
    weights = own_copy / "unet/diffusion_pytorch_model.safetensors"
    torch.save(load_file(weights), own_copy / "unet/diffusion_pytorch_model.bin")
    weights.rename(own_copy / "unet/unrelated.safetensors")
    with pytest.raises(UserError, match="does not load"):
        _load(own_copy)


def test_cut_weights_are_a_users_error(own_copy: Path) -> None:
    weights = own_copy / "unet/diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:5000])
    with pytest.raises(UserError, match=r"safetensors is damaged .*; copy the folder again"):
        _load(own_copy)


def test_a_spoilt_index_is_a_users_error(own_copy: Path) -> None:
    (own_copy / "model_index.json").write_text("{")
    with pytest.raises(UserError, match="is not JSON"):
        _load(own_copy)


@pytest.mark.parametrize(
    ("key", "value", "file"),
    [("unet", ["evil", "Evil"], "unet/evil.py"), ("_class_name", ["evil", "Evil"], "evil.py")],
)
def test_code_in_a_models_folder_is_never_run(
    own_copy: Path, key: str, value: list[str], file: str
) -> None:
    trace = own_copy / "ran"
    (own_copy / file).write_text(f"open({str(trace)!r}, 'w')\nclass Evil: pass\n")
    index = json.loads((own_copy / "model_index.json").read_text())
    (own_copy / "model_index.json").write_text(json.dumps(index | {key: value}))
    with pytest.raises(UserError, match="does not load"):
        _load(own_copy)
    assert not trace.exists()


@pytest.mark.parametrize("family", ["sd3", "flux"])
def test_a_pickle_in_any_text_encoder_is_refused_by_name(tmp_path: Path, family: str) -> None:
    tiny_family(family).save_pretrained(tmp_path)
    load_pipeline(tmp_path, dtype=torch.float32, device="cpu", scheduler="keep")
    weights = tmp_path / "text_encoder_2" / "model.safetensors"
    weights.rename(weights.with_name("pytorch_model.bin"))
    with pytest.raises(UserError, match=r"text_encoder_2 holds its weights as a pickle only"):
        load_pipeline(tmp_path, dtype=torch.float32, device="cpu", scheduler="keep")


def test_ddim_is_refused_to_a_flow_matching_model(tmp_path: Path) -> None:
    tiny_family("flux").save_pretrained(tmp_path)
    with pytest.raises(UserError, match=r"FlowMatchEuler.* set model.scheduler=keep"):
        load_pipeline(tmp_path, dtype=torch.float32, device="cpu")
