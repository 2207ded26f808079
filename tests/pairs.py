"""Bring triggers and calls to a state in the store, as the flows of a worker do."""

from typing import get_args

from tests.polls import begin_poll, finish_poll
from worker.core.decision import Outcome, Phase, Verdict
from worker.core.messages import TriggerResult
from worker.core.model import Event, Pair
from worker.core.poll_model import PollStarted
from worker.core.trigger_model import NewJob, Settlement
from worker.store import RedisStore

PAIR = Pair("C/1", "20")  # keys quote the slash
PERSON = "P-10010001"


def bring_to(store: RedisStore, phase: str, pair: Pair = PAIR, job: str = "job-1") -> None:
    """Bring the pair's trigger to a phase, or its call to a verdict; the first poll is due at once."""
    store.claim(pair, token=job, task_id=f"task-{job}", arguments="{}", expires=None, enabled=True)
    if phase == "claimed":
        return
    sent_at = store.begin_sending(pair, job)
    assert isinstance(sent_at, float)
    if phase == "sending":
        return
    reached: dict[str, tuple[Outcome, Phase]] = {"unknown": ("unknown", "unknown"), "refused": ("refused", "done")}
    outcome, settled = reached.get(phase, ("started", "watching"))
    store.settle(
        Settlement(
            pair=pair,
            token=job,
            task_id=f"task-{job}",
            result=TriggerResult.of(outcome, pair.case_id, pair.mediation_id),
            phase=settled,
            sent_at=sent_at,
            jobs=[NewJob(job, PERSON, "Scheduling", 0)] if outcome == "started" else [],
            events=[Event("started", pair.case_id, pair.mediation_id, job, {"label": "拨号中"})],
        )
    )
    if phase in get_args(Verdict):
        finish(store, phase, pair, job)  # type: ignore[arg-type]


def finish(store: RedisStore, verdict: Verdict, pair: Pair = PAIR, job: str = "job-1") -> None:
    """End the watch of a call by its first poll."""
    assert isinstance(begin_poll(store, job, 1), PollStarted)
    event = Event(verdict, pair.case_id, pair.mediation_id, job, {"label": "失败"})
    assert finish_poll(
        store, pair, job, 1, verdict=verdict, retry_count=0, result="answer", call_status="Failed", event=event
    )


def adopt(store: RedisStore, pair: Pair) -> None:
    """Let the look-up of an unknown outcome find one call."""
    look_up = store.open_look_up(pair)
    assert look_up
    job_id = f"{round(store.now() * 1000)}-447e-96ea-97523c61189b"
    assert store.adopt(pair, look_up, [NewJob(job_id, "", "Executing", 5)], answered=True)
