"""What differs between families of text-to-image models. All else (the loop, hooks, edits) is the
same.

An adapter states the facts of one family as class attributes, which need neither torch nor
diffusers. Its methods give what a running denoiser needs: how latents lie, grid, time, schedule,
and the arguments of a call. `families` has one module a family, `families.table` finds them.
"""

from __future__ import annotations

import copy
import inspect
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from diffusae.backbone.blocks import Block, Grid, HookpointInfo, Tokens
from diffusae.backbone.outline import Outline
from diffusae.backbone.passes import BY_LAYOUT, PassesOf
from diffusae.backbone.settings import Layout
from diffusae.errors import UserError

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

_TEXT_LIMIT = "max_sequence_length"
_TIMES = ("timestep", "timesteps", "t")
"""Names of the denoiser's time argument."""
_PICTURE_ALONE = Tokens()


class Adapter:
    """A family whose denoiser takes latents as pictures, in patches of `patch` squared.

    Args:
        denoiser: the pipeline's U-Net or transformer, on any device (also meta).
    """

    family: ClassVar[str] = ""
    """Its name in messages and docs."""
    denoisers: ClassVar[tuple[str, ...]] = ()
    """Classes of diffusers. A subclass of one counts as it."""
    pipelines: ClassVar[tuple[str, ...]] = ()
    """Classes of pipelines that need a prompt alone. The stages can run them."""
    with_a_picture: ClassVar[tuple[str, ...]] = ()
    """Classes of pipelines that need more than a prompt. A user's own program can run them."""
    videos: ClassVar[tuple[str, ...]] = ()
    """Classes of pipelines that make videos. They are listed, and a user's own program can run
    them; the stages make pictures."""
    frames: ClassVar[int] = 0
    """Positions in time of a video of the pipeline's default length; 0: the family makes pictures.
    """
    layout: Layout = "one_batch"
    """How guidance runs."""
    blocks: ClassVar[Mapping[str, Block]] = {}
    """{list of blocks in the denoiser: what is known of its members}; empty: every list whose name
    ends with "blocks", with the picture's tokens alone or last."""
    reads_text: ClassVar[bool] = True
    """Whether blocks attend to the text by keys of its own, so that this attention can be recorded;
    not where picture and text are one sequence with the same weights."""
    sign: ClassVar[int] = 1
    """-1 where the pipeline negates what the denoiser predicts, before the scheduler gets it."""
    rows_first: ClassVar[bool] = True
    """Whether whatever differs between the rows of a denoiser call is a tensor with the rows along
    its first side. Defences by a third pass and exchanged captions need it."""
    pads: ClassVar[bool] = False
    """Whether the denoiser attends to prompts as the pipeline's call pads them (T5), and not to the
    tokens of a CLIP encoder first."""
    padded: ClassVar[Mapping[str, int]] = {}
    """{class of pipelines: tokens that its call pads a T5 prompt to by default}"""
    time: ClassVar[tuple[float, float]] = (0.0, 1.0)
    """(a, b): the denoiser's time argument is a + b times the scheduler's timestep."""

    def __init__(self, denoiser: Any) -> None:
        self.denoiser = denoiser
        parameters = list(inspect.signature(type(denoiser).forward).parameters)
        self._parameters = parameters[1:]  # without self

    # What a configuration alone says

    @classmethod
    def layout_of(cls, pipeline: str, config: Mapping[str, Any]) -> Layout:
        """How a pipeline of this class and configuration (`model_index.json`) runs guidance."""
        return cls.layout

    @classmethod
    def passes(cls, pipeline: str) -> PassesOf:
        """How pipelines of this class run guidance."""
        return BY_LAYOUT[cls.layout_of(pipeline, {})]

    @classmethod
    def width(cls, config: Mapping[str, Any]) -> int:
        """Channels of a block's tokens (d_in)."""
        return config["num_attention_heads"] * config["attention_head_dim"]

    @classmethod
    def patch_of(cls, config: Mapping[str, Any]) -> int:
        """Side of one position of the finest grid, in latent entries."""
        return config.get("patch_size") or 1

    @classmethod
    def outline(cls, config: Mapping[str, Any]) -> Outline | None:
        """What a denoiser's configuration says of it; None where a value is missing or no positive
        whole number, so that the denoiser must be built."""
        try:
            width, patch = cls.width(config), cls.patch_of(config)
            counts = {name: config[block.count] for name, block in cls.blocks.items()}
        except (KeyError, TypeError, IndexError):
            return None
        if not counts or any(type(n) is not int or n < 0 for n in (width, patch, *counts.values())):
            return None
        if not width or not patch:
            return None
        infos = {
            f"{name}.{place}": HookpointInfo(
                path=f"{name}.{place}",
                d_in=width,
                kind=block.kind,
                picture=block.picture,
                text=block.text,
            )
            for name, block in cls.blocks.items()
            for place in range(counts[name])
        }
        return Outline(infos, patch, cls.layout, bool(infos) and cls.reads_text, cls.pads)

    @classmethod
    def most_text(cls, pipeline: str, own: int, text_tokens: int | None) -> int:
        """The most tokens of the text in a block.

        Args:
            pipeline: its class.
            own: tokens of the first text encoder's padded prompt.
            text_tokens: to which the call pads or cuts prompts; None: its own number.
        """
        return text_tokens or cls.padded.get(pipeline, own)

    # What the denoiser says

    def hookpoints(self) -> dict[str, HookpointInfo]:
        """{path: info} of all blocks, in module order."""
        known = self.outline(self.denoiser.config) if self.blocks else None
        return self._listed() if known is None else known.hookpoints

    def _listed(self) -> dict[str, HookpointInfo]:
        """The members of all lists of blocks, of a family that names none."""
        from torch import nn

        config = getattr(self.denoiser, "config", {})
        try:
            width = self.width(config)
        except (KeyError, TypeError):
            return {}
        lists = {
            name: module
            for name, module in self.denoiser.named_children()
            if name.endswith("blocks") and isinstance(module, nn.ModuleList)
        }
        return {
            f"{name}.{place}": HookpointInfo(
                f"{name}.{place}", width, kind=type(block).__name__, picture=_PICTURE_ALONE
            )
            for name, members in lists.items()
            for place, block in enumerate(members)
        }

    @property
    def patch(self) -> int:
        """Side of one position of the finest grid, in latent entries."""
        return self.patch_of(self.denoiser.config)

    @property
    def latent_channels(self) -> int:
        """Channels of the autoencoder's latents."""
        return self.denoiser.config.in_channels

    @property
    def varying(self) -> tuple[str, str]:
        """Names of the denoiser's arguments that change with the step: latents and time.

        Raises:
            UserError: the denoiser takes no time.
        """
        time = next((name for name in _TIMES if name in self._parameters), None)
        if time is None:
            raise UserError(
                f"{type(self.denoiser).__name__} takes no time ({', '.join(_TIMES)}), so it cannot "
                "be hooked; use another model"
            )
        return self._parameters[0], time

    @property
    def registers(self) -> int:
        """Learned tokens at the beginning of the text's stream, before those of the prompt."""
        return 0

    def check(self, pipe: Any) -> None:
        """`UserError` for a pipeline of the family that hooks cannot follow."""

    def loaded(self, pipe: Any) -> None:
        """Make a pipeline ready that was read from a folder; `UserError` if it lacks a part."""

    # A running call of the denoiser

    def given(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
        """The arguments of a denoiser call by name."""
        return dict(zip(self._parameters, args, strict=False)) | dict(kwargs)

    def rows(self, given: Mapping[str, Any]) -> int:
        """The rows of a denoiser call: pictures x branches."""
        return len(given.get(self.varying[0], ()))

    def size(self, given: Mapping[str, Any]) -> Grid:
        """(h, w) of the finest grid of positions in a call with these arguments; (frames, h, w) of
        a video."""
        height, width = given[self.varying[0]].shape[-2:]
        return height // self.patch, width // self.patch

    def text_lengths(self, given: Mapping[str, Any], rows: int) -> list[int]:
        """The text's tokens in every row of a block's sequence, which may differ."""
        return [given["encoder_hidden_states"].shape[1]] * rows

    def taken(self, given: Mapping[str, Any], rows: slice, batch: int) -> dict[str, Any]:
        """The arguments of a denoiser call of `batch` rows for some of its rows."""
        return rows_along(dict(given), rows, batch)

    def text_start(self, grid: Grid) -> int:
        """Where the text begins in a sequence that holds a picture of these positions first."""
        return math.prod(grid)

    def timestep(
        self, pipe: Any, given: Mapping[str, Any], *, running: bool
    ) -> tuple[float, float]:
        """(the scheduler's timestep of a denoiser call, its largest rounding error).

        While a pipeline call is `running`, its own value is taken where the pipeline keeps it: the
        denoiser's argument may be scaled, and rounded to the model's dtype.

        Raises:
            UserError: the rows have several timesteps.
        """
        own = getattr(pipe, "_current_timestep", None) if running else None
        time = given[self.varying[1]] if own is None else own
        offset, scale = self.time if own is None else (0.0, 1.0)
        value = _scalar(time)
        error = _rounding(time) * (abs(value) + abs(offset))  # 1 - t rounds as 1 does
        return (value - offset) / scale, error / abs(scale)

    def time_argument(self, timestep: float, count: int) -> Tensor:
        """The denoiser's time argument for `count` pictures at the scheduler's timestep."""
        import torch

        offset, scale = self.time
        if (offset, scale) != (0.0, 1.0):
            return torch.full((count,), offset + scale * timestep, dtype=self.denoiser.dtype)
        return torch.full((count,), int(timestep) if float(timestep).is_integer() else timestep)

    def pack(self, latents: Float[Tensor, "n channels h w"]) -> Tensor:
        """Latents in the form in which a pipeline's call takes and keeps them."""
        return latents

    def unpack(self, latents: Tensor, height: int, width: int) -> Float[Tensor, "n channels h w"]:
        """The inverse of `pack`. Channels that predict a variance (PixArt) are dropped."""
        return latents[:, : self.latent_channels]

    def fed(self, latents: Float[Tensor, "n channels h w"]) -> Any:
        """Latents in the form that the denoiser takes."""
        return self.pack(latents)

    def predicted(self, output: Any, height: int, width: int) -> Float[Tensor, "n channels h w"]:
        """The denoiser's output as latents, with the sign that the scheduler takes."""
        return self.sign * self.unpack(output, height, width)

    def require_rows_first(self, what: str) -> None:
        """`UserError` for `what` where a call's rows do not lie along the first side of all."""
        if not self.rows_first:
            raise UserError(
                f"{what} changes rows of the denoiser's arguments, and those of {self.family} are "
                "lists, or have the rows along another side; leave it out for this model"
            )

    # A call of the pipeline

    def size_fault(self, pipe: Any, height: int, width: int) -> str | None:
        """Why the pipeline cannot make a picture of this size in pixels; None where it can."""
        return None

    def guidance(self, guidance: float, true_guidance: float | None, count: int) -> dict[str, Any]:
        """The guidance arguments of a pipeline call for `count` pictures."""
        return {"guidance_scale": guidance}

    def schedule(self, scheduler: Any, steps: int, positions: int) -> Tensor:
        """The scheduler's timesteps in a call of `steps` steps with `positions` on the finest grid.

        A flow-matching scheduler may shift them by the picture's size. `scheduler` is not changed.
        """
        own = copy.deepcopy(scheduler)
        shifts = own.config.get("use_dynamic_shifting")
        own.set_timesteps(steps, **{"mu": shift(own, positions, 1.16)} if shifts else {})
        return own.timesteps

    def sigma(self, scheduler: Any, timestep: float, positions: int) -> float | None:
        """The share of noise that flow matching has at the scheduler's timestep, in [0, 1], with
        `positions` on the finest grid. None: the timestep's share of all training timesteps."""
        return None

    def stepping(self, steps: int) -> dict[str, Any]:
        """Further arguments of a pipeline call of so many steps."""
        return {}

    def finished(
        self, pipe: Any, latents: Tensor, height: int, width: int
    ) -> Float[Tensor, "n channels h w"]:
        """The latents that a pipeline's call keeps, clean, in the denoiser's scale."""
        return self.unpack(latents, height, width)

    def predict(
        self,
        conditions: Mapping[str, Any],
        latents: Float[Tensor, "n channels h w"],
        timestep: float,
    ) -> Float[Tensor, "n channels h w"]:
        """One pass of the denoiser. `conditions`: its arguments besides latents and time."""
        latents_name, time_name = self.varying
        time = self.time_argument(timestep, len(latents)).to(latents.device)
        given = {**conditions, latents_name: self.fed(latents), time_name: time}
        output = self.denoiser(**given | {"return_dict": False})[0]
        return self.predicted(output, *latents.shape[-2:])

    def words(self, pipe: Any, text_tokens: int | None) -> tuple[Any, int]:
        """The tokenizer whose tokens the denoiser attends to first, and its padded length."""
        return pipe.tokenizer, self.tokens(type(pipe), pipe.tokenizer.model_max_length, text_tokens)

    def prompt_tokens(
        self, pipe: Any, prompt: str, text_tokens: int | None
    ) -> dict[int, str] | None:
        """{place among the text's tokens in a block: token} of a prompt, without padding but with
        what the pipeline puts around it; None: it is not known of this family which they are.

        A negative place counts from the end of the text's tokens: -1 is the last.
        """
        return None

    def tokens(self, pipeline: type, own: int, text_tokens: int | None) -> int:
        """Tokens of a padded prompt: `text_tokens`, the default of the pipeline's call, or `own`,
        the text encoder's number."""
        parameters = inspect.signature(pipeline.__call__).parameters  # pyright: ignore[reportFunctionMemberAccess]
        if not self.pads or _TEXT_LIMIT not in parameters:
            return own
        return text_tokens or parameters[_TEXT_LIMIT].default


def rows_along(value: Any, rows: slice, batch: int) -> Any:
    """A denoiser's argument, or all of them, with some rows of whatever lies along the batch."""
    from torch import Tensor

    if isinstance(value, Tensor):
        return value[rows] if value.ndim and len(value) == batch else value
    if isinstance(value, dict):
        return {name: rows_along(item, rows, batch) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(rows_along(item, rows, batch) for item in value)
    return value


def tokens_of(tokenizer: Any, prompt: str, limit: int, *, first: int = 0) -> dict[int, str]:
    """{place: token} of a prompt that is padded or cut to `limit` tokens, without the padding,
    which may come first; the places begin at `first`.

    Example: "a cat" by T5 is {0: "▁a", 1: "▁cat", 2: "</s>"}.
    """
    encoded = tokenizer(prompt, truncation=True, max_length=limit, padding="max_length")
    tokens = tokenizer.convert_ids_to_tokens(encoded["input_ids"])
    own = enumerate(zip(tokens, encoded["attention_mask"], strict=True), start=first)
    return {place: token for place, (token, seen) in own if seen}


def shift(scheduler: Any, positions: int, max_shift: float) -> float:
    """The shift mu of a flow-matching schedule, linear in the number of positions (as in FLUX and
    SD 3).

    Example with the defaults and max_shift=1.15: 256 positions give 0.5, 4096 give 1.15.
    """
    get = scheduler.config.get
    fewest, most = get("base_image_seq_len", 256), get("max_image_seq_len", 4096)
    least, greatest = get("base_shift", 0.5), get("max_shift", max_shift)
    slope = (greatest - least) / (most - fewest)
    return positions * slope + (least - slope * fewest)


def shifted(scheduler: Any, steps: int, mu: float) -> Tensor:
    """The timesteps of a flow-matching scheduler whose `steps` sigmas are evenly spaced from 1 and
    then shifted by `mu` (FLUX, LTX-Video). `scheduler` is not changed."""
    import torch

    own = copy.deepcopy(scheduler)
    if own.config.get("use_flow_sigmas"):
        own.set_timesteps(steps, mu=mu)
    else:
        sigmas = torch.linspace(1, 1 / steps, steps, dtype=torch.float64).numpy()
        own.set_timesteps(sigmas=sigmas, mu=mu)
    return own.timesteps


def _scalar(timestep: Tensor | float) -> float:
    from torch import Tensor

    if not isinstance(timestep, Tensor):
        return timestep
    if timestep.numel() == 1:
        return timestep.item()
    values = timestep.unique()
    if len(values) != 1:
        raise UserError(
            f"the batch mixes {len(values)} timesteps; a hooked call needs one for all its rows"
        )
    return values.item()


def _rounding(timestep: Tensor | float) -> float:
    """The largest relative rounding error of a timestep that was scaled twice in its dtype."""
    import torch

    if isinstance(timestep, torch.Tensor) and timestep.is_floating_point():
        return 2 * torch.finfo(timestep.dtype).eps
    return 0.0
