"""The table of a model's GPU memory, the choice that fits a card, and their JSON."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from rich.table import Table

from diffusae.planning.gpu_memory import CONTEXT, MARGIN, Choice, GpuMemory, Need
from diffusae.planning.tables import bytes_in_words, narrow_table

GB = 1e9


def gpu_table(memory: GpuMemory, card: float | None) -> Table:
    """Every way to offload side by side, the configured one marked.

    Args:
        card: GB of a card; None: none is asked about.
    """
    own = memory.configured.choice
    about = [
        f"batches of {own.batch_size} in {own.dtype}, quantization={own.quantization};"
        f" in all: the most at a time, and {bytes_in_words(CONTEXT)} for CUDA",
        f"weights are exact, activations an estimate x {MARGIN}, not measured on a GPU",
        f"updates of a batch, in the CPU's memory: {bytes_in_words(memory.captured())}",
        f"training of one SAE, on the GPU: {bytes_in_words(memory.training())}",
    ]
    names = ["model.offload", "weights", "encoding", "denoising", "decoding", "in all"]
    table = narrow_table(
        names if card is None else [*names, f"fits {card:g} GB"],
        title="GPU memory (* as configured)",
        caption="\n".join(about),
    )
    for need in memory.choices():
        name = f"{need.choice.offload}{' *' if need.choice == own else ''}"
        counts = need.weights, need.encoding, need.denoising, need.decoding, need.peak
        row = [name, *map(bytes_in_words, counts)]
        table.add_row(*row, *([] if card is None else ["yes" if need.peak <= card * GB else "no"]))
    return table


def fitting(memory: GpuMemory, card: float) -> str:
    """The least slow choice that fits a card of so many GB, as overrides of the command."""
    need = memory.least_slow(card * GB)
    if need is None:
        return (
            f"nothing fits {card:g} GB, not even quantised weights; use a smaller model or picture"
        )
    overrides = need.choice.overrides(Choice.configured(memory.model))
    what = f"the least slow choice that fits {card:g} GB ({bytes_in_words(need.peak)}): "
    return what + (overrides or "as configured") + _consequence(need, memory)


def gpu_json(memory: GpuMemory, card: float | None) -> dict[str, Any]:
    """Bytes of every choice of the table, and the overrides of the one that fits."""
    need = None if card is None else memory.least_slow(card * GB)
    return {
        "choices": [asdict(one) | {"peak": one.peak} for one in memory.choices()],
        "captured": memory.captured(),
        "training": memory.training(),
        "card_gb": card,
        "least_slow": None
        if need is None
        else asdict(need)
        | {"peak": need.peak, "overrides": need.choice.overrides(Choice.configured(memory.model))},
    }


def _consequence(need: Need, memory: GpuMemory) -> str:
    own = Choice.configured(memory.model)
    changed = (need.choice.dtype, need.choice.quantization) != (own.dtype, own.quantization)
    return "; pictures and updates change a little with it" if changed else ""
