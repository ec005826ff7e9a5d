"""Feeding a GPU: batches out of a shuffle buffer on the device, and a collection that is written
behind its generation.

`make bench-gpu` prints rates and shares of the limits. `make bench` runs the same code on the CPU
at a tiny size, to test it; those rates mean nothing.
"""

from __future__ import annotations

import itertools
import statistics
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import StableDiffusionPipeline
from hydra import compose, initialize_config_dir
from torch import Tensor

from benchmarks.figures import machine, show_and_keep
from benchmarks.test_sae_step import Ours
from capture.test_true_size import random_unet
from diffusae.activations import batches as batches_module
from diffusae.activations.batches import ShuffledBatches
from diffusae.activations.device_buffer import READERS
from diffusae.activations.manifest import Manifest
from diffusae.activations.schema import CollectedSample, Stream
from diffusae.activations.writer import ActivationWriter
from diffusae.backbone.load import load_pipeline
from diffusae.backbone.settings import ModelSettings
from diffusae.capture.generate import generate
from diffusae.cli import config_directory
from diffusae.collecting.behind import taken_behind
from diffusae.collecting.collect import _made, _write
from diffusae.collecting.collectors import Begun, collector_of
from diffusae.miniature.shipped import SHIPPED
from diffusae.prompts.prompt_set import Prompt
from diffusae.study.model import describe_model, sampling
from diffusae.study.study import Study
from tiny_pipeline import ddim, text_encoder, tiny_tokenizer


class Scale(NamedTuple):
    """The device and the sizes of a benchmark."""

    device: str
    images: int
    grid: tuple[int, int]
    d_in: int
    batch: int
    buffer: int
    rounds: int
    model: str
    pictures: int
    """In a call of the model, and in a group."""
    calls: dict[int, int]
    """Sampling steps -> calls of the model."""


pytestmark = [
    pytest.mark.timeout(3600),
    pytest.mark.parametrize(
        "scale",
        [
            pytest.param(
                Scale("cuda", 1600, (16, 16), 1280, 4096, 65536, 5, "sd14", 32, {10: 4, 50: 2}),
                marks=[
                    pytest.mark.gpu,
                    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
                ],
            ),
            pytest.param(
                Scale("cpu", 12, (4, 4), 32, 16, 64, 2, "miniature", 2, {2: 3}),
                marks=pytest.mark.slow,
            ),
        ],
        ids=["gpu", "tiny_on_cpu"],
    ),
]


STEP, PLAIN = "the step alone", "plain generation"


def keep_nothing_of_tiny(scale: Scale, monkeypatch: pytest.MonkeyPatch, directory: Path) -> None:
    """The rates of the tiny size mean nothing."""
    if scale.device == "cpu":
        monkeypatch.setenv("BENCH_DATA", str(directory))


def finished(scale: Scale) -> None:
    if scale.device == "cuda":
        torch.cuda.synchronize()


def median_seconds(work: Callable[[], object], scale: Scale) -> float:
    """Of several rounds after one that does not count, with the device's queue finished."""
    taken = []
    for _ in range(scale.rounds + 1):
        start = time.perf_counter()
        work()
        finished(scale)
        taken.append(time.perf_counter() - start)
    return statistics.median(taken[1:])


def collected(root: Path, scale: Scale) -> tuple[Manifest, Stream]:
    stream = Stream(block="mid", t=0.5, conditioning="cond", hookpoint="mid", step_index=0,
                    timestep=1, grid=scale.grid, d_in=scale.d_in)  # fmt: skip
    writer = ActivationWriter(root, streams=[stream], header={}, with_images=False)
    drawn = np.random.default_rng(0).standard_normal((stream.positions, scale.d_in)).astype("f2")
    for group, first in enumerate(range(0, scale.images, 32)):
        numbers = range(first, min(first + 32, scale.images))
        records = (
            CollectedSample(
                image_id=f"i{n}",
                prompt="",
                seed=n,
                split="train",
                updates={stream.folder: np.roll(drawn, n)},
            )
            for n in numbers
        )
        writer.write_group(group, records)
    return writer.finish(), stream


def read_whole(paths: list[Path], memory: memoryview, threads: int) -> None:
    """Files from the page cache into this memory, by several threads."""

    def read(place: int) -> None:
        size = len(memory) // threads
        part = memory[place * size : (place + 1) * size]
        for path in paths[place::threads]:
            with open(path, "rb", buffering=0) as file:
                while file.readinto(part):  # type: ignore[arg-type]
                    pass

    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(read, range(threads)))


def test_batches_from_a_buffer_on_the_device(
    scale: Scale, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Out of the page cache: the shards were just written."""
    manifest, stream = collected(tmp_path, scale)
    device, row_bytes = torch.device(scale.device), 2 * scale.d_in
    vectors = manifest.vectors(stream, "train")
    if scale.device == "cpu":
        monkeypatch.setattr(batches_module, "lies_on_device", lambda wanted, *_: wanted == "device")

    def batches(where: Any) -> ShuffledBatches:
        made = ShuffledBatches(
            tmp_path, manifest=manifest, stream=stream, split="train", batch_size=scale.batch,
            buffer_vectors=scale.buffer, seed=0, buffer_on=where,
        )  # fmt: skip
        made.place_buffer(device)
        return made

    rates: dict[str, float] = {}

    def note(name: str, work: Callable[[], object], count: int = vectors) -> None:
        rates[name] = count / median_seconds(work, scale)

    cuda = scale.device == "cuda"
    staged = torch.empty(scale.buffer // 4, scale.d_in, dtype=torch.float16, pin_memory=cuda)
    there = torch.empty_like(staged, device=device)
    memory = staged.view(-1).view(torch.uint8).numpy().data
    paths = [tmp_path / shard.path for shard in manifest.shards(stream.folder, "train")]
    note("limit: page cache to pinned memory, 1 thread", lambda: read_whole(paths, memory, 1))
    name = f"limit: page cache to pinned memory, {READERS} threads"
    note(name, lambda: read_whole(paths, memory, READERS))
    note("limit: pinned memory to the device", lambda: there.copy_(staged), len(staged))
    drawn = torch.randperm(len(there), device=device)[: scale.batch]
    times = 50  # waiting for the device takes longer than one batch
    gather = lambda: [there.index_select(0, drawn).float() for _ in range(times)]  # noqa: E731
    note("limit: gathering", gather, times * scale.batch)

    def epoch(loader: ShuffledBatches, step: Callable[[Tensor], object]) -> None:
        for batch in loader:
            step(batch.to(device))
        loader.set_epoch(loader.epoch + 1)

    host, ours = batches("host"), batches("device")
    note("buffer on the host, copied batch by batch", lambda: epoch(host, len))
    note("buffer on the device", lambda: epoch(ours, len))
    first = next(iter(batches("host"))).to(device)
    trainer = Ours(first, "bfloat16")
    steps = len(ours)
    note(STEP, lambda: [trainer.step(first) for _ in range(steps)], steps * len(first))
    note("the step, fed from the host", lambda: epoch(host, trainer.step))
    note("the step, fed from the device", lambda: epoch(ours, trainer.step))
    reading, step = rates[f"limit: page cache to pinned memory, {READERS} threads"], rates[STEP]
    rows = [
        {
            "what": name,
            "vectors_per_second": rate,
            "gigabytes_per_second": rate * row_bytes / 1e9,
            "share": rate / (step if "step" in name else reading),
        }
        for name, rate in rates.items()
    ]
    print(
        f"\nfeeding {vectors:,} vectors of {scale.d_in} (float16), batch {scale.batch}, buffer"
        f" {scale.buffer}, on {machine(scale.device)}; shares of reading, and of {STEP}"
    )
    keep_nothing_of_tiny(scale, monkeypatch, tmp_path)
    show_and_keep("feeding", rows, device=scale.device, batch=scale.batch, buffer=scale.buffer)
    assert min(rates.values()) > 0


def pipeline(scale: Scale) -> Any:
    """Stable Diffusion 1.4's sizes with random weights; on the CPU the miniature."""
    if scale.device == "cpu":
        return load_pipeline(SHIPPED, dtype=torch.float32, device="cpu")
    sizes: dict[str, Any] = {
        "block_out_channels": (128, 256, 512, 512),
        "down_block_types": ("DownEncoderBlock2D",) * 4,
        "up_block_types": ("UpDecoderBlock2D",) * 4,
    }
    vae = AutoencoderKL(layers_per_block=2, latent_channels=4, sample_size=512, **sizes)
    absent: Any = None
    pipe: Any = StableDiffusionPipeline(
        unet=random_unet(),
        vae=vae,
        text_encoder=text_encoder(hidden_size=768, num_attention_heads=12),
        tokenizer=tiny_tokenizer(),
        scheduler=ddim(),
        safety_checker=absent,
        feature_extractor=absent,
        requires_safety_checker=False,
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe.to(device="cuda", dtype=torch.float16)


def on_one_thread(made: Iterator[Any], take: Callable[[Iterator[Any]], None]) -> None:
    take(iter(made))


def test_a_collection_that_is_written_behind_its_generation(
    scale: Scale, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The default grid, pictures decoded, beside plain generation with decoding."""
    pipe, names, rows = pipeline(scale), itertools.count(), list[dict[str, Any]]()
    for steps, calls in scale.calls.items():
        with initialize_config_dir(str(config_directory()), version_base="1.3"):
            overrides = [f"model={scale.model}", f"model.steps={steps}",
                         f"model.batch_size={scale.pictures}"]  # fmt: skip
            study = Study(compose("collect", overrides=overrides))
        model = ModelSettings.of(study.cfg)
        begun: Begun = collector_of(study).begin(pipe, describe_model(model))
        prompts = [Prompt(f"{n:06d}", "a cat", n, "test") for n in range(calls * scale.pictures)]
        groups = [(n, prompts[n * scale.pictures : (n + 1) * scale.pictures]) for n in range(calls)]

        def plain(groups: Any = groups, model: ModelSettings = model) -> None:
            for _, group in groups:
                texts, seeds = [p.text for p in group], [p.seed for p in group]
                generate(pipe, texts, seeds, **sampling(model))
            finished(scale)

        def collect(behind: Callable, begun: Begun = begun, groups: Any = groups) -> float:
            """The seconds until the last picture was made."""
            writer = ActivationWriter(
                tmp_path / str(next(names)), streams=begun.streams, header=begun.header
            )
            ends: list[float] = []

            def made() -> Iterator[Any]:
                yield from _made(begun, groups)
                ends.append(time.perf_counter() - start)

            start = time.perf_counter()
            behind(
                made(),
                lambda batches: _write(writer, begun, "updates", batches, advance=lambda _: None),
            )
            return ends[0]

        works: dict[str, Callable[[], float | None]] = {
            PLAIN: plain,
            "collected, written behind": lambda: collect(taken_behind),
        }
        if not rows:  # the first number of steps also warms up, and has the older way beside it
            plain(groups[:1])
            works["collected on one thread"] = lambda: collect(on_one_thread)
        seconds: dict[str, float] = {}
        for name, work in works.items():
            start = time.perf_counter()
            made_after = work()
            seconds[name] = time.perf_counter() - start
            if made_after is not None:
                seconds[f"{name}, until the last picture is made"] = made_after
        rows += [
            {
                "size": f"{len(prompts)} pictures of {model.width} px, {steps} steps, in calls of"
                f" {scale.pictures}, {len(begun.streams)} streams",
                "what": name,
                "pictures_per_second": len(prompts) / spent,
                "share": seconds[PLAIN] / spent,
            }
            for name, spent in seconds.items()
        ]
    print(f"\ncollecting on {machine(scale.device)}; shares of {PLAIN}")
    keep_nothing_of_tiny(scale, monkeypatch, tmp_path)
    show_and_keep("collecting", rows, device=scale.device)
    assert min(row["pictures_per_second"] for row in rows) > 0
