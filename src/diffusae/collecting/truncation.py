"""Captions that a text encoder sees cut off."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

from diffusae.prompts.prompt_set import Prompt

log = logging.getLogger(__name__)


def count_truncated(tokenizer: Any, limit: int, prompts: Sequence[Prompt]) -> int:
    """How many captions the text encoder will see cut off; they are logged."""
    lengths = [len(ids) for ids in tokenizer([p.text for p in prompts]).input_ids]
    cut = [p for p, length in zip(prompts, lengths, strict=True) if length > limit]
    if cut:
        log.warning(
            "%d of %d prompts exceed %d tokens and are truncated: %s%s",
            len(cut),
            len(prompts),
            limit,
            "; ".join(f"{p.where or f'prompt {p.image_id}'} ({p.text[:60]!r})" for p in cut[:10]),
            f"; and {len(cut) - 10} more" if len(cut) > 10 else "",
        )
    return len(cut)
