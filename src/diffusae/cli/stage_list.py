"""The stages: their names, what each does in a line, and where it is."""

from __future__ import annotations

STAGES: dict[str, str] = {
    "run": "collect -> annotate -> train -> label -> evaluate -> report, over the whole grid",
    "plan": (
        "estimate pictures, vectors, disk and time of a study; a short probe measures the model"
        " (plan.probe=false: none)"
    ),
    "hookpoints": "list every block of the model that can be hooked, with d_in and grid",
    "collect": "generate pictures once and record every cell's updates",
    "annotate": "find the objects in the held-out pictures",
    "train": "train the sparse autoencoder of one cell",
    "train_grid": "train every cell of `grid`, and every k of grid.k, side by side in one process",
    "train_online": (
        "train every cell of `grid`, and every k of grid.k, while the training pictures are made;"
        " none of them is stored"
    ),
    "label": "build the concept dictionary of one cell",
    "evaluate": "evaluate one cell by one metric",
    "concepts": "list the labelled latents of all cells, or search them (concepts fish)",
    "look": "where a concept is active while a picture is made, over moments and blocks",
    "explore": "find, look at and steer latents in the browser (explore outputs/miniature)",
    "steer": "one prompt with a concept, or chosen latents, edited over strengths",
    "export": "write one cell's autoencoder for another library (format=...)",
    "import": "place another library's or paper's autoencoder as one cell's (source=DIR)",
    "push": (
        "publish one cell's autoencoder and its card on a model hub (repo=OWNER/NAME; dry_run=true"
        " shows what would go)"
    ),
    "pull": "place an autoencoder from a hub, or from a directory, as one cell's (repo=OWNER/NAME)",
    "catalogue": (
        "list published autoencoders with their measured figures (catalogue.repos=[OWNER/NAME])"
    ),
    "report": "render the HTML report of what is finished",
    "claims": (
        "judge claims that were registered before, on pictures that nothing was chosen on"
        " (claims=...)"
    ),
    "compare": (
        "lay what is evaluated beside a paper's own figures (reference=...), or several studies"
        " side by side (studies=[...])"
    ),
    "dashboard": (
        "build a W&B workspace and report of what is evaluated; without a key, write them to a file"
    ),
    "miniature": "train, assemble and measure the miniature model (part=...)",
}
CHOICES = {"evaluate": "evaluation", "steer": "intervention"}
"""Stages of whose configuration one group says what is done."""

UNCHECKED = ("hookpoints", "catalogue", "report", "compare", "miniature")
"""Stages that need no study that could be carried out."""

ENDLESS = ("explore",)
"""Stages that run until they are stopped: they do not say for how long they run."""

POSITIONAL = {"concepts": "word", "explore": "study"}
"""Stages that take one bare word, and the setting that it stands for."""

FUNCTIONS = {"export": "export_cell", "import": "import_cell"}
"""Stages whose module and function have another name: `import` is a word of Python's."""
