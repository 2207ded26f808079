"""Poll calls by a hand-tuned Celery task chain: threads, one HTTP session, no results, no store, no fence.

`benchmarks.polls` measures it as the reference `tuned`.
"""

import os

import requests
from celery import Celery

app = Celery("tuned", broker=os.environ["BENCH_REDIS_URL"])
app.conf.update(
    task_ignore_result=True,
    worker_prefetch_multiplier=1,
    worker_disable_rate_limits=True,
    task_acks_late=True,
    broker_transport_options={"max_connections": 64, "visibility_timeout": 180},
)
session = requests.Session()
session.mount("http://", requests.adapters.HTTPAdapter(pool_maxsize=32))


@app.task
def poll(job_id: str, case_id: str, retry_count: int = 0) -> None:  # noqa: ARG001 - same signature as the naive task
    """Query the status of a call and schedule the next poll one interval later."""
    url = os.environ["BENCH_API_URL"] + "/api/v1/outbound-bot/status"
    answer = session.get(url, params={"caseRef": case_id, "jobId": job_id}, timeout=10).json()
    if answer["data"]["callStatus"] not in ("Succeeded", "Failed", "Cancelled"):
        poll.apply_async(args=(job_id, case_id, 0), countdown=float(os.environ["BENCH_INTERVAL"]))
