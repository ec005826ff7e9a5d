"""Text edits: the formula by hand, their effect beside other edits, and refusals."""

import inspect
from typing import Any

import numpy as np
import pytest
import torch

from diffusae.backbone.text_layers import text_layer
from diffusae.errors import UserError
from diffusae.interventions.edits import Edit, SpatialMove, concept_direction
from diffusae.interventions.regions import Region
from diffusae.interventions.steer import steer
from diffusae.interventions.text import TextEdit, steering_vectors
from diffusae.sae.autoencoder import SparseAutoencoder
from diffusae.sae.sparsity import BatchTopK, JumpReLU, ReLU, TopK
from tiny_pipeline import D_IN, HOOKPOINTS, TOKENS, tiny_pipeline

D_TEXT = 32


def sae_of(seed: int = 3, **options: Any) -> SparseAutoencoder:
    """An SAE whose units are easily confused: input scaling, both biases, different gains."""
    sae = SparseAutoencoder(
        D_TEXT, 48, TopK(4), encoder_bias=True, input_scaling="standardise", seed=seed, **options
    )
    generator = torch.Generator().manual_seed(seed)
    spread = torch.linspace(0.5, 2.0, D_TEXT)
    sae.initialise(torch.randn(200, D_TEXT, generator=generator) * spread + 0.3)
    with torch.no_grad():
        sae.b_enc.copy_(0.1 * torch.randn(48, generator=generator))
    return sae.eval()


def edit(
    strength: float = 0.5, prompts: Any = "cat", layer: str = "text_0", **options: Any
) -> TextEdit:
    return TextEdit(layer, sae_of(), prompts, strength, **options)


def run(
    pipe: Any, *, prompt: Any = ("a cat", "dogs"), guidance: float = 5.0, **options: Any
) -> torch.Tensor:
    rows = 1 if prompt is None or isinstance(prompt, str) else len(prompt)
    rows *= options.get("num_images_per_prompt", 1)
    latents = torch.randn(rows, 4, 8, 8, generator=torch.Generator().manual_seed(1))
    given = list(prompt) if isinstance(prompt, tuple) else prompt
    return pipe(
        given,
        num_inference_steps=2,
        guidance_scale=guidance,
        latents=latents,
        output_type="latent",
        **options,
    ).images


def layer_output(pipe: Any, prompt: str, layer: str) -> torch.Tensor:
    """The layer's output for one padded prompt, [tokens, d_in], by the text encoder alone."""
    seen = []
    module = text_layer(pipe, layer)
    handle = module.register_forward_hook(lambda _m, _a, output: seen.append(output))
    padded = {"padding": "max_length", "max_length": TOKENS, "return_tensors": "pt"}
    tokens = pipe.tokenizer(prompt, **padded).input_ids
    with torch.no_grad():
        pipe.text_encoder(tokens)
    handle.remove()
    return seen[0][0]


def by_hand(sae: SparseAutoencoder, x: torch.Tensor) -> np.ndarray:
    """W_dec ENC(x_C) in numpy, latent by latent: scale, subtract b, encode, decode, scale back."""
    w = {name: tensor.detach().double().numpy() for name, tensor in sae.state_dict().items()}
    scaled = (x.double().numpy() - w["input_shift"]) / w["input_scale"]
    added = np.zeros_like(scaled)
    for token, row in enumerate(scaled):
        for latent in range(sae.d_sae):
            code = w["W_enc"][latent] @ (row - w["b"]) + w["b_enc"][latent]
            if code > 0:
                added[token] += code * w["W_dec"][latent] * w["input_scale"]
    return added


@pytest.mark.parametrize("layer", ["text_0", "text_1"])
def test_the_layers_output_is_x_plus_lambda_times_decoded_codes_by_hand(pipe, layer):
    sae, seen = sae_of(), []
    plain = layer_output(pipe, "dogs", layer)
    expected = by_hand(sae, layer_output(pipe, "cat", layer))
    with steer(pipe, [TextEdit(layer, sae, "cat", -0.7, conditionings=("cond",))]):
        module = text_layer(pipe, layer)
        handle = module.register_forward_hook(lambda _m, _a, output: seen.append(output))
        run(pipe, prompt="dogs")
        handle.remove()
    np.testing.assert_allclose(seen[-2][0], plain.numpy() - 0.7 * expected, rtol=1e-4, atol=1e-5)
    assert np.abs(expected).max() > 0.1


def test_the_unconditional_encoding_is_pushed_the_other_way():
    both = edit(0.5)
    assert (both.signed_strength("cond"), both.signed_strength("uncond")) == (0.5, -0.5)
    assert edit(0.5, conditionings=("cond",)).signed_strength("uncond") == 0.0
    assert edit(-0.5, conditionings=("uncond",)).signed_strength("uncond") == 0.5


def test_the_pipelines_two_encodings_are_pushed_in_opposite_directions(pipe):
    sae, seen = sae_of(), []
    expected = by_hand(sae, layer_output(pipe, "cat", "text_0"))
    with steer(pipe, [TextEdit("text_0", sae, "cat", 0.7)]):
        module = text_layer(pipe, "text_0")
        handle = module.register_forward_hook(lambda _m, _a, output: seen.append(output))
        run(pipe, prompt="dogs")
        handle.remove()
    for output, prompt, sign in ((seen[-2], "dogs", 1), (seen[-1], "", -1)):
        plain = layer_output(pipe, prompt, "text_0").numpy()
        np.testing.assert_allclose(output[0], plain + sign * 0.7 * expected, rtol=1e-4, atol=1e-5)


def test_every_latent_above_0_counts_whatever_the_sparsity():
    x = torch.randn(1, 5, D_TEXT, generator=torch.Generator().manual_seed(4))
    kinds = [TopK(1), TopK(48), BatchTopK(1), JumpReLU(48, l0=0.1), ReLU(l1=0.1)]
    made = [steering_vectors(SparseAutoencoder(D_TEXT, 48, kind, seed=1), x) for kind in kinds]
    for other in made[1:]:
        torch.testing.assert_close(other, made[0])


def test_the_mean_of_several_concept_prompts_is_added():
    x = torch.randn(2, 5, D_TEXT, generator=torch.Generator().manual_seed(4))
    sae = sae_of()
    expected = (steering_vectors(sae, x[:1]) + steering_vectors(sae, x[1:])) / 2
    torch.testing.assert_close(steering_vectors(sae, x), expected)


def test_two_concept_prompts_steer_as_their_mean_in_a_pipeline(pipe):
    both = [edit(0.25, "cat", conditionings=("cond",)), edit(0.25, "dog", conditionings=("cond",))]
    with steer(pipe, both):
        expected = run(pipe)
    with steer(pipe, [edit(0.5, ["cat", "dog"], conditionings=("cond",))]):
        torch.testing.assert_close(run(pipe), expected, rtol=1e-4, atol=1e-5)


def test_a_picture_depends_neither_on_its_neighbours_nor_on_pictures_per_prompt(pipe):
    with steer(pipe, [edit()]) as steering:
        pair = run(pipe, prompt=("dogs", "dogs"))
        several = run(pipe, prompt="dogs", num_images_per_prompt=2)
    torch.testing.assert_close(pair, several, rtol=1e-4, atol=1e-5)
    assert steering.steps == {0: 4}
    assert steering.largest_change[0] > 0.1


def test_text_and_block_edits_act_together(pipe):
    sae = SparseAutoencoder(D_IN["mid"], 3 * D_IN["mid"], TopK(4), seed=5)
    change = SpatialMove(sae, concept_direction(sae, [1, 2]), Region("left"), strength=2.0)
    move = Edit(HOOKPOINTS["mid"], change)
    made = {}
    for name, edits in {"text": [edit()], "block": [move], "both": [edit(), move]}.items():
        with steer(pipe, edits) as steering:
            made[name] = run(pipe)
    assert steering.steps == {0: 2, 1: 2}
    with steer(pipe, [edit()]), steer(pipe, [move]):
        assert torch.equal(run(pipe), made["both"])
    with steer(pipe, [move]), steer(pipe, [edit()]):
        assert torch.equal(run(pipe), made["both"])
    assert not torch.equal(made["both"], made["text"])
    assert not torch.equal(made["both"], made["block"])


def test_nested_text_edits_add_up(pipe):
    """If the inner edit's x_C were read through the outer edit, the sum would differ."""
    first, second = edit(0.8, "cat"), edit(0.4, "dog")
    with steer(pipe, [first, second]):
        together = run(pipe)
    for outer, inner in ((first, second), (second, first)):
        with steer(pipe, [outer]), steer(pipe, [inner]):
            torch.testing.assert_close(run(pipe), together, rtol=1e-4, atol=1e-5)


def test_nothing_remains_afterwards_also_after_an_error():
    pipe = tiny_pipeline()
    before = run(pipe)

    def stop(*_):
        raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"), steer(pipe, [edit()]):
        run(pipe, callback_on_step_end=stop)
    assert not {"encode_prompt", "check_inputs"} & set(vars(pipe))
    for module in (pipe.text_encoder, text_layer(pipe, "text_0"), pipe.unet):
        assert not module._forward_hooks and not module._forward_pre_hooks
    assert torch.equal(run(pipe), before)


def test_a_concept_prompt_is_encoded_once_a_context(pipe):
    calls = []
    encoder = pipe.text_encoder
    handle = encoder.register_forward_pre_hook(lambda _m, args: calls.append(len(args[0])))
    with steer(pipe, [edit(prompts=["cat", "dog"])]):
        run(pipe)
        first = list(calls)
        run(pipe)
    handle.remove()
    # Two concept prompts, plain and edited; then two prompts, cond and uncond.
    assert first == [2, 2, 2, 2]
    assert calls[4:] == [2, 2]


def test_given_embeddings_are_not_steered_and_a_warning_says_so(pipe, caplog):
    embeds, _ = pipe.encode_prompt(["a cat"], pipe.device, 1, False)
    refused = pytest.raises(UserError, match="given as embeddings; give it as text")
    with refused, steer(pipe, [edit()]):
        run(pipe, prompt=None, prompt_embeds=embeds)
    assert "steered only if they were made inside this context" in caplog.text


def test_embeddings_made_inside_are_steered_as_the_prompt_would_be(pipe):
    with steer(pipe, [edit()]):
        expected = run(pipe, prompt="dogs")
    with steer(pipe, [edit()]):
        cond, uncond = pipe.encode_prompt("dogs", pipe.device, 1, True)
        made = run(pipe, prompt=None, prompt_embeds=cond, negative_prompt_embeds=uncond)
    assert torch.equal(made, expected)


def test_an_edit_without_a_prompt_warns_that_it_never_acted(pipe, caplog):
    with steer(pipe, [edit()]):
        pass
    assert "edit 0 at text_0 never acted" in caplog.text


def test_an_encoder_that_runs_more_often_than_it_has_branches_is_refused(pipe, monkeypatch):
    own = pipe.encode_prompt

    def in_two_parts(*args, **kwargs):
        own(["a"], pipe.device, 1, False)
        return own(*args, **kwargs)

    in_two_parts.__signature__ = inspect.signature(own)
    monkeypatch.setattr(pipe, "encode_prompt", in_two_parts)
    with pytest.raises(UserError, match="more than 2 times"), steer(pipe, [edit()]):
        run(pipe)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"layer": "text_9"}, r"'text_9' does not exist; .*text_0 to text_1"),
        ({"layer": "text2_0"}, r"'text2_0' does not exist"),
        ({"prompts": ["cat", "  "]}, "is blank"),
        ({"prompts": []}, "is empty"),
        ({"prompts": "日本"}, r"'日本' tokenises to nothing that tokenizer knows"),
        ({"strength": float("nan")}, "must be finite"),
        ({"conditionings": ()}, "conditionings is empty"),
        ({"conditionings": ("both",)}, "unknown conditioning 'both'"),
    ],
)
def test_impossible_text_edits_are_refused_before_anything_runs(pipe, options, message):
    with pytest.raises(UserError, match=message), steer(pipe, [edit(**options)]):
        raise AssertionError("nothing may run")


def test_an_sae_of_another_width_is_refused(pipe):
    narrow = TextEdit("text_0", SparseAutoencoder(8, 16, TopK(2)), "cat", 0.5)
    refused = pytest.raises(UserError, match="vectors of 32, and its SAE takes 8")
    with refused, steer(pipe, [narrow]):
        pass
