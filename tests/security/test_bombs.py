"""A small file takes neither the memory nor the time of a large one."""

import json
import tarfile

import pytest

from diffusae.activations.tar_index import read_members
from diffusae.backbone.component_configs import require_weights
from diffusae.errors import UserError
from diffusae.sae.autoencoder import SparseAutoencoder
from diffusae.sae.sparsity import TopK
from diffusae.sae.storage import load_sae, save_sae


@pytest.mark.parametrize(
    "changes", [{"d_sae": 40_000_000}, {"d_in": 40_000_000}, {"d_in": 10**6, "d_sae": 10**6}]
)
def test_an_autoencoder_that_asks_for_more_than_its_weights_hold_is_not_built(
    tmp_path, changes, monkeypatch
):
    save_sae(tmp_path, SparseAutoencoder(8, 32, TopK(4)), {"validation": {}})
    path = tmp_path / "cfg.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    monkeypatch.setattr(SparseAutoencoder, "__init__", lambda *_, **__: pytest.fail("it was built"))
    with pytest.raises(UserError):
        load_sae(tmp_path)


def test_a_denoiser_that_asks_for_more_than_its_weights_hold_is_not_built(tmp_path):
    from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel

    unet = UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(8,),
        layers_per_block=1,
        cross_attention_dim=8,
        attention_head_dim=4,
        norm_num_groups=4,
        down_block_types=("DownBlock2D",),
        up_block_types=("UpBlock2D",),
    )
    unet.save_pretrained(tmp_path / "unet")
    require_weights(tmp_path, "unet")
    path = tmp_path / "unet/config.json"
    for changes in ({"block_out_channels": [400_000]}, {"layers_per_block": 10**9}):
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))
        with pytest.raises(UserError):
            require_weights(tmp_path, "unet")


@pytest.mark.parametrize("size", [b"-0000001000\0", b"\xff" * 12, b"\x80" + b"\x7f" * 11])
def test_a_tar_member_of_an_impossible_size_ends_as_damage(tmp_path, size):
    header = bytearray(tarfile.TarInfo("a.json").tobuf(tarfile.USTAR_FORMAT))
    header[124:136] = size
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    (tmp_path / "a.tar").write_bytes(bytes(header) + bytes(2048))
    refused = pytest.raises((UserError, tarfile.TarError, ValueError))
    with open(tmp_path / "a.tar", "rb") as file, refused:
        list(read_members(file))
