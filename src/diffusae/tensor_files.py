"""Reading safetensors. Names and shapes are checked before memory of that size is taken."""

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
    """The header of a safetensors file.

    Attributes:
        shapes: name -> shape. The file's length is known to match them.
        dtypes: name -> number type in the words of safetensors ("F32").
        metadata: name -> text.
    """

    shapes: dict[str, Shape]
    dtypes: dict[str, str]
    metadata: dict[str, str] = field(default_factory=dict)


def read_header(path: Path | str, *, remedy: str) -> Header:
    """Names, shapes and types of a safetensors file, without its numbers.

    Raises:
        FileNotFoundError: there is no such file.
        UserError: it is damaged, cut, or not a safetensors file.
    """
    from safetensors import safe_open

    with reading(path, remedy=remedy), safe_open(_file(path), framework="numpy") as file:
        slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118
        return Header(
            shapes={name: tuple(part.get_shape()) for name, part in slices.items()},
            dtypes={name: part.get_dtype() for name, part in slices.items()},
            metadata=dict(file.metadata() or {}),
        )


def read_tensors(
    path: Path | str, *, remedy: str, shapes: Mapping[str, Shape] | None = None, device: str = "cpu"
) -> dict[str, Any]:
    """The tensors of a safetensors file. If `shapes` is given, names and shapes must equal it.

    Raises:
        FileNotFoundError: there is no such file.
        UserError: as `read_header`, or names or shapes differ (all in one error).
    """
    from safetensors.torch import load_file

    header = read_header(path, remedy=remedy)
    with reading(path, remedy=remedy):
        if shapes is not None:
            require_shapes(header, shapes)
        return load_file(_file(path), device=device)


def tensors_of(data: bytes) -> dict[str, Any]:
    """The tensors of a safetensors file in memory, as NumPy arrays.

    Raises:
        ValueError: it is damaged, cut, or not a safetensors file.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load

    try:
        return load(data)
    except (SafetensorError, KeyError) as error:  # KeyError: a type that NumPy does not have
        raise ValueError(f"it is no safetensors file that is read here ({error!r})") from error


def require_shapes(header: Header, shapes: Mapping[str, Shape]) -> None:
    """`UserError` unless the file holds exactly these names in these shapes."""
    if header.shapes.keys() != shapes.keys():
        raise UserError(
            f"it must hold the tensors {', '.join(sorted(shapes))}; it holds "
            f"{', '.join(sorted(header.shapes))[:400] or 'none'}"
        )
    together(
        f"{name} must be {list(shape)}, is {list(header.shapes[name])}"
        for name, shape in shapes.items()
        if header.shapes[name] != tuple(shape)
    )


def _file(path: Path | str) -> str:
    """The path as text. `open` raises the usual errors; those of safetensors are its own."""
    with open(path, "rb"):
        return str(path)
