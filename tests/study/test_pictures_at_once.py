"""The size of a batch of pictures: a number as it is given, `auto` by what fits."""

from dataclasses import replace

import pytest
import torch

from composing import compose
from diffusae.backbone.settings import ModelSettings
from diffusae.errors import UserError
from diffusae.study import pictures_at_once as module
from diffusae.study.pictures_at_once import largest_fitting, pictures_at_once

GB = 10**9
CUDA = torch.device("cuda", 0)


class Pipe:
    """A pipeline that is not run."""


@pytest.fixture(scope="module")
def model() -> ModelSettings:
    return ModelSettings.of(compose("collect", ["debug=tiny"]))


def test_a_number_is_taken_as_it_is(model: ModelSettings) -> None:
    assert pictures_at_once(replace(model, batch_size=3), None) == 3


@pytest.mark.parametrize(
    ("height", "width", "expected"), [(512, 512, 8), (64, 64, 16), (128, 128, 16), (128, 129, 8)]
)
def test_auto_on_a_cpu_follows_from_the_size_of_the_pictures(
    height: int, width: int, expected: int, model: ModelSettings, monkeypatch
) -> None:
    monkeypatch.setattr(module, "execution_device", lambda _pipe: torch.device("cpu"))
    sized = replace(model, batch_size="auto", height=height, width=width)
    assert pictures_at_once(sized, Pipe()) == expected


@pytest.mark.parametrize(
    ("one", "two", "free", "expected"),
    [
        (3 * GB, 5 * GB, 40 * GB, 8),  # 1 + (32 - 3) / 2 = 15.5
        (3 * GB, 5 * GB, 42 * GB, 16),  # 1 + (33.6 - 3) / 2 = 16.3
        (3 * GB, 5 * GB, 4 * GB, 1),  # .2 of another one
        (3 * GB, 5 * GB, 1 * GB, 1),
        (GB, GB + 1, 140 * GB, 128),
        (GB, GB, 140 * GB, 128),
    ],
)
def test_the_largest_power_of_two_that_fits(one: int, two: int, free: int, expected: int) -> None:
    assert largest_fitting(one, two, free) == expected


@pytest.fixture
def gpu(monkeypatch) -> None:
    """A GPU with 10 GB free and 5 GB more that torch holds unused."""
    monkeypatch.setattr(module, "execution_device", lambda _pipe: CUDA)
    sizes = {"memory_reserved": 9 * GB, "memory_allocated": 4 * GB, "mem_get_info": (10 * GB, 0)}
    for name, value in sizes.items():
        monkeypatch.setattr(torch.cuda, name, lambda _device, value=value: value)
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda _device: None)


def test_auto_measures_one_and_two_pictures_once(model: ModelSettings, gpu, monkeypatch) -> None:
    made: list[int] = []
    monkeypatch.setattr(
        module, "generate", lambda _pipe, prompts, *_, **__: made.append(len(prompts))
    )
    peaks = iter([6 * GB, 7 * GB])  # beside the 4 GB of the model: 2 GB, then 1 GB more
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda _device: next(peaks))
    pipe, auto = Pipe(), replace(model, batch_size="auto")
    # .8 of 15 GB are 12: one picture takes 2, ten others 1 each.
    assert pictures_at_once(auto, pipe) == pictures_at_once(auto, pipe) == 8
    assert made == [1, 2]


def test_where_two_pictures_are_out_of_memory_one_is_made(model, gpu, monkeypatch) -> None:
    def generate(_pipe: object, prompts: list[str], *_: object, **__: object) -> None:
        if len(prompts) > 1:
            raise UserError("out of memory") from torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(module, "generate", generate)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda _device: 6 * GB)
    assert pictures_at_once(replace(model, batch_size="auto"), Pipe()) == 1


@pytest.mark.parametrize("value", [0, 5000, "many", 2.5])
def test_other_values_are_refused_with_what_may_be_given(model: ModelSettings, value) -> None:
    with pytest.raises(UserError, match="from 1 to 4096, or auto"):
        replace(model, batch_size=value)
