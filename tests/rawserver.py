"""Serve raw bytes by script, one script per connection, and record all requests."""

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
"""Seconds after which a waiting test fails; no result depends on the value."""
_CONTENT_LENGTH = re.compile(rb"content-length: *([0-9]+)", re.IGNORECASE)


class Connection:
    """An accepted connection with the operations that scripts use."""

    def __init__(self, sock: socket.socket, server: "RawServer") -> None:
        sock.settimeout(PATIENCE)
        self._sock = sock
        self._server = server

    def read_request(self) -> bytes:
        """Read and record one request with its body; return b"" if the client has disconnected."""
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
        """Read the bytes that arrive first."""
        return self._sock.recv(65536)

    def send(self, data: bytes) -> None:
        """Send all bytes; set the server's `gone` if the client has disconnected."""
        try:
            self._sock.sendall(data)
        except OSError:
            self._server.gone.set()

    def drip(self, data: bytes) -> None:
        """Send 50 bytes a second until done, or until the client disconnects, which sets the server's `gone`."""
        for byte in data:
            self.send(bytes([byte]))
            if self.closed_within(0.02):
                self._server.gone.set()
                return

    def closed_within(self, seconds: float) -> bool:
        """Tell whether the client disconnects or sends within `seconds`."""
        return bool(select.select([self._sock], [], [], seconds)[0])

    def pending(self) -> bytes:
        """Return the bytes that have arrived and were not read; callable from any thread."""
        if not self.closed_within(0):
            return b""
        return self._sock.recv(65536, socket.MSG_PEEK)

    def start_tls(self, context: ssl.SSLContext) -> None:
        """Switch the connection to TLS."""
        self._sock = context.wrap_socket(self._sock, server_side=True)

    def reset(self) -> None:
        """Close the connection with RST instead of FIN."""
        self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close()

    def close(self) -> None:
        """Close the connection."""
        self._sock.close()


Script = Callable[[Connection], None]


class RawServer:
    """A loopback server; each connection runs the next of `scripts`, and the last one repeats."""

    def __init__(self, *scripts: Script) -> None:
        self._scripts = list(scripts)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._threads: list[threading.Thread] = []
        self._change = threading.Condition()
        self._ended = 0
        self.connections = 0
        """Number of accepted connections."""
        self.requests: list[bytes] = []
        """All raw requests, in order of arrival."""
        self.accepted: queue.Queue[Connection] = queue.Queue()
        """All connections, for tests that inspect one while its script runs."""
        self.gone = threading.Event()
        """Set when a script notices that the client has disconnected."""
        self._acceptor = threading.Thread(target=self._accept, daemon=True)
        self._acceptor.start()

    @property
    def port(self) -> int:
        """The listening port."""
        return int(self._listener.getsockname()[1])

    @property
    def url(self) -> str:
        """The address for plain HTTP."""
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
        except OSError:  # the connection broke: the test observes that on its own side
            pass
        finally:
            connection.close()
            with self._change:
                self._ended += 1
                self._change.notify_all()

    def wait_for_scripts(self, number: int = 1) -> None:
        """Wait until `number` scripts have ended and their connections are closed."""
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
    """Return an HTTP/1.1 response; encode other bodies than bytes as JSON; without `length` the body ends at close."""
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    lines = [f"HTTP/1.1 {status} Whatever", "Content-Type: application/json"]
    lines += [f"{name}: {value}" for name, value in (headers or {}).items()]
    if length:
        lines.append(f"Content-Length: {len(content)}")
    return "\r\n".join([*lines, "", ""]).encode() + content


def ok(data: object, *, code: int = 200, status: int = 200) -> bytes:
    """Return a successful upstream response with its envelope."""
    return http(status, {"code": code, "message": "success", "data": data})


def answers(*responses: bytes) -> Script:
    """Send the responses on one kept-alive connection, then wait until the client closes it."""

    def script(connection: Connection) -> None:
        for response in responses:
            if not connection.read_request():
                return
            connection.send(response)
        while connection.read_request():
            pass

    return script


def answers_and_closes(response: bytes) -> Script:
    """Send one response, then close the connection."""

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
    """Yield a server that runs `scripts` and a client connected to it."""
    with RawServer(*scripts) as server:
        client = UpstreamClient(server.url, **options)
        try:
            yield server, client
        finally:
            client.close()


@contextmanager
def full_backlog() -> Iterator[str]:
    """Yield the address of a server that never accepts and has a full backlog, so that connecting hangs."""
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
    """S37: assert a one-line message, and no address, query or member of `secrets` in it or its traceback."""
    assert "\n" not in str(error)
    text = "".join(traceback.format_exception(error, chain=True)[-1:]) + str(error.__cause__) + str(error.__context__)
    for secret in ("127.0.0.1", "?", "caseRef", *secrets):
        assert secret not in text


# Generated for these tests: self-signed for localhost and 127.0.0.1, of no use elsewhere.
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
    """Write the tests' self-signed certificate and return its file."""
    file = folder / "authority.pem"
    file.write_text(_pem("CERTIFICATE", _CERTIFICATE))
    return file


def tls_context() -> ssl.SSLContext:
    """Return a TLS server context with the tests' certificate."""
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
