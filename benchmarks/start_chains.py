"""Start the polls of one contender, spread over one interval.

`benchmarks.polls` runs it as `python -m benchmarks.start_chains CONTENDER CALLS`; it prints nothing.
"""

import asyncio
import os
import sys

from worker.core.messages import TriggerResult
from worker.core.model import Pair
from worker.core.trigger_model import NewJob, Settlement

INTERVAL = float(os.environ["BENCH_INTERVAL"])


def job_ids(calls: int) -> list[str]:
    """Return job ids in the upstream's format."""
    return [f"{1_770_463_000_000 + number}-447e-96ea-{number:012x}" for number in range(calls)]


def start_reference(name: str, calls: int) -> None:
    """Start the task chains of a reference."""
    if name == "naive":
        from benchmarks.naive_app import poll  # noqa: PLC0415
    else:
        from benchmarks.tuned_app import poll  # noqa: PLC0415
    for number, job_id in enumerate(job_ids(calls)):
        poll.apply_async(args=(job_id, "C-1", 0), countdown=INTERVAL * number / calls)


def start_callwatch(calls: int) -> None:
    """Store calls as a trigger does on the dial's response; this schedules their first polls."""
    from worker.container import container  # noqa: PLC0415

    store, pair = container().store, Pair("C-1", "20")
    store.claim(pair, token="bench", task_id="bench", arguments="{}", expires=None, enabled=True)  # noqa: S106
    sent_at = store.begin_sending(pair, "bench")
    assert isinstance(sent_at, float)
    jobs = [
        NewJob(job_id, f"P-{number}", "Scheduling", INTERVAL * (number + 1) / calls)
        for number, job_id in enumerate(job_ids(calls))
    ]
    result = TriggerResult.of("started", "C-1", "20")
    assert store.settle(Settlement(pair, "bench", "bench", result, "watching", sent_at, jobs, []))


if __name__ == "__main__":
    contender, number_of_calls = sys.argv[1], int(sys.argv[2])
    if contender == "callwatch":
        start_callwatch(number_of_calls)
    elif contender == "saq":
        from benchmarks.saq_app import start

        asyncio.run(start(number_of_calls, INTERVAL))
    else:
        start_reference(contender, number_of_calls)
