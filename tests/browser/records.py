"""Write a worker's records by hand: calls that start, change and end, failed dials, unknown outcomes."""

import itertools
from dataclasses import dataclass, field, replace

from api_client import CallRecord
from tests.deployment import wait_until
from tests.polls import begin_poll, continue_poll, finish_poll
from worker.core import texts
from worker.core.decision import Verdict
from worker.core.dial_result import DialEnd, not_called, read_answer
from worker.core.model import Event, Pair
from worker.core.poll_model import PollStarted
from worker.core.trigger_model import NewJob, Settlement
from worker.store import RedisStore
from worker.store.erasure import Erased

_numbers = itertools.count(1)


@dataclass
class Records:
    """A separate case in the store."""

    store: RedisStore
    case_id: str = field(default_factory=lambda: f"C-{next(_numbers)}")
    polls: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.pair = Pair(self.case_id, "20")

    def dial(self, end: DialEnd, *, phase: str = "done", pair: Pair | None = None) -> None:
        """Store the result of a dial."""
        pair = pair or self.pair
        token = f"token-{next(_numbers)}"
        self.store.claim(pair, token=token, task_id=token, arguments="{}", expires=None, enabled=True)
        sent_at = self.store.begin_sending(pair, token)
        assert isinstance(sent_at, float)
        settled = self.store.settle(
            Settlement(pair, token, token, end.result, phase, sent_at, end.jobs, end.events, end.look_up)  # type: ignore[arg-type]
        )
        assert settled is not None

    def start(self, *persons: str, mediation: str = "20", message: str = "") -> list[str]:
        """Start a call of each person and return the jobs; a person whose id begins with `!` is refused."""
        jobs: list[str] = []
        records = []
        for person in persons:
            if person.startswith("!"):
                records.append(CallRecord(errorCode=1001, personId=person[1:], message=message or None))
            else:
                jobs.append(f"{1_795_000_000_000 + next(_numbers)}-447e-96ea-97523c61189b")
                records.append(CallRecord(errorCode=0, personId=person, jobId=jobs[-1]))
        pair = Pair(self.case_id, mediation)
        end = read_answer(records, pair, interval=0.01)
        self.dial(end, phase="watching" if jobs else "done", pair=pair)
        self.polls |= dict.fromkeys(jobs, 0)
        return jobs

    def fail(self) -> None:
        """Store a failed dial (S12)."""
        self.dial(not_called("failed", self.pair, texts.DIAL_FAILED, "dial_failed", "http_5xx"))

    def lose(self) -> None:
        """Store a dial whose response was lost (S13)."""
        self.dial(not_called("unknown", self.pair, texts.OUTCOME_UNKNOWN, "unknown", "timeout"), phase="unknown")

    def adopt(self, job_id: str) -> None:
        """Store the adoption of a call that the look-up found (S14)."""
        look_up = self.store.open_look_up(self.pair)
        assert look_up is not None
        adopted = self.store.adopt(self.pair, look_up, [NewJob(job_id, "", "Executing", 0.01)], answered=True)
        assert adopted is not None
        self.polls[job_id] = 0

    def release(self) -> None:
        """Release the pair, as an operator who knows the outcome does (S14)."""
        assert self.store.release(self.pair, by="someone", why="asked") == "released"

    def _begin(self, job_id: str) -> PollStarted:
        """Begin the call's next poll once it is due."""
        found: list[PollStarted] = []

        def begun() -> bool:
            start = begin_poll(self.store, job_id, self.polls[job_id] + 1)
            found.extend([start] if isinstance(start, PollStarted) else [])
            return bool(found)

        wait_until(begun)
        self.polls[job_id] += 1
        return found[0]

    def pair_of(self, job_id: str) -> Pair:
        (call,) = self.store.calls(job_id=job_id, finished=True)
        return Pair(call.case_id, call.mediation_id)

    def change(self, job_id: str, status: str) -> None:
        """Store a poll with a changed status."""
        start = self._begin(job_id)
        event = Event("status_changed", self.case_id, start.pair.mediation_id, job_id, {"label": texts.label(status)})
        poll = replace(start.poll, poll_no=self.polls[job_id] + 1, due=start.now)
        assert continue_poll(
            self.store, self.pair_of(job_id), job_id, poll, result="answer", call_status=status, event=event
        )

    def end(self, job_id: str, status: str = "Succeeded", verdict: Verdict = "ended") -> None:
        """Store the last poll: the call ended, or its watch ends with another verdict."""
        self._begin(job_id)
        detail = {"call_status": status} if verdict == "ended" else {}
        event = Event(verdict, self.case_id, self.pair_of(job_id).mediation_id, job_id, detail)
        assert finish_poll(
            self.store, self.pair_of(job_id), job_id, self.polls[job_id], verdict=verdict, retry_count=0,
            result="answer" if verdict == "ended" else "unavailable",
            call_status=status if verdict == "ended" else None, event=event,
        )  # fmt: skip

    def erase(self) -> None:
        """Erase all records of the case."""
        assert isinstance(self.store.erase(self.case_id, anyway=True), Erased)

    def shown(self) -> list[tuple[str, str]]:
        """Job and label of the calls that a page should show, oldest first."""
        calls = self.store.calls(case_id=self.case_id)
        return [(call.job_id, texts.label(call.call_status)) for call in calls]
