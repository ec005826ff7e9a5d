"""The command `diffusae STAGE [overrides]`: every stage is a Hydra application of its own."""

from __future__ import annotations

import errno
import importlib
import logging
import os
import signal
import sys
import warnings
from collections.abc import Callable
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from diffusae.errors import USER_FAULT, UserError
from diffusae.masking import mask_output, masked
from diffusae.memory import keep_freed_memory

STAGES: dict[str, str] = {
    "run": "collect -> annotate -> train -> label -> evaluate -> report, over the whole grid",
    "plan": "estimate pictures, vectors, disk and time of a study before anything loads",
    "hookpoints": "list every block of the model that can be hooked, with d_in and grid",
    "collect": "generate pictures once and record every cell's updates",
    "annotate": "find the objects in the held-out pictures",
    "train": "train the sparse autoencoder of one cell",
    "train_grid": "train every cell of `grid`, and every k of grid.k, side by side in one process",
    "label": "build the concept dictionary of one cell",
    "evaluate": "evaluate one cell: evaluation=composition, reconstruction, cohesion, latents, faithfulness, spatial, global",
    "steer": "one prompt with a concept edited (intervention=spatial, global, ablate, amplify, clamp), over strengths",
    "export": "write one cell's autoencoder for another library (format=sae_lens or eai_sparsify)",
    "import": "place another library's autoencoder as one cell's (source=DIR)",
    "push": "publish one cell's autoencoder and its card on a model hub (repo=OWNER/NAME; dry_run=true shows what would go)",
    "pull": "place an autoencoder from a hub, or from a directory, as one cell's (repo=OWNER/NAME)",
    "report": "render the HTML report of what is finished",
    "compare": "lay what is evaluated beside a paper's own figures (reference=...)",
    "dashboard": "build a W&B workspace and report of what is evaluated; without a key, write them to a file",
    "miniature": "train, assemble and measure the miniature model (part=...)",
}
FUNCTIONS = {"export": "export_cell", "import": "import_cell"}
"""Stages whose module and function have another name: `import` is a word of Python's."""


_FREE_SPACE = "what is finished is kept: free some space and run the same command again"
_REMEDIES = {
    errno.ENOSPC: _FREE_SPACE,
    errno.EDQUOT: _FREE_SPACE,
    errno.EROFS: "choose another directory with paths.outputs",
    errno.EACCES: "allow this user to read it, and to write below paths.outputs",
    errno.EISDIR: "a file belongs there: move the directory away",
    errno.ENOTDIR: "a directory belongs there: move the file away",
}
"""What the user can do about the faults of files."""


def config_directory() -> Path:
    """Where the configs lie: in the repository, or inside the installed package."""
    package = Path(__file__).parent
    checkout = package.parents[1] / "conf"
    return checkout if checkout.is_dir() else package / "conf"


def main() -> None:
    """Run the stage that the first argument names."""
    mask_output()
    arguments = sys.argv[1:]
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(_usage())
        return
    stage = arguments[0]
    if stage not in STAGES:
        close = get_close_matches(stage, STAGES, n=1)
        hint = f" Did you mean {close[0]!r}?" if close else ""
        print(f"diffusae: unknown stage {stage!r}.{hint}\n\n{_usage()}", file=sys.stderr)
        raise SystemExit(USER_FAULT)
    sys.argv = [f"diffusae {stage}", *arguments[1:]]
    os.environ["HYDRA_FULL_ERROR"] = "1"  # errors come here as they are, and are told once
    for library in (
        "TRANSFORMERS",
        "DIFFUSERS",
    ):  # they warn at every import or load of what does not matter here
        os.environ.setdefault(f"{library}_VERBOSITY", "error")
    try:
        _run(stage)
    except SystemExit as error:
        # Lightning's answer to SIGTERM, once the training's checkpoint is written, is an exit without a code.
        if type(error).__name__ != "SIGTERMException":
            raise
        print(f"diffusae {stage}: stopped by SIGTERM; the same command goes on", file=sys.stderr)
        raise SystemExit(128 + signal.SIGTERM) from None
    except Exception as error:
        if _told_of_jobs(error):
            raise SystemExit(USER_FAULT) from None
        message = _explained(error, stage)
        if message is None:
            raise
        print(masked(f"diffusae {stage}: {message}"), file=sys.stderr)
        raise SystemExit(USER_FAULT) from None


def _usage() -> str:
    rows = "\n".join(f"  {name:<10} {what}" for name, what in STAGES.items())
    return (
        f"usage: diffusae STAGE [overrides]\n\nstages:\n{rows}\n\n"
        "diffusae STAGE --help lists the config groups and their options; -m runs a grid:\n"
        "  diffusae train -m timestep=early,middle,final block=down,mid,up conditioning=cond,uncond"
    )


def _run(stage: str) -> None:
    import hydra

    function = FUNCTIONS.get(stage, stage)
    task: Callable[[Any], object] = getattr(importlib.import_module(f"diffusae.stages.{function}"), function)
    # Lightning sets its own level when it is imported.
    # Devices and tips, told again for every cell; every request to a hub.
    for name in ("pytorch_lightning", "lightning_fabric", "httpx", "httpx2"):
        logging.getLogger(name).setLevel(logging.WARNING)
    # Our options of hydra/launcher have the names of the plugins' own, whose types they keep.
    for message in (".*LeafSpec.*", ".*smaller than the logging interval.*", r"\s*'hydra/launcher/"):
        warnings.filterwarnings("ignore", message=message)
    keep_freed_memory()
    hydra.main(version_base="1.3", config_path=str(config_directory()), config_name=stage)(task)()


def _told_of_jobs(error: Exception) -> bool:
    """Whether a multirun that its launcher broke off has been told job by job."""
    from diffusae.stages.outcomes import OutcomeTable

    return OutcomeTable.open is not None and OutcomeTable.open.end_broken(error)


def _explained(error: BaseException, stage: str) -> str | None:
    """One message for a fault of the user's, None for a fault of ours."""
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    if isinstance(error, UserError):
        return str(error)
    if isinstance(error, HydraException | OmegaConfBaseException):
        text = str(error)
        if "is not in struct" in text or "Could not override" in text:
            text += f"\n{_valid_names(text, stage)}"
        return text
    if str(error).startswith("Unknown plugin class"):
        return "this launcher is not installed; pip install 'diffusae[cluster]' has joblib's and submitit's"
    if isinstance(error, KeyboardInterrupt):
        return "interrupted; the same command goes on"
    if isinstance(error, OSError) and error.errno in _REMEDIES:
        path = error.filename2 or error.filename  # of a rename, the name that was to be
        where = "" if path is None else f"{path}: "
        return f"{where}{error.strerror}; {_REMEDIES[error.errno]}"
    return None


def _valid_names(message: str, stage: str) -> str:
    """The names that exist where an override named one that does not."""
    import re

    from hydra import compose, initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra
    from omegaconf import DictConfig, OmegaConf

    found = re.search(r"Could not override '([^']+)'", message) or re.search(r"full_key: (\S+)", message)
    if found is None:
        return "`--help` lists the groups and options."
    logging.getLogger("hydra").setLevel(logging.ERROR)
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(config_directory()), version_base="1.3"):
        cfg = compose(stage)
    above = found[1].rpartition(".")[0]
    node = OmegaConf.select(cfg, above) if above else cfg
    if not isinstance(node, DictConfig):
        above, node = "", cfg
    names = sorted(str(key) for key in node)
    close = get_close_matches(found[1].rpartition(".")[2], names, n=1)
    hint = f" Did you mean {close[0]!r}?" if close else ""
    return f"valid names {f'under {above}' if above else 'at the top'}: {', '.join(names)}.{hint}"
