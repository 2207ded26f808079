"""Route a client's status queries through its event-loop counterpart, so that the same tests cover both."""

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from api_client import AsyncStatus, CallStatus, UpstreamClient

BOTH_WAYS = pytest.mark.usefixtures("way")  # of tests/system/conftest.py


@contextmanager
def running_loop() -> Iterator[asyncio.AbstractEventLoop]:
    """Yield an event loop that runs in a thread."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        yield loop
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


@contextmanager
def asked_on_a_loop(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let `UpstreamClient.status` send its queries for a job on an event loop."""
    counterparts: dict[UpstreamClient, AsyncStatus] = {}
    by_thread, close = UpstreamClient.status, UpstreamClient.close

    with running_loop() as loop:

        def status(self: UpstreamClient, *, case_ref: str, job_id: str | None = None) -> CallStatus:
            if job_id is None or threading.current_thread().name.startswith("status"):
                return by_thread(self, case_ref=case_ref, job_id=job_id)
            if self not in counterparts:
                counterparts[self] = self.for_event_loop()
            query = counterparts[self](case_ref=case_ref, job_id=job_id)
            return asyncio.run_coroutine_threadsafe(query, loop).result()

        async def close_all(counterpart: AsyncStatus) -> None:
            await counterpart.close()
            await asyncio.sleep(0)  # transports report their end in the loop's next iteration

        def close_both(self: UpstreamClient, *args: Any) -> None:
            close(self, *args)
            if self in counterparts:
                asyncio.run_coroutine_threadsafe(close_all(counterparts.pop(self)), loop).result()

        monkeypatch.setattr(UpstreamClient, "status", status)
        monkeypatch.setattr(UpstreamClient, "close", close_both)
        yield
