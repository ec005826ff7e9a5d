import pytest
import torch
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from torch import nn

from diffusae.backbone.blocks import HookpointInfo
from diffusae.backbone.families.table import list_hookpoints
from diffusae.backbone.hookpoints import denoiser_of, find, find_all
from diffusae.errors import UserError


def test_every_transformer_block_is_listed_with_its_width_and_level(pipe) -> None:
    assert [(info.path, info.d_in, info.level) for info in list_hookpoints(pipe.unet).values()] == [
        ("down_blocks.0.attentions.0", 32, 0),
        ("down_blocks.1.attentions.0", 64, 1),
        ("up_blocks.0.attentions.0", 64, 1),
        ("up_blocks.0.attentions.1", 64, 1),
        ("up_blocks.1.attentions.0", 32, 0),
        ("up_blocks.1.attentions.1", 32, 0),
        ("mid_block.attentions.0", 64, 1),
    ]


def test_stable_diffusion_1_has_the_papers_hookpoints_at_the_papers_shapes() -> None:
    with torch.device("meta"):
        unet = UNet2DConditionModel(cross_attention_dim=768, attention_head_dim=8, sample_size=64)
    known = list_hookpoints(unet)
    assert len(known) == 16
    for path, shape in {
        "down_blocks.2.attentions.1": (16, 16, 1280),
        "mid_block.attentions.0": (8, 8, 1280),
        "up_blocks.1.attentions.0": (16, 16, 1280),
    }.items():
        assert (*known[path].grid(64, 64), known[path].d_in) == shape


@pytest.mark.parametrize(("height", "width"), [(8, 8), (8, 12), (7, 5)])
def test_the_announced_grid_is_the_one_that_runs(pipe, height: int, width: int) -> None:
    seen: dict[str, tuple[int, int]] = {}
    handles = [
        pipe.unet.get_submodule(path).register_forward_hook(
            lambda _m, args, _o, path=path: seen.update({path: tuple(args[0].shape[-2:])})
        )
        for path in list_hookpoints(pipe.unet)
    ]
    with torch.no_grad():
        pipe.unet(torch.zeros(1, 4, height, width), 1, torch.zeros(1, 16, 32))
    for handle in handles:
        handle.remove()
    assert seen == {
        path: info.grid(height, width) for path, info in list_hookpoints(pipe.unet).items()
    }


def test_a_path_and_a_place_are_found_by_their_block(pipe) -> None:
    infos = find_all(list_hookpoints(pipe.unet), {"mid": "mid_block.attentions.0", "last": -1})
    assert infos["mid"].path == "mid_block.attentions.0"
    assert infos["last"].path == list(list_hookpoints(pipe.unet))[-1]


def test_a_place_counts_through_the_list_and_outside_of_it_is_refused(pipe) -> None:
    known = list_hookpoints(pipe.unet)
    assert [find(known, place).path for place in range(7)] == list(known)
    with pytest.raises(UserError, match="hookpoint 7 does not exist: the model has 7; give 0 to 6"):
        find(known, 7)


@pytest.mark.parametrize("path", ["mid_block.attentions.1", "mid_block.resnets.0", "", "mid"])
def test_an_unknown_hookpoint_lists_the_valid_ones(pipe, path: str) -> None:
    with pytest.raises(
        UserError, match=r"down_blocks\.0\.attentions\.0, .*mid_block\.attentions\.0, .*up_blocks"
    ) as error:
        find_all(list_hookpoints(pipe.unet), {"block": path})
    assert repr(path) in str(error.value)


def test_all_unknown_hookpoints_are_reported_together(pipe) -> None:
    with pytest.raises(UserError, match="2 faults") as error:
        find_all(
            list_hookpoints(pipe.unet),
            {"a": "nowhere", "mid": "mid_block.attentions.0", "b": "nothing"},
        )
    assert "block 'a'" in str(error.value) and "block 'b'" in str(error.value)


def test_odd_sizes_halve_upwards() -> None:
    assert HookpointInfo(path="p", d_in=1, level=2).grid(9, 8) == (3, 2)


def test_a_pipeline_without_a_unet_is_refused(pipe) -> None:
    assert denoiser_of(pipe) is pipe.unet
    with pytest.raises(UserError, match=r"no U-Net .* and no transformer"):
        denoiser_of(nn.Identity())
