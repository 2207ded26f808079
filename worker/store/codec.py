"""How started calls pass between Python and the scripts that store them."""

from typing import Any

from worker.core.decision import Poll
from worker.core.model import NewJob, Pair, Settled


def job_fields(job: NewJob, pair: Pair) -> dict[str, Any]:
    """Return a job as the scripts read it."""
    return {
        "job_id": job.job_id,
        "first_delay": job.first_delay,
        "executing": job.call_status == "Executing",
        "watch_again": job.watch_again,
        "person_id": job.person_id,
        "mediation_id": pair.mediation_id,
        "fields": [
            *("job_id", job.job_id, "person_id", job.person_id, "call_status", job.call_status),
            *("case_id", pair.case_id, "mediation_id", pair.mediation_id),
        ],
    }


def settled(reply: list[str] | None) -> Settled | None:
    """Return a script's list of first polls as a value."""
    if reply is None:
        return None
    now, *started = reply
    polls = {
        job_id: Poll(poll_no=int(number), due=float(due), deadline=float(deadline), retry_count=0)
        for number, job_id, due, deadline in zip(*[iter(started)] * 4, strict=True)
    }
    return Settled(float(now), polls)
