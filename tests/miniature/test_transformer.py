"""The miniature's transformer: its first weights, and what it shares with the U-Net's training."""

from typing import Any

import pytest
import torch
from diffusers import PixArtAlphaPipeline

from diffusae.backbone.load import load_pipeline
from diffusae.capture.conditions import conditions
from diffusae.capture.generate import generate
from diffusae.errors import UserError
from diffusae.miniature.denoiser import Denoiser
from diffusae.miniature.folder import size_in_bytes
from diffusae.miniature.measured import GatePictures
from diffusae.miniature.settings import GateSettings
from diffusae.miniature.tokenizer import build_tokenizer
from diffusae.miniature.transformer import build_transformer
from diffusae.miniature.worlds import SCENES
from miniature.test_training import short

DIT = ("world=scenes", "denoiser=dit")


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """(training of the U-Net, its folder, folder of a transformer with the same parts)."""
    place = tmp_path_factory.mktemp("trained")
    unet = short(place / "unet", "world=scenes", scenes=16)
    unet.assemble(place / "unet_folder")
    dit = short(place / "dit", *DIT, scenes=16, parts_from=str(place / "unet"))
    dit.assemble(place / "dit_folder")
    return place, place / "unet_folder", place / "dit_folder"


def test_every_block_begins_as_identity_and_the_prediction_as_zero():
    torch.manual_seed(0)
    dit = build_transformer(8, 128).eval()
    seen: list[tuple[Any, Any]] = []
    for block in dit.transformer_blocks:
        block.register_forward_hook(lambda _, given, made: seen.append((given[0], made)))
    with torch.no_grad():
        made = dit(
            torch.randn(2, 8, 16, 16),
            encoder_hidden_states=torch.randn(2, 5, 128),
            timestep=torch.tensor([3, 900]),
        ).sample
    assert made.shape == (2, 8, 16, 16)
    assert not made.any()
    assert len(seen) == 7
    for before, after in seen:
        torch.testing.assert_close(after, before)
        assert before.shape == (2, 64, 192)
        assert before.std() > 0.1


def test_training_gives_the_transformer_what_its_pipeline_will_give_it(folders):
    pipe: Any = load_pipeline(folders[2], dtype=torch.float32, device="cpu")
    denoiser = Denoiser(pipe.text_encoder, pipe.transformer)
    texts = ["a red fish", "a flat drawing of a blue cat and a pink cup , smooth texture"]
    wanted = conditions(pipe, texts, "cond", guidance=4.0, text_tokens=32, height=64, width=64)
    tokens = pipe.tokenizer(texts, padding="max_length", return_tensors="pt")["input_ids"]
    given: dict[str, Any] = {}
    pipe.transformer.register_forward_pre_hook(
        lambda _, args, kwargs: given.update(kwargs), with_kwargs=True
    )
    with torch.no_grad():
        denoiser(torch.randn(2, 8, 16, 16), torch.tensor([3, 900]), tokens)
    mask = given["encoder_attention_mask"]
    assert mask.sum(1).tolist() == [5, len(texts[1].split()) + 2]
    assert torch.equal(mask, wanted["encoder_attention_mask"])
    words = mask.bool()
    states = (given["encoder_hidden_states"], wanted["encoder_hidden_states"])
    torch.testing.assert_close(states[0][words], states[1][words])


def test_both_denoisers_share_all_other_parts_and_their_folders_stay_small(folders):
    place, unet, dit = folders
    for part in ("vae/diffusion_pytorch_model.safetensors", "annotator/annotator.safetensors"):
        assert (unet / part).read_bytes() == (dit / part).read_bytes()
    for part in ("tokenizer/tokenizer.json", "scheduler/scheduler_config.json"):
        assert (unet / part).read_text() == (dit / part).read_text()
    assert sorted(path.name for path in (place / "dit").iterdir()) == ["denoiser"]
    assert 25e6 < size_in_bytes(unet) + size_in_bytes(dit) < 30e6


def test_the_folder_runs_in_plain_diffusers_and_its_blocks_can_be_recorded(folders):
    pipe: Any = PixArtAlphaPipeline.from_pretrained(folders[2])
    pipe.set_progress_bar_config(disable=True)
    asked = {"use_resolution_binning": False, "clean_caption": False, "max_sequence_length": 32}
    picture = pipe("a red fish", num_inference_steps=2, output_type="np", **asked).images
    assert picture.shape == (1, 64, 64, 3)
    ours: Any = load_pipeline(folders[2], dtype=torch.float32, device="cpu")
    ours.scheduler.set_timesteps(2)
    made = generate(
        ours,
        ["a red fish"] * 2,
        [0, 1],
        steps=2,
        guidance=4.0,
        text_tokens=32,
        hookpoints={"early": "transformer_blocks.1", "last": -1},
        timesteps=[float(ours.scheduler.timesteps[0])],
    )
    assert made.grids == {"early": (8, 8), "last": (8, 8)}
    assert {tuple(update.shape) for update in made.updates.values()} == {(2, 64, 192)}


def test_other_seeds_share_the_parts_and_differ_in_the_denoiser(folders, tmp_path):
    place = folders[0]
    other = short(tmp_path / "1", *DIT, scenes=16, seed=1, parts_from=str(place / "unet"))
    first: Any = PixArtAlphaPipeline.from_pretrained(folders[2])
    weights = other.denoiser().network.state_dict()
    own = first.transformer.state_dict()
    name = "transformer_blocks.0.ff.net.2.weight"
    assert not torch.allclose(weights[name], own[name], atol=1e-3)
    assert not (tmp_path / "1" / "pool").exists()


def test_parts_that_are_not_finished_are_refused_and_nothing_is_made_there(folders, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(
        UserError, match=r"has no finished autoencoder; train it there first: .* part=autoencoder"
    ):
        short(tmp_path / "dit", *DIT, parts_from=str(tmp_path / "empty")).denoiser()
    assert not list((tmp_path / "empty").iterdir())
    parts = str(folders[0] / "unet")
    with pytest.raises(UserError, match="has no finished autoencoder"):
        short(tmp_path / "dit", *DIT, parts_from=parts, scenes=16, steps=2).autoencoder()


def test_a_transformer_takes_the_other_parts_of_a_folder_with_a_unet(folders, tmp_path):
    parts: Any = {"autoencoder_steps": 0, "annotator_steps": 0, "parts_from": None}
    dit = short(tmp_path, *DIT, start_from=str(folders[1]), **parts)
    dit.assemble(tmp_path / "folder")
    vae = "vae/diffusion_pytorch_model.safetensors"
    assert (tmp_path / "folder" / vae).read_bytes() == (folders[1] / vae).read_bytes()
    assert (tmp_path / "folder" / "transformer").is_dir()


def test_the_names_of_a_unets_weights_stay_so_that_its_checkpoints_load():
    denoiser = Denoiser.new("unet", build_tokenizer(SCENES.vocabulary()), 8)
    names = {name.split(".")[0] for name in denoiser.state_dict()}
    assert names == {"text_encoder", "unet"}


@pytest.mark.parametrize("which", [1, 2], ids=["unet", "dit"])
def test_the_gate_exchanges_captions_from_a_moment_on(folders, which):
    pipe: Any = load_pipeline(folders[which], dtype=torch.float32, device="cpu")
    denoiser = pipe.components.get("transformer") or pipe.unet
    torch.manual_seed(0)
    for weights in denoiser.parameters():  # the untrained transformer reads no caption
        torch.nn.init.normal_(weights, std=0.1)
    settings = GateSettings(guidance=4.0, steps=3, batch_size=2, pictures=1, exchanges=1)
    pictures = GatePictures(pipe, settings)
    captions, others = ["a red fish", "a blue cat", "a pink cup"], ["a green car"] * 3
    first, second = pictures(captions, range(3)), pictures(others, range(3))
    assert (first != second).any()
    throughout = pictures.exchanged(captions, range(3), others, 1.0)
    assert abs(throughout.astype(int) - second).max() <= 1
    late = pictures.exchanged(captions, range(3), others, 0.5)
    assert (late != first).any()
    assert (late != second).any()
