"""Read the reason of a failed request from the exceptions of urllib3 and aiohttp."""

import ssl
from http.client import HTTPException, IncompleteRead

import aiohttp
import urllib3

from api_client.envelope import UnexpectedAnswerError
from api_client.gate import GateShutError
from api_client.reasons import RequestReason
from api_client.transport import NoAddressError

_PROXY = (urllib3.exceptions.ProxyError, aiohttp.ClientHttpProxyError, aiohttp.ClientProxyConnectionError)
_DNS = (NoAddressError, aiohttp.ClientConnectorDNSError)
_TLS = (urllib3.exceptions.SSLError, ssl.SSLError, aiohttp.ClientSSLError)
_CONNECT_TIMEOUT = (urllib3.exceptions.ConnectTimeoutError, aiohttp.ConnectionTimeoutError)
_TIMEOUT = (urllib3.exceptions.TimeoutError, TimeoutError)
_LOST = (urllib3.exceptions.ProtocolError, aiohttp.ClientConnectionError, aiohttp.ClientPayloadError, OSError)
_BY_CLASS: tuple[tuple[type[BaseException] | tuple[type[BaseException], ...], RequestReason], ...] = (
    (GateShutError, "too_late"),
    (_PROXY, "proxy"),
    (_DNS, "dns"),
    (_TLS, "tls"),
    (aiohttp.ClientConnectorError, "connect"),
    (_CONNECT_TIMEOUT, "connect_timeout"),
    (_TIMEOUT, "timeout"),
    (_LOST, "connection_lost"),
)
"""The first class that fits decides: a closer class stands before the class that it extends."""
_WITHOUT_CONNECTION: dict[RequestReason, RequestReason] = {
    "timeout": "connect_timeout",
    "connection_lost": "connect",
    "unreadable": "connect",
}


def reason_of(error: Exception) -> RequestReason:
    """Return the reason of a failed request; `unreadable` for an exception that no class of `_BY_CLASS` fits."""
    if isinstance(error, UnexpectedAnswerError):
        return error.reason
    if isinstance(error, urllib3.exceptions.NewConnectionError) and not isinstance(error, _DNS):
        return "connect_timeout" if isinstance(beneath(error), TimeoutError) else "connect"
    if is_gibberish(error):
        return "unreadable"
    return next((reason for classes, reason in _BY_CLASS if isinstance(error, classes)), "unreadable")


def reason_nothing_sent(error: Exception) -> RequestReason:
    """Return the reason of a request that failed before its first byte."""
    reason = reason_of(error)
    return _WITHOUT_CONNECTION.get(reason, reason)


def reason_after_sending(error: Exception) -> RequestReason:
    """Return the reason of a request that failed after its first byte: a broken TLS connection is a lost one."""
    reason = reason_of(error)
    return "connection_lost" if reason == "tls" else reason


def beneath(error: Exception) -> BaseException | None:
    """Return the exception that a library has wrapped."""
    return error.__cause__ or error.__context__


def is_gibberish(error: Exception) -> bool:
    """Return whether urllib3 received an answer that is not HTTP, as opposed to no answer or a part of one."""
    inner = beneath(error)
    return (
        isinstance(error, urllib3.exceptions.HTTPError)
        and isinstance(inner, HTTPException)
        and not isinstance(inner, ConnectionError | IncompleteRead)
    )


def shown(error: Exception) -> str:
    """Return the text of our own errors, and the class name of any other, because its text contains URLs (S37)."""
    if isinstance(error, UnexpectedAnswerError):
        return str(error)
    inner = beneath(error) if isinstance(error, urllib3.exceptions.HTTPError) else None
    name = type(error).__name__
    return f"{name} ({type(inner).__name__})" if inner else name
