"""Reading safetensors: what a file holds is known and compared before anything of that size is
made."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from diffusae.errors import UserError, together
from diffusae.parsing import reading

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Header:
    """What a safetensors file says of itself.

    Attributes:
        shapes: name -> shape; the file is as long as they ask for.
        dtypes: name -> type of its numbers, as safetensors calls it ("F32").
        metadata: name -> text.
    """

    shapes: dict[str, Shape]
    dtypes: dict[str, str]
    metadata: dict[str, str] = field(default_factory=dict)


def read_header(path: Path | str, *, remedy: str) -> Header:
    """Names, shapes and types of a safetensors file, without its numbers.

    Raises:
        FileNotFoundError: there is no such file.
        UserError: it is damaged, cut, or no safetensors file.
    """
    from safetensors import safe_open

    with reading(path, remedy=remedy), safe_open(_file(path), framework="numpy") as file:
        slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118
        return Header(
            shapes={name: tuple(each.get_shape()) for name, each in slices.items()},
            dtypes={name: each.get_dtype() for name, each in slices.items()},
            metadata=dict(file.metadata() or {}),
        )


def read_tensors(
    path: Path | str, *, remedy: str, shapes: Mapping[str, Shape] | None = None, device: str = "cpu"
) -> dict[str, Any]:
    """The tensors of a safetensors file, of exactly these names and shapes where they are given.

    Raises:
        FileNotFoundError: there is no such file.
        UserError: as `read_header`; or names or shapes are others, all of them in one error.
    """
    from safetensors.torch import load_file

    header = read_header(path, remedy=remedy)
    with reading(path, remedy=remedy):
        if shapes is not None:
            require_shapes(header, shapes)
        return load_file(_file(path), device=device)


def require_shapes(header: Header, shapes: Mapping[str, Shape]) -> None:
    """`UserError` unless the file holds exactly these names in these shapes."""
    if header.shapes.keys() != shapes.keys():
        raise UserError(
            f"it must hold the tensors {', '.join(sorted(shapes))}; it holds"
            f" {', '.join(sorted(header.shapes))[:400] or 'none'}"
        )
    together(
        f"{name} must be {list(shape)}, is {list(header.shapes[name])}"
        for name, shape in shapes.items()
        if header.shapes[name] != tuple(shape)
    )


def _file(path: Path | str) -> str:
    """Its path, of a file alone: safetensors tells of a directory in words of its own."""
    with open(path, "rb"):
        return str(path)
