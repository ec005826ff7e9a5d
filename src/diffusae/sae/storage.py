"""The file format of a trained autoencoder: `sae.safetensors` (weights) and `cfg.json` (what they
are). Weights that several processes held (`diffusae.sae.sharded`) are in files that an index names.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors.torch import save_file

from diffusae.errors import UserError
from diffusae.files import atomic_path, atomic_write_json, sha256_of, verified
from diffusae.parsing import of_type, read_json, reading, shown, typed
from diffusae.sae.autoencoder import SparseAutoencoder
from diffusae.sae.settings import InputScaling
from diffusae.sae.sparsity import sparsity_from_config
from diffusae.tensor_files import Header, read_header, read_tensors, require_shapes

WEIGHTS_NAME = "sae.safetensors"
INDEX_NAME = "sae.safetensors.index.json"
CONFIG_NAME = "cfg.json"
FORMAT_VERSION = 2


def save_sae(directory: Path | str, sae: SparseAutoencoder, metadata: Mapping[str, Any]) -> None:
    """Write both files, atomically, the configuration last. `metadata` is any JSON object."""
    directory = Path(directory)
    weights = directory / WEIGHTS_NAME
    with atomic_path(weights) as temporary:
        save_file(
            {name: tensor.detach().cpu().contiguous() for name, tensor in sae.state_dict().items()},
            temporary,
        )
    (directory / INDEX_NAME).unlink(missing_ok=True)
    save_config(directory, sae, metadata)


def save_config(directory: Path, sae: SparseAutoencoder, metadata: Mapping[str, Any]) -> None:
    """Write what the weights are that lie in `directory`: those of `sae`, and of the other shards
    where it is one.
    """
    config = {
        "format_version": FORMAT_VERSION,
        "d_in": sae.d_in,
        "d_sae": sae.shard.of,
        "sparsity": {"name": sae.sparsity.name, **sae.sparsity.config()},
        "encoder_bias": sae.encoder_bias,
        "input_scaling": sae.input_scaling,
        **({"d_target": sae.d_target} if sae.transcodes else {}),
        "dtype": str(sae.W_dec.dtype).removeprefix("torch."),
        "sha256": sha256_of(_weights(directory)),
        "metadata": dict(metadata),
    }
    atomic_write_json(directory / CONFIG_NAME, config)


def load_sae(
    directory: Path | str, device: torch.device | str = "cpu"
) -> tuple[SparseAutoencoder, dict[str, Any]]:
    """The autoencoder and the metadata that `save_sae` wrote, the weights equal bit for bit.

    Raises:
        UserError: a file is missing, damaged (its SHA-256 differs), of another format, or the two
            do not fit. Shapes are compared before anything of that size is made.
    """
    directory = Path(directory)
    weights = _weights(directory)
    remedy = f"remove {directory} and train this cell again, or copy it again"
    try:
        config = _read_config(verified(directory / CONFIG_NAME), remedy)
        files = _sound_files(weights, config.sha256, remedy)
        headers = [read_header(file, remedy=remedy) for file in files]
        header = Header(
            shapes={name: shape for part in headers for name, shape in part.shapes.items()},
            dtypes={name: dtype for part in headers for name, dtype in part.dtypes.items()},
        )
        with reading(directory / CONFIG_NAME, remedy=remedy):
            sae = _empty(config, header)
        with reading(weights, remedy=remedy):
            require_shapes(header, _shapes(sae))
        for file, part in zip(files, headers, strict=True):
            tensors = read_tensors(file, remedy=remedy, shapes=part.shapes)
            sae.load_state_dict(tensors, strict=False)
            del tensors
    except FileNotFoundError as error:
        raise UserError(f"{error.filename or weights} is missing; {remedy}") from None
    for name, tensor in sae.state_dict().items():
        if not torch.isfinite(tensor).all():
            raise UserError(f"{weights}: {name} has values that are not finite; {remedy}")
    return sae.eval().to(device), config.metadata


def weights_sha256(directory: Path | str) -> str:
    """The SHA-256 of the weights, as cfg.json has it; `load_sae` compares them.

    Raises:
        UserError: cfg.json is missing, damaged or of another format.
    """
    return _config_of(directory).sha256


def sizes_of(directory: Path | str) -> tuple[int, int]:
    """d_in and d_sae, as cfg.json has them; raises as `weights_sha256`."""
    config = _config_of(directory)
    return config.d_in, config.d_sae


def _config_of(directory: Path | str) -> _Config:
    path = Path(directory) / CONFIG_NAME
    remedy = f"remove {directory} and train this cell again, or copy it again"
    try:
        return _read_config(verified(path), remedy)
    except FileNotFoundError:
        raise UserError(f"{path} is missing; {remedy}") from None


def weight_files(directory: Path) -> list[str]:
    """The names of the files of weights that `load_sae` reads, an index last."""
    weights = _weights(directory)
    if weights.name != INDEX_NAME:
        return [weights.name]
    return [*sorted(_read_index(weights, "copy it again")), INDEX_NAME]


def _weights(directory: Path) -> Path:
    """The file that all weights follow from: theirs, or the index of theirs."""
    index = directory / INDEX_NAME
    return index if index.exists() else directory / WEIGHTS_NAME


def _sound_files(weights: Path, sha256: str, remedy: str) -> list[Path]:
    """The files of weights, compared with their hashes; `weights` may be an index of them."""
    _require_hash(weights, sha256, remedy)
    if weights.name != INDEX_NAME:
        return [weights]
    hashes = _read_index(weights, remedy)
    for name, digest in hashes.items():
        _require_hash(weights.with_name(name), digest, remedy)
    return [weights.with_name(name) for name in hashes]


def _read_index(path: Path, remedy: str) -> dict[str, str]:
    """{name of a file of weights: its hash}"""
    value = read_json(path, remedy=remedy)
    with reading(path, remedy=remedy):
        hashes = typed(_Index, value).metadata.sha256
        for name in hashes:
            if not _FILE.fullmatch(name):
                raise UserError(f"it names {shown(name)}, which is no file of weights beside it")
    return hashes


def _require_hash(path: Path, sha256: str, remedy: str) -> None:
    with reading(verified(path), remedy=remedy):
        if (digest := sha256_of(path)) != sha256:
            raise UserError(f"SHA-256 is {digest}, expected {sha256}")


_FILE = re.compile(r"sae-\d{5}-of-\d{5}\.safetensors")
"""The name of a file of weights beside others."""


@dataclass(frozen=True, kw_only=True)
class _IndexMetadata:
    total_size: int
    sha256: dict[str, str]
    """A file's name -> its hash."""


@dataclass(frozen=True, kw_only=True)
class _Index:
    """The index of several files of weights, as Hugging Face's libraries write them."""

    metadata: _IndexMetadata
    weight_map: dict[str, str]
    """A tensor's name -> the name of its file."""


@dataclass(frozen=True, kw_only=True)
class _Config:
    """What cfg.json says."""

    format_version: int
    d_in: int
    d_sae: int
    sparsity: dict[str, Any]
    encoder_bias: bool
    input_scaling: InputScaling
    dtype: Literal["float32", "float16", "bfloat16", "float64"]
    sha256: str
    metadata: dict[str, Any]
    d_target: int | None = None
    """Of a transcoder."""


_DTYPES = {"float32": "F32", "float16": "F16", "bfloat16": "BF16", "float64": "F64"}
"""Our name of a dtype -> that of safetensors."""


def _read_config(path: Path, remedy: str) -> _Config:
    value = read_json(path, remedy=remedy)
    with reading(path, remedy=remedy):
        if (version := value.get("format_version")) != FORMAT_VERSION:
            raise UserError(f"it has format {shown(version)}, expected {FORMAT_VERSION}")
        return typed(_Config, value)


def _empty(config: _Config, header: Header) -> SparseAutoencoder:
    """The autoencoder before its weights, once the file is known to hold weights of that size.

    Raises:
        UserError: the weights have another shape or type than the configuration says.
    """
    arguments = dict(config.sparsity)
    sizes = {arguments.get("d_sae", config.d_sae), config.d_sae}
    shape, kind = header.shapes.get("W_dec"), header.dtypes.get("W_dec")
    d_out = config.d_in if config.d_target is None else config.d_target
    encodes = header.shapes.get("W_enc") == (config.d_sae, config.d_in)
    fits = shape == (config.d_sae, d_out) and (encodes or config.d_target is None)
    if not fits or len(sizes) > 1 or kind != _DTYPES[config.dtype]:
        target = "" if config.d_target is None else f" d_target={config.d_target},"
        raise UserError(
            f"d_sae={config.d_sae}, d_in={config.d_in},{target} dtype={config.dtype} and"
            f" sparsity={config.sparsity} do not fit W_dec of {WEIGHTS_NAME}, which is"
            f" {list(shape or ())} of {kind}"
        )
    return SparseAutoencoder(
        config.d_in,
        config.d_sae,
        sparsity_from_config(
            of_type(arguments.pop("name", None), str, "name of the sparsity"), arguments
        ),
        encoder_bias=config.encoder_bias,
        input_scaling=config.input_scaling,
        d_target=config.d_target,
        dtype=getattr(torch, config.dtype),
    )


def _shapes(sae: SparseAutoencoder) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in sae.state_dict().items()}
