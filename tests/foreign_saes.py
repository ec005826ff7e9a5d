"""Autoencoders of other people in their own files, written from known weights, each with the
forward pass as its code has it: one vector and one latent at a time, in float64.
"""

import json
import math
import sys
import types
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from diffusae.sae import checkpoint, convert_pickle

K = 3
TIMESTEP = 501.0
"""At which DifFRACT's is read."""


class Weights(NamedTuple):
    """Encoder and decoder [d_sae, d_in], and their biases."""

    W_enc: np.ndarray
    b_enc: np.ndarray
    W_dec: np.ndarray
    b_dec: np.ndarray

    @classmethod
    def drawn(cls, d_in: int, d_sae: int, seed: int = 0) -> "Weights":
        """Random ones, float32 values; decoder rows of unit norm."""
        rng = np.random.default_rng(seed)
        W_dec = rng.normal(size=(d_sae, d_in))
        W_dec /= np.linalg.norm(W_dec, axis=1, keepdims=True)
        drawn = (
            rng.normal(size=(d_sae, d_in)),
            rng.normal(size=d_sae),
            W_dec,
            rng.normal(size=d_in),
        )
        return cls(*(part.astype(np.float32) for part in drawn))


class Written(NamedTuple):
    """A foreign SAE on disk: `source` for an import, its forward pass x -> (codes, x_hat), the
    format's name, and what its files do not say.
    """

    source: Path
    forward: Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]
    format: str
    stated: dict[str, Any]


def _torch(*arrays: np.ndarray) -> list[torch.Tensor]:
    return [torch.from_numpy(np.ascontiguousarray(array)) for array in arrays]


def _pre(w: Weights, x: np.ndarray) -> np.ndarray:
    return np.array(
        [
            [float(row @ (v - w.b_dec)) + float(b) for row, b in zip(w.W_enc, w.b_enc, strict=True)]
            for v in x.astype(np.float64)
        ]
    )


def _largest(pre: np.ndarray, k: int) -> np.ndarray:
    codes = np.zeros_like(pre)
    for row, values in enumerate(pre):
        for latent in sorted(range(len(values)), key=lambda i: -values[i])[:k]:
            codes[row, latent] = values[latent]
    return codes


def _topk(w: Weights, k: int, *, relu: bool = True):
    def forward(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        codes = _largest(_pre(w, x), k)
        codes = np.maximum(codes, 0) if relu else codes
        return codes, codes @ w.W_dec.astype(np.float64) + w.b_dec

    return forward


def sdxl_unbox(
    folder: Path, w: Weights, *, hookpoint: str = "unet.mid_block.attentions.0", **config: Any
) -> Written:
    """`SAE.sae.SparseAutoencoder.save_to_disk`; the decoder lies column by column."""
    d_sae, d_in = w.W_enc.shape
    directory = folder / f"{hookpoint}_k{K}_hidden{d_sae}_auxk256_bs4096_lr0.0001" / "final"
    directory.mkdir(parents=True)
    W_enc, b_enc, W_dec, b_dec = _torch(*w)
    state = {
        "pre_bias": b_dec,
        "latent_bias": b_enc,
        "stats_last_nonzero": torch.zeros(d_sae, dtype=torch.long),
        "encoder.weight": W_enc,
        "decoder.weight": W_dec.T,
    }
    torch.save({"state_dict": state}, directory / "state_dict.pth")
    torch.save(torch.ones(d_sae), directory / "mean.pt")
    settings = {"n_dirs_local": d_sae, "d_model": d_in, "k": K, "auxk": 256}
    settings |= {"dead_steps_threshold": 2441, **config}
    (directory / "config.json").write_text(json.dumps(settings))
    return Written(directory, _topk(w, K), "sdxl_unbox", {})


def steerers(
    folder: Path, w: Weights, *, hookpoint: str = "text_encoder.text_model.encoder.layers.1"
) -> Written:
    """`training.k_sparse_autoencoder.SparseAutoencoder.save_to_disk`."""
    written = sdxl_unbox(folder, w, hookpoint=hookpoint, auxk_coef=1 / 32)
    return written._replace(format="steerers")


def saeuron(
    folder: Path, w: Weights, *, hookpoint: str = "unet.mid_block.attentions.0", **config: Any
) -> Written:
    """`SAE.sae.Sae.save_to_disk`, used as the published scripts use it: k of every position."""
    directory = folder / hookpoint
    directory.mkdir(parents=True)
    W_enc, b_enc, W_dec, b_dec = _torch(*w)
    tensors = {"encoder.weight": W_enc, "encoder.bias": b_enc, "W_dec": W_dec, "b_dec": b_dec}
    save_file(tensors, directory / "sae.safetensors")
    settings = {"expansion_factor": 16, "normalize_decoder": True, "num_latents": 0, "k": K}
    settings |= {"batch_topk": True, "sample_topk": False, "input_unit_norm": False}
    settings |= {"multi_topk": False, "d_in": w.W_enc.shape[1], **config}
    (directory / "cfg.json").write_text(json.dumps(settings))
    return Written(directory, _topk(w, K), "saeuron", {})


@dataclass
class SDSAERunnerConfig:
    """Revelio's settings of a training, as far as they matter here."""

    d_in: int
    d_sae: int
    k: int = K
    model_name: str = "caltech101/SD15/timestep_500"
    module_name: str = "mid_block"
    timestep: int = 0
    dtype: torch.dtype = torch.float32
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))


@contextmanager
def in_module(name: str, *classes: type):
    """The classes as a module of this name has them, for pickling."""
    module: Any = types.ModuleType(name)
    for one in classes:
        one.__module__ = name
        setattr(module, one.__name__, one)
    sys.modules[name] = module
    try:
        yield
    finally:
        del sys.modules[name]


def revelio(folder: Path, w: Weights, **config: Any) -> Written:
    """`KSparseAutoencoder.save_model`: the k largest, below 0 too."""
    d_sae, d_in = w.W_enc.shape
    path = folder / f"final_k_sparse_autoencoder_SD15_10_mid_block_{d_sae}.pt"
    folder.mkdir(parents=True, exist_ok=True)
    W_enc, b_enc, W_dec, b_dec = _torch(*w)
    state = {"W_enc": W_enc.T.contiguous(), "b_enc": b_enc, "W_dec": W_dec, "b_dec": b_dec}
    with in_module("training.config", SDSAERunnerConfig):
        cfg = SDSAERunnerConfig(d_in, d_sae, **config)
        torch.save({"cfg": cfg, "state_dict": state}, path)
    return Written(path, _topk(w, K, relu=False), "revelio", {})


def overcomplete(folder: Path, w: Weights, *, kind: str = "topk", scale: float = 1.5) -> Written:
    """`torch.save(sae.state_dict())` of `TopKSAE`, `BatchTopKSAE` ("batchtopk"), `JumpSAE` ("jump")
    or an untied `SAE` without a bias ("relu"), with a trained multiplier.
    """
    folder.mkdir(parents=True, exist_ok=True)
    W_enc, b_enc, W_dec, _ = _torch(*w)
    state = {"dictionary._weights": W_dec, "dictionary.multiplier": torch.tensor(math.log(scale))}
    thresholds = np.linspace(-2.0, 1.0, len(w.b_enc))
    stated: dict[str, Any] = {"topk": {"k": K}, "batchtopk": {"threshold": 0.7}}.get(kind, {})
    if kind == "relu":
        state["encoder.weight"], stated = W_enc, {"threshold": 0.0}
    else:
        state |= {"encoder.final_block.0.weight": W_enc, "encoder.final_block.0.bias": b_enc}
    if kind == "jump":
        state["thresholds"] = torch.from_numpy(thresholds)
    torch.save(state, folder / "sae.pth")
    unbiased = w._replace(
        b_enc=np.zeros_like(w.b_enc) if kind == "relu" else w.b_enc, b_dec=np.zeros_like(w.b_dec)
    )

    def forward(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        codes = np.maximum(_pre(unbiased, x), 0)
        if kind == "topk":
            codes = _largest(codes, K)
        least = {"batchtopk": 0.7, "jump": np.exp(thresholds)}.get(kind, 0.0)
        codes = np.where(codes >= least, codes, 0)
        norms = np.linalg.norm(w.W_dec, axis=1, keepdims=True)
        return codes, codes @ (scale * (w.W_dec / norms).astype(np.float64))

    return Written(folder / "sae.pth", forward, "overcomplete", stated)


def diffract(folder: Path, w: Weights, *, name: str = "sae_img_1", size: int = 8) -> Written:
    """`torch.save(TemporalAwareSAE(...).state_dict())`; the forward pass at `TIMESTEP`."""
    folder.mkdir(parents=True, exist_ok=True)
    d_in = w.W_enc.shape[1]
    rng = np.random.default_rng(7)
    time: dict[str, np.ndarray] = {
        f"{layer}.{kind}": rng.normal(scale=0.5, size=shape).astype(np.float32)
        for layer, rows in (("time_mlp.0", size), ("time_mlp.2", size), ("mod_linear", 2 * d_in))
        for kind, shape in (("weight", (rows, size)), ("bias", (rows,)))
    }
    W_enc, b_enc, W_dec, b_dec = _torch(*w)
    state = dict(zip(time, _torch(*time.values()), strict=True))
    state |= {"encoder.weight": W_enc, "encoder.bias": b_enc}
    state |= {"decoder.weight": W_dec.T.contiguous(), "decoder.bias": b_dec}
    torch.save(state, folder / f"{name}.pt")

    def forward(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        from diffusers.models.embeddings import get_timestep_embedding

        embedded = get_timestep_embedding(torch.tensor([TIMESTEP / 1000]), size)[0].double().numpy()
        for layer in ("time_mlp.0", "time_mlp.2"):
            embedded = time[f"{layer}.weight"] @ embedded + time[f"{layer}.bias"]
            embedded = embedded / (1 + np.exp(-embedded))
        both = time["mod_linear.weight"] @ embedded + time["mod_linear.bias"]
        moved = x.astype(np.float64) * (1 + both[:d_in]) + both[d_in:]
        codes = np.maximum(_pre(w._replace(b_dec=np.zeros(d_in)), moved), 0)
        return codes, codes @ w.W_dec.astype(np.float64) + w.b_dec

    return Written(folder / f"{name}.pt", forward, "diffract", {"timestep": TIMESTEP})


def convert_here(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    """Convert pickles in this process, which is faster; `test_pickled` has the real one."""

    @contextmanager
    def convert(path: Path):
        convert_pickle.main(path, folder / "converted.safetensors", 0)
        yield folder / "converted.safetensors"

    monkeypatch.setattr(convert_pickle, "_limit_memory", lambda _: None)
    monkeypatch.setattr(checkpoint, "as_safetensors", convert)


WRITERS: dict[str, Callable[..., Written]] = {
    "sdxl_unbox": sdxl_unbox,
    "steerers": steerers,
    "saeuron": saeuron,
    "revelio": revelio,
    "overcomplete": overcomplete,
    "diffract": diffract,
}
