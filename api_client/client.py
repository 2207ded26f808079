"""The upstream's three calls, each one request on the wire, with failures that say what the caller may do."""

import functools
import json
import logging
import os
import ssl
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, suppress
from http.client import HTTPException, IncompleteRead
from typing import TypeVar, cast

from urllib3 import HTTPConnectionPool
from urllib3.exceptions import HTTPError, ReadTimeoutError
from urllib3.response import BaseHTTPResponse
from urllib3.util import Retry, Timeout

from api_client.async_status import AsyncStatus
from api_client.envelope import UnexpectedAnswerError, call_records, call_status, conversation_logs, retry_after
from api_client.errors import ApiError, NotSent, OutcomeUnknown, ProtocolError, Rejected, Unavailable
from api_client.gate import Gate
from api_client.models import CallRecord, CallRequest, CallStatus, ConversationLog
from api_client.route import API, STATUS_PATH, Route
from api_client.transport import MAX_ANSWER_BYTES

_CALL_PATH = f"{API}/call-v2"
_CONVERSATION_PATH = f"{API}/conversation-log"
MAX_LOG_BYTES = 16 * 1024 * 1024
"""Largest conversation log read (S39)."""
_NO_RETRIES = Retry(total=False, redirect=False)
_MAYBE_CARRIED_OUT = frozenset({408, 409})
_ASKS_TO_WAIT = frozenset({429, 503})

T = TypeVar("T")

log = logging.getLogger(__name__)

_large_log = threading.Lock()
"""Of the conversation logs above 1 MiB one at a time is in the memory of a process (S39)."""


@functools.cache
def _log_thread() -> ThreadPoolExecutor:
    """Return the thread that reads them: malloc has a heap for each thread, which keeps what the largest log took."""
    return ThreadPoolExecutor(1, "large-log")


os.register_at_fork(after_in_child=_log_thread.cache_clear)  # a child has none of its parent's threads


class UpstreamClient:
    """The outbound-bot API at `base_url`, for any number of threads.

    Times are in seconds. `connect_timeout` bounds connecting as a whole (name resolution, TCP, proxy tunnel, TLS),
    `call_timeout` the whole answer to a dial, `status_timeout` a whole read with its connecting. Reads share
    `pool_size` kept-alive connections; every dial has a fresh one. Proxies, .netrc and CA bundle come from the
    environment only with `trust_env` (S39); `tls` replaces the context that verifies by that bundle. Raises ValueError,
    without quoting a credential, where an argument cannot be used.
    """

    def __init__(
        self,
        base_url: str,
        *,
        token: str | None = None,
        connect_timeout: float = 3,
        status_timeout: float = 10,
        call_timeout: float = 90,
        pool_size: int = 32,
        trust_env: bool = False,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self._call_timeout = Timeout(connect=connect_timeout, read=call_timeout)
        self._timeouts = {"connect_timeout": connect_timeout, "status_timeout": status_timeout}
        self._read_timeout = Timeout(connect=connect_timeout, total=status_timeout)
        self._route = Route(base_url, token=token, trust_env=trust_env, tls=tls)
        self._pool = self._route.open_pool(pool_size)
        self._log_pool = self._route.open_pool(1, max_answer=MAX_LOG_BYTES)

    def dial(
        self, request: CallRequest, *, before_send: Callable[[], None], within: float | None = None
    ) -> list[CallRecord]:
        """Start the calls of `request` and return one record per person; it rings, so it is sent once at most.

        The connection must stand `within` so many seconds, where that is less than the connect time-out. `before_send`
        is called exactly once, when the connection stands and nothing has been sent; what it raises propagates
        unchanged. Raises NotSent where it is certain that nothing was sent: no connection stood, or more than 2 s
        passed from `before_send` to the first byte (S18); Rejected (3xx, 4xx except 408 and 409: S12); OutcomeUnknown
        (anything else without a readable list: S13, and whatever left without `before_send` having been called: S18).
        """
        gate = Gate(before_send)
        try:
            return self._dial(request, gate, self._dial_timeout(within))
        except ApiError:
            raise
        except Exception as error:  # noqa: BLE001  whatever went wrong, the gate alone knows what it means
            reason = f"POST {_CALL_PATH}: {_reason(error)}"
        # Raised out here, so that no exception with a URL in it hangs on as their context.
        if gate.refusal is not None:
            raise gate.refusal
        if gate.proves_nothing_was_sent:
            raise NotSent(reason)
        if not gate.passed:
            log.error("%s: a request may have left without its gate", reason)
        raise OutcomeUnknown(reason)

    def status(self, *, case_ref: str, job_id: str | None = None) -> CallStatus:
        """Return where a call stands, by exactly one request (S21); without `job_id`, that of any call of the case.

        Raises Unavailable or ProtocolError (S23).
        """
        query = {"caseRef": case_ref} if job_id is None else {"caseRef": case_ref, "jobId": job_id}
        response, body = self._exchange(self._pool, STATUS_PATH, query, _read_whole)
        return self._judge(STATUS_PATH, response, body, lambda body: call_status(body, asked=job_id))

    def conversations(self, *, case_id: str | None = None, job_id: str | None = None) -> list[ConversationLog]:
        """Return what was said, newest call first, in at most `status_timeout` and 16 MiB.

        That is more than any other answer may have (S39): a case with many transcripts must stay readable, or it could
        never be called again (S5). One above 1 MiB waits within that time for any other such one. Raises Unavailable or
        ProtocolError.
        """
        asked = {"caseId": case_id, "jobId": job_id}
        query = {name: value for name, value in asked.items() if value is not None}
        until = time.monotonic() + self._timeouts["status_timeout"]
        with ExitStack() as held:
            response, body = self._exchange(
                self._log_pool, _CONVERSATION_PATH, query, functools.partial(_read_log, held=held, until=until)
            )
            return self._judge(_CONVERSATION_PATH, response, body, conversation_logs)

    def for_event_loop(self) -> AsyncStatus:
        """Return what asks for statuses on an event loop; it has connections of its own."""
        return AsyncStatus(self._route, **self._timeouts)

    def close(self) -> None:
        """Close the kept-alive connections; reads fail from now on."""
        self._pool.close()
        self._log_pool.close()

    def _dial_timeout(self, within: float | None) -> Timeout:
        if within is None:
            return self._call_timeout
        if within <= 0:
            raise NotSent(f"POST {_CALL_PATH}: no time is left to connect")
        connect = min(within, cast("float", self._call_timeout.connect_timeout))
        return Timeout(connect=connect, read=self._call_timeout.read_timeout)

    def _dial(self, request: CallRequest, gate: Gate, timeout: Timeout) -> list[CallRecord]:
        body = json.dumps(request.body(), ensure_ascii=False).encode()
        headers = {**self._route.headers, "Content-Type": "application/json"}
        with self._route.open_dial(gate) as pool:
            gate.arm()
            response = pool.urlopen(
                "POST",
                self._route.target(_CALL_PATH),
                body=body,
                headers=headers,
                retries=_NO_RETRIES,
                redirect=False,
                assert_same_host=False,
                timeout=timeout,
                preload_content=False,  # the status decides alone, even if the body never comes
                decode_content=False,
            )
            with closing(response):
                if not gate.passed:
                    raise _unasked_for(response)
                _check_accepted(response.status)
                return call_records(response.read())

    def _judge(self, path: str, response: BaseHTTPResponse, body: bytes, read: Callable[[bytes], T]) -> T:
        """Return what a complete answer says, and give its connection back if it is fit for the next one."""
        if not _succeeded(response.status):
            response.release_conn()
            raise Unavailable(f"GET {path}: HTTP {response.status}", retry_after=_pause_asked_for(response))
        try:
            answer = read(body)
        except Exception as error:  # noqa: BLE001  what the models stumble over is no answer either
            response.close()  # not back to the pool: it may be one answer behind
            raise ProtocolError(f"GET {path}: {_reason(error)}") from None
        response.release_conn()
        return answer

    def _exchange(
        self, pool: HTTPConnectionPool, path: str, query: dict[str, str], read: Callable[[BaseHTTPResponse], bytes]
    ) -> tuple[BaseHTTPResponse, bytes]:
        """Return a complete answer, which still holds its connection where `read` has left it that, and its body."""
        try:
            # Past requests, straight to its connection pool: a poll happens hundreds of times a second.
            response = pool.urlopen(
                "GET",
                self._route.target(path, query),
                headers=self._route.headers,
                retries=_NO_RETRIES,
                redirect=False,
                assert_same_host=False,
                timeout=self._read_timeout,
                preload_content=read is _read_whole,
                release_conn=False,
                decode_content=False,
            )
            return response, read(response)
        except HTTPError as error:
            kind, reason = ProtocolError if _is_gibberish(error) else Unavailable, _reason(error)
        except Exception as error:  # noqa: BLE001  an answer too large, or one that the parsers beneath stumble over
            kind, reason = ProtocolError, _reason(error)
        raise kind(f"GET {path}: {reason}")


def _read_whole(response: BaseHTTPResponse) -> bytes:
    return response.data


def _read_log(response: BaseHTTPResponse, *, held: ExitStack, until: float) -> bytes:
    """Read a conversation log; above 1 MiB only with the right to it, which `held` gives back.

    `until`, on the monotonic clock, is when the reading has to be done.
    """
    with ExitStack() as unread:
        unread.callback(response.close)
        body = first = response.read(MAX_ANSWER_BYTES)
        if len(first) == MAX_ANSWER_BYTES:
            if not _large_log.acquire(timeout=max(0.0, until - time.monotonic())):
                raise ReadTimeoutError(cast("HTTPConnectionPool", None), None, "another large one is being read")
            held.callback(_large_log.release)
            body = _log_thread().submit(lambda: first + response.read()).result()
        unread.pop_all()
    return body


def _succeeded(status: int) -> bool:
    return 200 <= status <= 299  # noqa: PLR2004  as HTTP counts


def _check_accepted(status: int) -> None:
    """Raise unless a dial was answered with a success."""
    if _succeeded(status):
        return
    reason = f"POST {_CALL_PATH}: HTTP {status}"
    if 300 <= status <= 499 and status not in _MAYBE_CARRIED_OUT:  # noqa: PLR2004  as HTTP counts
        raise Rejected(reason)
    raise OutcomeUnknown(reason)


def _unasked_for(response: BaseHTTPResponse) -> OutcomeUnknown:
    """Return the end of a dial that was answered though no request left in order, with the jobs that it started."""
    reason = f"POST {_CALL_PATH}: answered although the gate was never asked"
    log.error(reason)
    records: list[CallRecord] = []
    if _succeeded(response.status):
        with suppress(Exception):  # whatever it is that cannot be read, the outcome is unknown
            records = call_records(response.read())
    return OutcomeUnknown(reason, records=records)


def _pause_asked_for(response: BaseHTTPResponse) -> float | None:
    if response.status not in _ASKS_TO_WAIT:
        return None
    return retry_after(response.headers.get("Retry-After"), now=time.time())


def _beneath(error: Exception) -> BaseException | None:
    return error.__cause__ or error.__context__


def _is_gibberish(error: HTTPError) -> bool:
    """Whether something answered that does not speak HTTP, rather than nothing or half of it."""
    beneath = _beneath(error)
    return isinstance(beneath, HTTPException) and not isinstance(beneath, ConnectionError | IncompleteRead)


def _reason(error: Exception) -> str:
    """Return an error of ours in its own words and any other by its class alone, as its text quotes URLs (S37)."""
    if isinstance(error, UnexpectedAnswerError):
        return str(error)
    beneath = _beneath(error) if isinstance(error, HTTPError) else None
    name = type(error).__name__
    return f"{name} ({type(beneath).__name__})" if beneath else name
