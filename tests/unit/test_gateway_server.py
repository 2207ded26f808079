"""Test the socket options that connections inherit: no delay of small writes, detection of dead peers."""

import contextlib
import socket

import pytest

from gateway.server import SILENT_AFTER, listen

OPTIONS = [
    pytest.param(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1, id="no delay"),
    pytest.param(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1, id="keep alive"),
]
if hasattr(socket, "TCP_USER_TIMEOUT"):
    OPTIONS.append(pytest.param(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, SILENT_AFTER, id="dead peers"))


@pytest.mark.parametrize(("level", "option", "value"), OPTIONS)
def test_connection_inherits_the_options_of_the_listening_socket(level: int, option: int, value: int) -> None:
    """Without TCP_NODELAY, asyncio sends the two parts of a response 40 ms apart."""
    with (
        listen("127.0.0.1", 0) as listening,
        socket.create_connection(listening.getsockname()),
        contextlib.closing(listening.accept()[0]) as connection,
    ):
        assert connection.getsockopt(level, option) == value
