"""What a plan adds to the study as it is configured: assumed captions, and storing less."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

from diffusae.backbone.describe import Description
from diffusae.planning.estimate import StudyEstimate, estimate
from diffusae.planning.sizes import Group
from diffusae.prompts.prompt_set import Prompt, check_counts, number_prompts
from diffusae.study.streams import subsampling_of
from diffusae.study.study import Study

KEPT: tuple[int | None, ...] = (None, 64, 16, 4)
"""Positions of a training picture that a plan compares, beside those that are configured; None: the
whole grid.
"""

ASSUMED_CAPTION = "a photo of a small brown dog that lies on a blue sofa at home"
"""As long as the mean caption of LAION-COCO; only the shards' few hundred bytes of text a picture
depend on it.
"""


class WithoutCaptions(Study):
    """A study with assumed captions: as many as its counts ask for, all alike."""

    @cached_property
    def prompts(self) -> list[Prompt]:
        """Prompts that have the right number, splits and seeds."""
        counts = check_counts(self.cfg.prompts.counts)
        texts = [
            (split, ASSUMED_CAPTION) for split, count in counts.items() for _ in range(count or 0)
        ]
        return number_prompts(texts, first_seed=self.cfg.seed)


def with_captions(study: Study) -> tuple[Study, str]:
    """The study itself, or one with assumed captions and a sentence that says so, where no file of
    captions is named.
    """
    prompts = study.cfg.prompts
    if (
        study.kind == "pictures"
        or "path" not in prompts
        or prompts.path is not None
        or any(count is None for count in prompts.counts.values())
    ):
        return study, ""
    return WithoutCaptions(study.cfg), (
        f"prompts.path is null: counted with captions of {len(ASSUMED_CAPTION)} characters, as"
        " many as prompts.counts ask for; name the file for the exact size"
    )


def alternatives(
    study: Study, description: Description, groups: Sequence[Group]
) -> dict[int | None, StudyEstimate]:
    """{positions kept of a training picture: the study with them}, the most first; `groups` are
    those of the study.
    """
    whole = estimate(study, description, positions_per_image=None, groups=groups)
    most = max([one.stream.positions for one in whole.trained] or [1])
    configured = subsampling_of(study)
    compared = {*KEPT, configured and configured.positions_per_image}
    fewer = sorted((kept for kept in compared if kept is not None and kept < most), reverse=True)
    return {None: whole} | {
        kept: estimate(study, description, positions_per_image=kept, groups=groups)
        for kept in fewer
    }
