"""How FLUX's pipelines run guidance, beside the arguments that diffusers' own classes take."""

import inspect

import diffusers
import pytest

from diffusae.backbone.families.chroma import ChromaAdapter
from diffusae.backbone.families.flux import FluxAdapter
from diffusae.backbone.families.flux2 import Flux2Adapter
from diffusae.backbone.families.table import passes_of, require_text_to_image
from diffusae.backbone.passes import guided_passes, two_passes, unguided
from diffusae.errors import UserError


def every(adapter: type[FluxAdapter]) -> tuple[str, ...]:
    return (*adapter.pipelines, *adapter.with_a_picture)


@pytest.mark.parametrize("name", every(FluxAdapter))
def test_flux_makes_a_second_pass_where_its_call_takes_a_true_guidance_scale(name: str) -> None:
    taken = inspect.signature(getattr(diffusers, name).__call__).parameters
    assert FluxAdapter.passes(name) is (two_passes if "true_cfg_scale" in taken else unguided)


def test_control_and_fill_have_no_true_guidance() -> None:
    for name in ("FluxControlPipeline", "FluxControlImg2ImgPipeline", "FluxFillPipeline"):
        assert FluxAdapter.passes(name) is unguided


@pytest.mark.parametrize("adapter", [Flux2Adapter, ChromaAdapter])
def test_flux_2_and_chroma_make_a_second_pass_where_their_class_knows_guidance(
    adapter: type[FluxAdapter],
) -> None:
    for name in every(adapter):
        guides = hasattr(getattr(diffusers, name), "do_classifier_free_guidance")
        assert adapter.passes(name) is (guided_passes if guides else unguided)


def test_a_distilled_klein_runs_without_guidance() -> None:
    assert Flux2Adapter.layout_of("Flux2KleinPipeline", {"is_distilled": True}) == "none"
    assert Flux2Adapter.layout_of("Flux2KleinPipeline", {"is_distilled": False}) == "guided_passes"
    assert Flux2Adapter.layout_of("Flux2Pipeline", {}) == "none"


def test_a_klein_that_caches_a_given_picture_is_refused() -> None:
    """Its cache is emptied after a call, so that a replay would read nothing."""
    assert passes_of(diffusers.Flux2KleinKVPipeline) is None
    with pytest.raises(UserError, match="Flux2KleinKVPipeline is none of the supported"):
        require_text_to_image("Flux2KleinKVPipeline")
