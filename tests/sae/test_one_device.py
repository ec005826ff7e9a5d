"""Training and validation keep to the device of their vectors: seen on a pretend one, where mixing
raises.
"""

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from diffusae.sae.autoencoder import SparseAutoencoder
from diffusae.sae.module import SAEModule
from diffusae.sae.sparsity import BatchTopK, JumpReLU, MatryoshkaTopK, ReLU, TopK
from sae.pretend_device import ELSEWHERE, Elsewhere, pretend_device

SPARSITIES = {
    "topk": lambda: TopK(4),
    "batchtopk": lambda: BatchTopK(4),
    "matryoshka": lambda: MatryoshkaTopK(4, prefixes=[5, 11]),
    "jumprelu": lambda: JumpReLU(32, l0=0.02),
    "relu": lambda: ReLU(l1=0.1),
}


@pytest.fixture(autouse=True)
def _any_device_for_adam(monkeypatch):
    """The fused Adam knows which devices there are."""
    adam: Any = torch.optim.Adam
    monkeypatch.setattr(
        torch.optim,
        "Adam",
        lambda parameters, **options: adam(parameters, **options | {"fused": False}),
    )


@pytest.fixture(autouse=True)
def _new_parameters_on_conversion():
    torch.__future__.set_overwrite_module_params_on_conversion(True)
    yield
    torch.__future__.set_overwrite_module_params_on_conversion(False)


def figures(
    name: str, precision: Any, scaling: Any, kernels: Any, *, elsewhere: bool
) -> dict[str, Any]:
    """What two steps with AuxK, a validation and a use of the autoencoder give."""
    x = torch.randn(24, 20, generator=torch.Generator().manual_seed(1))
    sae = SparseAutoencoder(
        20,
        32,
        SPARSITIES[name](),
        encoder_bias=True,
        selection_precision=precision,
        input_scaling=scaling,
        kernels=kernels,
    )
    module = SAEModule(sae, dead_after_vectors=1000, k_aux=8)
    module._trainer = SimpleNamespace(sanity_checking=False, global_step=0)  # type: ignore[assignment]
    if elsewhere:
        module, x = module._apply(lambda tensor: Elsewhere(tensor.detach())), Elsewhere(x)
    module.initialise(x)
    step = module.step_of(module.configure_optimizers(), clip=1.0)
    for _ in range(2):
        module.vectors_since_fired[8:24] = 2000
        (measured,) = step({"": x}).figures
        assert measured["aux_loss"] > 0
    measured |= module.gradients(x, revive=True)[1]  # nothing waits for the device
    module.eval()
    with torch.no_grad():
        module.validate(x)
        found = {**measured, **module.validation_figures()}
    codes = sae.encode(x)
    found |= {"x_hat": sae.decode(codes), "dense": sae.encode_dense(x), "norms": sae.code_norms(x)}
    module.refuse_broken_weights()
    module.dead_warning()
    return {**found, **{name: weights.detach() for name, weights in sae.named_parameters()}}


@pytest.mark.parametrize("scaling", ["mean_norm", "standardise"])
@pytest.mark.parametrize("precision", ["float32", "bfloat16", "int8"])
@pytest.mark.parametrize("kernels", ["torch", "dense"])
@pytest.mark.parametrize("name", SPARSITIES)
def test_training_validation_and_use_stay_on_the_device_of_their_vectors(
    name, precision, scaling, kernels
):
    with pretend_device():
        found = figures(name, precision, scaling, kernels, elsewhere=True)
    # int8 means bfloat16 where there is no CPU.
    expected = figures(
        name, "bfloat16" if precision == "int8" else precision, scaling, kernels, elsewhere=False
    )
    for figure, value in expected.items():
        assert isinstance(found[figure], Elsewhere), f"{figure} left the device"
        torch.testing.assert_close(found[figure].here, value, rtol=1e-4, atol=1e-5, equal_nan=True)


def test_the_pretend_device_refuses_what_a_gpu_refuses():
    there, here = Elsewhere(torch.ones(3)), torch.ones(3)
    with pretend_device():
        for mixing in (
            lambda: there + here,
            lambda: torch.cat([there, here]),
            lambda: there[torch.arange(2)],
        ):
            with pytest.raises(AssertionError, match="mixes devices"):
                mixing()
        assert isinstance(there + torch.tensor(1.0), Elsewhere)
        assert isinstance(torch.zeros(3, device=ELSEWHERE) + there, Elsewhere)
        assert type(there.to("cpu") + here) is torch.Tensor
