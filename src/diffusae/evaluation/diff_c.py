"""Diff-C: a light convolutional classifier on frozen features of a denoiser (Revelio).

Revelio (arXiv 2411.16725): batch norm without affine -> 3x3 convolution C -> width -> three 3x3
convolutions of stride 2 -> global average pool -> linear; width 1024, learning rate 1e-4, 90
epochs, batches of 16. Open in the paper, and chosen here: ReLU after every convolution, padding 1,
Adam, the weights of the last epoch. Deliberate difference: one trunk may carry heads for several
tasks, whose losses are averaged over the labels that a picture has; the paper trains one head.

Weights, order of pictures and so the results follow from the seed. A training that is stopped
continues from its last checkpoint as if it had never stopped (on CPUs to the bit).
"""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
from jaxtyping import Float, Int
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

from diffusae.errors import UserError
from diffusae.files import atomic_path
from diffusae.parsing import reading
from diffusae.settings import Settings, Within
from diffusae.tensor_files import Header, read_header, read_tensors, require_shapes

log = logging.getLogger(__name__)

NO_CLASS = -1
"""The class of a picture without a label in a task."""

Targets = Mapping[str, Int[Tensor, " n"]]
"""Task -> the class of every picture, or `NO_CLASS`."""


@dataclass(frozen=True, kw_only=True)
class Training(Settings, part="evaluation.diff_c"):
    """How a Diff-C is trained."""

    width: Annotated[int, Within(1, 10**5)]
    """Channels of each convolution."""
    lr: Annotated[float, Within(1e-12, 1 - 1e-9)]
    epochs: Annotated[int, Within(1, 10**6)]
    batch_size: Annotated[int, Within(2, 10**6)]
    checkpoint_every: Annotated[int, Within(1, 10**6)]
    """Epochs between two checkpoints."""


class DiffC(nn.Module):
    """The network, with one linear head a task.

    Args:
        channels: of the features (d_in).
        classes: task -> number of its classes.
        width: channels of every convolution.
        generator: draws the weights, as PyTorch's own layers would.
    """

    def __init__(
        self, channels: int, classes: Mapping[str, int], *, width: int, generator: torch.Generator
    ) -> None:
        super().__init__()
        self.normalise = nn.BatchNorm2d(channels, affine=False)
        self.first = nn.Conv2d(channels, width, 3, padding=1)
        self.strided = nn.ModuleList(
            nn.Conv2d(width, width, 3, stride=2, padding=1) for _ in range(3)
        )
        self.tasks = list(classes)
        # A list, because nn.ModuleDict does not allow every name of a task as a key.
        self.heads = nn.ModuleList(nn.Linear(width, count) for count in classes.values())
        for layer in (self.first, *self.strided, *self.heads):
            weight, bias = layer.parameters()
            bound = 1 / math.sqrt(weight[0].numel())
            for parameter in (weight, bias):
                nn.init.uniform_(parameter, -bound, bound, generator=generator)

    def forward(self, features: Float[Tensor, "n C h w"]) -> dict[str, Float[Tensor, "n classes"]]:
        """Logits of every task."""
        x = F.relu(self.first(self.normalise(features)))
        for convolution in self.strided:
            x = F.relu(convolution(x))
        pooled = x.mean(dim=(2, 3))
        return {task: head(pooled) for task, head in zip(self.tasks, self.heads, strict=True)}


def train_diff_c(
    features: Float[Tensor, "n C h w"],
    targets: Targets,
    *,
    classes: Mapping[str, int],
    training: Training,
    seed: int,
    device: str | torch.device = "cpu",
    checkpoint: Path | None = None,
) -> DiffC:
    """Train on pictures with a label in at least one task; the network is in evaluation mode.

    Args:
        features: of any float dtype; they are cast batch by batch.
        checkpoint: the file for checkpoints. A checkpoint of the same training is continued.

    Raises:
        UserError: fewer than two pictures, a picture without any label, a loss that is not finite.
    """
    n = len(features)
    if n < 2:
        raise UserError(
            f"Diff-C needs at least two fitting pictures with a label, got {n}; collect more"
        )
    labelled = torch.stack([targets[task] != NO_CLASS for task in classes]).any(dim=0)
    if not labelled.all():
        raise UserError(
            f"{int((~labelled).sum())} fitting pictures have no label in any task; leave them out"
        )
    generator = torch.Generator().manual_seed(seed)
    model = DiffC(features.shape[1], classes, width=training.width, generator=generator).to(device)
    optimizer = torch.optim.Adam(model.parameters(), lr=training.lr)
    described = [asdict(training), dict(classes), seed, list(features.shape)]
    identity = json.dumps(described, sort_keys=True)
    first = _resumed(checkpoint, model, optimizer, identity)
    model.train()
    for epoch in range(first, training.epochs):
        for rows in _batches(n, training.batch_size, seed=seed, epoch=epoch):
            logits = model(features[rows].float().to(device))
            loss = _mean_loss(logits, {task: targets[task][rows].to(device) for task in classes})
            if not torch.isfinite(loss):
                raise UserError(f"Diff-C's loss is {loss.item()} in epoch {epoch}; lower diff_c.lr")
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        done = epoch + 1
        due = done % training.checkpoint_every == 0 and done < training.epochs
        if checkpoint is not None and due:
            _save(checkpoint, model, optimizer, done, identity)
    return model.eval()


@torch.no_grad()
def predicted(
    model: DiffC, features: Float[Tensor, "n C h w"], *, batch_size: int = 256
) -> dict[str, Int[np.ndarray, " n"]]:
    """The class that each task's head predicts, for every picture."""
    device = model.first.weight.device
    parts = [model(part.float().to(device)) for part in features.split(batch_size)]
    return {
        task: torch.cat([logits[task].argmax(dim=1).cpu() for logits in parts]).numpy()
        for task in model.tasks
    }


def _batches(n: int, size: int, *, seed: int, epoch: int) -> Iterator[Int[Tensor, " rows"]]:
    """The pictures of one epoch, in an order of its own.

    A last batch that is not full is left out if there are others: in batch norm its few pictures
    would count too much.
    """
    order = torch.from_numpy(np.random.default_rng([seed, epoch]).permutation(n))
    for start in range(0, n if n < size else n - size + 1, size):
        yield order[start : start + size]


def _mean_loss(logits: Mapping[str, Tensor], targets: Targets) -> Tensor:
    """Cross-entropy of all labels, averaged within a task and then over tasks."""
    losses = [
        F.cross_entropy(logits[task], targets[task], ignore_index=NO_CLASS)
        for task in logits
        if bool((targets[task] != NO_CLASS).any())
    ]
    return torch.stack(losses).mean()


def _save(
    path: Path, model: DiffC, optimizer: torch.optim.Adam, epochs: int, identity: str
) -> None:
    tensors = {f"model.{name}": value for name, value in model.state_dict().items()}
    for index, state in optimizer.state_dict()["state"].items():
        tensors |= {f"adam.{index}.{name}": value for name, value in state.items()}
    with atomic_path(path) as temporary:
        save_file(
            {name: value.detach().cpu().contiguous() for name, value in tensors.items()},
            temporary,
            metadata={"epochs": str(epochs), "identity": identity},
        )


def _resumed(path: Path | None, model: DiffC, optimizer: torch.optim.Adam, identity: str) -> int:
    """Load a checkpoint of the same training; the number of epochs done, 0 without one."""
    if path is None or not path.exists():
        return 0
    remedy = "Diff-C starts again"
    try:
        header = read_header(path, remedy=remedy)
        if header.metadata.get("identity") != identity:
            log.warning("%s is of another training; %s", path, remedy)
            return 0
        with reading(path, remedy=remedy):
            _require_fitting(header, model)
            epochs = int(header.metadata["epochs"])
        tensors = read_tensors(path, remedy=remedy)
    except UserError as error:
        log.warning("%s", error)
        return 0
    weights, state = {}, dict[int, dict[str, Any]]()
    for name, tensor in tensors.items():
        kind, _, entry = name.partition(".")
        if kind == "model":
            weights[entry] = tensor
        else:
            index, _, entry = entry.partition(".")
            state.setdefault(int(index), {})[entry] = tensor
    model.load_state_dict(weights)
    optimizer.load_state_dict({**optimizer.state_dict(), "state": state})
    return epochs


def _require_fitting(header: Header, model: DiffC) -> None:
    """`UserError` unless the checkpoint holds this model's weights and Adam's state of them.

    An entry of Adam is a scalar or has the shape of its parameter.
    """
    weights = {f"model.{name}": tuple(value.shape) for name, value in model.state_dict().items()}
    adam = {name: shape for name, shape in header.shapes.items() if name.startswith("adam.")}
    others = {name: shape for name, shape in header.shapes.items() if name not in adam}
    require_shapes(Header(others, {}), weights)
    parameters = [tuple(parameter.shape) for parameter in model.parameters()]
    for name, shape in adam.items():
        if shape not in ((), parameters[int(name.split(".", 2)[1])]):
            raise UserError(f"{name} has the shape {list(shape)}")
