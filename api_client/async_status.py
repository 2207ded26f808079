"""Status queries on an event loop: any number wait for their answers beside each other, in one thread."""

import asyncio
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING, cast

from api_client.answer import AnswerReader, BrokenAnswerError
from api_client.envelope import UnexpectedAnswerError, call_status, retry_after
from api_client.errors import ApiError, ProtocolError, Unavailable
from api_client.models import CallStatus
from api_client.route import STATUS_PATH, Route

if TYPE_CHECKING:
    from api_client.client import UpstreamClient

PROXY_THREADS = 64  # through a proxy each query takes a thread
_ASKS_TO_WAIT = frozenset({429, 503})
_NO_ANSWER = (OSError, TimeoutError, BrokenAnswerError, UnicodeError)  # UnicodeError: a host name that is none


class _Connection(asyncio.Protocol):
    """One kept-alive connection, which carries one request at a time."""

    def __init__(self) -> None:
        self.open = False
        self._transport: asyncio.Transport | None = None
        self._reader: AnswerReader | None = None
        self._answer: asyncio.Future[AnswerReader] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self.open = True

    def data_received(self, data: bytes) -> None:
        if self._reader is None:  # not asked: whatever it is, the next answer would be another request's
            self.close()
            return
        try:
            complete = self._reader.feed(data)
        except Exception as error:  # noqa: BLE001  whatever it stumbles over, the one who waits has to know
            self._end(error)
        else:
            if complete:
                self._end(None)

    def connection_lost(self, exc: Exception | None) -> None:
        self.open = False
        if self._reader is None:
            return
        try:
            self._reader.end()
        except BrokenAnswerError as error:
            self._end(exc or error)
        else:
            self._end(exc)

    def close(self) -> None:
        """Close it, also in the midst of an answer."""
        self.open = False
        if self._transport is not None:
            self._transport.abort()

    async def ask(self, request: bytes) -> AnswerReader:
        """Send a request and return its answer; the connection lives on only if the answer allows that."""
        assert self._transport is not None  # noqa: S101  for the type checker: it is connected
        self._reader = AnswerReader()
        self._answer = asyncio.get_running_loop().create_future()
        well = False
        try:
            self._transport.write(request)
            answer = await self._answer
            well = answer.keeps_alive
            return answer
        finally:
            self._reader = self._answer = None
            if not well:
                self.close()

    def _end(self, error: Exception | None) -> None:
        answer, reader, self._reader = self._answer, self._reader, None
        if answer is None or answer.done() or reader is None:
            return
        if error is None:
            answer.set_result(reader)
        else:
            answer.set_exception(error)


class AsyncStatus:
    """What `UpstreamClient.status` is for threads, for one event loop. Its own connections, the same bounds (S21, S39).

    Where a proxy is on the way, queries go through `client`, in threads.
    """

    def __init__(
        self, client: "UpstreamClient", route: Route, *, connect_timeout: float, status_timeout: float
    ) -> None:
        self._client = client
        self._route = route
        self._connect_timeout = connect_timeout
        self._status_timeout = status_timeout
        self._idle: list[_Connection] = []
        self._threads = ThreadPoolExecutor(PROXY_THREADS, "status") if route.proxied else None
        head = "".join(f"{name}: {value}\r\n" for name, value in {"Host": route.host, **route.headers}.items())
        self._head = f" HTTP/1.1\r\n{head}\r\n".encode("latin-1")

    async def __call__(self, *, case_ref: str, job_id: str) -> CallStatus:
        """Return where a call stands, by exactly one request (S21). Raises Unavailable or ProtocolError (S23)."""
        if self._threads is not None:
            query = partial(self._client.status, case_ref=case_ref, job_id=job_id)
            return await asyncio.get_running_loop().run_in_executor(self._threads, query)
        target = self._route.target(STATUS_PATH, {"caseRef": case_ref, "jobId": job_id})
        kind: type[ApiError]
        try:
            async with asyncio.timeout(self._status_timeout):
                return await self._ask(b"GET " + target.encode() + self._head, job_id)
        except ApiError:
            raise
        except _NO_ANSWER as error:
            kind, reason = Unavailable, type(error).__name__
        except UnexpectedAnswerError as error:
            kind, reason = ProtocolError, str(error)
        except Exception as error:  # noqa: BLE001  an answer too large, or one that the models stumble over
            kind, reason = ProtocolError, type(error).__name__
        raise kind(f"GET {STATUS_PATH}: {reason}")  # out here, so that nothing with an address hangs on as its context

    def close(self) -> None:
        """Close what is kept alive."""
        for connection in self._idle:
            connection.close()
        self._idle.clear()
        if self._threads is not None:
            self._threads.shutdown(wait=False)

    async def _ask(self, request: bytes, job_id: str) -> CallStatus:
        connection = self._kept_alive() or await self._connect()
        answer = await connection.ask(request)
        if not 200 <= answer.status <= 299:  # noqa: PLR2004  as HTTP counts
            self._keep(connection)
            header = answer.headers.get("retry-after") if answer.status in _ASKS_TO_WAIT else None
            pause = retry_after(header, now=time.time())
            raise Unavailable(f"GET {STATUS_PATH}: HTTP {answer.status}", retry_after=pause)
        try:
            status = call_status(answer.body, asked=job_id)
        except Exception:
            connection.close()  # it may be one answer behind
            raise
        self._keep(connection)
        return status

    def _kept_alive(self) -> _Connection | None:
        while self._idle:
            if (connection := self._idle.pop()).open:
                return connection
        return None

    def _keep(self, connection: _Connection) -> None:
        if connection.open:
            self._idle.append(connection)

    async def _connect(self) -> _Connection:
        route = self._route
        async with asyncio.timeout(self._connect_timeout):
            _, connection = await asyncio.get_running_loop().create_connection(
                _Connection,
                *route.address,
                ssl=route.tls,
                happy_eyeballs_delay=self._connect_timeout / 4,  # a silent first address leaves time for the second
            )
        return connection
