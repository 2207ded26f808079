"""Send the three requests of the API, each exactly once, with errors by the action that they allow."""

import functools
import json
import logging
import ssl
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack, closing, suppress
from typing import TypeVar, cast

from urllib3 import HTTPConnectionPool
from urllib3.exceptions import HTTPError, ReadTimeoutError
from urllib3.response import BaseHTTPResponse
from urllib3.util import Retry, Timeout

from api_client.async_status import AsyncStatus
from api_client.envelope import call_records, call_status, conversation_logs, one_thread, retry_after
from api_client.errors import ApiError, NotSent, OutcomeUnknown, ProtocolError, Rejected, Unavailable
from api_client.failures import is_gibberish, reason_after_sending, reason_nothing_sent, reason_of, shown
from api_client.gate import Gate
from api_client.models import CallRecord, CallRequest, CallStatus, ConversationLog
from api_client.reasons import reason_of_status
from api_client.route import API, STATUS_PATH, Route
from api_client.transport import MAX_ANSWER_BYTES

_CALL_PATH = f"{API}/call-v2"
_CONVERSATION_PATH = f"{API}/conversation-log"
MAX_LOG_BYTES = 16 * 1024 * 1024
"""Size limit of a conversation log in bytes (S39)."""
_NO_RETRIES = Retry(total=False, redirect=False)
_MAYBE_CARRIED_OUT = frozenset({408, 409})
_ASKS_TO_WAIT = frozenset({429, 503})

T = TypeVar("T")

log = logging.getLogger(__name__)

_large_log = threading.Lock()
"""Held while a conversation log above 1 MiB is in memory: a process reads one of them at a time (S39)."""


class UpstreamClient:
    """A client of the outbound-bot API at `base_url`, for any number of threads.

    Times are in seconds. `connect_timeout` bounds the whole connection set-up (name resolution, TCP, proxy tunnel,
    TLS), `call_timeout` the whole answer to a dial, `status_timeout` a whole read including its connection set-up.
    Reads share `pool_size` kept-alive connections; every dial has a new one. Proxies, .netrc and CA bundle come from
    the environment only with `trust_env` (S39); `tls` replaces the context that verifies by that bundle. Raises
    ValueError, without a credential in its text, if an argument is invalid.
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
        """Start the calls of `request` and return one record per person. Phones ring, so it is sent at most once.

        The connection must be established `within` seconds, or within the connect time-out if that is shorter.
        `before_send` is called exactly once, when the connection is established and nothing has been sent; its
        exceptions propagate unchanged. Raises NotSent if certainly nothing was sent: no connection, or more than 2 s
        between `before_send` and the first byte (S18); Rejected (3xx, 4xx except 408 and 409: S12); OutcomeUnknown (any
        other answer without a readable list: S13, and any request sent without a call of `before_send`: S18).
        """
        gate = Gate(before_send)
        try:
            return self._dial(request, gate, self._dial_timeout(within))
        except ApiError:
            raise
        except Exception as error:  # noqa: BLE001  the state of the gate decides the error, not the exception
            failure = _failed_dial(error, gate)
        raise failure  # outside the handler, so that no exception with a URL becomes its context

    def status(self, *, case_ref: str, job_id: str | None = None) -> CallStatus:
        """Return the status of a call, by exactly one request (S21); without `job_id`, of any call of the case.

        Raises Unavailable or ProtocolError (S23).
        """
        query = {"caseRef": case_ref} if job_id is None else {"caseRef": case_ref, "jobId": job_id}
        response, body = self._exchange(self._pool, STATUS_PATH, query, _read_whole)
        return self._judge(STATUS_PATH, response, body, lambda body: call_status(body, asked=job_id))

    def conversations(self, *, case_id: str | None = None, job_id: str | None = None) -> list[ConversationLog]:
        """Return the conversation logs, newest call first, within `status_timeout` and 16 MiB.

        Other answers have a lower limit (S39): a case with many transcripts must stay readable, or it could never be
        called again (S5). A log above 1 MiB waits for the end of another one, within the same time. Raises Unavailable
        or ProtocolError.
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
        """Return the client of status queries for an event loop; it has its own connections."""
        return AsyncStatus(self._route, **self._timeouts)

    def close(self) -> None:
        """Close the kept-alive connections; reads fail from now on."""
        self._pool.close()
        self._log_pool.close()

    def _dial_timeout(self, within: float | None) -> Timeout:
        if within is None:
            return self._call_timeout
        if within <= 0:
            raise NotSent(f"POST {_CALL_PATH}: no time is left to connect", reason="connect_timeout")
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
                preload_content=False,  # the HTTP status alone decides, even if the body never arrives
                decode_content=False,
            )
            with closing(response):
                if not gate.passed:
                    raise _unasked_for(response)
                _check_accepted(response.status)
                return call_records(response.read())

    def _judge(self, path: str, response: BaseHTTPResponse, body: bytes, read: Callable[[bytes], T]) -> T:
        """Return the parsed answer, and release its connection if it can be used again."""
        if not _succeeded(response.status):
            response.release_conn()
            reason = reason_of_status(response.status)
            text = f"GET {path}: HTTP {response.status}"
            raise Unavailable(text, reason=reason, retry_after=_pause_asked_for(response))
        try:
            answer = read(body)
        except Exception as error:  # noqa: BLE001  an answer that the models do not accept is no answer
            response.close()  # not back to the pool: the connection may still carry a late answer
            raise ProtocolError(f"GET {path}: {shown(error)}", reason=reason_of(error)) from None
        response.release_conn()
        return answer

    def _exchange(
        self, pool: HTTPConnectionPool, path: str, query: dict[str, str], read: Callable[[BaseHTTPResponse], bytes]
    ) -> tuple[BaseHTTPResponse, bytes]:
        """Return a complete answer and its body; the answer holds its connection, unless `read` released it."""
        try:
            # Uses the connection pool directly, without requests: there are hundreds of polls per second.
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
        except Exception as error:  # noqa: BLE001  one without HTTPError: too large, or not accepted by a parser
            lost = isinstance(error, HTTPError) and not is_gibberish(error)
            kind, text, reason = Unavailable if lost else ProtocolError, shown(error), reason_of(error)
        raise kind(f"GET {path}: {text}", reason=reason)


def _read_whole(response: BaseHTTPResponse) -> bytes:
    return response.data


def _read_log(response: BaseHTTPResponse, *, held: ExitStack, until: float) -> bytes:
    """Read a conversation log; above 1 MiB only with the lock of large logs, which `held` releases.

    `until` is the deadline of the read on the monotonic clock.
    """
    with ExitStack() as unread:
        unread.callback(response.close)
        body = first = response.read(MAX_ANSWER_BYTES)
        if len(first) == MAX_ANSWER_BYTES:
            if not _large_log.acquire(timeout=max(0.0, until - time.monotonic())):
                raise ReadTimeoutError(cast("HTTPConnectionPool", None), None, "another large one is being read")
            held.callback(_large_log.release)
            body = one_thread("large-log").submit(lambda: first + response.read()).result()
        unread.pop_all()
    return body


def _succeeded(status: int) -> bool:
    return 200 <= status <= 299  # noqa: PLR2004  the ranges of HTTP


def _check_accepted(status: int) -> None:
    """Raise Rejected or OutcomeUnknown unless the answer to a dial is a success."""
    if _succeeded(status):
        return
    rejected = 300 <= status <= 499 and status not in _MAYBE_CARRIED_OUT  # noqa: PLR2004  the ranges of HTTP
    kind: type[ApiError] = Rejected if rejected else OutcomeUnknown
    raise kind(f"POST {_CALL_PATH}: HTTP {status}", reason=reason_of_status(status))


def _failed_dial(error: Exception, gate: Gate) -> Exception:
    """Return the error to raise for a dial without a readable answer: the state of its gate decides."""
    if gate.refusal is not None:
        return gate.refusal
    text = f"POST {_CALL_PATH}: {shown(error)}"
    if gate.proves_nothing_was_sent:
        return NotSent(text, reason=reason_nothing_sent(error))
    if gate.passed:
        return OutcomeUnknown(text, reason=reason_after_sending(error))
    log.error("%s: a request may have been sent without its gate", text)
    return OutcomeUnknown(text, reason="past_gate")


def _unasked_for(response: BaseHTTPResponse) -> OutcomeUnknown:
    """Return the error for an answer without a request through the gate, with the records of its jobs."""
    text = f"POST {_CALL_PATH}: answered although the gate was never asked"
    log.error(text)
    records: list[CallRecord] = []
    if _succeeded(response.status):
        with suppress(Exception):  # an unreadable body leaves the outcome unknown
            records = call_records(response.read())
    return OutcomeUnknown(text, reason="past_gate", records=records)


def _pause_asked_for(response: BaseHTTPResponse) -> float | None:
    if response.status not in _ASKS_TO_WAIT:
        return None
    return retry_after(response.headers.get("Retry-After"), now=time.time())
