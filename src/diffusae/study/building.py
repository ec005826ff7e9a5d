"""Building the parts that a configuration names with `_target_`.

A configuration can build these classes alone, and each of them only in its own places. It can build
no function, and nothing with Hydra's `_partial_`, `_args_`, `_recursive_` or `_convert_`. A plug-in
that the user has chosen (`diffusae.plugins`) adds classes to some places.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from omegaconf import DictConfig, OmegaConf

from diffusae import plugins
from diffusae.errors import UserError, unknown

TARGET = "_target_"


@dataclass(frozen=True)
class Place:
    """What the entries of one name may hold: classes with a common base or protocol."""

    base: str
    classes: tuple[str, ...]
    plugins: str | None = None
    """The group of plug-ins whose classes may stand there too."""

    @property
    def targets(self) -> tuple[str, ...]:
        """Our classes as `_target_` names them."""
        return tuple(f"diffusae.{name}" for name in self.classes)


PLACES: Mapping[str, Place] = {
    "prompts": Place(
        "prompts.prompt_set.PromptSource",
        ("miniature.prompts.WorldPrompts", "prompts.caption_source.FilePrompts"),
    ),
    "source": Place(  # of given pictures
        "pictures.given.PictureSource",
        (
            "miniature.pictures.WorldPictures",
            "pictures.folder.PictureFolder",
            "pictures.tars.WebDatasetPictures",
        ),
    ),
    "sparsity": Place(
        "sae.sparsity.Sparsity",
        tuple(
            f"sae.sparsity.{name}"
            for name in ("TopK", "BatchTopK", "MatryoshkaTopK", "ReLU", "JumpReLU")
        ),
        plugins="sparsities",
    ),
    "annotator": Place(
        "concepts.annotators.Annotator",
        ("miniature.annotator.MiniatureAnnotator", "concepts.picture_annotator.PictureAnnotator"),
        plugins="annotators",
    ),
    "objects": Place(
        "concepts.object_finders.ObjectFinder",
        ("concepts.object_finders.GroundedSam", "concepts.object_finders.ClipSeg"),
    ),
    "detector": Place(
        "concepts.grounding_dino.GroundingDino", ("concepts.grounding_dino.GroundingDino",)
    ),
    "segmenter": Place("concepts.sam.Sam", ("concepts.sam.Sam",)),
    "tagger": Place(
        "concepts.taggers.Tagger",
        (
            "concepts.taggers.CaptionTagger",
            "concepts.taggers.SimilarityTagger",
            "concepts.florence.FlorenceTagger",
            "concepts.ram.RamTagger",
        ),
    ),
    "styles": Place("concepts.style_scores.StyleScorer", ("concepts.style_scores.StyleScorer",)),
    "model": Place("concepts.image_text.ImageText", ("concepts.image_text.ImageText",)),
    "embedding": Place(
        "concepts.embeddings.WordEmbedding",
        tuple(
            f"concepts.embeddings.{name}"
            for name in ("MiniLMEmbedding", "Word2VecEmbedding", "TextEncoderEmbedding")
        ),
        plugins="embeddings",
    ),
    "check": Place(
        "concepts.picture_checks.PictureCheck",
        ("concepts.picture_checks.NudeNetCheck", "concepts.picture_checks.Q16Check"),
    ),
}
"""Name of an entry -> what it may hold. A part within a part has an entry of its own name."""


def build(node: DictConfig | Mapping[str, Any], place: str | None = None, **values: Any) -> Any:
    """Build the part that a config node names with `_target_`, and the parts in it.

    Args:
        place: what is wanted, a key of `PLACES`; None: any of them.
        values: arguments that the caller adds.

    Raises:
        UserError: no class of that place, a part of another kind in it, an argument that the class
            does not have; or what the part itself refuses.
    """
    plain = OmegaConf.to_container(node, resolve=True) if isinstance(node, DictConfig) else node
    if not isinstance(plain, Mapping) or TARGET not in plain:
        raise UserError(
            f"{place or 'a part'} must name its class with {TARGET}; choose an option of its group,"
            " see --help"
        )
    return _built(plain, place, values)


def _built(value: Any, place: str | None, added: Mapping[str, Any]) -> Any:
    """A value with every part in it built; `place` is the name of its entry."""
    if isinstance(value, list):
        return [_built(part, place, {}) for part in value]
    if not isinstance(value, Mapping):
        return value
    if tricks := [name for name in value if str(name).startswith("_") and name != TARGET]:
        raise UserError(
            f"{tricks[0]} is refused in {place or 'a part'}: parts are built by {TARGET} and their"
            " settings alone"
        )
    kind, of = _class_of(value[TARGET], place) if TARGET in value else (None, None)
    given = {name: _built(part, str(name), {}) for name, part in value.items() if name != TARGET}
    if kind is None:
        return given
    arguments = {**given, **added}
    _require_fitting(kind, arguments, place)
    made = kind(**arguments)
    if of is not None:
        _require_kind(made, *of)
    return made


def _require_kind(made: Any, part: plugins.Part, base: str) -> None:
    """Refuse a plug-in's part that is not of its place's kind: a class, or a protocol with all its
    members.
    """
    kind = _imported(f"diffusae.{base}")
    if getattr(kind, "_is_protocol", False):
        members = [name for name in vars(kind) if not name.startswith("_")]
        if lacking := [name for name in members if not hasattr(made, name)]:
            raise part.wrong(f"{kind.__name__} (it lacks {', '.join(lacking)})")
    elif not isinstance(made, kind):
        raise part.wrong(kind.__name__)


def _require_fitting(kind: type, arguments: Mapping[str, Any], place: str | None) -> None:
    """Refuse arguments that a class does not have or lacks; one that takes any (`**selection`)
    checks them itself.
    """
    known = inspect.signature(kind).parameters
    named = {
        name: parameter
        for name, parameter in known.items()
        if parameter.kind not in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL)
    }
    foreign = [name for name in arguments if name not in named]
    if foreign and len(named) == len(known):
        raise unknown(f"setting of {kind.__name__}:", foreign[0], named)
    if lacking := [
        name
        for name, parameter in named.items()
        if parameter.default is parameter.empty and name not in arguments
    ]:
        raise UserError(
            f"{kind.__name__} needs {', '.join(lacking)}; give"
            f" {place or 'its option'}.{lacking[0]}=..."
        )


def _class_of(target: Any, place: str | None) -> tuple[type, tuple[plugins.Part, str] | None]:
    """The class that a target names; of a plug-in's also its part, and the base that it needs."""
    places = [at for name, at in PLACES.items() if place is None or name == place]
    allowed = [known for at in places for known in at.targets]
    if target in allowed:
        return _imported(target), None
    for at in places:
        if at.plugins is not None:
            if (part := plugins.part_of(at.plugins, target)) is not None:
                kind = part.load()
                if not isinstance(kind, type):
                    raise part.wrong("class")
                return kind, (part, at.base)
            allowed += [part.target for part in plugins.parts(at.plugins)]
    raise UserError(
        f"{TARGET}={str(target)!r} is refused{f' for {place}' if place else ''}: a"
        f" configuration may only build {', '.join(allowed) or 'nothing here'}; choose an"
        " option of its group, see --help"
    )


def _imported(target: str) -> type:
    module, _, name = target.rpartition(".")
    return getattr(importlib.import_module(module), name)
