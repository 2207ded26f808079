"""Take one HTTP/1.1 answer apart as its bytes arrive, bounded in size (S39). Pure: no socket, no clock."""

import re

from api_client.transport import MAX_ANSWER_BYTES, AnswerTooLargeError

MAX_HEAD_BYTES = 64 * 1024
_STATUS_LINE = re.compile(rb"HTTP/1\.([01]) ([0-9]{3})(?: [^\r\n]*)?")
_LENGTH = re.compile(r"[0-9]+")
_CHUNK = re.compile(rb"([0-9A-Fa-f]{1,16})[ \t]*(?:;.*)?")
_PREFIX = b"HTTP/1."
_CONTINUE, _SWITCHED = 100, 101
_NO_BODY = frozenset({_SWITCHED, 204, 304})


class NotHttpError(Exception):
    """What arrives is no HTTP/1."""


class BrokenAnswerError(Exception):
    """The answer ends before its end, or contradicts itself about where that is."""


class AnswerReader:
    """Reads one answer: feed it until it is complete. `status`, `headers` and `body` are valid from then on."""

    def __init__(self) -> None:
        self.status = 0
        self.headers: dict[str, str] = {}
        self.body = b""
        self.keeps_alive = False
        """Whether the connection may carry another request: the answer ended where it said, and does not close it."""
        self._buffer = bytearray()
        self._size = 0
        self._length: int | None = None
        self._chunks: list[bytes] | None = None
        self._trailers = False
        self._in_body = False

    def feed(self, data: bytes) -> bool:
        """Take what arrived; returns whether the answer is complete.

        Raises AnswerTooLargeError, NotHttpError or BrokenAnswerError.
        """
        self._size += len(data)
        if self._size > MAX_ANSWER_BYTES:
            raise AnswerTooLargeError
        self._buffer += data
        while not self._in_body:
            if not self._read_head():
                return False
        return self._read_body()

    def end(self) -> None:
        """Take the end of the connection: it completes an answer without a length, and breaks any other one."""
        if not self._in_body or self._length is not None or self._chunks is not None:
            raise BrokenAnswerError
        self.body = bytes(self._buffer)

    def _read_head(self) -> bool:
        """Read one head, a preliminary one (100 Continue) or the answer's; returns False where it is not complete."""
        if not self._buffer.startswith(_PREFIX[: len(self._buffer)]):
            raise NotHttpError
        end = self._buffer.find(b"\r\n\r\n")
        if end < 0:
            if len(self._buffer) > MAX_HEAD_BYTES:
                raise AnswerTooLargeError
            return False
        first, *lines = bytes(self._buffer[:end]).split(b"\r\n")
        del self._buffer[: end + 4]
        match = _STATUS_LINE.fullmatch(first)
        if match is None:
            raise NotHttpError
        self.status = int(match[2])
        if _CONTINUE <= self.status < 200 and self.status != _SWITCHED:  # noqa: PLR2004  as HTTP counts
            return True
        self._read_headers(lines, persistent=match[1] == b"1")
        self._in_body = True
        return True

    def _read_headers(self, lines: list[bytes], *, persistent: bool) -> None:
        for line in lines:
            name, colon, value = line.decode("latin-1").partition(":")
            if not colon:
                continue
            key, value = name.strip().lower(), value.strip()
            if key == "content-length" and self.headers.get(key, value) != value:
                raise BrokenAnswerError
            self.headers[key] = value
        options = self.headers.get("connection", "").lower()
        self.keeps_alive = "close" not in options and (persistent or "keep-alive" in options)
        if self.status in _NO_BODY:
            self._length = 0
            self.keeps_alive &= self.status != _SWITCHED
        elif "chunked" in self.headers.get("transfer-encoding", "").lower():
            self._chunks = []
        elif "content-length" in self.headers:
            text = self.headers["content-length"]
            if not _LENGTH.fullmatch(text):
                raise BrokenAnswerError
            self._length = int(text)
            if self._length > MAX_ANSWER_BYTES:
                raise AnswerTooLargeError
        else:
            self.keeps_alive = False

    def _read_body(self) -> bool:
        if self._chunks is not None:
            return self._read_chunks(self._chunks)
        if self._length is None or len(self._buffer) < self._length:
            return False
        self.body = bytes(self._buffer[: self._length])
        self.keeps_alive &= len(self._buffer) == self._length  # more than was asked for: whose is it?
        return True

    def _read_chunks(self, chunks: list[bytes]) -> bool:
        while (end := self._buffer.find(b"\r\n")) >= 0:
            line = bytes(self._buffer[:end])
            if self._trailers:
                del self._buffer[: end + 2]
                if not line:
                    self.body = b"".join(chunks)
                    self.keeps_alive &= not self._buffer
                    return True
                continue
            match = _CHUNK.fullmatch(line)
            if match is None:
                raise BrokenAnswerError
            size = int(match[1], 16)
            if size > MAX_ANSWER_BYTES:
                raise AnswerTooLargeError
            if size == 0:
                del self._buffer[: end + 2]
                self._trailers = True
                continue
            after = end + 2 + size
            if len(self._buffer) < after + 2:
                return False
            if self._buffer[after : after + 2] != b"\r\n":
                raise BrokenAnswerError
            chunks.append(bytes(self._buffer[end + 2 : after]))
            del self._buffer[: after + 2]
        return False
