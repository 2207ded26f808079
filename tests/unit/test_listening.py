"""Test addresses to listen on: loopback or not, and the reason for one that cannot be used."""

import errno
import socket

import pytest

from config.listening import is_loopback, not_usable


@pytest.mark.parametrize(
    ("host", "alone"),
    [("127.0.0.1", True), ("::1", True), ("[::1]", True), ("localhost", True), ("0.0.0.0", False), ("db", False)],  # noqa: S104
)
def test_s40_loopback_is_recognised(host: str, alone: bool) -> None:
    assert is_loopback(host) is alone


@pytest.mark.parametrize(
    ("error", "why"),
    [
        pytest.param(OSError(errno.EADDRINUSE, "error while attempting"), "address already in use", id="taken"),
        pytest.param(
            socket.gaierror(-2, "Name or service not known (while attempting to bind on h)"),
            "name or service not known",
            id="no such host",
        ),
        pytest.param(OSError("no sockets"), "no sockets", id="without a number"),
    ],
)
def test_unusable_port_is_one_line_with_the_reason_of_the_system(error: OSError, why: str) -> None:
    assert not_usable("h", 1, error) == f"port 1 on h cannot be used: {why}"
