"""Throttle queries outside a poll: each takes a token of the rate limit of status queries, and waits for it."""

from collections.abc import Callable
from dataclasses import dataclass

from api_client import CallRecord, CallRequest, CallStatus, ConversationLog, Unavailable
from worker.core.interfaces import Clock, Store, StoreUnavailable, Upstream

LONGEST_WAIT = 5  # seconds for one token; a claim that queries first lasts 30 s (S18)


@dataclass(frozen=True, slots=True)
class ThrottledUpstream:
    """Wrap an upstream client: a query throttled for more than `LONGEST_WAIT` seconds raises Unavailable.

    Polls do not use it; the script that takes due polls takes their tokens.
    """

    upstream: Upstream
    store: Store
    clock: Clock

    def dial(
        self, request: CallRequest, *, before_send: Callable[[], None], within: float | None = None
    ) -> list[CallRecord]:
        """Request calls, unthrottled here: the script that writes `sending` takes the token."""
        return self.upstream.dial(request, before_send=before_send, within=within)

    def status(self, *, case_ref: str, job_id: str | None = None) -> CallStatus:
        """Query the status of a call."""
        self._wait()
        return self.upstream.status(case_ref=case_ref, job_id=job_id)

    def conversations(self, *, case_id: str) -> list[ConversationLog]:
        """Return the conversation log of a case."""
        self._wait()
        return self.upstream.conversations(case_id=case_id)

    def _wait(self) -> None:
        try:
            wait = self.store.reserve_query(longest=LONGEST_WAIT)
        except StoreUnavailable as error:
            raise Unavailable(str(error), reason="not_confirmed") from error
        if wait is None:
            raise Unavailable("throttled by the rate limit of status queries", reason="throttled")
        if wait:
            self.clock.sleep(wait)
