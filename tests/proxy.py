"""Disturb TCP connections: move them to another server, cut, stall or dribble them, or partition both sides."""

import contextlib
import socket
import struct
import threading
from typing import Self

CHUNK = 65_536


class Proxy:
    """TCP proxy to `port` of this machine that applies the configured faults.

    A new `target` applies to new connections; `cut` ends the existing ones. A target that does not listen refuses.
    """

    def __init__(self, port: int) -> None:
        self.target = port
        self.dribbles = False
        self.cut_within = b""  # the connection is cut once, in the middle of this text
        self.opened = 0
        self._flowing, self._reaching = threading.Event(), threading.Event()
        self.resume()
        self._ways: dict[tuple[socket.socket, socket.socket], int] = {}  # open directions per connection
        self._lock = threading.Lock()

    def __enter__(self) -> Self:
        self._listening = socket.create_server(("127.0.0.1", 0), backlog=512)
        self.port = int(self._listening.getsockname()[1])
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.resume()
        with contextlib.suppress(OSError):
            self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()
        self.cut()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def stall(self) -> None:
        """Withhold all responses from now on; the connections stay open."""
        self._flowing.clear()

    def partition(self) -> None:
        """Withhold everything in both directions; the connections stay open, as behind a router that drops packets."""
        self._reaching.clear()
        self._flowing.clear()

    def resume(self) -> None:
        """Deliver everything that was withheld."""
        self._reaching.set()
        self._flowing.set()

    def cut(self) -> None:
        """Reset every connection."""
        with self._lock:
            pairs = list(self._ways)
            self._ways.clear()
        for pair in pairs:
            for one in pair:
                self._reset(one)

    def _end(self, client: socket.socket, server: socket.socket) -> None:
        """Count one direction as ended, and close the connection after both."""
        with self._lock:
            left = self._ways.get((client, server), 0) - 1
            self._ways[client, server] = left
            if left <= 0:
                del self._ways[client, server]
        if left <= 0:
            client.close()
            server.close()

    @staticmethod
    def _reset(one: socket.socket) -> None:
        with contextlib.suppress(OSError):
            one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        with contextlib.suppress(OSError):
            one.shutdown(socket.SHUT_RDWR)
        one.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listening.accept()
                self.opened += 1
                try:
                    server = socket.create_connection(("127.0.0.1", self.target))
                except OSError:
                    self._reset(client)
                    continue
                for one in (client, server):
                    one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                with self._lock:
                    self._ways[client, server] = 2
                threading.Thread(target=self._pass, args=(client, server), daemon=True).start()
                threading.Thread(target=self._return, args=(server, client), daemon=True).start()

    def _pass(self, source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(CHUNK):
                self._reaching.wait()
                sink.sendall(data)
        with contextlib.suppress(OSError):
            sink.shutdown(socket.SHUT_WR)
        self._end(source, sink)

    def _return(self, source: socket.socket, sink: socket.socket) -> None:
        self._send_back(source, sink)
        with contextlib.suppress(OSError):
            sink.shutdown(socket.SHUT_WR)
        self._end(sink, source)

    def _send_back(self, source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(CHUNK):
                self._flowing.wait()
                middle = data.find(self.cut_within) + len(self.cut_within) // 2 if self.cut_within else 0
                if self.cut_within and self.cut_within in data:
                    self.cut_within = b""
                    sink.sendall(data[:middle])
                    self.cut()
                    return
                for part in [bytes([one]) for one in data] if self.dribbles else [data]:
                    sink.sendall(part)
