"""The set of reasons is closed: each has its meaning, and each error of the product names one (S38)."""

import ast
import ssl
from http.client import BadStatusLine, RemoteDisconnected
from pathlib import Path
from types import SimpleNamespace
from typing import Any, get_args

import aiohttp
import pytest
import urllib3

from api_client import MEANINGS, REASONS, REQUEST_REASONS, ApiError, Reason, errors
from api_client.envelope import UnexpectedAnswerError
from api_client.failures import reason_after_sending, reason_nothing_sent, reason_of
from api_client.gate import GateShutError
from api_client.reasons import reason_of_status
from api_client.transport import AnswerTooLargeError, NoAddressError
from tests.deployment import ROOT

KINDS = {name for name, kind in vars(errors).items() if isinstance(kind, type) and issubclass(kind, ApiError)}
PLACE: Any = SimpleNamespace(ssl=True, host="upstream", port=443)


def test_each_reason_has_one_meaning() -> None:
    assert tuple(MEANINGS) == REASONS == get_args(Reason)
    assert len(set(MEANINGS.values())) == len(set(REASONS)) == len(REASONS)
    assert set(REQUEST_REASONS) < set(REASONS)


def raised(source: Path) -> list[ast.Call]:
    """Return the errors of the client that a module makes."""
    calls = (node for node in ast.walk(ast.parse(source.read_text("utf-8"))) if isinstance(node, ast.Call))
    return [call for call in calls if isinstance(call.func, ast.Name) and call.func.id in {*KINDS, "kind"}]


@pytest.mark.parametrize("package", ["api_client", "worker/flows"])
def test_every_error_of_the_client_is_raised_with_its_reason(package: str) -> None:
    """The default of a class is for tests alone."""
    sources = sorted((ROOT / package).glob("*.py"))
    calls = [(source.name, call) for source in sources for call in raised(source)]
    assert calls
    without = [(name, call.lineno) for name, call in calls if "reason" not in {one.arg for one in call.keywords}]
    assert without == []


@pytest.mark.parametrize(
    ("status", "reason"),
    [
        (301, "redirect"),
        (400, "http_4xx"),
        (401, "http_401"),
        (403, "http_403"),
        (404, "http_404"),
        (408, "http_408"),
        (409, "http_409"),
        (418, "http_4xx"),
        (429, "http_429"),
        (500, "http_5xx"),
        (599, "http_5xx"),
        (101, "unreadable"),
        (777, "unreadable"),
    ],
)
def test_http_status_has_a_reason(status: int, reason: Reason) -> None:
    assert reason_of_status(status) == reason


def caused(error: Exception, by: BaseException) -> Exception:
    error.__cause__ = by
    return error


REFUSED, LATE = ConnectionRefusedError(111, "refused"), TimeoutError("timed out")
NOT_IN_TIME = ("connect_timeout",) * 3
LOST = ("connection_lost", "connect", "connection_lost")


@pytest.mark.parametrize(
    ("error", "reasons"),
    [
        (caused(NoAddressError(PLACE, "x"), OSError()), ("dns", "dns", "dns")),
        (aiohttp.ClientConnectorDNSError(PLACE, OSError()), ("dns", "dns", "dns")),
        (caused(urllib3.exceptions.NewConnectionError(PLACE, "x"), REFUSED), ("connect", "connect", "connect")),
        (aiohttp.ClientConnectorError(PLACE, REFUSED), ("connect", "connect", "connect")),
        (caused(urllib3.exceptions.NewConnectionError(PLACE, "x"), LATE), NOT_IN_TIME),
        (urllib3.exceptions.ConnectTimeoutError(), NOT_IN_TIME),
        (aiohttp.ConnectionTimeoutError(), NOT_IN_TIME),
        (urllib3.exceptions.SSLError("x"), ("tls", "tls", "connection_lost")),
        (ssl.SSLEOFError(), ("tls", "tls", "connection_lost")),
        (aiohttp.ClientConnectorSSLError(PLACE, ssl.SSLError()), ("tls", "tls", "connection_lost")),
        (urllib3.exceptions.ProxyError("x", REFUSED), ("proxy", "proxy", "proxy")),
        (aiohttp.ClientProxyConnectionError(PLACE, REFUSED), ("proxy", "proxy", "proxy")),
        (GateShutError(), ("too_late", "too_late", "too_late")),
        (urllib3.exceptions.ReadTimeoutError(PLACE, "", "x"), ("timeout", "connect_timeout", "timeout")),
        (TimeoutError(), ("timeout", "connect_timeout", "timeout")),
        (aiohttp.ServerTimeoutError(), ("timeout", "connect_timeout", "timeout")),
        (
            caused(urllib3.exceptions.ProtocolError(), RemoteDisconnected("")),
            ("connection_lost", "connect", "connection_lost"),
        ),
        (aiohttp.ServerDisconnectedError(), LOST),
        (aiohttp.ClientPayloadError(), LOST),
        (ConnectionResetError(), LOST),
        (caused(urllib3.exceptions.ProtocolError(), BadStatusLine("x")), ("unreadable", "connect", "unreadable")),
        (AnswerTooLargeError(), ("unreadable", "connect", "unreadable")),
        (UnexpectedAnswerError("x", "no_records"), ("no_records", "no_records", "no_records")),
    ],
)
def test_exception_of_a_library_has_a_reason(error: Exception, reasons: tuple[str, str, str]) -> None:
    """Before the first byte a time-out is one of connecting; after it a TLS fault is a lost connection."""
    assert (reason_of(error), reason_nothing_sent(error), reason_after_sending(error)) == reasons
