"""The model card of an exported autoencoder: a README.md with front matter, as model hubs read
it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from diffusae.errors import unknown
from diffusae.evaluation.result import Result
from diffusae.files import atomic_path
from diffusae.masking import masked
from diffusae.report.card_summary import CardSummary
from diffusae.report.markdown import as_text

TEMPLATE = "card.md.j2"
CARD_NAME = "README.md"
_OURS = """from diffusae.sae.storage import load_sae

sae, metadata = load_sae("DIRECTORY")
x_hat = sae(updates)  # [..., d_in]"""
_SAE_LENS = """from sae_lens import SAE

sae = SAE.load_from_disk("DIRECTORY")
x_hat = sae(updates)  # [..., d_in]"""
_SPARSIFY = """from sparsify import Sae

sae = Sae.load_from_disk("DIRECTORY")
values, latents, _ = sae.encode(updates)  # [n, d_in]
x_hat = sae.decode(values, latents)"""
LIBRARIES: Mapping[str, tuple[str, str]] = {
    "diffusae": ("diffusae", _OURS),
    "sae_lens": ("saelens", _SAE_LENS),
    "eai_sparsify": ("sparsify", _SPARSIFY),
}
"""Format -> the library's name on hubs, and how to load."""


@dataclass(frozen=True, kw_only=True)
class ModelCard:
    """What a card tells.

    Attributes:
        name: of experiment and cell.
        format: of the files beside it.
        base_model: hub id, or short name.
        cell: model, block, t, conditioning, hookpoint.
        shape: d_in, d_sae, sparsity.
        code_units: "data" or "scaled", see `diffusae.sae.folded`.
        data, training, provenance: fact -> value, in the order in which to tell them; no data: told
            as unknown.
        validation: metric -> value at the training's end, shown where there are no results.
        results: measured on this very autoencoder.
        summary: the same for programs.
        quantity: of the block, such as "update" or "output".

    Raises:
        UserError: an unknown format.
    """

    name: str
    format: str
    base_model: str
    cell: Mapping[str, Any]
    shape: Mapping[str, Any]
    code_units: str
    data: Mapping[str, Any]
    training: Mapping[str, Any]
    validation: Mapping[str, float]
    results: Sequence[Result]
    provenance: Mapping[str, Any]
    summary: CardSummary | None = None
    quantity: str = "update"

    def __post_init__(self) -> None:
        if self.format not in LIBRARIES:
            raise unknown("format", self.format, LIBRARIES)

    @property
    def reconstructs(self) -> str:
        """The quantity in words."""
        words = {"update": "updates (output minus input)", "output": "outputs"}
        return words.get(self.quantity, self.quantity)


def render_card(card: ModelCard) -> str:
    """The card as Markdown. The same card gives the same text."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        # an autoencoder's metadata may come from anyone: all of it is text, nothing is markup
        finalize=as_text,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["verbatim"] = Markup
    environment.filters["quoted"] = lambda value: Markup(
        json.dumps(str(value))
    )  # a JSON string is a YAML string
    library, loading = LIBRARIES[card.format]
    template = environment.get_template(TEMPLATE)
    return masked(template.render(card=card, library=library, loading=Markup(loading)))


def write_card(directory: Path | str, card: ModelCard) -> None:
    """Write the card as README.md, atomically."""
    with atomic_path(Path(directory) / CARD_NAME) as temporary:
        temporary.write_text(render_card(card), encoding="utf-8")
