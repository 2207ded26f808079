"""Begin and write single polls through the store's batch methods."""

from worker.core.decision import Finish, Next, Poll, Verdict
from worker.core.model import Event, Pair
from worker.core.poll_model import OutageChange, PollDropped, PollEnd, PollStarted, QueryResult, Timing
from worker.store import RedisStore


def begin_poll(store: RedisStore, job_id: str, poll_no: int) -> PollStarted | PollDropped:
    """Begin one poll at the fence."""
    (start,) = store.begin_polls([(job_id, poll_no)])
    return start


def continue_poll(
    store: RedisStore,
    pair: Pair,
    job_id: str,
    poll: Poll,
    *,
    result: QueryResult,
    call_status: str | None,
    event: Event | None,
    timing: Timing | None = None,
) -> OutageChange | None:
    """Write the result of a poll whose successor is `poll`."""
    return _written(store, PollEnd(pair, job_id, poll.poll_no, Next(poll), result, call_status, event, timing))


def finish_poll(  # noqa: PLR0913
    store: RedisStore,
    pair: Pair,
    job_id: str,
    poll_no: int,
    *,
    verdict: Verdict,
    retry_count: int,
    result: QueryResult,
    call_status: str | None,
    event: Event,
    timing: Timing | None = None,
) -> OutageChange | None:
    """Write the result of poll `poll_no`, the last of the call."""
    end = Finish(verdict, retry_count)
    return _written(store, PollEnd(pair, job_id, poll_no + 1, end, result, call_status, event, timing))


def _written(store: RedisStore, end: PollEnd) -> OutageChange | None:
    (change,) = store.write_polls([end])
    assert not isinstance(change, Exception), change
    return change
