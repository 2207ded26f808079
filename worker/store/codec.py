"""Encode started calls for the scripts that store them."""

from typing import Any

from worker.core.model import Pair
from worker.core.trigger_model import NewJob


def job_fields(job: NewJob, pair: Pair) -> dict[str, Any]:
    """Return a job in the form that the scripts read."""
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
