"""Poll calls by a tutorial-style Celery task chain: prefork, `requests.get`, stored results, events.

`benchmarks.polls` measures it as the reference `naive`.
"""

import os

import requests
from celery import Celery

app = Celery("naive", broker=os.environ["BENCH_REDIS_URL"], backend=os.environ["BENCH_REDIS_URL"])


@app.task
def poll(job_id: str, case_id: str, retry_count: int = 0) -> str:  # noqa: ARG001 - a tutorial's signature
    """Query the status of a call and schedule the next poll one interval later."""
    url = os.environ["BENCH_API_URL"] + "/api/v1/outbound-bot/status"
    answer = requests.get(url, params={"caseRef": case_id, "jobId": job_id}, timeout=10).json()
    status: str = answer["data"]["callStatus"]
    if status not in ("Succeeded", "Failed", "Cancelled"):
        poll.apply_async(args=(job_id, case_id, 0), countdown=float(os.environ["BENCH_INTERVAL"]))
    return status
