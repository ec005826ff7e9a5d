"""Jobs of submitit that never come back: killed, out of memory, cancelled. They fail; the others of
the sweep go on.

The launcher's own way is to raise at the first of them, while the others still run and nobody waits
for them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from hydra.core.utils import JobReturn, JobStatus

Tell = Callable[[int, Sequence[str], str], None]
"""tell(number, overrides, why)"""

LOST = "its process ended before it could say why: killed, cancelled, out of memory or out of time"


def tell_lost_jobs(tell: Tell) -> Callable[[], None]:
    """From here on, a job without a result is told and counts as returned; the function that comes
    back ends that.
    """
    from submitit import Job, LocalJob
    from submitit.core.utils import FailedJobError, UncompletedJobError

    results = Job.results

    def told(job: Any) -> list[Any]:
        try:
            return results(job)
        except (UncompletedJobError, FailedJobError) as error:
            overrides, _, number, *_ = job.submission().args
            last = str(error).strip().splitlines()[-1]
            why = LOST if isinstance(error, UncompletedJobError) else last
            tell(number, overrides, f"{why}; its log: {job.paths.stdout}")
            lost = JobReturn(overrides=overrides)
            lost.return_value, lost.status = None, JobStatus.COMPLETED
            return [lost]

    Job.results = told  # pyright: ignore[reportAttributeAccessIssue]
    LocalJob._results_timeout_s = 1  # a local disk shows a result at once

    def end() -> None:
        Job.results = results

    return end
