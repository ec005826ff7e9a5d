"""All that the report shows, as plain values and arrays. The stage `report` fills it in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

import numpy as np
from jaxtyping import Bool, Float, UInt8
from numpy.typing import NDArray

from diffusae.errors import UserError
from diffusae.evaluation.erasure import ErasurePoint, SearchedTokens
from diffusae.evaluation.result import Result
from diffusae.evaluation.three_stages import Answer
from diffusae.report.shown import Shows

PredictionKey = tuple[str, str, float, str]
"""(block, conditioning, t, noun)"""


@dataclass(frozen=True)
class Run:
    """The run that made a picture.

    Attributes:
        directory: where its run.json lies, relative to the experiment's directory.
        wandb: the W&B run that mirrors it, as [entity/]project/id; "" where there is none.
    """

    directory: str
    wandb: str = ""

    @property
    def href(self) -> str:
        """From the page to the run.json."""
        return f"../{quote(self.directory)}/run.json"

    @property
    def title(self) -> str:
        """What the link says."""
        return f"{self.directory}/run.json" + (f", W&B run {self.wandb}" if self.wandb else "")


@dataclass(frozen=True, eq=False)
class Picture:
    """A generated picture: its caption, its pixels, a note such as the split or the seed, and the
    run that made it.

    Raises:
        UserError: pixels that are not uint8 [H, W, 3].
    """

    caption: str
    image: UInt8[np.ndarray, "H W 3"]
    note: str = ""
    run: Run | None = None

    def __post_init__(self) -> None:
        _check_image(f"the picture {self.caption!r}", self.image)


@dataclass(frozen=True, eq=False)
class Prediction:
    """Where the nouns of one prompt are, and where they were predicted at every moment.

    Attributes:
        caption: the prompt.
        image: the finished picture.
        nouns: the nouns asked for, in the order in which to show them.
        true_masks: noun -> the annotator's mask; a noun without one was not found.
        predicted: (block, conditioning, t, noun) -> the score map on the block's grid (data units)
            and the mask that was cut from it. Sizes of maps and masks may differ: all are drawn
            over the picture.
        iou: the same keys -> IoU of that mask with the true one; a missing key is no data.
        runs: (block, conditioning, t) -> the run that predicted there.

    Raises:
        UserError: arrays of another shape or type than said, or a key of a noun that is not in
            `nouns`.
    """

    caption: str
    image: UInt8[np.ndarray, "H W 3"]
    nouns: Sequence[str]
    true_masks: Mapping[str, Bool[np.ndarray, "H W"]]
    predicted: Mapping[PredictionKey, tuple[Float[np.ndarray, "h w"], Bool[np.ndarray, "H W"]]]
    iou: Mapping[PredictionKey, float | None]
    runs: Mapping[tuple[str, str, float], Run] = field(default_factory=dict)

    def __post_init__(self) -> None:
        name = f"the prediction for {self.caption!r}"
        _check_image(name, self.image)
        named = {*self.true_masks, *(key[3] for key in (*self.predicted, *self.iou))}
        if strange := sorted(named - set(self.nouns)):
            raise UserError(
                f"{name} has maps for {', '.join(strange)}, which are not in its nouns; add them"
                " there"
            )
        for mask in (*self.true_masks.values(), *(mask for _, mask in self.predicted.values())):
            if mask.ndim != 2 or mask.dtype != np.bool_:
                raise UserError(f"{name}: a mask must be bool [H, W], got {_described(mask)}")
        for score, _ in self.predicted.values():
            _check_map(name, score)


@dataclass(frozen=True, eq=False)
class Concept:
    """One latent of one cell and the pictures where it is strongest.

    Attributes:
        cell_key: the cell's directory name, for example "mid-t0.50-cond".
        block, t, conditioning: the cell.
        latent: its index in the SAE.
        labels: (label, pictures in which it was gained), the most frequent first.
        purity: share of the most frequent label in all that were gained, range (0, 1]; None without
            labels.
        firing_frequency: share of positions, over all pictures, where it is active, range [0, 1].
        pictures: the pictures and the latent's map on each, [h, w], data units, the strongest
            first.
        run: the run that labelled the cell.
        steer: the command that steers with it; "" where there is none.
    """

    cell_key: str
    block: str
    t: float
    conditioning: str
    latent: int
    labels: Sequence[tuple[str, int]]
    purity: float | None
    firing_frequency: float | None
    pictures: Sequence[tuple[UInt8[np.ndarray, "H W 3"], Float[np.ndarray, "h w"]]]
    run: Run | None = None
    steer: str = ""

    @property
    def anchor(self) -> str:
        """Its id on the page, such as "mid-t0.50-cond-k10-latent-373"."""
        return f"{self.cell_key}-latent-{self.latent}"

    def __post_init__(self) -> None:
        name = f"latent {self.latent} of {self.cell_key}"
        for image, heat in self.pictures:
            _check_image(name, image)
            _check_map(name, heat)


TARGET_REGION = "target_region"
"""In the place of a method: the picture that shows where an object is to be."""


@dataclass(frozen=True, eq=False)
class EditedPicture:
    """One picture of a case: how it was edited, how hard, whether the edit reached its aim, and its
    pixels.
    """

    method: str
    strength: float
    success: bool
    image: UInt8[np.ndarray, "H W 3"]

    def __post_init__(self) -> None:
        _check_image(f"the picture edited by {self.method!r}", self.image)

    @property
    def shows_region(self) -> bool:
        """Whether it only shows where the edit is to act."""
        return self.method == TARGET_REGION

    @property
    def unedited(self) -> bool:
        """Whether nothing was edited."""
        return self.method == "no_edit"

    @property
    def caption(self) -> str:
        """Such as "concepts x 3, reached"."""
        name = self.method.replace("_", " ")
        if self.shows_region:
            return name
        if self.unedited:
            return f"{name}, there already" if self.success else name
        return f"{name} x {self.strength:g}, {'reached' if self.success else 'not reached'}"


@dataclass(frozen=True, eq=False)
class Example:
    """What was to change in one picture, such as "fish to top_left", its prompt, and the picture
    before and after.
    """

    case: str
    prompt: str
    pictures: Sequence[EditedPicture]


@dataclass(frozen=True, eq=False)
class Examples:
    """Pictures before and after one kind of edit at one cell.

    Attributes:
        edit: the evaluation's name, such as "spatial".
        window: the part of the generation that was edited, such as "early".
        bounds: its first and last t.
        blocks: those that were edited.
        t, conditioning: of the SAE.
        tag: the SAE's tag.
        cases: in the order in which to show them.
        run: the run that made the pictures.
    """

    edit: str
    window: str
    bounds: tuple[float, float]
    blocks: Sequence[str]
    t: float
    conditioning: str
    tag: str
    cases: Sequence[Example]
    run: Run | None = None


@dataclass(frozen=True, eq=False)
class ErasureRun:
    """One evaluation at one cell.

    Attributes:
        cell: the cell's name with the SAE's tag.
        points: its figures.
        chosen: {target: {defence: strength}}, those that stand in the table of attacks.
        tokens: what searches for tokens found.
        examples: pictures of every defence; None: none were kept.
    """

    cell: str
    points: Sequence[ErasurePoint]
    chosen: Mapping[str, Mapping[str, float]]
    tokens: Sequence[SearchedTokens] = ()
    examples: Examples | None = None


@dataclass(frozen=True, eq=False)
class Steered:
    """One picture of a strip.

    Attributes:
        strength: lambda; 0: not steered.
        success: whether the concept is there (lambda above 0) or gone; None: not looked at.
    """

    strength: float
    success: bool | None
    image: UInt8[np.ndarray, "H W 3"]

    def __post_init__(self) -> None:
        _check_image(f"the picture steered by {self.strength:g}", self.image)


@dataclass(frozen=True, eq=False)
class Strip:
    """One prompt steered by one concept at several strengths.

    Attributes:
        case: such as "towards neon".
        place: the layer and its SAE's tag, such as "text_2 · k32".
    """

    case: str
    prompt: str
    place: str
    pictures: Sequence[Steered]
    run: Run | None = None


@dataclass(frozen=True)
class RunRow:
    """One run behind the report, from its run.json; `cell` is "" for a run that is not of one
    cell.
    """

    stage: str
    cell: str
    status: str
    duration_s: float | None
    signature: str


@dataclass(frozen=True, eq=False)
class FinishedStudy:
    """All that the page shows. Whatever is empty is shown as "no data".

    Attributes:
        name: of the experiment.
        model: of the denoiser that was studied.
        facts: what to say about how it was made, in this order: steps, guidance, pictures a split,
            commit, versions, device, date. The page adds nothing of its own, such as the time: the
            same study gives the same page.
        contact_sheet: generated pictures, to judge the model by eye, or those that were given to
            it.
        given: whether the pictures were given to the model, not made by it.
        results: of all metrics and cells. shows: how these are shown.
        emergence: the curves over t, as `diffusae.evaluation.emergence.emergence_result` makes
            them.
        three_stages: the three-stage table, as `diffusae.summaries.three_stages` makes it.
        claims: what these rows say of the paper's claims.
        examples: pictures before and after interventions.
        erasures: what the erasure benchmark found, a run a cell.
        strips: prompts steered through the text encoder, over lambda.
        predictions: prompts for "one prompt over time".
        concepts: for the gallery, in the order in which to show them within a cell.
        pure: the purest latents of each cell, with what their top pictures share.
        runs: what was run.
        so_far: what was finished when the page was written, such as "1 of 18 cells"; "": all.
    """

    name: str
    model: str
    facts: Mapping[str, str] = field(default_factory=dict)
    contact_sheet: Sequence[Picture] = ()
    given: bool = False
    results: Sequence[Result] = ()
    shows: Shows = field(default_factory=Shows)
    emergence: Sequence[Result] = ()
    three_stages: Sequence[Result] = ()
    claims: Sequence[Answer] = ()
    examples: Sequence[Examples] = ()
    erasures: Sequence[ErasureRun] = ()
    strips: Sequence[Strip] = ()
    predictions: Sequence[Prediction] = ()
    concepts: Sequence[Concept] = ()
    pure: Sequence[Concept] = ()
    runs: Sequence[RunRow] = ()
    so_far: str = ""


def _check_image(name: str, image: NDArray[Any]) -> None:
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or image.size == 0:
        raise UserError(f"{name}: pixels must be uint8 [H, W, 3], got {_described(image)}")


def _check_map(name: str, values: NDArray[Any]) -> None:
    if values.ndim != 2 or values.size == 0 or not np.issubdtype(values.dtype, np.floating):
        raise UserError(f"{name}: a map must be float [h, w], got {_described(values)}")


def _described(array: NDArray[Any]) -> str:
    return f"{array.dtype} {list(array.shape)}"
