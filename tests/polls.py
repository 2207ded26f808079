"""One poll at a time through the steps that serve several."""

from worker.decision import Finish, Next, Poll, Verdict
from worker.store import RedisStore
from worker.values import Begun, Change, Dropped, Event, Heard, Pair, PollEnd, Timing


def begin_poll(store: RedisStore, job_id: str, poll_no: int) -> Begun | Dropped:
    """Let a poll pass the fence."""
    (start,) = store.begin_polls([(job_id, poll_no)])
    return start


def continue_poll(
    store: RedisStore,
    pair: Pair,
    job_id: str,
    poll: Poll,
    *,
    heard: Heard,
    call_status: str | None,
    event: Event | None,
    timing: Timing | None = None,
) -> Change | None:
    """Write the end of a poll whose successor is `poll`."""
    return _written(store, PollEnd(pair, job_id, poll.poll_no, Next(poll), heard, call_status, event, timing))


def finish_poll(  # noqa: PLR0913
    store: RedisStore,
    pair: Pair,
    job_id: str,
    poll_no: int,
    *,
    verdict: Verdict,
    retry_count: int,
    heard: Heard,
    call_status: str | None,
    event: Event,
    timing: Timing | None = None,
) -> Change | None:
    """Write the end of the poll `poll_no`, which is the call's last."""
    end = Finish(verdict, retry_count)
    return _written(store, PollEnd(pair, job_id, poll_no + 1, end, heard, call_status, event, timing))


def _written(store: RedisStore, end: PollEnd) -> Change | None:
    (change,) = store.write_polls([end])
    assert not isinstance(change, Exception), change
    return change
