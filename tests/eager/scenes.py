"""Bring the world into the states from which several test files start."""

from collections.abc import Callable

from api_client import ConversationLog, OutcomeUnknown
from tests.fakes import StatusAnswer, job_id, record
from tests.world import World
from worker.core.model import Pair
from worker.core.trigger_model import Claimed

PAIR = Pair("C-1", "20")
JOB = job_id(1)
LOST = OutcomeUnknown("POST /call-v2: ReadTimeout")


def entry(job: str, status: str = "Executing") -> ConversationLog:
    return ConversationLog.model_validate({"jobId": job, "callStatus": status, "conversations": "[]"})


def phase(world: World, mediation_id: str = "20") -> str:
    pairs = {one.pair: one.phase for one in world.store.pairs(finished=True)}
    return pairs[Pair("C-1", mediation_id)]


def lose_the_answer(world: World) -> None:
    """End a trigger `unknown`; a sweep every 5 s looks its call up."""
    world.upstream.dials = [LOST]
    assert world.trigger()["outcome"] == "unknown"
    world.sweeping = 5


def life(*steps: tuple[float, str]) -> Callable[[str, float], StatusAnswer]:
    """A call that has each status from that second on."""

    def status(_job: str, age: float) -> str:
        return next(name for start, name in reversed(steps) if age >= start)

    return status


def start(world: World, *jobs: str) -> None:
    world.upstream.dials = [[record(job, person=f"P-{number:04}") for number, job in enumerate(jobs or (JOB,))]]
    assert world.trigger()["outcome"] == "started"


def killed(world: World, *, sending: bool) -> None:
    """A worker that was killed during its dial; its message waits for redelivery."""
    claimed = world.store.claim(PAIR, token="t", task_id="task-1", arguments="{}", expires=None, enabled=True)
    assert claimed == Claimed()
    if sending:
        assert isinstance(world.store.begin_sending(PAIR, "t"), float)


def locked(world: World) -> bool:
    return bool(world.redis.exists("t:lock:C-1:20"))
