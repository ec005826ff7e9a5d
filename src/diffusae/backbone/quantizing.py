"""Pipelines with quantised weights: diffusers' own configurations of bitsandbytes and torchao, and
GGUF files.

Only linear layers of the denoiser and of text encoders other than CLIP are quantised: nearly all
weights are there. Activations keep the model's dtype, so hooks and edits are the same.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from diffusae.backbone.component_configs import REMEDY
from diffusae.backbone.hookpoints import COMPONENTS
from diffusae.backbone.packages import require_packages
from diffusae.backbone.settings import Quantization, Saving
from diffusae.errors import UserError
from diffusae.parsing import read_json
from diffusae.sources import first_line

_MAGIC = b"GGUF"
_EXTRA = {"bnb4": "bitsandbytes", "bnb8": "bitsandbytes", "torchao_int8": "torchao"}


def require_quantizers(saving: Saving, device: torch.device) -> None:
    """`UserError` where the wanted quantisation cannot work here: packages, GPU, or the file."""
    if saving.quantization != "none":
        chosen, extra = f"model.quantization={saving.quantization}", _EXTRA[saving.quantization]
        require_packages(chosen, extra, extra, "accelerate")
        if extra == "bitsandbytes" and device.type == "cpu":
            raise UserError(
                f"{chosen} needs a GPU, and torch sees none on this machine; set"
                " model.quantization=torchao_int8 or none, or give model.gguf"
            )
    if saving.gguf is not None:
        require_packages("model.gguf", "gguf", "gguf", "accelerate")
        _require_gguf(Path(saving.gguf).expanduser())


def refuse_stored_quantized(folder: Path, name: str) -> None:
    """`UserError` for a component that a folder stores quantised: such a folder was never read
    here."""
    path = folder / name / "config.json"
    if path.is_file() and read_json(path, remedy=REMEDY).get("quantization_config"):
        raise UserError(
            f"{folder / name} is stored with quantised weights, and only weights that are quantised"
            " while they load are supported; give the folder of the original weights, with"
            " model.quantization=bnb8 or bnb4"
        )


def quantized_components(components: Mapping[str, Any], saving: Saving) -> list[str]:
    """The components with quantised weights, of a pipeline's model_index.json."""
    denoiser = [name for name in COMPONENTS if name in components]
    if saving.quantization == "none":
        return denoiser if saving.gguf else []
    encoders = {name: entry for name, entry in components.items() if "text_encoder" in name}
    large = [name for name, (_, kind) in encoders.items() if str(kind or "CLIP")[:4] != "CLIP"]
    return denoiser + large


def quantizing_options(
    folder: Path, components: Mapping[str, Any], saving: Saving, dtype: torch.dtype
) -> dict[str, Any]:
    """Arguments of `DiffusionPipeline.from_pretrained` for these weights.

    Raises:
        UserError: the GGUF file does not load as the folder's denoiser.
    """
    if not saving.quantized:
        return {"low_cpu_mem_usage": False}
    options: dict[str, Any] = {}
    names = quantized_components(components, saving)
    if saving.gguf is not None:
        denoiser = names.pop(0)
        kind = components[denoiser][1]
        options[denoiser] = _from_gguf(
            kind, Path(saving.gguf).expanduser(), folder / denoiser, dtype
        )
    if names:
        from diffusers.quantizers.pipe_quant_config import PipelineQuantizationConfig

        options["quantization_config"] = PipelineQuantizationConfig(
            quant_mapping={
                name: _config(saving.quantization, components[name][0], dtype) for name in names
            }
        )
    return options


def _config(quantization: Quantization, library: str, dtype: torch.dtype) -> Any:
    """The quantisation's configuration, of the library ("diffusers", "transformers") that loads."""
    import diffusers
    import transformers

    of: Any = {"diffusers": diffusers, "transformers": transformers}[library]
    match quantization:
        case "bnb4":
            return of.BitsAndBytesConfig(
                load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=dtype
            )
        case "bnb8":
            return of.BitsAndBytesConfig(load_in_8bit=True)
        case _:
            from torchao.quantization import Int8WeightOnlyConfig  # pyright: ignore

            return of.TorchAoConfig(Int8WeightOnlyConfig())


def _require_gguf(path: Path) -> None:
    try:
        with path.open("rb") as file:
            begins = file.read(len(_MAGIC))
    except OSError as error:
        raise UserError(f"model.gguf={path} cannot be read ({first_line(error)})") from error
    if begins != _MAGIC:
        raise UserError(
            f"model.gguf={path} is no GGUF file: it begins with {begins!r}; give the file of"
            " the denoiser's weights in that format"
        )


def _from_gguf(kind: str, path: Path, config: Path, dtype: torch.dtype) -> Any:
    import diffusers

    model: Any = getattr(diffusers, kind)
    if not hasattr(model, "from_single_file"):
        raise UserError(f"a {kind} does not load from a GGUF file; leave out model.gguf")
    try:
        return model.from_single_file(
            str(path),
            config=str(config),
            quantization_config=diffusers.GGUFQuantizationConfig(compute_dtype=dtype),
            dtype=dtype,
            local_files_only=True,
        )
    except Exception as error:  # a damaged file may raise anything
        what = f"model.gguf={path} does not load as a {kind}: {first_line(error)}"
        raise UserError(what) from error
