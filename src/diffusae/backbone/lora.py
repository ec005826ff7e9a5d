"""A LoRA on a loaded pipeline, from a safetensors file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from diffusae.backbone.packages import require_packages
from diffusae.errors import UserError
from diffusae.sources import first_line


def load_lora(pipe: Any, file: str) -> None:
    """Add the weights of a LoRA to the pipeline's denoiser and text encoders. Blocks keep their
    paths, so hooks and edits are the same.

    Raises:
        UserError: the file is no safetensors file or not there, the pipeline takes no LoRA, the
            weights do not fit, or peft is not installed.
    """
    path = Path(file).expanduser()
    if path.suffix != ".safetensors" or not path.is_file():
        raise UserError(
            f"model.lora={file} must be a .safetensors file that is there; a pickle is never read"
        )
    if not hasattr(pipe, "load_lora_weights"):
        raise UserError(f"{type(pipe).__name__} takes no LoRA; set model.lora=null")
    require_packages("model.lora", "lora", "peft")
    try:
        pipe.load_lora_weights(
            str(path.parent), weight_name=path.name, use_safetensors=True, local_files_only=True
        )
    except Exception as error:  # a file of another model may raise anything
        what = f"model.lora={file} does not load into {type(pipe).__name__}: {first_line(error)}"
        raise UserError(what) from error
    if not pipe.get_active_adapters():
        raise UserError(
            f"model.lora={file} has no weights for the denoiser of {type(pipe).__name__}; give a"
            " LoRA of this model"
        )
