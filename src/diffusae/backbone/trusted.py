"""Checks that a model's folder asks only for parts of diffusers and transformers and own files."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from diffusae.errors import UserError, together
from diffusae.sources import require_own_files

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_SHARD = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*\.safetensors")
_RENAMED = {"CLIPFeatureExtractor": "CLIPImageProcessor"}
"""Old class names in published folders, with their new names."""


USUAL = {
    "diffusers": {
        "UNet2DConditionModel",
        "SD3Transformer2DModel",
        "FluxTransformer2DModel",
        "Flux2Transformer2DModel",
        "ChromaTransformer2DModel",
        "PixArtTransformer2DModel",
        "QwenImageTransformer2DModel",
        "ZImageTransformer2DModel",
        "Lumina2Transformer2DModel",
        "HiDreamImageTransformer2DModel",
        "CogView4Transformer2DModel",
        "AutoencoderKL",
        "AutoencoderKLFlux2",
        "AutoencoderKLQwenImage",
        "SanaTransformer2DModel",
        "HunyuanDiT2DModel",
        "AuraFlowTransformer2DModel",
        "WanTransformer3DModel",
        "LTXVideoTransformer3DModel",
        "AutoencoderDC",
        "AutoencoderKLWan",
        "AutoencoderKLLTXVideo",
        "DDIMScheduler",
        "DDPMScheduler",
        "SCMScheduler",
        "UniPCMultistepScheduler",
        "PNDMScheduler",
        "EulerDiscreteScheduler",
        "EulerAncestralDiscreteScheduler",
        "DPMSolverMultistepScheduler",
        "FlowMatchEulerDiscreteScheduler",
        "LCMScheduler",
    },
    "transformers": {
        "CLIPTextModel",
        "CLIPTextModelWithProjection",
        "T5EncoderModel",
        "Qwen2_5_VLForConditionalGeneration",
        "Qwen3Model",
        "Gemma2Model",
        "LlamaForCausalLM",
        "GlmModel",
        "UMT5EncoderModel",
        "BertModel",
        "BertTokenizer",
        "GemmaTokenizer",
        "GemmaTokenizerFast",
        "LlamaTokenizer",
        "LlamaTokenizerFast",
        "CLIPTokenizer",
        "CLIPTokenizerFast",
        "T5Tokenizer",
        "T5TokenizerFast",
        "Qwen3ForCausalLM",
        "Qwen2Tokenizer",
        "Qwen2TokenizerFast",
        "Mistral3ForConditionalGeneration",
        "PixtralProcessor",
        "PreTrainedTokenizerFast",
        "CLIPImageProcessor",
        "CLIPFeatureExtractor",
    },
    "stable_diffusion": {"StableDiffusionSafetyChecker"},
}
"""Classes that are known for components without importing the libraries, which takes seconds."""


@cache
def _libraries() -> dict[str, tuple[Any, tuple[type, ...]]]:
    """{library: itself, and what its components are}."""
    import diffusers
    import transformers
    from diffusers.schedulers.scheduling_utils import SchedulerMixin

    return {
        "diffusers": (diffusers, (diffusers.ModelMixin, SchedulerMixin)),
        "transformers": (
            transformers,
            (
                transformers.PreTrainedModel,
                transformers.PreTrainedTokenizerBase,
                transformers.FeatureExtractionMixin,
                transformers.image_processing_utils.ImageProcessingMixin,
                transformers.ProcessorMixin,
            ),
        ),
    }


def require_trusted(folder: Path, index: Mapping[str, Any]) -> None:
    """Refuse a pipeline's folder that asks for its own code, other libraries or files outside
    itself.

    Args:
        index: its model_index.json.

    Raises:
        UserError: lists all faults.
    """
    require_own_files(folder)
    faults = _faults(folder, index)
    together(f"{folder} does not load: {fault}; its files are not used" for fault in faults)


def model_class(library: str, name: Any, base: type) -> Any:
    """The class of a library that a configuration names; `UserError` if it is no subclass of
    `base`."""
    is_name = isinstance(name, str) and _NAME.fullmatch(name)
    kind = getattr(_libraries()[library][0], name, None) if is_name else None
    if not (isinstance(kind, type) and issubclass(kind, base)):
        raise UserError(
            f"the model's configuration names {name!r}, which is no model of the installed "
            f"{library}; use a model of that library, or a newer one"
        )
    return kind


def _faults(folder: Path, index: Mapping[str, Any]) -> Iterator[str]:
    if not isinstance(index.get("_class_name"), str):
        yield (
            f"_class_name={index.get('_class_name')!r} asks for a pipeline of the folder's own"
            " code, which is never run"
        )
    for name, entry in index.items():
        if isinstance(entry, list) and not name.startswith("_"):
            used = len(entry) == 2 and entry != [None, None]
            if used and (fault := _component_fault(folder, name, entry)) is not None:
                yield f"component {name!r} is {entry}: {fault}"
    for path in sorted(folder.glob("*/*.index.json")):
        yield from _shard_faults(path)


def _component_fault(folder: Path, name: str, entry: list[Any]) -> str | None:
    library, kind = entry
    if not _NAME.fullmatch(name):
        return "this is no valid name of a component"
    if not isinstance(library, str) or not isinstance(kind, str) or not _NAME.fullmatch(kind):
        return "it must be a library and one of its classes"
    if (folder / name / f"{library}.py").exists():
        return "it asks for code of the folder's own, which is never run"
    if kind in USUAL.get(library, ()):
        return None
    libraries = _libraries()
    if library not in libraries:
        pipelines = libraries["diffusers"][0].pipelines
        module = getattr(pipelines, library, None) if _NAME.fullmatch(library) else None
        cls = getattr(module, kind, None)
        kinds = libraries["diffusers"][1] + libraries["transformers"][1]
        known = isinstance(cls, type) and issubclass(cls, kinds)
        return None if known else "only components of diffusers and transformers are loaded"
    cls = getattr(libraries[library][0], _RENAMED.get(kind, kind), None)
    if kind.startswith("Auto") and library == "transformers":
        return "its own code is asked for" if _has_own_code(folder / name) else None
    if not (isinstance(cls, type) and issubclass(cls, libraries[library][1])):
        return (
            f"the {library} that is installed has no such model, scheduler, tokenizer or processor"
        )
    return None


def _has_own_code(component: Path) -> bool:
    """Whether a component's configuration names code beside it (`auto_map`)."""
    return any(
        "auto_map" in path.read_text(encoding="utf-8", errors="replace")
        for path in component.glob("*.json")
    )


def _shard_faults(path: Path) -> Iterator[str]:
    """Check an index of weight files: the listed files must lie beside it."""
    try:
        files = json.loads(path.read_text(encoding="utf-8"))["weight_map"].values()
        outside = sorted({str(name) for name in files if not _SHARD.fullmatch(str(name))})
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        yield f"{path.name} is damaged ({type(error).__name__})"
        return
    if outside and not path.name.endswith(".bin.index.json"):
        yield (
            f"{path.parent.name}/{path.name} names {outside[0]!r}, which is no safetensors file "
            "beside it"
        )
