"""Jobs of submitit without a result: killed, out of memory, cancelled.

They count as failed, and the other jobs of the sweep continue. Without this, the launcher would
raise at the first such job, while the others still run.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from hydra.core.utils import JobReturn, JobStatus

Report = Callable[[int, Sequence[str], str], None]
"""report(number, overrides, why)"""

LOST = "its process ended before it could say why: killed, cancelled, out of memory or out of time"


def report_lost_jobs(report: Report) -> Callable[[], None]:
    """From now on, call `report` for a job without a result; the job counts as returned.

    Returns:
        A function that ends this.
    """
    from submitit import Job, LocalJob
    from submitit.core.utils import FailedJobError, UncompletedJobError

    results = Job.results

    def results_or_lost(job: Any) -> list[Any]:
        try:
            return results(job)
        except (UncompletedJobError, FailedJobError) as error:
            overrides, _, number, *_ = job.submission().args
            last = str(error).strip().splitlines()[-1]
            why = LOST if isinstance(error, UncompletedJobError) else last
            report(number, overrides, f"{why}; its log: {job.paths.stdout}")
            lost = JobReturn(overrides=overrides)
            lost.return_value, lost.status = None, JobStatus.COMPLETED
            return [lost]

    Job.results = results_or_lost  # pyright: ignore[reportAttributeAccessIssue]
    LocalJob._results_timeout_s = 1  # a local disk shows a result at once

    def end() -> None:
        Job.results = results

    return end
