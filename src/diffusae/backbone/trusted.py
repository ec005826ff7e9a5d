"""What a model's folder may ask for: components of diffusers and transformers, weights that lie in
it, and no code.
"""

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
"""Classes that published folders name and that are called otherwise now."""


USUAL = {
    "diffusers": {
        "UNet2DConditionModel",
        "SD3Transformer2DModel",
        "FluxTransformer2DModel",
        "PixArtTransformer2DModel",
        "AutoencoderKL",
        "DDIMScheduler",
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
        "CLIPTokenizer",
        "CLIPTokenizerFast",
        "T5Tokenizer",
        "T5TokenizerFast",
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
    """Refuse a pipeline's folder that wants code of its own, parts of other libraries, or files
    outside itself.

    Args:
        index: what its model_index.json says.

    Raises:
        UserError: with every such wish.
    """
    require_own_files(folder)
    together(
        f"{folder} does not load: {fault}; its files are not used"
        for fault in _faults(folder, index)
    )


def model_class(library: str, name: Any, base: type) -> Any:
    """The class of a library that a configuration names; `UserError` where it is none, or is not a
    `base`.
    """
    kind = (
        getattr(_libraries()[library][0], name, None)
        if isinstance(name, str) and _NAME.fullmatch(name)
        else None
    )
    if not (isinstance(kind, type) and issubclass(kind, base)):
        raise UserError(
            f"the model's configuration names {name!r}, which is no model of the {library} that is"
            " installed; use a model of that library, or a newer one"
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
            fault = (
                _component_fault(folder, name, entry)
                if len(entry) == 2 and entry != [None, None]
                else None
            )
            if fault is not None:
                yield f"component {name!r} is {entry}: {fault}"
    for path in sorted(folder.glob("*/*.index.json")):
        yield from _shard_faults(path)


def _component_fault(folder: Path, name: str, entry: list[Any]) -> str | None:
    library, kind = entry
    if not _NAME.fullmatch(name):
        return "no component is called so"
    if not isinstance(library, str) or not isinstance(kind, str) or not _NAME.fullmatch(kind):
        return "it must be a library and a class of it"
    if (folder / name / f"{library}.py").exists():
        return "it asks for code of the folder's own, which is never run"
    if kind in USUAL.get(library, ()):
        return None
    libraries = _libraries()
    if library not in libraries:
        pipelines = libraries["diffusers"][0].pipelines
        module = getattr(pipelines, library, None) if _NAME.fullmatch(library) else None
        found = getattr(module, kind, None)
        kinds = libraries["diffusers"][1] + libraries["transformers"][1]
        known = isinstance(found, type) and issubclass(found, kinds)
        return None if known else "only components of diffusers and transformers are loaded"
    found = getattr(libraries[library][0], _RENAMED.get(kind, kind), None)
    if kind.startswith("Auto") and library == "transformers":
        return "its own code is asked for" if _has_own_code(folder / name) else None
    if not (isinstance(found, type) and issubclass(found, libraries[library][1])):
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
    """Weights in several files are listed in one more; all must lie beside it."""
    try:
        files = json.loads(path.read_text(encoding="utf-8"))["weight_map"].values()
        outside = sorted({str(name) for name in files if not _SHARD.fullmatch(str(name))})
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        yield f"{path.name} is damaged ({type(error).__name__})"
        return
    if outside and not path.name.endswith(".bin.index.json"):
        yield (
            f"{path.parent.name}/{path.name} names {outside[0]!r}, which is no safetensors file"
            " beside it"
        )
