"""Fuzz a real worker with a hostile webhook for its notices.

Run it with `make hostile` or `python -m benchmarks.fuzz_receiver --answers 1000 --seed 1`. It prints one line per
figure, marks those that miss their goal with `MISSED`, and exits with 1 if there are any.
"""

import argparse
import dataclasses
import sys
import time
from collections import Counter
from collections.abc import Sequence
from typing import Any

from benchmarks.fault_figures import Figure, at_most, exactly, for_information
from benchmarks.fuzz_watch import common_figures, report, status_of
from benchmarks.hostile import PERSON, Hostile, http
from benchmarks.hostile_server import Answer, HostileServer, Request
from cli.up.embedded_redis import EmbeddedServer
from tests.deployment import Deployment, wait_until
from tests.receiver import SECRET
from worker.flows.notify import DOWN_AFTER
from worker.runtime.notice_delivery import CONNECT, WHOLE

SLACK = 8.0  # seconds that a shared machine may add until a client disconnects
PATH = "hook-secret"  # must not appear in a log
NOTICES = 3  # of each pair: two refusals and an end
STUBBORN = DOWN_AFTER  # pairs whose notices are always refused, enough to open the circuit breaker
SHORT_STAY = 0.5  # seconds for which a response may hold its client, except slow ones in a long run
SPARE = 16  # threads in addition to the pool: deliveries, poll executor, its store
WAITING = 200  # maximum of waiting notices before more pairs are triggered
DRAINED = 60.0  # seconds for the last notices to be delivered
LONGEST_WAIT = 60.0  # seconds by which failures of other pairs may delay the notice of a good pair
ROUND = ("bad", "bad", "bad", "good")
PARTIES: list[dict[str, Any]] = [
    {"person_id": f"{PERSON}-1", "error_code": 1001},
    {"person_id": f"{PERSON}-2", "error_code": 1002},
    {"person_id": f"{PERSON}-3"},
]


class Receiver:
    """Accept notices of good pairs at once, of bad pairs after one hostile response, of stubborn pairs never."""

    def __init__(self, seed: int, *, full_stays: bool) -> None:
        self.hostile = self.refused = 0
        self.elsewhere = ""
        self.taken: Counter[str] = Counter()
        self.longest_wait = 0.0
        self._seed = seed
        self._full_stays = full_stays
        self._tried: Counter[str] = Counter()
        self._spoilt_of: Counter[str] = Counter()

    def __call__(self, request: Request) -> Answer:
        """Return the response to a notice."""
        case_id, notice_id = str(request.body["case_id"]), str(request.body["id"])
        self._tried[notice_id] += 1
        first = self._tried[notice_id] == 1
        if case_id.startswith("stubborn"):
            self.refused += 1
            return Answer("never taken", [http(400, b"")])
        if case_id.startswith("bad") and first:
            return self._spoilt(case_id)
        self.taken[case_id] += first or case_id.startswith("bad")
        if first:
            self.longest_wait = max(self.longest_wait, time.time() - float(request.body["at"]))
        return Answer("good", [http(204, b"", length=b"")])

    def _spoilt(self, case_id: str) -> Answer:
        self.hostile += 1
        self._spoilt_of[case_id] += 1
        seed = f"{self._seed} {case_id} {self._spoilt_of[case_id]}"
        answer = Hostile(seed, {"taken": case_id}, 500, elsewhere=self.elsewhere).answer()
        full = self._full_stays and answer.kind == "slow answers"
        return answer if full else dataclasses.replace(answer, stay=SHORT_STAY)


def run(answers: int, seed: int, *, full_stays: bool, limit: float) -> Sequence[Figure]:
    """Let a hostile receiver send `answers` responses, and return the figures."""
    receiver = Receiver(seed, full_stays=full_stays)
    with (
        HostileServer(receiver, {PATH: CONNECT + WHOLE + SLACK}) as server,
        EmbeddedServer(appendfsync="no") as redis_server,
        Deployment(
            redis_server.url,
            speed=30,
            poll_interval=1,
            notice_url=f"{server.url}/{PATH}?for={PATH}",
            notice_secret=SECRET,
        ) as deployed,
    ):
        receiver.elsewhere = server.elsewhere
        deployed.simulator.script("*", life="blink", parties=PARTIES)
        worker = deployed.worker()
        most_threads = status_of(worker, "Threads") + THREADS + SPARE
        begin = time.monotonic()
        pairs = _push(deployed, receiver, answers, limit)
        _drain(deployed, pairs)
        good = [one for one in pairs if one.startswith("good")]
        missing = {one: NOTICES - receiver.taken[one] for one in good}
        return [
            for_information("seconds", f"{time.monotonic() - begin:.1f}"),
            for_information("hostile answers", str(receiver.hostile)),
            *common_figures(server.served, [worker], threads=most_threads, also_secret=(server.url[7:], PATH)),
            for_information("good pairs in between", str(len(good))),
            exactly("of their notices not delivered", sum(missing.values()), 0),
            at_most("longest wait of one of these", receiver.longest_wait, LONGEST_WAIT, "s"),
            exactly("notices that wait, but for the stubborn pairs'", _waiting(deployed) - STUBBORN * NOTICES, 0),
        ]


def _push(deployed: Deployment, receiver: Receiver, answers: int, limit: float) -> list[str]:
    """Trigger cases, the stubborn ones first; return the other case ids."""
    for number in range(STUBBORN):
        deployed.trigger(f"stubborn-{number}")
    wait_until(lambda: receiver.refused > DOWN_AFTER)
    pairs: list[str] = []
    end = time.monotonic() + limit
    while receiver.hostile < answers and time.monotonic() < end and not deployed.workers[0].gone():
        if _waiting(deployed) < WAITING and len(pairs) * NOTICES * BAD < len(ROUND) * answers:
            for kind in ROUND:
                pairs.append(f"{kind}-{len(pairs)}")
                deployed.trigger(pairs[-1])
        time.sleep(0.1)
    return pairs


def _drain(deployed: Deployment, pairs: Sequence[str]) -> None:
    """Wait until all calls have ended and all notices except those of stubborn pairs are delivered."""

    def drained() -> bool:
        return deployed.finished(len(pairs) + STUBBORN) and _waiting(deployed) == STUBBORN * NOTICES

    try:
        wait_until(lambda: deployed.workers[0].gone() or drained(), limit=DRAINED)
    except AssertionError:
        print("not drained", file=sys.stderr)


def _waiting(deployed: Deployment) -> int:
    return int(str(deployed.store.client.xlen("callwatch:outbox:webhook")))


THREADS = 32  # default size of a worker's pool
BAD = ROUND.count("bad")


def main(arguments: list[str] | None = None) -> int:
    """Run the fuzz and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--answers", type=int, default=1_000, help="number of hostile responses")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--limit", type=float, default=300, help="seconds after which no more cases are triggered")
    parser.add_argument("--short", action="store_true", help="hold no client for its full time-out of ten seconds")
    options = parser.parse_args(arguments)
    print(f"seed {options.seed}")
    return report(run(options.answers, options.seed, full_stays=not options.short, limit=options.limit))


if __name__ == "__main__":
    sys.exit(main())
