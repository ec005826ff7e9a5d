"""What is behind a figure: the page of a run, with its file, its command and its rows of results.

A run has the address of its directory in the study, such as evaluation/composition/CELL/. Addresses
are looked up among the study's runs; no path from the browser is opened.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from diffusae.errors import unknown
from diffusae.evaluation.result import Result, load_results
from diffusae.explorer.explored import Explored, Missing
from diffusae.explorer.pages import answer
from diffusae.masking import masked_value
from diffusae.report.commands import command_of
from diffusae.runs.record import RunRecord

SHOWN = (
    "stage", "status", "signature", "determines", "parents", "seed", "git_commit", "git_dirty",
    "versions", "device", "started", "finished", "duration_s", "outputs", "made_from",
)  # fmt: skip
"""What of a record is shown: not the machine's name, nor the configuration with its paths."""
RESULTS = "results.json"


@dataclass(frozen=True)
class Run:
    """A finished run: its directory's address in the study, and its record."""

    address: str
    directory: Path
    record: RunRecord

    @property
    def command(self) -> str:
        """What makes it again, with the study's other overrides."""
        return command_of(self.record)

    @property
    def results(self) -> list[Result]:
        """Its rows; none where it measures nothing."""
        has = (self.directory / RESULTS).is_file()
        return load_results(self.directory / RESULTS) if has else []

    def to_json(self) -> dict[str, Any]:
        """Its run.json as it is shown."""
        values = asdict(self.record)
        return masked_value({name: values[name] for name in SHOWN})


@dataclass(frozen=True)
class Behind:
    """All finished runs of a study, by address."""

    runs: Mapping[str, Run]

    @classmethod
    def of(cls, explored: Explored) -> Behind:
        """Those that the study lists."""
        runs = [
            Run(path.relative_to(explored.directory).as_posix(), path, record)
            for path, record in explored.source.records
        ]
        return cls({run.address: run for run in runs})

    def of_rows(self, rows: Iterable[Result]) -> list[Run]:
        """The runs that hold these rows, each once."""
        return [self.runs[name] for name in dict.fromkeys(row.made_in for row in rows) if name]

    def run(self, address: str) -> Run:
        """The run of an address.

        Raises:
            Missing: the study has no finished run there.
        """
        if address not in self.runs:
            raise Missing(str(unknown("finished run of this study:", address, self.runs)))
        return self.runs[address]


def routes(explored: Explored) -> list[Route]:
    """The pages of evaluations, and the files of every run."""

    def run_of(request: Request) -> Run:
        return Behind.of(explored).run(request.path_params["directory"])

    def page(request: Request) -> Response:
        run = Behind.of(explored).run(f"evaluation/{request.path_params['directory']}")
        file = str(run.directory / RESULTS)
        return answer(request, "record.html.j2", run=run, command=run.command, file=file)

    def record(request: Request) -> Response:
        return JSONResponse(run_of(request).to_json())

    def results(request: Request) -> Response:
        return JSONResponse([row.to_json() for row in run_of(request).results])

    return [
        Route("/evaluation/{directory:path}/", page),
        Route("/{directory:path}/run.json", record),
        Route("/{directory:path}/results.json", results),
    ]
