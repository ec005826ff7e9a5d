"""Edits around an unmodified pipeline call: `with steer(pipe, edits): pipe(prompt)`."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from diffusae.backbone.branches import check_conditionings, rows_of
from diffusae.backbone.layouts import Branches
from diffusae.capture.clock import Clock
from diffusae.capture.hooks import Moment, hook_blocks
from diffusae.errors import UserError
from diffusae.interventions.edits import Edit
from diffusae.interventions.text import TextEdit
from diffusae.interventions.text_encoding import edited_encodings

logger = logging.getLogger(__name__)


@dataclass
class Steering:
    """The effect of each edit, by its place in the list."""

    steps: dict[int, int] = field(default_factory=dict)
    """Denoiser calls in which the edit acted; for a text edit, encodings."""
    largest_change: dict[int, float] = field(default_factory=dict)
    """The longest change, in lengths of the call's longest update (text edit: token vector)."""

    def note(self, number: int, change: float) -> None:
        """Record that an edit acted in one more encoding, with this change."""
        self.steps[number] += 1
        self.largest_change[number] = max(self.largest_change[number], change)


@contextmanager
def steer(
    pipe: Any, edits: Sequence[Edit | TextEdit], *, layout: Branches | None = None
) -> Iterator[Steering]:
    """Apply `edits`, in their order, to every pipeline call made inside.

    Edits change the updates of blocks, text edits the text encodings. The rows of every denoiser
    call are checked, as in `capture_updates`. A loop of your own over the denoiser must name the
    branches along the batch: `layout=("uncond", "cond")`. Other branches, such as the perturbed one
    of PAG, are left alone. Where a scheduler calls the denoiser several times a step, an edit acts
    in every call.

    Outside their windows edits cost one comparison a step; `edited_encodings` says what text edits
    cost. An edit that did not act, or changed nothing, gets a warning at the end of the context.
    Contexts nest. The hooks are removed at the end, after an error too.

    Raises:
        UserError: no edits, an unknown hookpoint or text layer, a conditioning that the call does
            not run, a block that does not run where an edit is to act; before anything is edited,
            rows that are unknown or of an unexpected number.
    """
    if not edits:
        raise UserError("there is no edit; give at least one")
    steering = Steering(dict.fromkeys(range(len(edits)), 0), dict.fromkeys(range(len(edits)), 0.0))
    of_updates = {number: edit for number, edit in enumerate(edits) if isinstance(edit, Edit)}
    of_text = {number: edit for number, edit in enumerate(edits) if isinstance(edit, TextEdit)}
    with ExitStack() as stack:
        if of_text:
            stack.enter_context(edited_encodings(pipe, of_text, steering.note))
        if of_updates:
            stack.enter_context(_edited_updates(pipe, of_updates, steering, layout))
        yield steering


@contextmanager
def _edited_updates(
    pipe: Any, edits: Mapping[int, Edit], steering: Steering, layout: Branches | None
) -> Iterator[None]:
    paths = {edit.hookpoint: edit.hookpoint for edit in edits.values()}
    reached: dict[int, set[str]] = {number: set() for number in edits}

    def acting_at(timestep: float) -> dict[int, Edit]:
        t = clock.schedule.t(timestep)
        return {number: edit for number, edit in edits.items() if edit.acts_at(t)}

    def due(clock: Clock) -> Collection[str]:
        acting = acting_at(clock.now) if clock.now is not None else {}
        return {e.hookpoint for e in acting.values() if clock.branches.held(e.conditionings)}

    def visit(path: str, moment: Moment, before: Tensor, after: Tensor) -> Tensor | None:
        acting = {
            n: edit for n, edit in acting_at(moment.timestep).items() if edit.hookpoint == path
        }
        if not acting:
            return None
        edited = after.clone()
        for number, edit in acting.items():
            held = moment.branches.held(edit.conditionings)
            reached[number].update(held)
            steering.steps[number] += bool(held)
            for conditioning in held:
                rows = rows_of(conditioning, len(after), moment.branches())
                update = edited[rows] - before[rows]
                changed = edit(update, moment.grid)
                longest = float(update.norm(dim=-1).max())
                change = float((changed - update).norm(dim=-1).max()) / (longest or 1.0)
                steering.largest_change[number] = max(steering.largest_change[number], change)
                edited[rows] = before[rows] + changed
        return edited

    with hook_blocks(pipe, paths, visit, layout=layout, due=due) as clock:
        yield
    for number, branches in reached.items():
        if branches:  # it acted, but of two passes one may be missing
            check_conditionings(edits[number].conditionings, tuple(branches))
    for number, edit in edits.items():
        at = (number, edit.hookpoint)
        if not steering.steps[number]:
            logger.warning(
                "edit %d at %s never acted: no step fell into its window %s; widen it or take more"
                " steps",
                *at,
                edit.window,
            )
        elif not steering.largest_change[number]:
            logger.warning(
                "edit %d at %s changed nothing: its latents were not active, or its strength is too"
                " small",
                *at,
            )
