"""How it was made: the facts, every run, and what the figures mean."""

from __future__ import annotations

from diffusae.report.gathering import Source
from diffusae.report.how_collected import how_collected
from diffusae.report.sections import Books, Section, View
from diffusae.report.study import FinishedStudy, RunRow
from diffusae.summaries.three_stages import STAGE as THREE_STAGES

# Runs that are not of one cell.
_WHOLE = ("collect", "annotate", THREE_STAGES)


def gather(source: Source) -> dict[str, object]:
    """The facts of the collection, and a row a run."""
    return {
        "facts": _facts(source),
        "runs": [
            RunRow(
                stage=run.stage,
                cell="" if run.stage in _WHOLE else run.directory.name,
                status=run.status,
                duration_s=None if run.record is None else run.record.duration_s,
                signature="" if run.record is None else run.record.signature,
            )
            for run in source.runs
        ],
    }


def _facts(source: Source) -> dict[str, str]:
    if source.manifest is None:
        return {}
    header, (_, first) = source.manifest.header, source.records[0]
    counts = source.splits
    changed = " with uncommitted changes" if first.git_dirty else ""
    samples = "prompts" if header.get("collection") == "text" else "pictures"
    return {
        "model": f"{header.get('model')} ({header.get('source')})",
        **how_collected(header),
        samples: ", ".join(f"{count['images']} {split}" for split, count in counts.items()),
        f"rejected {samples}": str(sum(count["rejected"] for count in counts.values())),
        "collected": f"{first.started} on {first.device}",
        "commit": f"{first.git_commit}{changed}" if first.git_commit else "not from a repository",
        "versions": ", ".join(
            f"{name} {version}" for name, version in first.versions.items() if version
        ),
    }


def view(study: FinishedStudy, books: Books) -> View:
    """The runs that are not finished; the rest stands in the study."""
    return {"failed": [run for run in study.runs if run.status != "finished"]}


SECTION = Section("making", "How it was made", view, gather)
