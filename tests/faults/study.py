"""The study of the campaign: its commands in their order, as small as possible.

Every stage occurs. A step continues from the files of the steps before it, so that every step can
be disturbed alone.
"""

from dataclasses import dataclass
from pathlib import Path

OUTPUTS = Path("outputs")
COPY = "copy"
"""The name of the study that trains on a copy of the collection."""

SOURCE = "DIFFUSAE_FAULTS_SOURCE"
"""The environment variable with the place of the collection that is copied."""

SMALL = (
    "debug=tiny",
    "grid.timesteps=[1.0,0.0]",
    "grid.blocks=[mid]",
    "grid.conditionings=[cond]",
    "prompts.counts={train: 4, validation: 2, dictionary: 4, tune: 6, test: 6}",
    "model.steps=3",
    "activations.group_size=4",
    "activations.ignore_free_disk=true",
    "sae.d_sae=32",
    "sae.dead_after_vectors=200",
    "trainer.steps=12",
    "trainer.validate_every=6",
    "trainer.checkpoint_every=3",
    "emergence.moments=2",
    "emergence.n_resamples=50",
    "three_stages.n_resamples=50",
    "logger.mode=disabled",
    f"paths.outputs={OUTPUTS}",
)
"""Given to every command: they belong to one study."""

FEW = (
    "evaluation.strengths=[1.0]",
    "evaluation.tune_prompts=1",
    "evaluation.test_prompts=1",
    "evaluation.steps=3",
    "evaluation.n_resamples=50",
)


@dataclass(frozen=True)
class Step:
    """One command of the study.

    Args:
        name: in the tables.
        arguments: of `diffusae`, without those of every command.
        after: the last of the steps that must have run before.
        reads: the steps whose files it reads.
    """

    name: str
    arguments: tuple[str, ...]
    after: str | None
    reads: tuple[str, ...] = ()

    @property
    def stage(self) -> str:
        """The stage of the command."""
        return self.arguments[0]

    @property
    def command(self) -> list[str]:
        """All arguments of `diffusae`."""
        return [self.stage, *SMALL, *self.arguments[1:]]


def _metric(metric: str, after: str, *more: str, reads: tuple[str, ...]) -> Step:
    return Step(metric, ("evaluate", f"evaluation={metric}", "timestep=early", *more), after, reads)


GRID = ("collect", "annotate", "train_grid")
REPORTED = (*GRID[:2], "label", "composition", "composition final", "spatial", "global")
COPIED = f"activations.source=file://${{oc.env:{SOURCE}}}"
SPATIAL = (
    "metrics_at.spatial=[mid-t1.00-cond]",
    "+metric_settings={spatial: {strengths: [1.0], tune_prompts: 1, test_prompts: 1, steps: 3}}",
)
STEPS = {
    step.name: step
    for step in (
        Step("collect", ("collect",), None),
        Step("annotate", ("annotate",), "collect", ("collect",)),
        Step("train", ("train", "timestep=early"), "annotate", ("collect",)),
        Step("train_grid", ("train_grid",), "annotate", ("collect",)),
        Step("label", ("label", "timestep=early"), "train_grid", GRID),
        Step("label final", ("label", "timestep=final"), "label", GRID),
        Step(
            "composition final",
            ("evaluate", "timestep=final", "evaluation.n_resamples=50"),
            "label final",
            (*GRID, "label final"),
        ),
        _metric(
            "composition", "composition final", "evaluation.n_resamples=50", reads=(*GRID, "label")
        ),
        _metric("reconstruction", "composition", reads=("collect", "train_grid")),
        _metric("cohesion", "reconstruction", reads=("collect", "label")),
        _metric("latents", "cohesion", reads=("collect", "train_grid", "annotate")),
        _metric(
            "spatial",
            "latents",
            *FEW,
            "evaluation.regions=[top_left,top_right]",
            reads=("collect", "label", "annotate"),
        ),
        _metric(
            "global",
            "spatial",
            *FEW,
            "evaluation.factors=[tone]",
            reads=("collect", "train_grid", "annotate"),
        ),
        Step("report", ("report",), "global", REPORTED),
        Step(
            "export",
            ("export", "timestep=early"),
            "report",
            ("train_grid", "composition", "reconstruction"),
        ),
        Step("compare", ("compare",), "export", ("composition", "reconstruction", "spatial")),
        Step("mirror", ("train", "timestep=early", f"name={COPY}", COPIED), None),
        Step("run", ("run", "side_by_side=true", *SPATIAL), None),
    )
}


def chain_before(step: Step) -> list[Step]:
    """The steps that have run before this one, in their order."""
    chain: list[Step] = []
    while step.after is not None:
        step = STEPS[step.after]
        chain.insert(0, step)
    return chain
