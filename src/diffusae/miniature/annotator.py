"""The miniature's annotator: a segmentation network for objects, colours, style, tone and grain."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from safetensors.torch import save_file
from scipy.ndimage import label as connected_components
from torch import Tensor, nn
from torch.nn import functional as F

from diffusae.devices import default_device
from diffusae.errors import UserError
from diffusae.files import atomic_path, atomic_write_json
from diffusae.miniature.autoencoder import to_unit_range
from diffusae.miniature.fit import channels_last, falling_rate
from diffusae.miniature.worlds import Names
from diffusae.parsing import of_type, read_json, reading
from diffusae.tensor_files import read_tensors


@dataclass(frozen=True)
class Instance:
    """One object: its noun, the colour of most of its mask, and the mask, bool `[H, W]`."""

    noun: str
    colour: str
    mask: np.ndarray


@dataclass(frozen=True)
class Annotation:
    """The annotation of one picture.

    Attributes:
        masks: noun -> bool `[H, W]`, of objects and of the ground's parts; a noun that was not
            found has no entry, never an empty mask.
        colours: noun of objects -> the colour of most of its mask.
        factors: `style`, `tone` and `grain` -> the recognised name.
        scores: the same -> the probabilities of all names, in the order of the annotator's
            `factors`.
        instances: the objects one by one: the connected patches of the objects' masks.
    """

    masks: dict[str, np.ndarray]
    colours: dict[str, str]
    factors: dict[str, str]
    scores: dict[str, list[float]] = field(default_factory=dict)
    instances: tuple[Instance, ...] = ()

    @property
    def style(self) -> str | None:
        """The recognised drawing style."""
        return self.factors.get("style")


def _block(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, padding=1),
        nn.GroupNorm(8, outputs),
        nn.SiLU(),
        nn.Conv2d(outputs, outputs, 3, padding=1),
        nn.GroupNorm(8, outputs),
        nn.SiLU(),
    )


class SegmentationNetwork(nn.Module):
    """A U-Net over four resolutions: noun and colour logits a pixel, factor logits a picture."""

    def __init__(self, names: Names, widths: tuple[int, ...] = (16, 32, 64, 96)) -> None:
        super().__init__()
        self.names, self.widths = names, widths
        inputs = (3, *widths[:-1])
        self.down = nn.ModuleList(_block(i, o) for i, o in zip(inputs, widths, strict=True))
        self.up = nn.ModuleList(
            _block(low + high, high)
            for low, high in zip(widths[:0:-1], widths[-2::-1], strict=True)
        )
        self.nouns = nn.Conv2d(widths[0], 1 + len(names.labels), 1)
        self.colours = nn.Conv2d(widths[0], 1 + len(names.colours), 1)
        self.factors = nn.ModuleDict(
            {f: nn.Linear(sum(widths), len(values)) for f, values in names.factors.items()}
        )

    def forward(self, pictures: Tensor) -> dict[str, Tensor]:
        """Logits of pictures `[n, 3, H, W]` in [-1, 1], H and W multiples of 8.

        `features` are the pooled features, [n, sum(widths)].
        """
        skips: list[Tensor] = []
        x = pictures
        for level, block in enumerate(self.down):
            x = block(x if level == 0 else F.avg_pool2d(x, 2))
            skips.append(x)
        pooled = torch.cat([skip.mean(dim=(2, 3)) for skip in skips], dim=1)
        for block, skip in zip(self.up, skips[-2::-1], strict=True):
            x = block(torch.cat([F.interpolate(x, scale_factor=2, mode="nearest"), skip], dim=1))
        logits = {"nouns": self.nouns(x), "colours": self.colours(x), "features": pooled}
        return logits | {name: head(pooled) for name, head in self.factors.items()}


class AnnotatorTraining(pl.LightningModule):
    """Cross-entropy on every head, for batches of `LabelledPictures`."""

    def __init__(self, names: Names, *, steps: int, learning_rate: float = 2e-3) -> None:
        super().__init__()
        self.network = channels_last(SegmentationNetwork(names))
        self.steps, self.learning_rate = steps, learning_rate

    def training_step(self, batch: dict[str, Tensor], batch_index: int) -> Tensor:
        logits = self.network(batch["pictures"].to(memory_format=torch.channels_last))
        losses = {name: F.cross_entropy(logits[name], batch[name]) for name in ("nouns", "colours")}
        for i, name in enumerate(self.network.names.factors):
            losses[name] = 0.1 * F.cross_entropy(logits[name], batch["factors"][:, i])
        self.log_dict(losses, prog_bar=True)
        return torch.stack(list(losses.values())).sum()

    def configure_optimizers(self):
        optimizer = torch.optim.AdamW(self.parameters(), lr=self.learning_rate, weight_decay=0.01)
        rate = partial(falling_rate, steps=self.steps)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, rate)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


class LabelledPictures(torch.utils.data.Dataset[dict[str, Tensor]]):
    """Pictures with their truth; every second one is a reconstruction by the autoencoder, if known.

    Generated pictures come out of the decoder, so the annotator must know its artefacts.
    """

    def __init__(self, pool, reconstructed: np.ndarray, *, length: int, seed: int) -> None:
        self.pool, self.reconstructed, self.length, self.seed = pool, reconstructed, length, seed

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        rng = np.random.default_rng([self.seed, index])
        if index % 2 and len(self.reconstructed):
            i = int(rng.integers(len(self.reconstructed)))
            picture = self.reconstructed[i]
        else:
            i = int(rng.integers(len(self.pool)))
            picture = self.pool.pictures[i]
        truth = {
            name: np.asarray(getattr(self.pool, name)[i], np.int64)
            for name in ("nouns", "colours", "factors")
        }
        tensors = {name: torch.from_numpy(values) for name, values in truth.items()}
        return {"pictures": to_unit_range(picture[None])[0], **tensors}


class MiniatureAnnotator:
    """Annotates pictures of the world with the trained network.

    Args:
        folder: holds `annotator.safetensors` and `annotator.json`.
        minimum_pixels: a smaller connected patch is noise and is dropped.
        batch_size: pictures in one forward pass.
        models: names of the models whose pictures it can judge, for checks; None: unknown.
        device: None: the GPU where there is one.

    Raises:
        UserError: the files are missing or damaged.
    """

    def __init__(
        self,
        folder: str | Path,
        *,
        minimum_pixels: int = 20,
        batch_size: int = 64,
        models: Sequence[str] | None = None,
        device: str | None = None,
    ) -> None:
        self.models, self.device = models, default_device(device)
        self.folder, self.minimum_pixels, self.batch_size = Path(folder), minimum_pixels, batch_size
        weights = self.folder / "annotator.safetensors"
        if not weights.exists():
            raise UserError(
                f"no annotator at {weights}; train it with `diffusae miniature part=annotator`"
            )
        remedy = "copy the annotator again, or train it with `diffusae miniature part=annotator`"
        described = read_json(self.folder / "annotator.json", remedy=remedy)
        with reading(weights, remedy=remedy):
            widths = of_type(described.get("widths"), tuple[int, ...], "widths")
            names = Names(
                nouns=of_type(described.get("nouns"), tuple[str, ...], "nouns"),
                stuff=of_type(described.get("stuff", []), tuple[str, ...], "stuff"),
                colours=of_type(described.get("colours"), tuple[str, ...], "colours"),
                factors=of_type(described.get("factors"), dict[str, tuple[str, ...]], "factors"),
            )
            self.names, self.network = names, SegmentationNetwork(names, widths)
            shapes = {key: tuple(value.shape) for key, value in self.network.state_dict().items()}
            tensors = read_tensors(weights, remedy=remedy, shapes=shapes)
            self.network.load_state_dict({key: value.float() for key, value in tensors.items()})
        channels_last(self.network.eval()).to(self.device)

    @property
    def labels(self) -> tuple[str, ...]:
        """The nouns that it can find."""
        return self.names.labels

    @property
    def stuff(self) -> tuple[str, ...]:
        """Those of the nouns that are parts of the ground."""
        return self.names.stuff

    @property
    def factors(self) -> dict[str, tuple[str, ...]]:
        """Factor -> its values in the order of an annotation's scores."""
        return dict(self.names.factors)

    @torch.no_grad()
    def annotate(
        self, pictures: np.ndarray, captions: Sequence[str] | None = None
    ) -> list[Annotation]:
        """Annotate uint8 pictures `[n, H, W, 3]`; captions are ignored."""
        annotations: list[Annotation] = []
        for start in range(0, len(pictures), self.batch_size):
            batch = to_unit_range(pictures[start : start + self.batch_size]).to(self.device)
            logits = self.network(batch.to(memory_format=torch.channels_last))
            nouns = logits["nouns"].argmax(1).cpu().numpy()
            colours = logits["colours"][:, 1:].argmax(1).cpu().numpy()
            chances = {name: logits[name].softmax(1).tolist() for name in self.names.factors}
            for i in range(len(batch)):
                scores = {name: rows[i] for name, rows in chances.items()}
                annotations.append(self._describe(nouns[i], colours[i], scores))
        return annotations

    @torch.no_grad()
    def features(self, pictures: np.ndarray) -> Tensor:
        """The pooled features `[n, sum(widths)]` of pictures, for distances between pictures."""
        return self.network(to_unit_range(pictures).to(self.device))["features"].cpu()

    def _describe(
        self, nouns: np.ndarray, colours: np.ndarray, scores: dict[str, list[float]]
    ) -> Annotation:
        masks: dict[str, np.ndarray] = {}
        shown: dict[str, str] = {}
        instances: list[Instance] = []
        for index in np.unique(nouns[nouns > 0]):
            noun = self.names.labels[index - 1]
            patches = large_patches(nouns == index, self.minimum_pixels)
            if not patches:
                continue
            masks[noun] = np.any(patches, axis=0)
            if noun in self.names.nouns:
                shown[noun] = self._main_colour(colours, masks[noun])
                instances += [
                    Instance(noun, self._main_colour(colours, patch), patch) for patch in patches
                ]
        factors = {
            name: values[int(np.argmax(scores[name]))]
            for name, values in self.names.factors.items()
        }
        return Annotation(masks, shown, factors, scores, tuple(instances))

    def _main_colour(self, colours: np.ndarray, mask: np.ndarray) -> str:
        return self.names.colours[int(np.bincount(colours[mask]).argmax())]


def large_patches(mask: np.ndarray, minimum_pixels: int) -> list[np.ndarray]:
    """The mask's connected patches of `minimum_pixels` pixels or more."""
    labelled: Any = connected_components(mask)
    patches, count = labelled
    sizes = np.bincount(patches.ravel(), minlength=count + 1)
    return [patches == i for i in range(1, count + 1) if sizes[i] >= minimum_pixels]


def save_annotator(network: SegmentationNetwork, folder: Path) -> None:
    """Write the network as float16 safetensors, and its description as JSON."""
    folder.mkdir(parents=True, exist_ok=True)
    weights = {k: v.half().contiguous() for k, v in network.state_dict().items()}
    with atomic_path(folder / "annotator.safetensors") as temporary:
        save_file(weights, temporary)
    described = {
        "widths": list(network.widths),
        "nouns": list(network.names.nouns),
        "stuff": list(network.names.stuff),
        "colours": list(network.names.colours),
        "factors": dict(network.names.factors),
    }
    atomic_write_json(folder / "annotator.json", described)
