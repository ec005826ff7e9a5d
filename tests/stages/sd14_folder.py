"""The configuration of Stable Diffusion v1.4 as a folder: its published sizes, no weights."""

import json
from pathlib import Path

PARTS = {
    "model_index.json": {
        "_class_name": "StableDiffusionPipeline",
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderKL"],
        "text_encoder": ["transformers", "CLIPTextModel"],
    },
    "unet/config.json": {
        "_class_name": "UNet2DConditionModel",
        "attention_head_dim": 8,
        "block_out_channels": [320, 640, 1280, 1280],
        "cross_attention_dim": 768,
        "down_block_types": [*["CrossAttnDownBlock2D"] * 3, "DownBlock2D"],
        "in_channels": 4,
        "layers_per_block": 2,
        "out_channels": 4,
        "sample_size": 64,
        "up_block_types": ["UpBlock2D", *["CrossAttnUpBlock2D"] * 3],
    },
    "vae/config.json": {
        "_class_name": "AutoencoderKL",
        "block_out_channels": [128, 256, 512, 512],
        "latent_channels": 4,
        "sample_size": 512,
    },
    "text_encoder/config.json": {
        "architectures": ["CLIPTextModel"],
        "hidden_size": 768,
        "max_position_embeddings": 77,
    },
}


def write_sd14(folder: Path) -> Path:
    """Write the folder and return it."""
    for name, contents in PARTS.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(contents))
    return folder
