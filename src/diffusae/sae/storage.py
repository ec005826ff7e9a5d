"""The file format of a trained autoencoder: `sae.safetensors` (weights) and `cfg.json` (what they are)."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from diffusae.errors import UserError
from diffusae.files import atomic_path, atomic_write_json, sha256_of, verified
from diffusae.sae.autoencoder import SparseAutoencoder
from diffusae.sae.sparsity import sparsity_from_config

WEIGHTS_NAME = "sae.safetensors"
CONFIG_NAME = "cfg.json"
FORMAT_VERSION = 2


def save_sae(directory: Path | str, sae: SparseAutoencoder, metadata: Mapping[str, Any]) -> None:
    """Write both files, atomically, the configuration last. `metadata` is any JSON object."""
    directory = Path(directory)
    weights = directory / WEIGHTS_NAME
    with atomic_path(weights) as temporary:
        save_file(
            {name: tensor.detach().cpu().contiguous() for name, tensor in sae.state_dict().items()}, temporary
        )
    config = {
        "format_version": FORMAT_VERSION,
        "d_in": sae.d_in,
        "d_sae": sae.d_sae,
        "sparsity": {"name": sae.sparsity.name, **sae.sparsity.config()},
        "encoder_bias": sae.encoder_bias,
        "input_scaling": sae.input_scaling,
        "dtype": str(sae.W_dec.dtype).removeprefix("torch."),
        "sha256": sha256_of(weights),
        "metadata": dict(metadata),
    }
    atomic_write_json(directory / CONFIG_NAME, config)


def load_sae(
    directory: Path | str, device: torch.device | str = "cpu"
) -> tuple[SparseAutoencoder, dict[str, Any]]:
    """The autoencoder and the metadata that `save_sae` wrote, the weights equal bit for bit.

    Raises:
        UserError: a file is missing, damaged (its SHA-256 differs), or of another format.
    """
    directory = Path(directory)
    weights, remedy = (
        directory / WEIGHTS_NAME,
        f"remove {directory} and train this cell again, or copy it again",
    )
    for path in (directory / CONFIG_NAME, weights):
        if not path.is_file():
            raise UserError(f"{path} is missing; {remedy}")
    try:
        config = json.loads(verified(directory / CONFIG_NAME).read_text(encoding="utf-8"))
        if config["format_version"] != FORMAT_VERSION:
            raise UserError(
                f"{directory / CONFIG_NAME} has format {config['format_version']}, "
                f"expected {FORMAT_VERSION}; {remedy}"
            )
        found = sha256_of(verified(weights))
        if found != config["sha256"]:
            raise UserError(
                f"{weights} is damaged: SHA-256 is {found}, expected {config['sha256']}; {remedy}"
            )
        sparsity = dict(config["sparsity"])
        sae = SparseAutoencoder(
            config["d_in"],
            config["d_sae"],
            sparsity_from_config(sparsity.pop("name"), sparsity),
            encoder_bias=config["encoder_bias"],
            input_scaling=config["input_scaling"],
            dtype=getattr(torch, config["dtype"]),
        )
        sae.load_state_dict(load_file(weights))
        return sae.eval().to(device), dict(config["metadata"])
    except UserError:
        raise
    except (ValueError, KeyError, TypeError, AttributeError, RuntimeError, SafetensorError) as error:
        raise UserError(
            f"{directory} holds no readable SAE ({type(error).__name__}: {error}); {remedy}"
        ) from error
