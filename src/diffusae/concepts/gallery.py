"""Heat maps of chosen latents over their top pictures, for the report."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from safetensors.torch import save_file
from torch import Tensor

from diffusae.concepts.dictionary import ConceptDictionary
from diffusae.concepts.maps import BACKGROUND, maps_of
from diffusae.errors import UserError, together
from diffusae.files import atomic_path, atomic_write_json, verified
from diffusae.parsing import read_json, reading, typed
from diffusae.tensor_files import read_tensors


@dataclass(frozen=True)
class Gallery:
    """Top pictures of some latents, with the latents' maps.

    Attributes:
        latents: the latents, in the order in which to show them.
        image_ids: the top pictures of each latent, the strongest first.
        maps: the maps of each latent on those pictures, [pictures, h, w], data units.
    """

    latents: list[int]
    image_ids: list[list[str]]
    maps: list[Float[Tensor, "pictures h w"]]

    def entries(self) -> Iterator[tuple[int, list[str], Float[Tensor, "pictures h w"]]]:
        """Every latent with its pictures and its maps on them."""
        return zip(self.latents, self.image_ids, self.maps, strict=True)

    def save(self, directory: Path | str) -> None:
        """Write gallery.safetensors (one tensor a latent) and, last, gallery.json; atomically."""
        directory = Path(directory)
        with atomic_path(directory / "gallery.safetensors") as temporary:
            tensors = zip(self.latents, self.maps, strict=True)
            save_file({str(latent): maps.contiguous() for latent, maps in tensors}, temporary)
        atomic_write_json(
            directory / "gallery.json", {"latents": self.latents, "image_ids": self.image_ids}
        )

    @classmethod
    def load(cls, directory: Path | str) -> Gallery:
        """Read what `save` wrote; `UserError` for files that are missing, damaged or do not fit."""
        directory = Path(directory)
        remedy = f"remove {directory} and run the same command again"
        try:
            path = directory / "gallery.json"
            value = read_json(verified(path), remedy=remedy)
            with reading(path, remedy=remedy):
                head = typed(_Head, value)
            tensors = read_tensors(verified(directory / "gallery.safetensors"), remedy=remedy)
        except FileNotFoundError as error:
            raise UserError(f"{error.filename} is missing; {remedy}") from None
        with reading(directory, remedy=remedy):
            counts = {
                str(latent): len(ids)
                for latent, ids in zip(head.latents, head.image_ids, strict=True)
            }
            if tensors.keys() != counts.keys() or len(counts) != len(head.latents):
                raise UserError(
                    f"the maps are of {len(tensors)} latents, gallery.json lists"
                    f" {len(head.latents)} others"
                )
            together(
                f"latent {latent} has {counts[latent]} pictures and maps {list(maps.shape)}, which"
                " must be finite"
                for latent, maps in tensors.items()
                if maps.ndim != 3 or len(maps) != counts[latent] or not torch.isfinite(maps).all()
            )
        maps = [tensors[str(latent)] for latent in head.latents]
        return cls(latents=head.latents, image_ids=head.image_ids, maps=maps)


@dataclass(frozen=True, kw_only=True)
class _Head:
    """The contents of gallery.json."""

    latents: list[int]
    image_ids: list[list[str]]


def most_telling_latents(dictionary: ConceptDictionary, n: int) -> list[int]:
    """At most `n` latents to show: the best latent of every label, then the second of every label,
    and so on; the background once at most.

    A latent stands for its main label, the one with the highest count x share; that product also
    says which latents of a label, and which labels, come first.
    """
    columns = (dictionary.table[name].tolist() for name in ("latent", "count", "share", "label"))
    main: dict[int, tuple[float, str]] = {}
    for latent, count, share, label in zip(*columns, strict=True):
        if latent not in main or count * share > main[latent][0]:
            main[latent] = (count * share, label)
    ranked: list[tuple[int, int]] = []  # (place among the latents of its label, latent)
    seen: Counter[str] = Counter()
    for latent in sorted(main, key=lambda latent: (-main[latent][0], latent)):
        label = main[latent][1]
        if label != BACKGROUND or not seen[label]:
            ranked.append((seen[label], latent))
        seen[label] += 1
    return [latent for _, latent in sorted(ranked, key=lambda entry: entry[0])][:n]


def build_gallery(
    dictionary: ConceptDictionary,
    latents: Sequence[int],
    codes_of: Callable[[str], tuple[Tensor, Tensor]],
    *,
    n_pictures: int = 8,
) -> Gallery:
    """The maps of `latents` on their `n_pictures` top pictures.

    `codes_of` gives the codes (values [P, k], indices [P, k]) of an image id. It is called once for
    each picture.
    """
    top = dictionary.latents.set_index("latent")["top_images"]
    image_ids = [list(top[latent])[:n_pictures] for latent in latents]
    height, width = dictionary.facts["grid"]
    return gallery_of(latents, image_ids, codes_of, (height, width))


def gallery_of(
    latents: Sequence[int],
    image_ids: list[list[str]],
    codes_of: Callable[[str], tuple[Tensor, Tensor]],
    grid: tuple[int, int],
) -> Gallery:
    """The maps of `latents`, each on its own pictures; see `build_gallery`."""
    shown_on: dict[str, list[int]] = {}
    for latent, pictures in zip(latents, image_ids, strict=True):
        for image_id in pictures:
            shown_on.setdefault(image_id, []).append(latent)
    map_of: dict[tuple[int, str], Tensor] = {}
    for image_id, chosen in shown_on.items():
        maps = maps_of(torch.tensor(chosen), *codes_of(image_id), grid)
        map_of.update({(latent, image_id): maps[row] for row, latent in enumerate(chosen)})
    stacks = [
        [map_of[latent, image_id] for image_id in pictures]
        for latent, pictures in zip(latents, image_ids, strict=True)
    ]
    return Gallery(
        latents=list(latents),
        image_ids=image_ids,
        maps=[torch.stack(stack) if stack else torch.zeros(0, *grid) for stack in stacks],
    )
