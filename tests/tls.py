"""Serve a Redis over TLS: a proxy with a certificate that is sound, expired, not valid yet, or for another name."""

import asyncio
import contextlib
import socket
import ssl
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Literal, Self

from tests.deployment import LIMIT
from tests.rawserver import _CERTIFICATE, _KEY, _pem

Kind = Literal["sound", "expired", "early", "other name"]

# Self-signed with the key of tests.rawserver; the first three for localhost and 127.0.0.1, the last for redis.example.
CERTIFICATES: dict[Kind, str] = {
    "sound": _CERTIFICATE,
    "expired": """
MIIBkjCCATigAwIBAgIUKmiYNHKCPDvh7Al/CfFkGyz4bMgwCgYIKoZIzj0EAwIw
GTEXMBUGA1UEAwwOY2FsbHdhdGNoIHRlc3QwHhcNMjAwMTAxMDAwMDAwWhcNMjAw
MjAxMDAwMDAwWjAZMRcwFQYDVQQDDA5jYWxsd2F0Y2ggdGVzdDBZMBMGByqGSM49
AgEGCCqGSM49AwEHA0IABKLxkqveZX+eCK6oZmOaUT7xlMiJBM0q+LqFmV70outz
SjV7mMc2YHKmzj4oxErC9fcnhB1Y/vv4Mdn8syVdHmijXjBcMA8GA1UdEwEB/wQF
MAMBAf8wDgYDVR0PAQH/BAQDAgKEMBoGA1UdEQQTMBGCCWxvY2FsaG9zdIcEfwAA
ATAdBgNVHQ4EFgQUPAGV+fjQyBvTa612YJ8AMEbGFzAwCgYIKoZIzj0EAwIDSAAw
RQIgYMq6IH549HLRLh5pcyLpnPZFxw2fQWL9/aQzjYIJCfcCIQCdAB1k02S/VbBA
9vKq2HpCiBWz/F6QbNYymVSQgFE43w==
""",
    "early": """
MIIBljCCATygAwIBAgIUThwi2D1qjyPXPCYDpq9Ixmwe+zkwCgYIKoZIzj0EAwIw
GTEXMBUGA1UEAwwOY2FsbHdhdGNoIHRlc3QwIhgPMjEyNTAxMDEwMDAwMDBaGA8y
MTI2MDEwMTAwMDAwMFowGTEXMBUGA1UEAwwOY2FsbHdhdGNoIHRlc3QwWTATBgcq
hkjOPQIBBggqhkjOPQMBBwNCAASi8ZKr3mV/ngiuqGZjmlE+8ZTIiQTNKvi6hZle
9KLrc0o1e5jHNmByps4+KMRKwvX3J4QdWP77+DHZ/LMlXR5oo14wXDAPBgNVHRMB
Af8EBTADAQH/MA4GA1UdDwEB/wQEAwIChDAaBgNVHREEEzARgglsb2NhbGhvc3SH
BH8AAAEwHQYDVR0OBBYEFDwBlfn40Mgb02utdmCfADBGxhcwMAoGCCqGSM49BAMC
A0gAMEUCIB0njWp9XLhboWTNpSh4j4oXpmpmqz1aUYy2jEeZiWueAiEAjVKqn8wT
+LdO7nJxWkpFTIYfj51tFXiVetosRK5AClM=
""",
    "other name": """
MIIBkjCCATigAwIBAgIUIcqrCKf5UXiEB7+/Wg8fo686rzAwCgYIKoZIzj0EAwIw
GTEXMBUGA1UEAwwOY2FsbHdhdGNoIHRlc3QwIBcNMjYwMTAxMDAwMDAwWhgPMjEy
NjAxMDEwMDAwMDBaMBkxFzAVBgNVBAMMDmNhbGx3YXRjaCB0ZXN0MFkwEwYHKoZI
zj0CAQYIKoZIzj0DAQcDQgAEovGSq95lf54IrqhmY5pRPvGUyIkEzSr4uoWZXvSi
63NKNXuYxzZgcqbOPijESsL19yeEHVj++/gx2fyzJV0eaKNcMFowDwYDVR0TAQH/
BAUwAwEB/zAOBgNVHQ8BAf8EBAMCAoQwGAYDVR0RBBEwD4INcmVkaXMuZXhhbXBs
ZTAdBgNVHQ4EFgQUPAGV+fjQyBvTa612YJ8AMEbGFzAwCgYIKoZIzj0EAwIDSAAw
RQIgCiwyvtK72hqKV6JglRosBU2ce+sWnLfdSvpeAQak+FgCIQCBMZww5+Fap3dG
NhZBklenreldvIg5HqyGp/bIVqBjRg==
""",
}


def certificate_file(folder: Path, kind: Kind = "sound") -> Path:
    """Write a certificate and return its file: its own authority, as it is self-signed."""
    file = folder / f"{kind.replace(' ', '-')}.pem"
    file.write_text(_pem("CERTIFICATE", CERTIFICATES[kind]), encoding="ascii")
    return file


def key_file(folder: Path) -> Path:
    """Write the key of the certificates and return its file."""
    file = folder / "key.pem"
    file.write_text(_pem("PRIVATE KEY", _KEY), encoding="ascii")
    return file


def server_context(folder: Path, kind: Kind, *, asks: bool) -> ssl.SSLContext:
    """Return the TLS context of a server; `asks` requires a certificate from clients, signed like the sound one."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate_file(folder, kind), key_file(folder))
    if asks:
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(certificate_file(folder))
    return context


class TlsProxy:
    """Accept TLS on a port of this machine and pass the bytes on to `target`, a port without TLS."""

    def __init__(self, target: int, kind: Kind = "sound", *, asks: bool = False) -> None:
        self._target = target
        with tempfile.TemporaryDirectory() as name:
            self._context = server_context(Path(name), kind, asks=asks)
        self._ready = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()), daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        assert self._ready.wait(LIMIT)
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._over.set)
        self._thread.join()

    async def _serve(self) -> None:
        self._loop, self._over = asyncio.get_running_loop(), asyncio.Event()
        self._loop.set_exception_handler(lambda *_: None)  # a refused handshake is the purpose of a test
        server = await asyncio.start_server(self._pass_on, "127.0.0.1", 0, ssl=self._context)
        self.port = int(server.sockets[0].getsockname()[1])
        self._ready.set()
        await self._over.wait()
        server.close()

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        inner_reader, inner_writer = await asyncio.open_connection("127.0.0.1", self._target)
        ways = [asyncio.ensure_future(way) for way in (_copy(reader, inner_writer), _copy(inner_reader, writer))]
        try:
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for way in ways:
                way.cancel()
            for one in (writer, inner_writer):
                one.transport.abort()


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while data := await reader.read(65_536):
            writer.write(data)
            await writer.drain()


@contextlib.contextmanager
def refusing_server() -> Iterator[int]:
    """Listen on a port that requires a certificate of the client and refuses clients without one with an alert.

    asyncio, and so the proxy, closes such a connection without the alert.
    """
    with tempfile.TemporaryDirectory() as name, socket.create_server(("127.0.0.1", 0)) as listening:
        context = server_context(Path(name), "sound", asks=True)
        threading.Thread(target=_refuse, args=(listening, context), daemon=True).start()
        yield int(listening.getsockname()[1])
        listening.shutdown(socket.SHUT_RDWR)  # ends the thread


def _refuse(listening: socket.socket, context: ssl.SSLContext) -> None:
    with contextlib.suppress(OSError):
        while True:
            accepted, _ = listening.accept()
            accepted.settimeout(LIMIT)
            with context.wrap_socket(accepted, server_side=True, do_handshake_on_connect=False) as secured:
                with contextlib.suppress(ssl.SSLError):
                    secured.do_handshake()
                secured.shutdown(socket.SHUT_WR)
                while secured.recv(65_536):  # else the close would reset the connection, and the alert be lost
                    pass
