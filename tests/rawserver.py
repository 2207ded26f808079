"""A server that says exactly the bytes it is told, one script per connection, and remembers what it was sent."""

import json
import queue
import re
import select
import socket
import ssl
import struct
import tempfile
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

from api_client import UpstreamClient

PATIENCE = 30.0
"""Seconds after which a test that waits for something has failed; nothing depends on its size."""
_CONTENT_LENGTH = re.compile(rb"content-length: *([0-9]+)", re.IGNORECASE)


class Connection:
    """One accepted connection, as its script sees it."""

    def __init__(self, sock: socket.socket, server: "RawServer") -> None:
        sock.settimeout(PATIENCE)
        self._sock = sock
        self._server = server

    def read_request(self) -> bytes:
        """Read one request, headers and body, and remember it; b"" if the other side has gone."""
        data = b""
        while not _is_complete(data):
            try:
                received = self._sock.recv(65536)
            except OSError:
                return b""
            if not received:
                return b""
            data += received
        self._server.requests.append(data)
        return data

    def read_some(self) -> bytes:
        """Read what comes first, whatever it is."""
        return self._sock.recv(65536)

    def send(self, data: bytes) -> None:
        """Send all of it, or as much as the other side still wants."""
        try:
            self._sock.sendall(data)
        except OSError:
            self._server.gone.set()

    def drip(self, data: bytes, *, every: float = 0.02) -> None:
        """Send byte after byte, until done or until the other side has gone (which sets the server's `gone`)."""
        for byte in data:
            self.send(bytes([byte]))
            if self.closed_within(every):
                self._server.gone.set()
                return

    def closed_within(self, seconds: float) -> bool:
        """Whether the other side goes (or speaks) within that time."""
        return bool(select.select([self._sock], [], [], seconds)[0])

    def pending(self) -> bytes:
        """What has arrived and was not read yet; from any thread."""
        if not self.closed_within(0):
            return b""
        return self._sock.recv(65536, socket.MSG_PEEK)

    def start_tls(self, context: ssl.SSLContext) -> None:
        """Speak TLS from here on."""
        self._sock = context.wrap_socket(self._sock, server_side=True)

    def reset(self) -> None:
        """Break off with RST instead of FIN."""
        self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close()

    def close(self) -> None:
        """Close from this side."""
        self._sock.close()


Script = Callable[[Connection], None]


class RawServer:
    """A loopback server: each connection runs the next of `scripts`, and the last one again when they run out."""

    def __init__(self, *scripts: Script) -> None:
        self._scripts = list(scripts)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._threads: list[threading.Thread] = []
        self._change = threading.Condition()
        self._ended = 0
        self.connections = 0
        """How many were accepted so far."""
        self.requests: list[bytes] = []
        """Every request that was read, raw, in order of arrival."""
        self.accepted: queue.Queue[Connection] = queue.Queue()
        """Every connection, for a test that wants to look inside one while its script runs."""
        self.gone = threading.Event()
        """Set when a script noticed that the other side has hung up."""
        self._acceptor = threading.Thread(target=self._accept, daemon=True)
        self._acceptor.start()

    @property
    def port(self) -> int:
        """The port it listens on."""
        return int(self._listener.getsockname()[1])

    @property
    def url(self) -> str:
        """Its address for plain HTTP."""
        return f"http://127.0.0.1:{self.port}"

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            connection = Connection(sock, self)
            script = self._scripts[min(self.connections, len(self._scripts) - 1)]
            self.connections += 1
            self.accepted.put(connection)
            thread = threading.Thread(target=self._run, args=(script, connection), daemon=True)
            thread.start()
            self._threads.append(thread)

    def _run(self, script: Script, connection: Connection) -> None:
        try:
            script(connection)
        except OSError:  # its connection broke: the test sees that from its own end
            pass
        finally:
            connection.close()
            with self._change:
                self._ended += 1
                self._change.notify_all()

    def wait_for_scripts(self, number: int = 1) -> None:
        """Wait until that many scripts have run to their end, and their connections are closed."""
        with self._change:
            assert self._change.wait_for(lambda: self._ended >= number, PATIENCE), "a script did not end"

    def close(self) -> None:
        """Stop accepting and wait until every script has ended; close the clients first."""
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._acceptor.join(PATIENCE)
        self.wait_for_scripts(self.connections)
        for thread in self._threads:
            thread.join(PATIENCE)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def http(status: int = 200, body: object = b"", *, headers: dict[str, str] | None = None, length: bool = True) -> bytes:
    """Return one HTTP/1.1 answer; what is no bytes becomes JSON; without `length` the body ends with the connection."""
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    lines = [f"HTTP/1.1 {status} Whatever", "Content-Type: application/json"]
    lines += [f"{name}: {value}" for name, value in (headers or {}).items()]
    if length:
        lines.append(f"Content-Length: {len(content)}")
    return "\r\n".join([*lines, "", ""]).encode() + content


def ok(data: object, *, code: int = 200, status: int = 200) -> bytes:
    """Return a success of the upstream with its envelope."""
    return http(status, {"code": code, "message": "success", "data": data})


def answers(*responses: bytes) -> Script:
    """Answer one request after the other on a kept-alive connection, then wait until the client closes it."""

    def script(connection: Connection) -> None:
        for response in responses:
            if not connection.read_request():
                return
            connection.send(response)
        while connection.read_request():
            pass

    return script


def answers_and_closes(response: bytes) -> Script:
    """Answer one request, then close."""

    def script(connection: Connection) -> None:
        connection.read_request()
        connection.send(response)

    return script


def _is_complete(data: bytes) -> bool:
    head, blank_line, body = data.partition(b"\r\n\r\n")
    length = _CONTENT_LENGTH.search(head)
    return bool(blank_line) and len(body) >= (int(length[1]) if length else 0)


@contextmanager
def upstream(*scripts: Script, **options: Any) -> Iterator[tuple[RawServer, UpstreamClient]]:
    """Give a server that runs `scripts` and a client of it."""
    with RawServer(*scripts) as server:
        client = UpstreamClient(server.url, **options)
        try:
            yield server, client
        finally:
            client.close()


@contextmanager
def full_backlog() -> Iterator[str]:
    """Give the address of a server that never accepts and whose queue is full, so that connecting to it hangs."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        waiting: list[socket.socket] = []
        try:
            for _ in range(8):
                sock = socket.socket()
                waiting.append(sock)
                sock.setblocking(False)
                sock.connect_ex(listener.getsockname())
            yield f"127.0.0.1:{listener.getsockname()[1]}"
        finally:
            for sock in waiting:
                sock.close()


def assert_discreet(error: BaseException, *secrets: str) -> None:
    """S37: one line; neither it nor a traceback's text shows an address, a query or any of `secrets`."""
    assert "\n" not in str(error)
    told = "".join(traceback.format_exception(error, chain=True)[-1:]) + str(error.__cause__) + str(error.__context__)
    for secret in ("127.0.0.1", "?", "caseRef", *secrets):
        assert secret not in told


# Made for these tests alone: self-signed for localhost and 127.0.0.1, worth nothing anywhere else.
_KEY = """
MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQgcUyBbKaSBK6XSfLt
Ps9mCIN3poIGRzlNPl0AHlScNw+hRANCAASi8ZKr3mV/ngiuqGZjmlE+8ZTIiQTN
Kvi6hZle9KLrc0o1e5jHNmByps4+KMRKwvX3J4QdWP77+DHZ/LMlXR5o
"""
_CERTIFICATE = """
MIIBlDCCATqgAwIBAgIUSw4aBYc6Pf+V0Cjjf1P9DNA6jSkwCgYIKoZIzj0EAwIw
GTEXMBUGA1UEAwwOY2FsbHdhdGNoIHRlc3QwIBcNMjYxMTIyMDExOTQxWhgPMjEy
NjEwMjkwMTE5NDFaMBkxFzAVBgNVBAMMDmNhbGx3YXRjaCB0ZXN0MFkwEwYHKoZI
zj0CAQYIKoZIzj0DAQcDQgAEovGSq95lf54IrqhmY5pRPvGUyIkEzSr4uoWZXvSi
63NKNXuYxzZgcqbOPijESsL19yeEHVj++/gx2fyzJV0eaKNeMFwwDwYDVR0TAQH/
BAUwAwEB/zAOBgNVHQ8BAf8EBAMCAoQwHQYDVR0OBBYEFDwBlfn40Mgb02utdmCf
ADBGxhcwMBoGA1UdEQQTMBGCCWxvY2FsaG9zdIcEfwAAATAKBggqhkjOPQQDAgNI
ADBFAiBl1R/BjWwrfOynHdq0qfUlY4fBgucMYRhw4FzzCr5NHQIhANAE7npxLsn0
aQoXtcra1YgLsx+dhwENmnMcpr4IY4sR
"""


def _pem(label: str, content: str) -> str:
    return f"-----BEGIN {label}-----{content}-----END {label}-----\n"


def certificate(folder: Path) -> Path:
    """Write the tests' certificate, which is its own authority, and return its file."""
    file = folder / "authority.pem"
    file.write_text(_pem("CERTIFICATE", _CERTIFICATE))
    return file


def tls_context() -> ssl.SSLContext:
    """Return what a TLS server needs."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    with tempfile.NamedTemporaryFile("w", suffix=".pem") as file:
        file.write(_pem("PRIVATE KEY", _KEY) + _pem("CERTIFICATE", _CERTIFICATE))
        file.flush()
        context.load_cert_chain(file.name)
    return context


def over_tls(script: Script) -> Script:
    """Run a script over TLS."""
    context = tls_context()

    def secured(connection: Connection) -> None:
        connection.start_tls(context)
        script(connection)

    return secured
