"""Kill gateway, worker and Redis at random, seeded moments: at rest every page shows the records (S34)."""

import http.client
import random
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Self

import pytest

from cli.up.embedded_redis import EmbeddedServer
from tests.deployment import Deployment, Worker, wait_until
from tests.faults.test_killed import SETTINGS
from tests.gatewayprocess import Answer, Gateway, Shown, Stream
from tests.system.test_gateway_stream import shows_the_records

KILLS = 6
LONGEST_PAUSE = 12  # status queries between two kills
LIFE = [["Scheduling", 0], ["Executing", 3], ["Succeeded", 14]]


class Page:
    """A page that reconnects with the last id that it received, as docs/http.md demands."""

    def __init__(self, gateway: Gateway, *cases: str) -> None:
        self.cases = cases
        self.shown = Shown()
        self._gateway = gateway
        self._last_id = ""
        self._left = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def _run(self) -> None:
        while not self._left.is_set():
            with suppress(OSError, http.client.HTTPException):
                stream = self._gateway.follow(*self.cases, shown=self.shown, Last_Event_ID=self._last_id)
                self._watch(stream)
            self._left.wait(0.1)

    def _watch(self, stream: Stream) -> None:
        while stream.status == 200 and not stream.ended.wait(0.1) and not self._left.is_set():
            pass
        stream.close()
        self._last_id = stream.last_id or self._last_id

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._left.set()
        self._thread.join()


class Storm:
    """Kills and restarts one process after the other, each after a random number of status queries."""

    def __init__(self, seed: int, deployment: Deployment, server: EmbeddedServer, gateway: Gateway) -> None:
        self._random = random.Random(seed)  # noqa: S311 - chooses moments
        self._deployment = deployment
        self._server = server
        self._gateway = gateway
        self._worker: Worker = deployment.worker(name="first")
        self.cases: list[str] = []

    def blow(self) -> None:
        """Trigger a case, wait for a random moment, kill a process, restart it."""
        self.trigger(f"C-{len(self.cases)}")
        kills = self._kills()
        for number in range(KILLS):
            self._wait(self._random.randint(1, LONGEST_PAUSE))
            self._random.choice(kills)()
            if number % 2:
                self.trigger(f"C-{len(self.cases)}")

    def trigger(self, case: str) -> None:
        """Send a trigger with the same key until it is accepted, as a back end does."""

        def taken() -> bool:
            with suppress(OSError, http.client.HTTPException):
                return self._post(case).status == 202
            return False

        wait_until(taken)
        self.cases.append(case)

    def _post(self, case: str) -> Answer:
        return self._gateway.trigger(f"load-of-{case}", case)

    def is_over(self) -> bool:
        """Return whether every trigger and every call has ended.

        A trigger that waits for a worker is sent again with the same key: a worker killed while it takes a
        message, or a Redis killed before it has written one, may have lost it.
        """
        states = {case: self._post(case).json["state"] for case in self.cases}
        return set(states.values()) == {"finished"} and self._at_rest()

    def _wait(self, queries: int) -> None:
        wanted = len(self._deployment.simulator.log("status")) + queries
        wait_until(lambda: len(self._deployment.simulator.log("status")) >= wanted or self._at_rest())

    def _at_rest(self) -> bool:
        store = self._deployment.store
        return not store.calls() and all(pair.phase == "done" for pair in store.pairs())

    def _kills(self) -> list[Callable[[], None]]:
        def gateway() -> None:
            self._gateway.kill()
            self._gateway.start()

        def worker() -> None:
            self._worker.kill()
            self._worker = self._deployment.worker(name=f"w{len(self._deployment.workers)}")

        def redis() -> None:
            self._server.kill()
            self._server.start()

        return [gateway, worker, redis]


@pytest.mark.parametrize("seed", [17, 42])
def test_s34_at_rest_every_page_shows_the_records_after_kills_at_random_moments(
    server: EmbeddedServer, seed: int
) -> None:
    """S4, S34, S35, S42: no pair is dialled twice, and the streams of a case deliver no notice twice."""
    with Deployment(server.url, **SETTINGS | {"poll_interval": 1, "status_timeout": 1}) as deployment:
        deployment.simulator.script("*", life=LIFE)
        with Gateway.of(deployment) as gateway:
            storm = Storm(seed, deployment, server, gateway)
            cases = [f"C-{number}" for number in range(1 + KILLS // 2)]
            pages = [Page(gateway, case) for case in cases]
            with pages[0], pages[1], pages[2], pages[3], Page(gateway, *cases) as overview:
                storm.blow()
                assert storm.cases == cases
                wait_until(storm.is_over, limit=180)
                for page in [*pages, overview]:
                    wait_until(lambda page=page: shows_the_records(page, deployment.store, *page.cases))  # type: ignore[misc]
            for page in pages:
                assert len(page.shown.delivered) == len(set(page.shown.delivered)), "a notice was delivered twice"
        assert set(deployment.simulator.calls_per_pair().values()) == {1}
