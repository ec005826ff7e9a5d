"""Edits around an unmodified pipeline call: `with steer(pipe, edits): pipe(prompt)`."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from diffusae.backbone.branches import check_conditionings, rows_of
from diffusae.backbone.passes import Branches
from diffusae.capture.clock import Clock
from diffusae.capture.hooks import Moment, hook_blocks
from diffusae.errors import UserError
from diffusae.interventions.edits import Edit
from diffusae.interventions.text import TextEdit
from diffusae.interventions.text_encoding import edited_encodings

logger = logging.getLogger(__name__)


class Steering:
    """The effect of each edit, by its place in the list."""

    def __init__(self, edits: int) -> None:
        self.steps: dict[int, int] = dict.fromkeys(range(edits), 0)
        """Denoiser calls in which the edit acted; for a text edit, encodings."""
        self._largest: dict[int, Tensor] = {}

    @property
    def largest_change(self) -> dict[int, float]:
        """The longest change, in lengths of the call's longest update (text edit: token vector).

        It stays on the model's device until it is asked for, so that no step waits for it.
        """
        return {n: float(self._largest[n]) if n in self._largest else 0.0 for n in self.steps}

    def note_change(
        self, number: int, change: Float[Tensor, "... d"], vectors: Float[Tensor, "... d"]
    ) -> None:
        """Record by how much an edit changed vectors."""
        longest, largest = (one.norm(dim=-1).amax().float() for one in (vectors, change))
        share = largest / torch.where(longest > 0, longest, 1.0)
        # fmax leaves out a NaN.
        self._largest[number] = torch.fmax(
            self._largest.get(number, torch.zeros_like(share)), share
        )


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
    steering = Steering(len(edits))
    of_updates = {number: edit for number, edit in enumerate(edits) if isinstance(edit, Edit)}
    of_text = {number: edit for number, edit in enumerate(edits) if isinstance(edit, TextEdit)}

    def note(number: int, change: Tensor, vectors: Tensor) -> None:
        steering.steps[number] += 1
        steering.note_change(number, change, vectors)

    with ExitStack() as stack:
        if of_text:
            stack.enter_context(edited_encodings(pipe, of_text, note))
        if of_updates:
            stack.enter_context(_edited_updates(pipe, of_updates, steering, layout))
        yield steering


@contextmanager
def _edited_updates(
    pipe: Any, edits: Mapping[int, Edit], steering: Steering, layout: Branches | None
) -> Iterator[None]:
    names = {str(edit.hookpoint): edit.hookpoint for edit in edits.values()}
    reached: dict[int, set[str]] = {number: set() for number in edits}

    def acting_at(timestep: float) -> dict[int, Edit]:
        t = clock.schedule.t(timestep)
        return {number: edit for number, edit in edits.items() if edit.acts_at(t)}

    def due(clock: Clock) -> Collection[str]:
        acting = acting_at(clock.now) if clock.now is not None else {}
        return {str(e.hookpoint) for e in acting.values() if clock.branches.held(e.conditionings)}

    def visit(name: str, moment: Moment, vectors: Tensor) -> Tensor | None:
        acting = {
            n: one for n, one in acting_at(moment.timestep).items() if str(one.hookpoint) == name
        }
        if not acting:
            return None
        changed = torch.zeros_like(vectors)
        for number, edit in acting.items():
            held = moment.branches.held(edit.conditionings)
            reached[number].update(held)
            steering.steps[number] += bool(held)
            for conditioning in held:
                rows = rows_of(conditioning, len(vectors), moment.branches())
                update = vectors[rows] + changed[rows]
                change = edit(update, moment.grid) - update
                steering.note_change(number, change, update)
                changed[rows] += change  # 0 where nothing is changed, so that no bit of it is
        return changed

    with hook_blocks(pipe, names, visit, layout=layout, due=due) as clock:
        yield
    for number, branches in reached.items():
        if branches:  # it acted, but of two passes one may be missing
            check_conditionings(edits[number].conditionings, tuple(branches))
    largest = steering.largest_change
    for number, edit in edits.items():
        at = (number, edit.hookpoint)
        if not steering.steps[number]:
            logger.warning(
                "edit %d at %s never acted: no step fell into its window %s; widen it or take more"
                " steps",
                *at,
                edit.window,
            )
        elif not largest[number] and not edit.watches:
            logger.warning(
                "edit %d at %s changed nothing: its latents were not active, or its strength is too"
                " small",
                *at,
            )
