"""All that the erasure benchmark tries, target by target: defences at every strength, attacks on
the chosen ones, other autoencoders.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from diffusae.benchmarks.erasure.attacks import TokenAttack, in_words, listed, with_tokens
from diffusae.benchmarks.erasure.autoencoders import UpdateAblation, text_edit, text_saes
from diffusae.benchmarks.erasure.defended import DefendedPictures, Seen
from diffusae.benchmarks.erasure.settings import SEARCHED, TRANSFER, ErasureSettings
from diffusae.benchmarks.erasure.target_prompts import TargetPrompts, target_prompts
from diffusae.benchmarks.erasure.trials import Trials
from diffusae.evaluation.erasure import (
    OTHERS,
    PLAIN,
    POINTS,
    SEARCHES,
    TRIALS,
    SearchedTokens,
    chosen_strength,
    erasure_results,
)
from diffusae.evaluation.result import Result
from diffusae.interventions import defences as kinds
from diffusae.interventions.defences import Defence
from diffusae.prompts.attacks import without_words
from diffusae.prompts.token_search import SearchResult
from diffusae.report.before_after import save_examples
from diffusae.sae.autoencoder import SparseAutoencoder
from diffusae.study.study import Study
from diffusae.table_files import write_table

log = logging.getLogger(__name__)


class ErasureBenchmark:
    """Everything that is tried, target by target."""

    def __init__(self, study: Study, settings: ErasureSettings, pictures: DefendedPictures) -> None:
        self.study, self.settings, self.pictures = study, settings, pictures
        self.targets = settings.concept_prompts
        self.saes = text_saes(study, settings.ablations.cells)
        self.own = next(iter(self.saes))
        ablates = kinds.ABLATION in settings.defences
        self.updates = UpdateAblation(study, settings.updates, pictures) if ablates else None
        self.trials = Trials(
            pictures, own=self.own, seed=study.seed, n_resamples=settings.n_resamples
        )
        self.searches: list[SearchedTokens] = []

    def of(self, target: str) -> list[Result]:
        """All trials of one target, and its rows."""
        prompts = target_prompts(
            target, self.study.prompts, self.settings, self.pictures, seed=self.study.seed
        )
        grid = self.grid(target)
        undefended = self.trials.both(target, grid[kinds.NONE][0], prompts, "tune")
        for name, defences in grid.items():
            for defence in defences:
                if name != kinds.NONE:
                    self.trials.both(target, defence, prompts, "tune")
                self.trials.both(target, defence, prompts, "test")
        chosen, tuning = self._chosen(target, grid)
        self._attacks(target, chosen, prompts, undefended)
        self._ablations(target, prompts)
        self.trials.keep(target, chosen.values(), prompts, examples=self.settings.examples)
        self.pictures.forget()
        return erasure_results(
            self.trials.points(),
            target=target,
            own=kinds.TEXT_EDIT,
            chosen={name: self.trials.point(defence) for name, defence in chosen.items()},
            cell=self.study.cell.coordinates(),
            details={"tuning": tuning, "concept_prompts": list(self.targets[target])}
            | {"tag": self.study.cfg.sae.tag, "steps": self.pictures.steps},
        )

    def grid(self, target: str) -> dict[str, list[Defence]]:
        """The kinds of defence, none first, with all of their strengths."""
        own = self._text_edits(target, self.own)
        return {kinds.NONE: [kinds.no_defence()], kinds.TEXT_EDIT: own, **self._baselines(target)}

    def save(self) -> None:
        """Write the tables and the example pictures."""
        directory = self.study.evaluation(self.study.cfg.evaluation.name)
        tables = {
            TRIALS: self.trials.table,
            POINTS: pd.DataFrame(self.trials.points()),
            SEARCHES: pd.DataFrame(self.searches),
        }
        for name, table in tables.items():
            write_table(directory / name, table)
        save_examples(directory, self.trials.kept)

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
            kinds.SAFREE: lambda: kinds.filtered(
                concept_words(target, self.targets[target]), strengths.safree
            ),
            kinds.TRASCE: lambda: kinds.steered_trajectory(
                target, strengths.trasce, sigma=self.settings.trasce_sigma, **asked
            ),
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
        table = self.trials.table
        tune = table[(table["target"] == target) & (table["split"] == "tune")]
        chosen, tuning = {}, {}
        for name, defences in grid.items():
            rows = tune[(tune["defence"] == name) & tune["variant"].isin(["", self.own])]
            best, tuning[name] = chosen_strength(rows, [defence.strength for defence in defences])
            chosen[name] = next(defence for defence in defences if defence.strength == best)
        return chosen, tuning

    def _attacks(
        self,
        target: str,
        chosen: Mapping[str, Defence],
        prompts: TargetPrompts,
        undefended: Sequence[Seen],
    ) -> None:
        asks, seed = prompts.named["test"], self.study.seed
        for kind in self.settings.attacks:
            if kind not in SEARCHED:
                attacked = in_words(kind, asks, target, self.settings, seed=seed)
                for defence in chosen.values():
                    self.trials.see(target, defence, attacked, "test", kind)
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
                    self.trials.see(
                        target, defence, with_tokens(asks, target, tokens.text), "test", kind
                    )
        for values in self.settings.lists:
            if values["target"] == target:
                for defence in chosen.values():
                    self.trials.see(
                        target, defence, listed(values, seed=seed), "test", values["name"]
                    )

    def _note(
        self, target: str, kind: str, name: str, defence: Defence, tokens: SearchResult
    ) -> None:
        self.searches.append(
            SearchedTokens(
                target=target,
                kind=kind,
                defence=name,
                strength=defence.strength,
                tokens=tokens.text,
                loss=tokens.loss,
                start=tokens.start,
                queries=tokens.queries,
            )
        )

    def _ablations(self, target: str, prompts: TargetPrompts) -> None:
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
                    self.trials.see(target, defence, asks[few], "test", kind, variant=name)


def concept_words(target: str, prompts: Sequence[str]) -> list[str]:
    """What a target is called: the parts of its concept prompts between commas ("naked, nude"), or
    its name where they have none.
    """
    parts = [part.strip() for prompt in prompts if "," in prompt for part in prompt.split(",")]
    return list(dict.fromkeys(part for part in parts if part)) or [target]
