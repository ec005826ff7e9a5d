"""The codes of a cell's pictures, from which labelling and evaluation start."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
import torch
from jaxtyping import Float, Float16
from torch import Tensor

from diffusae.activations.codes import PictureCodes, padded, read_codes
from diffusae.activations.manifest import Manifest
from diffusae.activations.one_picture import OnePicture
from diffusae.activations.reader import read_updates, require_sound
from diffusae.activations.schema import IMAGES
from diffusae.sae.autoencoder import SparseAutoencoder
from diffusae.sae.sparsity import Codes
from diffusae.sae.storage import weights_sha256
from diffusae.study.streams import stream_of
from diffusae.study.study import Study

MOST_PRE_ACTIVATIONS = 2**28
"""At a time: 1 GB in float32."""


def encoder_of(
    sae: SparseAutoencoder, device: torch.device | str | None = None
) -> Callable[[Tensor], Codes]:
    """Encodes vectors of the host on the device, by default on the GPU where there is one. Codes
    are on the host.
    """
    device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    if device.type == "cpu":
        return sae.encode
    moved = copy.deepcopy(sae).to(device)

    def encode(vectors: Tensor) -> Codes:
        values, indices = moved.encode(vectors.to(device))
        return Codes(values.cpu(), indices.cpu())

    return encode


class PictureEncoder:
    """Encodes one picture at a time. How many rows a product has may change how its sums round, so
    the codes of a picture would otherwise depend on the pictures beside it.

    Args:
        dtype: of the values: codes are rounded as they are or would be stored.
    """

    def __init__(self, sae: SparseAutoencoder, dtype: np.dtype) -> None:
        self._encode, self._d_sae, self._dtype = encoder_of(sae), sae.d_sae, dtype

    def __call__(self, updates: Float[np.ndarray, "positions d_in"]) -> PictureCodes:
        values, indices = self._encode(torch.from_numpy(np.array(updates)).float())
        return PictureCodes.of(
            values.numpy(), indices.numpy(), d_sae=self._d_sae, dtype=self._dtype
        )


class CodedPicture(NamedTuple):
    """A picture's codes, and its updates as stored; None: they are not."""

    image_id: str
    codes: PictureCodes
    updates: Float[np.ndarray, "positions d_in"] | None

    def tensors(
        self, d_sae: int, device: torch.device
    ) -> tuple[Float[Tensor, "positions d_in"] | None, Float[Tensor, "positions d_sae"]]:
        """Updates, and the code of every latent, in float32."""
        codes = torch.from_numpy(self.codes.dense(d_sae)).to(device)
        if self.updates is None:
            return None, codes
        return torch.from_numpy(np.array(self.updates)).to(device).float(), codes


class CodeSource(Protocol):
    """Where the codes of a cell's dictionary, tune and test pictures come from. Both sources give
    the same codes, to the bit.
    """

    @property
    def positions(self) -> int: ...

    @property
    def grid(self) -> tuple[int, int]: ...

    @property
    def d_in(self) -> int | None:
        """Entries of a stored update; None: none are stored."""
        ...

    def __call__(self, split: str) -> Iterator[CodedPicture]:
        """The pictures of a split, in the order of the collection."""
        ...


class FromUpdates:
    """Stored updates, encoded when they are read."""

    def __init__(self, study: Study, manifest: Manifest, sae: SparseAutoencoder) -> None:
        stream = stream_of(study, manifest)
        self._root, self._manifest, self._stream = study.activations, manifest, stream
        self.positions, self.grid, self.d_in = stream.positions, stream.grid, stream.d_in
        self._encode = PictureEncoder(sae, manifest.numbers.read)
        require_sound(self._root, manifest, streams=[self._stream.folder])

    def __call__(self, split: str) -> Iterator[CodedPicture]:
        for sample in read_updates(self._root, self._manifest, self._stream, split):
            yield CodedPicture(sample.image_id, self._encode(sample.updates), sample.updates)


class FromCodes:
    """Codes that were stored when the pictures were made.

    Raises:
        UserError: there are none of this autoencoder, or they belong to other weights.
    """

    def __init__(self, study: Study, manifest: Manifest) -> None:
        stream = stream_of(study, manifest)
        self._root, self._manifest = study.activations, manifest
        self._codes = manifest.codes_of(stream, study.cfg.sae.tag, sha256=weights_sha256(study.sae))
        self.positions, self.grid, self.d_in = stream.positions, stream.grid, None
        require_sound(self._root, manifest, streams=[self._codes.folder])

    def __call__(self, split: str) -> Iterator[CodedPicture]:
        for image_id, codes in read_codes(self._root, self._manifest, self._codes, split):
            yield CodedPicture(image_id, codes, None)


def code_source(study: Study, sae: SparseAutoencoder) -> CodeSource:
    """The codes of the study's cell, from what its collection stores; its shards are verified.

    Args:
        sae: the study's autoencoder, loaded.
    """
    held_out = study.held_out
    manifest = Manifest.load(held_out.activations)
    return FromCodes(held_out, manifest) if held_out.coded else FromUpdates(study, manifest, sae)


class PicturesOfStudy:
    """The codes of single pictures at any cell, from what a study's collection stores.

    They are those of `code_source`, to the bit, and only the shards of the pictures are read.
    """

    def __init__(self, study: Study) -> None:
        held_out = study.held_out
        self._coded = held_out.coded
        self._manifest = Manifest.load(held_out.activations)
        self._pictures = OnePicture(held_out.activations, self._manifest)

    def codes(self, study: Study, sae: SparseAutoencoder, image_id: str) -> CodedPicture | None:
        """What a picture has at the study's cell; None: the collection has no such picture.

        Raises:
            UserError: nothing is stored of the cell, or its shard is damaged.
        """
        stream = stream_of(study, self._manifest)
        if self._coded:
            sha256 = weights_sha256(study.sae)
            stored = self._manifest.codes_of(stream, study.cfg.sae.tag, sha256=sha256)
            codes = self._pictures.codes(stored, image_id)
            return None if codes is None else CodedPicture(image_id, codes, None)
        updates = self._pictures.updates(stream, image_id)
        if updates is None:
            return None
        encode = PictureEncoder(sae, self._manifest.numbers.read)
        return CodedPicture(image_id, encode(updates), updates)

    def prompt(self, image_id: str) -> str | None:
        """The prompt of a picture; None: the collection has no such picture."""
        folder = IMAGES if self._manifest.image_size else self._manifest.streams[0].folder
        meta = self._pictures.meta(folder, image_id)
        return None if meta is None else str(meta.get("prompt", ""))

    def grid(self, study: Study) -> tuple[int, int]:
        """(height, width) of the positions at the study's cell."""
        return stream_of(study, self._manifest).grid

    def norms(self, study: Study, split: str, pictures: int) -> Float[np.ndarray, " n"]:
        """The lengths of the updates of the first pictures of a split, ascending.

        Raises:
            UserError: no updates are stored of the cell.
        """
        stream = stream_of(study, self._manifest)
        parts = [
            np.linalg.norm(updates.astype(np.float32), axis=1)
            for updates in self._pictures.first(stream, split, pictures)
        ]
        return np.sort(np.concatenate(parts))


@dataclass(frozen=True)
class CodedSplit:
    """One split at one cell.

    Attributes:
        values, indices: codes [n, P, k].
        updates: float32 [n, P, d_in], empty where they are not kept; None: they are not stored.
    """

    image_ids: list[str]
    prompts: list[str]
    values: Tensor
    indices: Tensor
    updates: Tensor | None


def coded_split(
    study: Study, source: CodeSource, split: str, *, keep_updates: bool = False
) -> CodedSplit:
    """All pictures of one split in memory: their codes, and their updates where these are asked for
    and stored.
    """
    image_ids: list[str] = []
    codes: list[PictureCodes] = []
    updates = [] if source.d_in is None else [torch.empty(0, source.positions, source.d_in)]
    for picture in source(split):
        image_ids.append(picture.image_id)
        codes.append(picture.codes)
        if keep_updates and picture.updates is not None:
            updates.append(torch.from_numpy(np.array(picture.updates)).float()[None])
    values, indices = map(torch.from_numpy, padded(codes, source.positions))
    return CodedSplit(
        image_ids,
        _texts(study, image_ids),
        values=values,
        indices=indices,
        updates=torch.cat(updates) if updates else None,
    )


def coded_samples(
    study: Study, manifest: Manifest, sae: SparseAutoencoder, split: str
) -> Sequence[tuple[Tensor, Tensor, Tensor]]:
    """Updates [P, d_in], values and indices [P, k] of every sample; its shards are verified first.
    Samples of texts differ in P.
    """
    stream = stream_of(study, manifest)
    require_sound(study.activations, manifest, streams=[stream.folder])
    samples = read_updates(study.activations, manifest, stream, split)
    updates = [torch.from_numpy(np.array(sample.updates)).float() for sample in samples]
    codes = map(encoder_of(sae), updates)
    return [(x, values, indices) for x, (values, indices) in zip(updates, codes, strict=True)]


def _texts(study: Study, image_ids: Sequence[str]) -> list[str]:
    if study.kind == "pictures":  # the given files may be gone by now
        return [study.cfg.collection.prompt] * len(image_ids)
    texts = {prompt.image_id: prompt.text for prompt in study.prompts}
    return [texts[image_id] for image_id in image_ids]


def pooled_codes(
    sae: SparseAutoencoder, updates: Float16[np.ndarray, "n P d_in"]
) -> Float[np.ndarray, "n d_sae"]:
    """The mean over positions of every latent's code, picture by picture (Revelio's pooled
    codes).
    """
    n, positions, _ = updates.shape
    at_once = max(1, MOST_PRE_ACTIVATIONS // (positions * sae.d_sae))
    pooled, encode = np.zeros((n, sae.d_sae), dtype=np.float32), encoder_of(sae)
    for start in range(0, n, at_once):
        codes = encode(torch.from_numpy(updates[start : start + at_once]).float())
        values, indices = codes.values.detach().flatten(1), codes.indices.flatten(1).long()
        sums = torch.zeros(len(values), sae.d_sae).scatter_add_(1, indices, values.float())
        pooled[start : start + at_once] = (sums / positions).numpy()
    return pooled
