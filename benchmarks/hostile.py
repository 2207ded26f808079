"""Generate hostile HTTP responses from a seed: bytes, JSON, framing, compression, headers, pace."""

import gzip
import json
import random
import zlib
from collections.abc import Callable, Sequence
from typing import Any

from benchmarks.hostile_server import Answer

PERSON, PHONE, NAME, TALK = "person-secret-0001", "13812345678", "姓名：张三丰", "talk-secret"
SECRETS = ("person-secret", PHONE, "张三丰", TALK)
"""Texts that must not appear in a log (S37)."""
CONTROLS = ("\x00", "\x1b[2J\x1b[H", "\x9b31m", "\u202e逆序\u202c", "\u2028", "\ufeff", "\r\n2026 ERROR forged")
SHOWN: tuple[Any, ...] = (  # statuses and job ids are logged unmasked
    *(None, True, 0, -1, 1.5, 1e308, 10**17, 10**40, float("nan"), float("inf"), "", " ", "\ud800", "x" * 300),
    *([], {}, [[]], {"a": []}, "Succeeded", "Executing", PHONE, *CONTROLS),
)
IDS = tuple(value for value in SHOWN if value != PHONE)  # job ids appear whole in logs
JUNK: tuple[Any, ...] = (*SHOWN, PERSON, f"{NAME} {PERSON}", [PERSON] * 3, {"name": NAME, "script": TALK})
LONG = ("长" * 100_000, "\x1b[0m" * 50_000, PERSON * 10_000, "9" * 300_000)
FIELDS = ("message", "personId", "callStatus", "startTime", "callInterval", "jobId", "recordUrl", "conversations")
STATUSES = tuple(range(100, 600))
HEADERS: tuple[bytes, ...] = (
    *(b"Set-Cookie: %b x=1" % PERSON.encode(), b"Set-Cookie: \xff\x1b[2J=1; Domain=.", b"X: \x1b[2J\x9b31m"),
    *(b"X: " + b"y" * 100_000, b"Y" * 70_000 + b": x", b": empty", b"no colon", b"X:\x00y", b" folded: y"),
    *(b"Content-Type: text/html; charset=utf-7", b"Connection: upgrade\r\nUpgrade: websocket", b"Trailer: X"),
    *(b"Transfer-Encoding: gzip, chunked", b"Transfer-Encoding: identity", b"Content-Length: 3\r\nContent-Length: 5"),
    *(b"Date: " + PHONE.encode(), b"Refresh: 0; url=http://192.0.2.1/", b'Alt-Svc: h2=":443"', b"Link: <x>" * 900),
)
PAUSES = (
    b"300",
    b"-1",
    b"9" * 400,
    b"Thu, 99 Foo 99999 99:99:99 +9999",
    b"\xff",
    b"1e9",
    b"Mon, 1 Jan 0001 00:00:00 GMT",
)
LENGTHS = (b"-1", b"0x10", b"1e3", b"99999999999999999999999", b"9" * 5_000, b"", b"+5", b"5, 5", b"\xb2")
CLOSE = b"Connection: close"  # otherwise a client with a complete response keeps the connection
SURPLUS = 1024 * 1024  # bytes of unrequested responses
ZEROS = bytes(20_000_000)
BOMBS = (
    (b"gzip", gzip.compress(ZEROS)),
    (b"gzip, gzip", gzip.compress(gzip.compress(ZEROS))),
    (b"gzip", gzip.compress(gzip.compress(b'{"code": 200, "data": "' + b" " * 20_000_000 + b'"}'))),
    (b"deflate", zlib.compress(ZEROS)),
    (b"br", b"\x8b\xff\xff\x80" * 200),
    (b"zstd", b"\x28\xb5\x2f\xfd" * 200),
)


def http(status: int, body: bytes, *headers: bytes, length: bytes | None = None) -> bytes:
    """Return a response; `length` replaces the correct Content-Length, an empty one omits it."""
    size = str(len(body)).encode() if length is None else length
    lines = [b"HTTP/1.1 %d %b" % (status, PERSON.encode()), b"Content-Type: application/json", *headers]
    if size:
        lines.append(b"Content-Length: " + size)
    return b"\r\n".join([*lines, b"", b""]) + body


def envelope(data: Any, code: int = 200) -> bytes:
    """Return a response body with its envelope."""
    return json.dumps({"code": code, "message": f"{NAME} {PHONE}", "data": data}).encode()


def good(data: Any, code: int = 200) -> Answer:
    """Return the response of a correct upstream."""
    return Answer("good", [http(code, envelope(data, code))])


class Hostile:
    """Hostile variants of one true response (`data`, `code`), reproducible by seed.

    Redirects point to `elsewhere`. Without `pauses` no response has a `Retry-After`.
    """

    def __init__(self, seed: str, data: Any, code: int, *, elsewhere: str, pauses: bool = True) -> None:
        self._random = random.Random(seed)  # noqa: S311 - repeatable
        self._data, self._code = data, code
        self._elsewhere = elsewhere.encode()
        self._pauses = pauses

    @property
    def true(self) -> bytes:
        """The true response."""
        return http(self._code, envelope(self._data, self._code))

    def answer(self) -> Answer:
        """Return a response of a random kind."""
        return self._random.choice(KINDS)(self)

    def _pick(self, choices: Sequence[Any]) -> Any:
        return self._random.choice(choices)

    def _chance(self, share: float) -> bool:
        return self._random.random() < share

    def _some(self, most: int) -> int:
        return self._random.randrange(most)

    def noise(self) -> Answer:
        """Return random bytes, with or without a head."""
        body = self._random.randbytes(self._some(2_000))
        return Answer("noise", [self._pick((http(self._code, body), body))], "close")

    def cut(self) -> Answer:
        """Return the true response with some bytes replaced."""
        text, at = self.true, self._some(len(self.true))
        spoilt = text[:at] + self._random.randbytes(self._some(4)) + text[at + self._some(8) :]
        return Answer("bytes changed", [spoilt], "close")

    def replaced(self) -> Answer:
        """Return the true response with one field removed or of a wrong type."""
        whole = {"code": self._code, "message": "", "data": json.loads(json.dumps(self._data))}
        self._spoil(whole)
        return Answer("fields changed", [http(self._code, json.dumps(whole).encode())])

    def _spoil(self, value: Any) -> None:
        name = self._pick(list(value) if isinstance(value, dict) else range(len(value)))
        if isinstance(value[name], dict | list) and value[name] and self._chance(0.9):
            self._spoil(value[name])
        elif self._chance(0.1):
            del value[name]
        else:
            value[name] = self._pick({"callStatus": SHOWN, "jobId": IDS}.get(name, JUNK))

    def long(self) -> Answer:
        """Return very long texts and numbers."""
        text = self._pick(LONG)
        entry = {name: text if self._chance(0.3) else 1002 for name in FIELDS} | {"errorCode": self._some(3)}
        entry |= {"jobId": None, "callStatus": "x" * 300_000}
        body = self._pick(
            (envelope([entry], self._code), envelope(entry), b'{"code": 200, "data": %b}' % (b"9" * 5_000))
        )
        return Answer("long texts", [http(self._code, body)])

    def deep(self) -> Answer:
        """Return deeply nested lists or objects."""
        levels = self._pick((20, 190, 210, 1_000, 100_000))
        left, right = self._pick(((b"[", b"]"), (b'{"data":', b"}")))
        body = b'{"code": 200, "data": %b1%b}' % (left * levels, right * levels)
        return Answer("deep JSON", [http(200, body)])

    def crowd(self) -> Answer:
        """Return many small records."""
        record = self._pick((b"0", b"{}", b'{"errorCode":1002}', b'{"errorCode":0,"personId":"%b"}' % PERSON.encode()))
        body = b'{"code":201,"data":[%b]}' % b",".join([record] * 60_000)
        return Answer("60,000 records", [http(201, body)])

    def compressed(self) -> Answer:
        """Return bodies that expand a thousandfold, compressed once or twice."""
        label, body = self._pick(BOMBS)
        status = self._pick((200, 201, 500))
        return Answer("compressed bodies", [http(status, body, b"Content-Encoding: " + label)])

    def chunks(self) -> Answer:
        """Return chunks of one byte or invalid size, or endless extensions and trailers."""
        head = http(self._code, b"", CLOSE, b"Transfer-Encoding: chunked", length=b"")
        body = envelope(self._data, self._code)
        tiny = b"".join(b"1\r\n%b\r\n" % bytes([byte]) for byte in body)
        end = self._pick((b"0\r\n\r\n", b"fffffffffffffff\r\n", b"-1\r\n", b"zz\r\n", b"\r\n", b"0\r\nX: y\r\n\r\n"))
        if self._chance(0.7):
            return Answer("chunks", [head + tiny + end], self._pick(("hang", "close")))
        again = self._pick((b"1\r\n \r\n", b"1;" + b"x" * 1_000, b"0\r\nX: y\r\n", b"X: y\r\n"))
        return Answer("chunks without end", [head + tiny, again], "endless")

    def length(self) -> Answer:
        """Return a wrong or missing Content-Length."""
        body = envelope(self._data, self._code)
        size = self._pick((*LENGTHS, str(len(body) + 10).encode(), str(len(body) // 2).encode(), str(2**40).encode()))
        return Answer("wrong lengths", [http(self._code, body, CLOSE, length=size)], self._pick(("hang", "close")))

    def redirect(self) -> Answer:
        """Return a redirect, which the client must not follow."""
        places = (
            self._elsewhere,
            b"//" + self._elsewhere[7:],
            b"/again",
            b"file:///etc/passwd",
            b"http://" + b"x" * 9_000,
        )
        status = self._pick((300, 301, 302, 303, 307, 308))
        return Answer("redirects", [http(status, b"", b"Location: " + self._pick(places))])

    def headers(self) -> Answer:
        """Return invalid, long, or endless headers."""
        odd = [self._pick(HEADERS) for _ in range(self._some(4) + 1)]
        if self._chance(0.5):
            return Answer("odd headers", [http(self._code, envelope(self._data, self._code), *odd)])
        flood = self._pick((b"X: y\r\n", b"X-%b: y\r\n" % (b"z" * 60_000), b"Set-Cookie: a=b\r\n"))
        return Answer("headers without end", [b"HTTP/1.1 200 OK\r\n", flood], "endless")

    def interim(self) -> Answer:
        """Return many or endless interim (1xx) responses."""
        flood = b"HTTP/1.1 %d X\r\n%b\r\n" % (
            self._pick((100, 102, 103, 199)),
            self._pick((b"", b"Link: <x>\r\n" * 50)),
        )
        if self._chance(0.5):
            return Answer("interim answers", [flood * 50 + self.true])
        return Answer("interim answers without end", [flood, flood], "endless")

    def surplus(self) -> Answer:
        """Return the true response followed by unrequested ones, at once or a moment later."""
        more = self._pick((self.true, b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", b"x"))
        return Answer("answers unasked", [self.true, self._pick((0.0, 0.05)), more * (SURPLUS // len(more))])

    def status(self) -> Answer:
        """Return any status with the true body, an HTML body, or none."""
        code = self._pick(STATUSES)
        pause = [b"Retry-After: " + self._pick(PAUSES)] if self._pauses else []
        body = self._pick((envelope(self._data, self._code), b"", b"<html>" + PERSON.encode()))
        return Answer("any status", [http(code, body, CLOSE, *pause)], self._pick(("hang", "close")))

    def slow(self) -> Answer:
        """Send single bytes, or stall: at the start, in the head, or in the body."""
        text = self._pick((self.true, http(503, b" " * 500), http(200, b" " * 500)))
        begin = self._pick((0, 20, max(0, len(text) - 100)))
        drip = [part for at in range(begin, begin + 200) for part in (text[at : at + 1], 0.05)]
        return Answer("slow answers", [text[:begin], *self._pick((drip, [], [0.3, text[begin:-1]]))], "hang")

    def reset(self) -> Answer:
        """Reset the connection before or within the response."""
        text = self.true
        return Answer("broken connections", [text[: self._pick((0, 10, len(text) // 2, len(text) - 1))]], "reset")

    def endless(self) -> Answer:
        """Return an endless body."""
        head = http(self._pick((200, 201, 404, 500)), b"", length=self._pick((b"", str(2**31).encode())))
        return Answer("bodies without end", [head, self._pick((b" ", b"[", b'{"errorCode":1002},'))], "endless")


KINDS: tuple[Callable[[Hostile], Answer], ...] = (
    *(Hostile.noise, Hostile.cut, Hostile.cut, Hostile.replaced, Hostile.replaced, Hostile.replaced, Hostile.long),
    *(Hostile.deep, Hostile.crowd, Hostile.compressed, Hostile.compressed, Hostile.chunks, Hostile.length),
    *(Hostile.redirect, Hostile.headers, Hostile.interim, Hostile.surplus, Hostile.status, Hostile.status),
    *(Hostile.slow, Hostile.reset, Hostile.endless),
)
