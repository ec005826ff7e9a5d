"""Files of latents that are dealt over processes, by torch.distributed.checkpoint. Every process
writes and reads its own rows, so no process needs the memory of all.

They are safetensors, because the usual format of torch.distributed.checkpoint has a pickle. A file
says in its header which rows it has; another number of processes can read them.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import Tensor
from torch.distributed.tensor import DTensor

from diffusae.errors import UserError
from diffusae.files import atomic_path, atomic_write_json, sha256_of
from diffusae.parsing import read_json
from diffusae.sae.sharded import OF_LATENTS, ShardedModule
from diffusae.sae.storage import INDEX_NAME, WEIGHTS_NAME

try:
    from torch.distributed.checkpoint import HuggingFaceStorageReader, HuggingFaceStorageWriter
except ImportError:
    raise UserError(
        f"trainer.shard_latents=true needs torch 2.9 or later, and this is {torch.__version__};"
        " update it, or set trainer.shard_latents=false"
    ) from None


def write_parts(directory: Path, tensors: Mapping[str, DTensor]) -> None:
    """Write one file for every process into a directory that then has no others."""
    _remove(directory)
    writer = HuggingFaceStorageWriter(str(directory), save_distributed=True)
    dcp.save(dict(tensors), storage_writer=writer)


def read_parts(directory: Path, tensors: Mapping[str, DTensor]) -> None:
    """Fill the tensors with what `write_parts` wrote, with this or another number of processes."""
    dcp.load(dict(tensors), storage_reader=HuggingFaceStorageReader(str(directory)))


def write_whole(directory: Path, module: ShardedModule, *, beside: Path) -> None:
    """Write the weights of all processes as `sae-0000n-of-00002.safetensors`, whole tensors, and
    the index of these files.

    Args:
        beside: a directory on the same disk that may be written to and removed.
    """
    weights: dict[str, Tensor] = {
        name: module.whole(weight, of_latents=True) if name in OF_LATENTS else weight
        for name, weight in module.autoencoder.state_dict().items()
    }
    _remove(beside)
    writer = HuggingFaceStorageWriter(
        str(beside),
        fqn_to_index_mapping={name: 2 if name == "W_dec" else 1 for name in weights},
        save_distributed=True,
        enable_consolidation=True,
    )
    dcp.save(weights, storage_writer=writer)
    if dist.get_rank() == 0:
        _publish(directory, beside)
    dist.barrier()


def _publish(directory: Path, made: Path) -> None:
    """Move whole files to their place, the index last."""
    index = read_json(made / "model.safetensors.index.json", remedy="train again")
    names = {name: name.replace("model", "sae", 1) for name in set(index["weight_map"].values())}
    for name, ours in names.items():
        with atomic_path(directory / ours) as temporary:
            os.replace(made / name, temporary)
    index["weight_map"] = {weight: names[name] for weight, name in index["weight_map"].items()}
    index["metadata"]["sha256"] = {
        name: sha256_of(directory / name) for name in sorted(names.values())
    }
    (directory / WEIGHTS_NAME).unlink(missing_ok=True)
    atomic_write_json(directory / INDEX_NAME, index)
    shutil.rmtree(made)


def _remove(directory: Path) -> None:
    """Remove what a killed training left, perhaps of another number of processes."""
    if dist.get_rank() == 0:
        shutil.rmtree(directory, ignore_errors=True)
    dist.barrier()
