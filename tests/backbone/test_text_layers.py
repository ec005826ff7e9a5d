from typing import Any

import pytest
import torch

from diffusae.backbone.describe import describe
from diffusae.backbone.text_layers import (
    find_text_layers,
    in_short,
    list_text_layers,
    names_text_layer,
    text_layer,
)
from diffusae.errors import UserError
from tiny_families import tiny_family

LAYERS = {
    "sd": ["text_0", "text_1"],
    "sdxl": ["text_0", "text_1", "text2_0", "text2_1"],
    "sd3": ["text_0", "text_1", "text2_0", "text2_1", "text3_0", "text3_1"],
    "flux": ["text_0", "text_1", "text2_0", "text2_1"],
    "pixart": ["text_0", "text_1"],
}


@pytest.mark.parametrize("family", LAYERS)
def test_every_encoders_layers_are_listed_and_give_a_vector_of_the_told_width_a_token(
    family: str,
) -> None:
    pipe = tiny_family(family)
    known = list_text_layers(pipe)
    assert list(known) == LAYERS[family]
    for name, layer in known.items():
        seen: list[torch.Tensor] = []

        def keep(
            _module: object, _args: object, output: Any, seen: list[torch.Tensor] = seen
        ) -> None:
            seen.append(output[0] if isinstance(output, tuple) else output)

        handle = text_layer(pipe, name).register_forward_hook(keep)
        with torch.no_grad():
            getattr(pipe, layer.encoder)(torch.tensor([[3, 4, 5, 1]]))
        handle.remove()
        assert [tuple(tensor.shape) for tensor in seen] == [(1, 4, layer.d_in)]
        assert getattr(pipe, layer.tokenizer) is not None


def test_the_name_leads_to_the_module_that_its_hookpoint_names() -> None:
    pipe = tiny_family("sdxl")
    layer = list_text_layers(pipe)["text2_1"]
    assert layer.hookpoint == "text_encoder_2.text_model.encoder.layers.1"
    assert text_layer(pipe, "text2_1") is pipe.text_encoder_2.text_model.encoder.layers[1]


@pytest.mark.parametrize("name", ["text_2", "text2_0", "text", "mid", "text_-1", "text4_0"])
def test_a_layer_that_does_not_exist_is_refused_with_the_valid_ones(name: str) -> None:
    with pytest.raises(UserError, match=rf"{name!r} does not exist.*text_0 to text_1"):
        text_layer(tiny_family("sd"), name)


def test_all_layers_that_do_not_exist_are_named_together() -> None:
    with pytest.raises(UserError, match="2 faults") as error:
        find_text_layers(list_text_layers(tiny_family("sd")), ["text_7", "text_0", "text3_0"])
    assert "'text_7'" in str(error.value) and "'text3_0'" in str(error.value)


def test_names_are_told_from_those_of_blocks() -> None:
    assert all(map(names_text_layer, ["text_0", "text2_11", "text3_22"]))
    assert not any(
        map(names_text_layer, ["mid", "text", "text4_1", "text_x", "atext_1", "text_1x"])
    )
    assert in_short(["text_0", "text_1", "text3_0"]) == "text_0 to text_1, text3_0"


def test_published_encoders_have_the_papers_layers_before_any_weights() -> None:
    known = {
        name: describe("owner/name", architecture=name, text_layers=True).text_layers
        for name in ("sd14", "sdxl_turbo", "sd3", "flux_dev", "pixart_alpha")
    }
    assert {name: in_short(layers) for name, layers in known.items()} == {
        "sd14": "text_0 to text_11",
        "sdxl_turbo": "text_0 to text_11, text2_0 to text2_31",
        "sd3": "text_0 to text_11, text2_0 to text2_31, text3_0 to text3_23",
        "flux_dev": "text_0 to text_11, text2_0 to text2_23",
        "pixart_alpha": "text_0 to text_23",
    }
    ninth, t5 = known["sd14"]["text_9"], known["flux_dev"]["text2_22"]
    assert (ninth.d_in, ninth.tokens) == (768, 77)
    assert (t5.d_in, t5.tokens, t5.hookpoint) == (4096, 512, "text_encoder_2.encoder.block.22")


def test_a_folders_encoders_are_those_of_the_loaded_pipeline(tmp_path) -> None:
    pipe = tiny_family("sd")
    pipe.save_pretrained(tmp_path)
    assert describe(tmp_path, text_layers=True).text_layers == list_text_layers(pipe)
    assert describe(tmp_path).text_layers == {}
