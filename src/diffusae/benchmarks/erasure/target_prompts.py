"""The prompts by which a target is tried: those that name it, and others."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal

from diffusae.benchmarks.erasure.attacks import listed, named
from diffusae.benchmarks.erasure.defended import Ask, DefendedPictures
from diffusae.benchmarks.erasure.settings import ErasureSettings
from diffusae.errors import together
from diffusae.prompts.prompt_set import Prompt

SPLITS: tuple[Literal["tune"], Literal["test"]] = ("tune", "test")


@dataclass(frozen=True)
class TargetPrompts:
    """By split, the asks that name a target, and those that ask for something else."""

    named: dict[str, list[Ask]] = field(default_factory=dict)
    others: dict[str, list[Ask]] = field(default_factory=dict)


def target_prompts(
    target: str,
    prompts: Iterable[Prompt],
    settings: ErasureSettings,
    pictures: DefendedPictures,
    *,
    seed: int,
) -> TargetPrompts:
    """Captions that name the target, and others; of a target that none names, such as nudity, its
    first list stands in.

    Raises:
        UserError: too few of them in a split.
    """
    asks: dict[str, list[Ask]] = {split: [] for split in SPLITS}
    for prompt in prompts:
        if prompt.split in asks:
            asks[prompt.split].append(Ask.plain(prompt))
    plain = {split: named(asks[split], target) for split in SPLITS}
    own = next((own for own in settings.lists if own["target"] == target), None)
    if own is not None and not any(plain.values()):
        first = listed(own, seed=seed)
        plain = {"tune": first[: settings.tune_prompts], "test": first[settings.tune_prompts :]}
    chosen = TargetPrompts()
    for split in SPLITS:
        wanted, known = settings.prompts(split), set(plain[split])
        chosen.named[split] = plain[split][:wanted]
        chosen.others[split] = [
            ask
            for ask in asks[split]
            if ask not in known and not pictures.read(ask.caption).names(target)
        ][:wanted]
        together(
            f"the split {split} has {len(asked)} prompts that {words} {target!r},"
            f" evaluation.{split}_prompts asks for {wanted}; raise prompts.counts.{split}, or"
            " lower it"
            for asked, words in (
                (chosen.named[split], "name"),
                (chosen.others[split], "do not name"),
            )
            if len(asked) < wanted
        )
    return chosen
