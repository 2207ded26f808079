"""The upstream as look-ups ask it: each query takes a token of the limit that polls are under, and waits for it."""

from collections.abc import Callable
from dataclasses import dataclass

from api_client import CallRecord, CallRequest, CallStatus, ConversationLog, Unavailable
from worker.core.interfaces import Clock, Store, StoreUnavailable, Upstream

LONGEST_WAIT = 5  # seconds for one token: a claim that looks first lasts 30 s (S18)


@dataclass(frozen=True, slots=True)
class ThrottledUpstream:
    """Passes everything on; queries that find no token in time are Unavailable. Polls have taken theirs before."""

    upstream: Upstream
    store: Store
    clock: Clock

    def dial(
        self, request: CallRequest, *, before_send: Callable[[], None], within: float | None = None
    ) -> list[CallRecord]:
        """Request calls; the token for it is taken in the step that writes `sending`."""
        return self.upstream.dial(request, before_send=before_send, within=within)

    def status(self, *, case_ref: str, job_id: str | None = None) -> CallStatus:
        """Ask how a call stands."""
        self._wait()
        return self.upstream.status(case_ref=case_ref, job_id=job_id)

    def conversations(self, *, case_id: str) -> list[ConversationLog]:
        """Return what was said in the calls of a case."""
        self._wait()
        return self.upstream.conversations(case_id=case_id)

    def _wait(self) -> None:
        try:
            wait = self.store.reserve_query(longest=LONGEST_WAIT)
        except StoreUnavailable as error:
            raise Unavailable(str(error)) from error
        if wait is None:
            raise Unavailable("the limit of status queries is used up")
        if wait:
            self.clock.sleep(wait)
