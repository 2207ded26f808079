"""Send status queries on an event loop: any number at the same time, in one thread."""

import functools
import time
from http import HTTPStatus

import aiohttp
from yarl import URL

from api_client.envelope import call_status, retry_after
from api_client.errors import ApiError, ProtocolError, Unavailable
from api_client.failures import reason_of, shown
from api_client.models import CallStatus
from api_client.one_answer import connector
from api_client.reasons import reason_of_status
from api_client.route import STATUS_PATH, Route
from api_client.transport import MAX_ANSWER_BYTES, AnswerTooLargeError

URLS_KEPT = 4_000
"""URLs that are kept, some 4 MB: all polls of a call have the same, and building one costs 4 % of a poll's CPU time."""
_ASKS_TO_WAIT = frozenset({HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE})
_NO_ANSWER = (
    *(OSError, TimeoutError),
    *(aiohttp.ClientConnectionError, aiohttp.ClientPayloadError, aiohttp.ClientHttpProxyError),
)


class AsyncStatus:
    """`UpstreamClient.status` for one event loop, with its own connections and the same bounds (S21, S39).

    Both time-outs are seconds: `connect_timeout` bounds name resolution, TCP and TLS, `status_timeout` the whole query.
    """

    def __init__(self, route: Route, *, connect_timeout: float, status_timeout: float) -> None:
        self._route = route
        self._timeout = aiohttp.ClientTimeout(total=status_timeout, connect=connect_timeout)
        self._session: aiohttp.ClientSession | None = None
        self._url = functools.lru_cache(URLS_KEPT)(self._built_url)

    async def __call__(self, *, case_ref: str, job_id: str) -> CallStatus:
        """Return the status of a call, by exactly one request (S21). Raises Unavailable or ProtocolError (S23)."""
        url = self._url(case_ref, job_id)
        kind: type[ApiError]
        try:
            async with self._opened().get(url, allow_redirects=False, proxy=self._route.proxy) as response:
                return await _read(response, job_id)
        except ApiError:
            raise
        except Exception as error:  # noqa: BLE001  the others: too large, not HTTP, or not accepted by the models
            kind = Unavailable if isinstance(error, _NO_ANSWER) else ProtocolError
            text, reason = shown(error), reason_of(error)
        # Raised outside the handlers, so that no exception with an address becomes its context.
        raise kind(f"GET {STATUS_PATH}: {text}", reason=reason)

    def _built_url(self, case_ref: str, job_id: str) -> URL:
        return URL(self._route.url(STATUS_PATH, {"caseRef": case_ref, "jobId": job_id}), encoded=True)

    async def close(self) -> None:
        """Close the kept-alive connections."""
        if self._session is not None:
            await self._session.close()

    def _opened(self) -> aiohttp.ClientSession:
        """Return the session; it belongs to the event loop of the first query."""
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=connector(self._route.tls),
                timeout=self._timeout,
                headers=self._route.headers,
                cookie_jar=aiohttp.DummyCookieJar(),
                auto_decompress=False,
            )
            # aiohttp would repeat the request over a new connection when a kept-alive one breaks: a poll is one request
            # (S21).
            self._session._retry_connection = False  # noqa: SLF001
        return self._session


async def _read(response: aiohttp.ClientResponse, job_id: str) -> CallStatus:
    if not HTTPStatus.OK <= response.status < HTTPStatus.MULTIPLE_CHOICES:
        header = response.headers.get("Retry-After") if response.status in _ASKS_TO_WAIT else None
        pause = retry_after(header, now=time.time())
        text, reason = f"GET {STATUS_PATH}: HTTP {response.status}", reason_of_status(response.status)
        raise Unavailable(text, reason=reason, retry_after=pause)
    return call_status(await _body(response), asked=job_id)


async def _body(response: aiohttp.ClientResponse) -> bytes:
    """Read the body; of unknown length, the connection bounds it (api_client/one_answer.py)."""
    if (response.content_length or 0) > MAX_ANSWER_BYTES:
        raise AnswerTooLargeError
    return await response.read()
