"""Components shared by all endpoints: the gateway object, rate limits, calls to Redis in threads."""

import asyncio
import functools
import math
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, TypeVar

from fastapi import Request
from fastapi.responses import Response

from gateway.door import Entrance, text_of
from gateway.feed import Feed
from gateway.identity import Caller, KeyRing, Tokens, identify
from gateway.intake import Intake
from gateway.limits import Limit
from gateway.live_view import Setting
from gateway.metrics import Metrics
from gateway.problems import RETRY_SAME, Problem, malformed
from gateway.triggers import Triggers
from worker.core.interfaces import StoreUnavailable
from worker.core.messages import MAX_ID_LENGTH
from worker.runtime.producer import NotPublished
from worker.store import RedisStore

LONGEST_STEP = 10.0  # seconds for one Redis operation of a request
LONGEST_QUEUE = 50_000  # triggers that wait for a worker
Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class Limits:
    """The rate limits of each kind of request."""

    triggers: Limit
    reads: Limit
    looks: Limit
    openings: Limit

    @classmethod
    def of(cls, rate: float) -> "Limits":
        """Return the limits; `rate` is the requests per second of one API key, 0 for no limits."""
        tokens = (10.0, 5.0) if rate else (0.0, 0.0)
        return cls(
            Limit("triggers", rate), Limit("reads", rate), Limit("looks", tokens[0]), Limit("openings", tokens[1])
        )

    def forget(self, now: float) -> None:
        """Drop the buckets that are full again at `now` (monotonic seconds)."""
        for limit in (self.triggers, self.reads, self.looks, self.openings):
            limit.forget(now)


@dataclass(eq=False)
class Gateway:
    """The components of one process; `queue_length` returns the number of triggers that wait for a worker."""

    store: RedisStore
    triggers: Triggers
    feed: Feed
    keys: KeyRing
    tokens: Tokens
    setting: Setting
    entrance: Entrance
    metrics: Metrics
    threads: ThreadPoolExecutor
    limits: Limits
    metrics_token: str | None = None
    open_metrics: bool = False
    queue_length: Callable[[], int] = lambda: 0
    under_way: int = 0
    waiting: int = 0
    streams_of: Counter[str] = field(default_factory=Counter)
    _queue: tuple[float, int] = (-math.inf, 0)

    def __post_init__(self) -> None:
        self.intake = Intake(self.triggers.submit, self.threads)

    async def run(self, call: Callable[..., Result], *args: Any) -> Result:
        """Call a function on Redis in a thread; Problem if Redis does not answer in time."""
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(LONGEST_STEP):
                return await loop.run_in_executor(self.threads, functools.partial(call, *args))
        except (StoreUnavailable, NotPublished, TimeoutError):
            raise Problem("store-unavailable", members=RETRY_SAME) from None

    def caller(self, request: Request) -> Caller:
        """Authenticate a request; Problem if its credential is missing or unknown."""
        caller = identify(request.headers.getlist("authorization"), self.keys, self.tokens, now=time.time())
        request.scope["state"]["client"] = caller.name
        return caller

    async def queue_is_full(self) -> bool:
        """Return whether too many triggers wait; the length is cached for a second."""
        at, length = self._queue
        if time.monotonic() - at > 1:
            self._queue = time.monotonic(), length
            length = await self.run(self.queue_length)
            self._queue = time.monotonic(), length
        return length >= LONGEST_QUEUE


def answer(document: Any, *, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """Return a JSON response."""
    return Response(text_of(document), status, headers, "application/json")


def check_case(case_id: str, name: str) -> str:
    """Return a valid case id; Problem otherwise."""
    if not case_id.strip() or len(case_id) > MAX_ID_LENGTH:
        raise malformed(name, f"a text of {len(case_id)} characters", f"1 to {MAX_ID_LENGTH} characters")
    return case_id
