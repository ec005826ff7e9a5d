"""Checkpoints of papers' code: each gives the codes and reconstructions of its published forward
pass. Pickles are converted in this process here; `test_pickled` has the process of its own.
"""

import json

import numpy as np
import pytest
import torch
from torch.testing import assert_close

import foreign_saes
from diffusae.errors import UserError
from diffusae.sae.belongs import Belongs, differences, names_of, plain_path
from diffusae.sae.checkpoint import Stated
from diffusae.sae.exchange import detect, read_foreign
from foreign_saes import TIMESTEP, WRITERS, K, Weights

D_IN, D_SAE = 6, 11
WEIGHTS = Weights.drawn(D_IN, D_SAE)
X = np.random.default_rng(1).normal(size=(40, D_IN)).astype(np.float32) * 2 + np.arange(D_IN)


@pytest.fixture(autouse=True)
def _converted_here(monkeypatch, tmp_path_factory):
    foreign_saes.convert_here(monkeypatch, tmp_path_factory.mktemp("converted"))


def read(written, **others):
    return read_foreign(written.source, stated=Stated(**{**written.stated, **others}))


CASES = [(format, {}) for format in WRITERS] + [
    ("overcomplete", {"kind": kind}) for kind in ("batchtopk", "jump", "relu")
]


@pytest.mark.parametrize(("format", "options"), CASES)
def test_the_published_forward_pass_gives_our_codes_and_reconstructions(format, options, tmp_path):
    written = WRITERS[format](tmp_path / "theirs", WEIGHTS, **options)
    codes, x_hat = written.forward(X)
    foreign = read(written)
    ours = foreign.sae.encode_dense(torch.from_numpy(X))
    # Our codes are theirs times the norm of the decoder row.
    norms = 1.5 if format == "overcomplete" else 1.0
    assert foreign.format == format
    assert_close(ours, torch.from_numpy(codes * norms).float(), rtol=1e-4, atol=1e-4)
    assert_close(
        foreign.sae(torch.from_numpy(X)), torch.from_numpy(x_hat).float(), rtol=1e-4, atol=1e-4
    )
    assert 0 < (codes > 0).mean() < 1


def test_vectors_that_were_divided_before_training_are_divided_by_the_weights(tmp_path):
    written = foreign_saes.sdxl_unbox(tmp_path, WEIGHTS)
    codes, x_hat = written.forward(X / 4)
    sae = read(written, scale=4.0).sae
    assert_close(sae(torch.from_numpy(X)), torch.from_numpy(4 * x_hat).float())
    assert_close(sae.encode_dense(torch.from_numpy(X)), torch.from_numpy(4 * codes).float())


def test_revelio_keeps_values_below_zero_and_we_keep_zero(tmp_path):
    low = WEIGHTS._replace(b_enc=WEIGHTS.b_enc - 30)
    written = foreign_saes.revelio(tmp_path, low)
    codes, _ = written.forward(X)
    assert (codes < 0).any()
    ours = read(written).sae.encode_dense(torch.from_numpy(X))
    assert_close(ours, torch.from_numpy(np.maximum(codes, 0)).float(), rtol=1e-4, atol=1e-4)


SAID = {
    "sdxl_unbox": Belongs(
        model="stabilityai/sdxl-turbo",
        hookpoint="mid_block.attentions.0",
        quantity="update",
        t=1.0,
        conditioning="cond",
    ),
    "steerers": Belongs(hookpoint="text_1", quantity="output", t="all", conditioning="cond"),
    "saeuron": Belongs(
        hookpoint="mid_block.attentions.0", quantity="output", t="all", conditioning="cond"
    ),
    "revelio": Belongs(
        model="SD15",
        hookpoint="mid_block",
        quantity="pooled_output",
        timestep=500.0,
        conditioning="uncond",
    ),
    "overcomplete": Belongs(),
    "diffract": Belongs(
        model="black-forest-labs/FLUX.1-schnell",
        hookpoint="transformer_blocks.1",
        quantity="mlp_out",
        t="all",
        conditioning="cond",
    ),
}


@pytest.mark.parametrize("format", WRITERS)
def test_what_an_autoencoder_belongs_to_is_read_from_its_files(format, tmp_path):
    written = WRITERS[format](tmp_path / "theirs", WEIGHTS)
    foreign = read(written)
    assert foreign.belongs == SAID[format]
    assert written.source.name in {*foreign.files, written.source.name}
    assert all(len(digest) == 64 for digest in foreign.files.values())
    assert foreign.depends_on_time == (format == "diffract")


def test_the_t5_layer_of_concept_steerers_is_named_by_its_width(tmp_path):
    wide = Weights.drawn(4096, 4)
    written = foreign_saes.steerers(
        tmp_path, wide, hookpoint="text_encoder.text_model.encoder.layers.22"
    )
    assert read(written).belongs.hookpoint == "text2_22"


def test_the_text_stream_of_diffract_is_another_hookpoint(tmp_path):
    written = foreign_saes.diffract(tmp_path, WEIGHTS, name="sae_txt_12")
    assert read(written).belongs.hookpoint == "transformer_blocks.12@text"


def test_a_safetensors_file_in_the_place_of_the_pickle_is_read_too(tmp_path):
    from safetensors.torch import save_file

    written = foreign_saes.sdxl_unbox(tmp_path, WEIGHTS)
    state = torch.load(written.source / "state_dict.pth", weights_only=True)["state_dict"]
    save_file(
        {name: tensor.contiguous() for name, tensor in state.items()},
        written.source / "state_dict.safetensors",
    )
    (written.source / "state_dict.pth").unlink()
    _, x_hat = written.forward(X)
    assert_close(read(written).sae(torch.from_numpy(X)), torch.from_numpy(x_hat).float())


def test_sparsifys_own_files_are_not_taken_for_saeurons(tmp_path):
    written = foreign_saes.saeuron(tmp_path, WEIGHTS)
    assert detect(written.source) == "saeuron"
    config = {"activation": "topk", "k": K, "d_in": D_IN, "num_latents": D_SAE}
    (written.source / "cfg.json").write_text(json.dumps(config))
    assert detect(written.source) == "eai_sparsify"


def changed(written, **values):
    path = next(written.source.glob("c*fg.json"), written.source / "config.json")
    path.write_text(json.dumps(json.loads(path.read_text()) | values))
    return written


def test_a_configuration_under_which_something_else_is_computed_is_refused(tmp_path):
    for place, (values, message) in enumerate(
        [
            (
                {"input_unit_norm": True},
                "input_unit_norm=true must be false: a norm of each vector",
            ),
            (
                {"sample_topk": True},
                "sample_topk=true must be false: its k counts the latents of a",
            ),
            ({"k": "3"}, 'k="3" must be a whole number'),
            ({"num_latents": 40_000_000}, "says num_latents=40000000, W_dec has 11"),
        ]
    ):
        written = changed(foreign_saes.saeuron(tmp_path / str(place), WEIGHTS), **values)
        with pytest.raises(UserError, match=message):
            read(written)
    written = changed(foreign_saes.sdxl_unbox(tmp_path / "u", WEIGHTS), n_dirs_local=40_000_000)
    with pytest.raises(UserError, match=r": config.json says n_dirs_local=40000000, decoder"):
        read(written)


def test_two_encoders_side_by_side_are_refused(tmp_path):
    written = foreign_saes.steerers(
        tmp_path, WEIGHTS, hookpoint="text_encoder.text_model.encoder.layers.10.28"
    )
    with pytest.raises(UserError, match="layers 10 and 28 of two text encoders side by side"):
        read(written)


def test_a_transcoder_of_diffract_gives_the_published_codes_and_the_mlps_output(tmp_path):
    written = foreign_saes.diffract(tmp_path / "a", WEIGHTS, name="transcoder_img_1")
    foreign, x = read(written), torch.from_numpy(X)
    codes, target = written.forward(X)
    assert foreign.sae.transcodes
    assert foreign.belongs.quantity == "mlp_in"
    assert_close(foreign.sae.encode_dense(x), torch.from_numpy(codes).float(), rtol=1e-4, atol=1e-4)
    assert_close(foreign.sae(x), torch.from_numpy(target).float(), rtol=1e-4, atol=1e-4)


def test_a_file_that_may_be_a_transcoder_is_refused(tmp_path):
    with pytest.raises(UserError, match="the name alone tells a transcoder from an SAE"):
        read(foreign_saes.diffract(tmp_path / "b", WEIGHTS, name="best"))


def test_an_autoencoder_that_depends_on_time_needs_the_moment(tmp_path):
    written = foreign_saes.diffract(tmp_path, WEIGHTS)
    with pytest.raises(UserError, match=r"depends on time.*give stated.timestep=T"):
        read(written, timestep=None)
    at = [read(written, timestep=t).sae(torch.from_numpy(X)) for t in (TIMESTEP, 1000.0)]
    assert not torch.allclose(*at, atol=0.1)


def test_what_a_state_dict_of_overcomplete_does_not_say_is_asked_for(tmp_path):
    written = foreign_saes.overcomplete(tmp_path / "a", WEIGHTS)
    with pytest.raises(UserError, match=r"give stated.k=K \(TopKSAE\), stated.threshold=X"):
        read(written, k=None)
    longer = WEIGHTS._replace(W_dec=WEIGHTS.W_dec * 2)
    with pytest.raises(UserError, match='only dictionaries with the normalization "l2"'):
        read(foreign_saes.overcomplete(tmp_path / "b", longer))
    path = tmp_path / "c" / "sae.pth"
    path.parent.mkdir()
    state = torch.load(written.source, weights_only=True)
    torch.save(state | {"encoder.norm.weight": torch.ones(3)}, path)
    with pytest.raises(UserError, match=r"must hold dictionary._weights.*encoder.norm.weight"):
        read_foreign(path, stated=Stated(k=3))


def test_wrong_shapes_are_refused_before_anything_is_computed(tmp_path):
    written = foreign_saes.diffract(tmp_path / "a", WEIGHTS)
    state = torch.load(written.source, weights_only=True)
    torch.save(state | {"mod_linear.bias": torch.ones(3)}, written.source)
    with pytest.raises(UserError, match=r"sae_img_1.pt is damaged: mod_linear.bias must be \[12\]"):
        read(written)
    written = foreign_saes.sdxl_unbox(tmp_path / "b", WEIGHTS)
    path = written.source / "state_dict.pth"
    state = torch.load(path, weights_only=True)["state_dict"]
    torch.save({"state_dict": state | {"latent_bias": torch.ones(3)}}, path)
    with pytest.raises(UserError, match=r"b_enc must be \[11\]"):
        read(written)


def test_files_of_no_known_format_are_told_apart(tmp_path):
    torch.save({"weight": torch.ones(2, 2)}, tmp_path / "a.pt")
    with pytest.raises(UserError, match="holds weight, which is none of steerers, sdxl_unbox"):
        read_foreign(tmp_path)
    torch.save({"weight": torch.ones(2, 2)}, tmp_path / "b.pt")
    with pytest.raises(
        UserError, match=r"must hold one file of tensors, holds a.pt, b.pt; name on"
    ):
        read_foreign(tmp_path)
    with pytest.raises(UserError, match="unknown format 'onnx'; known: diffract, eai_sparsify"):
        read_foreign(tmp_path, format="onnx")


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        ("unet.mid_block.attentions.0", "mid_block.attentions.0"),
        ("transformer.transformer_blocks.18", "transformer_blocks.18"),
        ("text_encoder.text_model.encoder.layers.9", "text_9"),
        ("text_encoder.encoder.layers.9", "text_9"),
        ("text_encoder_2.text_model.encoder.layers.28", "text2_28"),
        ("text_encoder_2.encoder.block.22", "text2_22"),
        ("text_encoder_3.encoder.block.5", "text3_5"),
    ],
)
def test_a_path_is_the_same_in_whatever_form_it_is_written(theirs, ours):
    assert plain_path(theirs) == ours


def test_a_hookpoints_name_says_path_quantity_and_stream():
    assert Belongs.at("a.1") == Belongs(hookpoint="a.1", quantity="update")
    assert Belongs.at("a.1:after") == Belongs(hookpoint="a.1", quantity="output")
    assert Belongs.at("a.1:mlp_out@text") == Belongs(hookpoint="a.1@text", quantity="mlp_out")
    assert Belongs.at("text_encoder.encoder.layers.2").quantity == "output"
    assert Belongs.at("a.1@picture", quantity="output").quantity == "output"
    with pytest.raises(UserError, match="must be PATH"):
        Belongs.at("a:b:c")


def test_only_what_both_sides_know_can_differ():
    ours = Belongs(
        model="CompVis/stable-diffusion-v1-4", hookpoint="a", quantity="update", t=0.5, timestep=501
    )
    names = names_of("CompVis/stable-diffusion-v1-4") | {"sd14"}

    def found(**theirs):
        return list(differences(Belongs(**theirs), ours, names=names))

    assert found() == found(t="all", model="sd14") == found(t=0.501, hookpoint="a") == []
    assert found(model="/models/CompVis--stable-diffusion-v1-4") == []
    assert found(model="SD15") == ["model SD15 -> CompVis/stable-diffusion-v1-4"]
    assert found(t=0.25, quantity="output") == ["quantity output -> update", "t 0.25 -> 0.5"]
    assert found(timestep=500) == []
    assert found(timestep=480) == ["timestep 480 -> 501"]
