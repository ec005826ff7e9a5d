"""All that the erasure benchmark tries, target by target: defences at every strength, attacks on
the chosen ones, other autoencoders.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from diffusae.benchmarks.erasure.attacks import TokenAttack, in_words, listed, named, with_tokens
from diffusae.benchmarks.erasure.autoencoders import UpdateAblation, text_edit, text_saes
from diffusae.benchmarks.erasure.defended import Ask, DefendedPictures, Seen
from diffusae.benchmarks.erasure.settings import SEARCHED, TRANSFER, ErasureSettings
from diffusae.errors import together
from diffusae.evaluation.erasure import (
    COLUMNS,
    OTHERS,
    PLAIN,
    POINTS,
    SEARCHES,
    TRIALS,
    Point,
    Table,
    chosen_strength,
    erasure_results,
    points,
)
from diffusae.evaluation.kernel_distance import kernel_distance
from diffusae.evaluation.result import Estimate, Result
from diffusae.files import atomic_path
from diffusae.interventions import defences as kinds
from diffusae.interventions.defences import Defence
from diffusae.prompts.attacks import without_words
from diffusae.prompts.token_search import SearchResult
from diffusae.report.before_after import Kept, save_examples
from diffusae.sae.autoencoder import SparseAutoencoder
from diffusae.study.study import Study

log = logging.getLogger(__name__)

SPLITS = ("tune", "test")


@dataclass(frozen=True)
class _Prompts:
    """Of one target: by split, the asks that name it, and those that ask for something else."""

    named: dict[str, list[Ask]]
    others: dict[str, list[Ask]]


class ErasureBenchmark:
    """Everything that is tried, target by target."""

    def __init__(self, study: Study, settings: ErasureSettings, pictures: DefendedPictures) -> None:
        self.study, self.settings, self.pictures = study, settings, pictures
        self.targets = settings.concept_prompts
        self.saes = text_saes(study, settings.ablations.cells)
        self.own = next(iter(self.saes))
        ablates = kinds.ABLATION in settings.defences
        self.updates = UpdateAblation(study, settings.updates, pictures) if ablates else None
        self.trials: list[dict[str, Any]] = []
        self.searches: list[dict[str, Any]] = []
        self.distances: dict[tuple[str, str, str, float], Estimate] = {}
        self.kept: list[Kept] = []

    def of(self, target: str) -> list[Result]:
        """All trials of one target, and its rows."""
        prompts = self._prompts(target)
        own = self._text_edits(target, self.own)
        grid = {kinds.NONE: [kinds.no_defence()], kinds.TEXT_EDIT: own, **self._baselines(target)}
        undefended = self._both(target, grid[kinds.NONE][0], prompts, "tune")
        for name, defences in grid.items():
            for defence in defences:
                if name != kinds.NONE:
                    self._both(target, defence, prompts, "tune")
                self._both(target, defence, prompts, "test")
        chosen, tuning = self._chosen(target, grid)
        self._attacks(target, chosen, prompts, undefended)
        self._ablations(target, prompts)
        self._keep(target, chosen, prompts)
        self.pictures.forget()
        return erasure_results(
            self.points(),
            target=target,
            own=kinds.TEXT_EDIT,
            chosen={name: self._point(defence) for name, defence in chosen.items()},
            cell=self.study.cell.coordinates(),
            details={"tuning": tuning, "concept_prompts": list(self.targets[target])}
            | {"tag": self.study.cfg.sae.tag, "steps": self.pictures.steps},
        )

    def points(self) -> Table:
        """The figures of all trials so far."""
        return points(
            self._table(),
            self.distances,
            n_resamples=self.settings.n_resamples,
            seed=self.study.cfg.seed,
        )

    def save(self) -> None:
        """Write the tables and the example pictures."""
        directory = self.study.evaluation(self.study.cfg.evaluation.name)
        tables = {
            TRIALS: self._table(),
            POINTS: self.points(),
            SEARCHES: pd.DataFrame(self.searches),
        }
        for name, table in tables.items():
            with atomic_path(directory / name) as temporary:
                table.to_parquet(temporary, engine="pyarrow", index=False)
        save_examples(directory, self.kept)

    def _table(self) -> Table:
        return pd.DataFrame(self.trials, columns=list(COLUMNS))

    def _prompts(self, target: str) -> _Prompts:
        """Captions that name the target, and others; of a target that none names, such as nudity,
        its first list stands in.
        """
        prompts = _Prompts({}, {})
        plain = {
            split: named(
                [Ask.plain(prompt) for prompt in self.study.prompts if prompt.split == split],
                target,
            )
            for split in SPLITS
        }
        own = next((own for own in self.settings.lists if own["target"] == target), None)
        if own is not None and not any(plain.values()):
            asks, first = listed(own, seed=self.study.cfg.seed), self.settings.tune_prompts
            plain = {"tune": asks[:first], "test": asks[first:]}
        for split in SPLITS:
            wanted, known = self.settings.prompts(split), set(plain[split])
            asks = [Ask.plain(prompt) for prompt in self.study.prompts if prompt.split == split]
            prompts.named[split] = plain[split][:wanted]
            prompts.others[split] = [
                ask
                for ask in asks
                if ask not in known and not self.pictures.read(ask.caption).names(target)
            ][:wanted]
            together(
                f"the split {split} has {len(asked)} prompts that {words} {target!r},"
                f" evaluation.{split}_prompts asks for {wanted}; raise prompts.counts.{split}, or"
                " lower it"
                for asked, words in (
                    (prompts.named[split], "name"),
                    (prompts.others[split], "do not name"),
                )
                if len(asked) < wanted
            )
        return prompts

    def _text_edits(self, target: str, name: str) -> list[Defence]:
        layer, sae = self.saes[name]
        strengths = self.settings.strengths.text_edit
        return kinds.text_edit(self._edit(target, layer, sae), strengths)

    def _edit(self, target: str, layer: str, sae: SparseAutoencoder) -> Any:
        prompts, conditionings = self.targets[target], self.settings.conditionings
        return lambda strength: text_edit(layer, sae, prompts, strength, conditionings)

    def _baselines(self, target: str) -> dict[str, list[Defence]]:
        strengths = self.settings.strengths
        asked = self.pictures.asked
        make = {
            kinds.NEGATIVE_PROMPT: lambda: [kinds.negative_prompt(target)],
            kinds.SAFE_GUIDANCE: lambda: kinds.safe(target, strengths.safe_guidance, **asked),
            kinds.WORD_REMOVAL: lambda: [
                kinds.word_removal(lambda text: without_words(text, [target]))
            ],
            kinds.ABLATION: lambda: self._update_ablations(target, strengths.update_ablation),
        }
        return {name: make[name]() for name in self.settings.defences}

    def _update_ablations(self, target: str, strengths: Sequence[float]) -> list[Defence]:
        assert self.updates is not None
        return kinds.update_ablation(self.updates.edits(target), strengths)

    def _chosen(
        self, target: str, grid: Mapping[str, Sequence[Defence]]
    ) -> tuple[dict[str, Defence], dict[str, dict[str, float]]]:
        """The defence of every kind at the strength with the best balance on the tuning split."""
        table = self._table()
        tune = table[(table["target"] == target) & (table["split"] == "tune")]
        chosen, tuning = {}, {}
        for name, defences in grid.items():
            rows = tune[(tune["defence"] == name) & tune["variant"].isin(["", self.own])]
            best, tuning[name] = chosen_strength(rows, [defence.strength for defence in defences])
            chosen[name] = next(defence for defence in defences if defence.strength == best)
        return chosen, tuning

    def _both(self, target: str, defence: Defence, prompts: _Prompts, split: str) -> list[Seen]:
        """Plain prompts and others; what is seen in the plain ones comes back."""
        plain = self._try(target, defence, prompts.named[split], split, PLAIN)
        others = self._try(target, defence, prompts.others[split], split, OTHERS)
        features = [seen.features for seen in others]
        if split == "test" and all(of_picture is not None for of_picture in features):
            stacked = np.stack([of_picture for of_picture in features if of_picture is not None])
            place = (target, self._variant(defence), defence.name, defence.strength)
            if defence.name == kinds.NONE:
                self._unharmed = stacked
            else:
                self.distances[place] = kernel_distance(
                    self._unharmed, stacked, seed=self.study.cfg.seed
                )
        return plain

    def _attacks(
        self,
        target: str,
        chosen: Mapping[str, Defence],
        prompts: _Prompts,
        undefended: Sequence[Seen],
    ) -> None:
        asks, seed = prompts.named["test"], self.study.cfg.seed
        for kind in self.settings.attacks:
            if kind not in SEARCHED:
                attacked = in_words(kind, asks, target, self.settings, seed=seed)
                for defence in chosen.values():
                    self._try(target, defence, attacked, "test", kind)
        searched = [kind for kind in SEARCHED if kind in self.settings.attacks]
        shown = [seen.picture if seen.found else None for seen in undefended]
        if searched and not any(picture is not None for picture in shown):
            log.warning(
                "%s: no undefended picture of the tuning split shows it, so tokens are not searched"
                " for; raise evaluation.tune_prompts",
                target,
            )
        elif searched:
            search = TokenAttack(
                self.pictures, prompts.named["tune"], shown, target, self.settings.search, seed=seed
            )
            for kind in searched:
                for name, defence in chosen.items():
                    tokens = search.against(kinds.no_defence() if kind == TRANSFER else defence)
                    self._note(target, kind, name, defence, tokens)
                    self._try(target, defence, with_tokens(asks, target, tokens.text), "test", kind)
        for values in self.settings.lists:
            if values["target"] == target:
                for defence in chosen.values():
                    self._try(target, defence, listed(values, seed=seed), "test", values["name"])

    def _note(
        self, target: str, kind: str, name: str, defence: Defence, tokens: SearchResult
    ) -> None:
        self.searches.append(
            {
                "target": target,
                "kind": kind,
                "defence": name,
                "strength": defence.strength,
                "tokens": tokens.text,
            }
            | {"loss": tokens.loss, "start": tokens.start, "queries": tokens.queries}
        )

    def _ablations(self, target: str, prompts: _Prompts) -> None:
        """Other autoencoders for the text edit, on the first prompts of the test split."""
        settings = self.settings.ablations
        strengths = settings.strengths or self.settings.strengths.text_edit
        few = slice(settings.prompts)
        for name, (layer, sae) in list(self.saes.items())[1:]:
            for defence in kinds.text_edit(self._edit(target, layer, sae), strengths):
                for kind, asks in (
                    (PLAIN, prompts.named["test"]),
                    (OTHERS, prompts.others["test"]),
                ):
                    self._try(target, defence, asks[few], "test", kind, variant=name)

    def _try(
        self,
        target: str,
        defence: Defence,
        asks: Sequence[Ask],
        split: str,
        kind: str,
        *,
        variant: str | None = None,
    ) -> list[Seen]:
        """Make the pictures, and put a row of each into the table."""
        what = f"{target}: {defence.name} {defence.strength:g}, {kind}"
        all_seen = self.pictures.see(asks, defence, target, what=what)
        for ask, seen in zip(asks, all_seen, strict=True):
            self.trials.append(
                {
                    "target": target,
                    "variant": self._variant(defence) if variant is None else variant,
                    "defence": defence.name,
                    "strength": float(defence.strength),
                    "split": split,
                    "kind": kind,
                    "image_id": ask.image_id,
                    "prompt": ask.prompt,
                    "found": seen.found,
                    "nouns_found": _number(seen.aligned.nouns_found),
                    "style_reached": _number(seen.aligned.style_reached),
                    "aligned": _number(seen.aligned.aligned),
                }
            )
        return all_seen

    def _keep(self, target: str, chosen: Mapping[str, Defence], prompts: _Prompts) -> None:
        """The first plain prompts under every defence at its chosen strength, and the first
        others.
        """
        for split_kind, asks in ((PLAIN, prompts.named["test"]), (OTHERS, prompts.others["test"])):
            few = asks[: self.settings.examples]
            for defence in chosen.values():
                for ask, seen in zip(
                    few, self.pictures.see(few, defence, target, what="examples"), strict=True
                ):
                    erased = not seen.found if split_kind == PLAIN else seen.aligned.aligned == 1
                    case = f"{target} to go" if split_kind == PLAIN else f"{target} not asked for"
                    method = "no_edit" if defence.name == kinds.NONE else defence.name
                    self.kept.append(
                        Kept(
                            case,
                            ask.image_id,
                            ask.prompt,
                            method,
                            defence.strength,
                            bool(erased),
                            seen.picture,
                        )
                    )

    def _variant(self, defence: Defence) -> str:
        return self.own if defence.name == kinds.TEXT_EDIT else ""

    def _point(self, defence: Defence) -> Point:
        return self._variant(defence), defence.name, float(defence.strength)


def _number(value: float | None) -> float:
    return float("nan") if value is None else value
