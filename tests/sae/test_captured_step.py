"""The step as a CUDA graph, on a GPU: it is captured, waits for nothing, and does what plain steps
do. `test_step` has the same on the CPU, with a recorder that only pretends.
"""

import logging

import pytest
import torch

from diffusae.errors import UserError
from diffusae.sae.module import SAEModule
from diffusae.sae.step import Step
from sae.test_step import BATCH, SPARSITIES, STEPS, Pretended, batches, module_of, vectors

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


def on_gpu(name: str, kernels: str, **options) -> tuple[SAEModule, Step]:
    module = module_of(name, kernels=kernels, **options).cuda()
    return module, module.step_of(module.configure_optimizers(), clip=0.05)


@pytest.mark.parametrize("kernels", ["torch", "dense", "triton"])
@pytest.mark.parametrize("name", SPARSITIES)
def test_replayed_steps_are_plain_steps(name, kernels, caplog):
    if kernels == "triton":
        pytest.importorskip("triton")
    captured, step = on_gpu(name, kernels)
    plain = module_of(name, kernels=kernels).cuda()
    plain.recorder = Pretended()
    plain_step = plain.step_of(plain.configure_optimizers(), clip=0.05)
    with caplog.at_level(logging.INFO, logger="diffusae"):
        for batch in batches():
            given = {"": batch.cuda()}
            torch.testing.assert_close(
                step(given).losses, plain_step(given).losses, rtol=1e-3, atol=1e-5
            )
    step.check()
    by_rows_of_a_batch = name == "batchtopk" and kernels != "dense"
    assert ("not captured" in caplog.text) == by_rows_of_a_batch
    for key, value in plain.state_dict().items():
        torch.testing.assert_close(captured.state_dict()[key], value, rtol=2e-2, atol=1e-3)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("kernels", ["torch", "dense"])
@pytest.mark.parametrize("name", SPARSITIES)
def test_no_step_waits_for_the_device(name, kernels, precision):
    if (name, kernels) == ("batchtopk", "torch"):
        pytest.skip("it chooses over a batch, in steps that wait")
    module, _ = on_gpu(name, kernels, selection_precision=precision)
    given = [{"": batch.cuda()} for batch in batches()[:30]]
    for revived in (False, True):
        if revived:
            module.vectors_since_fired[:4] = 10**6
        captured, plain = (module.step_of(module.configure_optimizers(), clip=0.05) for _ in "12")
        plain._replay = None
        for step in (captured, plain):
            for batch in given[:10]:
                step(batch)
            torch.cuda.set_sync_debug_mode("error")
            try:
                for batch in given[10:]:
                    step(batch)
            finally:
                torch.cuda.set_sync_debug_mode("default")


def test_a_short_batch_between_replays_leaves_them_right():
    results = []
    for recorder in (None, Pretended()):
        module = module_of("topk").cuda()
        module.recorder = recorder
        step = module.step_of(module.configure_optimizers())
        for number, batch in enumerate(batches()):
            step({"": (vectors(7, seed=number) if number % 9 == 8 else batch).cuda()})
        results.append(module.autoencoder.W_dec.detach())
    torch.testing.assert_close(*results, rtol=1e-3, atol=1e-4)


def test_a_loss_that_is_not_finite_is_told_with_its_step():
    _, step = on_gpu("topk", "dense")

    def train() -> None:
        for number in range(4 * STEPS):
            batch = torch.full((BATCH, 8), torch.nan if number == 7 else 1.0 + number)
            step({"": batch.cuda()})

    with pytest.raises(UserError, match="the loss is nan at step 7;"):
        train()
