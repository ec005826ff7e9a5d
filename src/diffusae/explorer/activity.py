"""Where and how strongly latents are active, from the codes that a study stores or can encode.

A study stores updates, which an autoencoder encodes in a moment or, if it is large, in seconds. So
the work for one page is bounded, and pages say on how many pictures their figures are.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import islice
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from diffusae.activations.codes import PictureCodes, padded, read_codes
from diffusae.activations.schema import CodeStream, Stream
from diffusae.concepts.gallery import Gallery
from diffusae.concepts.maps import maps_of
from diffusae.errors import UserError
from diffusae.explorer.catalogue import CatalogueCell
from diffusae.explorer.kept import Kept
from diffusae.explorer.pictures import Pictures
from diffusae.labelling.codes import PictureEncoder
from diffusae.sae.autoencoder import SparseAutoencoder
from diffusae.sae.storage import load_sae, weights_sha256

MOST_PRODUCTS = 1e11
"""Multiplications for one page, where updates are encoded: seconds of two processor cores."""
MOST_PICTURES = 256
"""Of a histogram."""
SHOWN = 8
"""Top pictures with maps."""
MOST_SAES, MOST_MAPS, MOST_HISTOGRAMS = 192 << 20, 32 << 20, 32 << 20
"""Bytes in memory."""

BINS_OF_A_DOUBLING = 2
_FIRST, _BINS = -40, 80
"""Of histograms: bins from 2^-20 to 2^20, two of every doubling."""


@dataclass(frozen=True)
class Maps:
    """The maps of a latent on some pictures.

    Attributes:
        image_ids: the pictures, the strongest first.
        maps: data units.
    """

    image_ids: list[str]
    maps: Float[Tensor, "pictures h w"]

    @property
    def high(self) -> float:
        """The highest value of all maps: they share one scale of colours."""
        return float(self.maps.max()) if self.maps.numel() else 0.0


@dataclass(frozen=True)
class Histogram:
    """How often values of one latent lie in each bin.

    Attributes:
        edges: of the bins, ascending, in data units; every bin is wider than the last by sqrt(2).
        counts: positions a bin.
        silent: positions where the latent is not active.
        pictures: the pictures that were looked at.
    """

    edges: Float[np.ndarray, " bins_and_one"]
    counts: Int[np.ndarray, " bins"]
    silent: int
    pictures: int


class Activity:
    """The activity of all latents of a study.

    Args:
        pictures: the study's pictures, whose collection has the updates or codes.
    """

    def __init__(self, pictures: Pictures) -> None:
        self._pictures = pictures
        self._saes: Kept[SparseAutoencoder] = Kept(MOST_SAES, _bytes)
        self._maps: Kept[Maps] = Kept(MOST_MAPS, lambda one: one.maps.numel() * 4)
        self._histograms: Kept[tuple[np.ndarray, int, int]] = Kept(
            MOST_HISTOGRAMS, lambda one: one[0].nbytes
        )

    def maps(self, cell: CatalogueCell, latent: int, image_ids: Sequence[str]) -> Maps:
        """The maps of a latent on pictures: those of the gallery, else from the pictures' codes.

        Raises:
            UserError: neither the gallery nor the collection has what is needed.
        """
        key = (cell.name, latent, *image_ids)
        return self._maps.get(key, lambda: self._make_maps(cell, latent, list(image_ids)))

    def no_maps(self, cell: CatalogueCell, latent: int, image_ids: Sequence[str]) -> str:
        """Why a latent has no maps on these pictures; "" where it has. Nothing is computed."""
        if fault := cell.cell.settings.text_fault:
            return fault
        try:
            if self._from_gallery(cell, latent, image_ids) is None:
                stored = self._code_stream(cell) if self._coded else self._stream(cell)
                self._pictures.stored.manifest.shards(stored.folder, "dictionary")
        except UserError as error:
            return str(error)
        return ""

    def _make_maps(self, cell: CatalogueCell, latent: int, image_ids: list[str]) -> Maps:
        shown = self._from_gallery(cell, latent, image_ids)
        return self.maps_from_codes(cell, latent, image_ids) if shown is None else shown

    def _from_gallery(
        self, cell: CatalogueCell, latent: int, image_ids: Sequence[str]
    ) -> Maps | None:
        """The maps that the gallery has; None: it has others."""
        if cell.missing:
            return None
        for shown, ids, maps in Gallery.load(cell.cell.concepts_directory).entries():
            if shown == latent and ids[: len(image_ids)] == list(image_ids):
                return Maps(list(image_ids), maps[: len(image_ids)])
        return None

    def maps_from_codes(self, cell: CatalogueCell, latent: int, image_ids: Sequence[str]) -> Maps:
        """The maps of a latent on pictures, from their codes.

        Raises:
            UserError: the collection has neither updates nor codes of the cell.
        """
        if fault := cell.cell.settings.text_fault:
            raise UserError(fault)
        grid, maps = self._stream(cell).grid, []
        for image_id in image_ids:
            codes = self._codes(cell, image_id)
            values, indices = map(torch.from_numpy, padded([codes], grid[0] * grid[1]))
            maps.append(maps_of(torch.tensor([latent]), values[0], indices[0], grid)[0])
        return Maps(list(image_ids), torch.stack(maps) if maps else torch.zeros(0, *grid))

    def pictures_at_once(self, cells: Sequence[CatalogueCell]) -> int:
        """How many pictures can be encoded at these cells for one page."""
        if self._coded:
            return SHOWN
        cost = sum(self._cost(cell) for cell in cells)
        return SHOWN if cost == 0 else int(min(SHOWN, MOST_PRODUCTS // cost))

    def histogram(self, cell: CatalogueCell, latent: int) -> Histogram:
        """The histogram of a latent over the first pictures of the split `dictionary`.

        All latents of the cell are counted at once, and kept.

        Raises:
            UserError: as `maps_from_codes`.
        """
        counts, positions, pictures = self._histograms.get(cell.name, lambda: self._count(cell))
        own = counts[latent]
        used = np.flatnonzero(own)
        first, last = (used[0], used[-1] + 1) if len(used) else (0, 0)
        edges = 2.0 ** ((np.arange(first, last + 1) + _FIRST) / BINS_OF_A_DOUBLING)
        return Histogram(edges, own[first:last], positions - int(own.sum()), pictures)

    def _count(self, cell: CatalogueCell) -> tuple[np.ndarray, int, int]:
        counts = np.zeros((cell.size, _BINS), dtype=np.int32)
        positions = pictures = 0
        for codes in self._first(cell):
            places = np.floor(np.log2(codes.values.astype(np.float64)) * BINS_OF_A_DOUBLING)
            bins = np.clip(places - _FIRST, 0, _BINS - 1).astype(np.int64)
            np.add.at(counts, (codes.indices.astype(np.int64), bins), 1)
            positions, pictures = positions + len(codes.counts), pictures + 1
        return counts, positions, pictures

    def _first(self, cell: CatalogueCell) -> Iterator[PictureCodes]:
        """The codes of the first pictures of the split `dictionary`."""
        stored, stream = self._pictures.stored, self._stream(cell)
        if self._coded:
            codes = read_codes(stored.root, stored.manifest, self._code_stream(cell), "dictionary")
            yield from (one for _, one in islice(codes, MOST_PICTURES))
            return
        encode = PictureEncoder(self.sae(cell), stored.manifest.numbers.read)
        most = int(min(MOST_PICTURES, max(1, MOST_PRODUCTS // self._cost(cell))))
        yield from map(encode, stored.first(stream, "dictionary", most))

    def sae(self, cell: CatalogueCell) -> SparseAutoencoder:
        """The autoencoder of a cell."""
        assert cell.cell.sae_directory is not None
        return self._saes.get(cell.name, partial(_loaded, cell.cell.sae_directory))

    def _codes(self, cell: CatalogueCell, image_id: str) -> PictureCodes:
        stored = self._pictures.stored
        if self._coded:
            codes = stored.codes(self._code_stream(cell), image_id)
        else:
            updates = stored.updates(self._stream(cell), image_id)
            encode = PictureEncoder(self.sae(cell), stored.manifest.numbers.read)
            codes = None if updates is None else encode(updates)
        if codes is None:
            raise UserError(f"the collection has no picture {image_id}; collect it again")
        return codes

    @cached_property
    def _coded(self) -> bool:
        return bool(self._pictures.stored.manifest.codes)

    def _stream(self, cell: CatalogueCell) -> Stream:
        place = cell.cell
        return self._pictures.stored.manifest.stream(place.block, place.t, place.conditioning)

    def _code_stream(self, cell: CatalogueCell) -> CodeStream:
        assert cell.cell.sae_directory is not None
        sha256 = weights_sha256(cell.cell.sae_directory)
        manifest = self._pictures.stored.manifest
        return manifest.codes_of(self._stream(cell), cell.tag, sha256=sha256)

    def _cost(self, cell: CatalogueCell) -> float:
        """Multiplications that encode one picture."""
        stream = self._stream(cell)
        return float(stream.positions) * stream.d_in * cell.size


def _loaded(directory: Path) -> SparseAutoencoder:
    return load_sae(directory)[0]


def _bytes(sae: SparseAutoencoder) -> int:
    return sum(part.numel() * part.element_size() for part in sae.state_dict().values())


def correlation(
    first: Float[Tensor, "pictures h w"], second: Float[Tensor, "pictures h w"]
) -> float | None:
    """Pearson's correlation of two latents' maps over the positions of the same pictures, in
    [-1, 1]. Maps of different grids are compared on the coarser one. None: one of them never
    varies.

    Example: maps [[1, 0]] and [[0, 2]] have correlation -1.
    """
    height, width = min(first.shape[1:], second.shape[1:])
    one, other = (
        F.adaptive_avg_pool2d(maps[:, None].double(), (height, width)).flatten()
        for maps in (first, second)
    )
    one, other = one - one.mean(), other - other.mean()
    scale = one.norm() * other.norm()
    return None if scale == 0 else round(float(one @ other / scale), 4)
