"""Parse a Redis URL, and write it in the forms of redis-py, kombu and Celery."""

from dataclasses import dataclass
from urllib.parse import SplitResult, parse_qsl, quote, unquote, urlencode, urlsplit

from config.redis_options import check_options

_SHOULD_BE = (
    "should be redis://host:6379/0, rediss://host:6379/0, unix:///path?db=0 or redis+socket:///path?virtual_host=0"
    " (a password percent-encoded)"
)
_TCP, _SOCKET = ("redis", "rediss"), ("unix", "redis+socket")
_LONGEST_SCHEME = 20


@dataclass(frozen=True, slots=True)
class RedisUrl:
    """One Redis server and database. The forms differ: kombu has no `unix://`, redis-py no `redis+socket://`."""

    scheme: str
    userinfo: str
    location: str  # host and port, or the path of a socket, percent-encoded
    database: int
    options: dict[str, str]

    @property
    def is_socket(self) -> bool:
        """Whether the server listens on a Unix domain socket."""
        return self.scheme in _SOCKET

    def for_redis_py(self) -> str:
        """Return the URL for `redis.Redis.from_url`."""
        if self.is_socket:
            return f"unix://{self.userinfo}{self.location}?{_query({'db': str(self.database)} | self.options)}"
        options = f"?{_query(self.options)}" if self.options else ""
        return f"{self.scheme}://{self.userinfo}{self.location}/{self.database}{options}"

    def for_celery(self) -> str:
        """Return the URL for `broker_url` and `result_backend`; of the options, Celery gets only those of TLS."""
        if self.is_socket:  # kombu overwrites `?db=` with 0
            return f"redis+socket://{self.userinfo}{self.location}?virtual_host={self.database}"
        if self.scheme == "redis":
            return f"redis://{self.userinfo}{self.location}/{self.database}"
        # Without this option Celery's result backend refuses TLS, and kombu does not verify the certificate.
        tls = {"ssl_cert_reqs": "required"} | {key: self.options[key] for key in self.options if key.startswith("ssl_")}
        return f"rediss://{self.userinfo}{self.location}/{self.database}?{_query(tls)}"


def parse_redis_url(text: str) -> RedisUrl:
    """Return the parts of a Redis URL.

    Raises ValueError with the fault and the right form; it quotes nothing that could be a password.
    """
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError:
        raise ValueError(f"has a host or port that cannot be read, {_SHOULD_BE}") from None
    if not text.isprintable() or " " in text or "://" not in text:
        raise ValueError(f"is no URL, {_SHOULD_BE}")
    if parts.scheme not in (*_TCP, *_SOCKET):
        raise ValueError(f"has the scheme {parts.scheme[:_LONGEST_SCHEME]!r}, {_SHOULD_BE}")
    options = dict(parse_qsl(parts.query, keep_blank_values=True))
    if parts.scheme in _SOCKET:
        location, database = _socket(parts), "0"
    else:
        location, database = _host_and_port(parts, port), parts.path.strip("/") or "0"
    if "ssl_cert_reqs" in options:  # redis-py has only the short form, Celery both
        options["ssl_cert_reqs"] = options["ssl_cert_reqs"].lower().removeprefix("cert_")
    check_options(parts.scheme, options)
    for key in ("virtual_host", "db"):
        database = options.pop(key, database)
    if not (database.isascii() and database.isdigit()):
        raise ValueError(f"has a database that is no number, {_SHOULD_BE}")
    return RedisUrl(parts.scheme, _userinfo(parts), location, int(database), options)


def _socket(parts: SplitResult) -> str:
    path = unquote(parts.path)
    if parts.hostname or not path.strip("/"):
        raise ValueError(f"has no absolute path of a socket, {_SHOULD_BE}")
    return quote(path)


def _host_and_port(parts: SplitResult, port: int | None) -> str:
    if not parts.hostname:  # no default: locks on two servers would let a phone ring twice
        raise ValueError(f"has no host, {_SHOULD_BE}")
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    return f"{host}:{port or 6379}"


def _userinfo(parts: SplitResult) -> str:
    username, password = (quote(unquote(part or ""), safe="") for part in (parts.username, parts.password))
    if not (username or password):
        return ""
    return f"{username}:{password}@" if password else f"{username}@"


def _query(options: dict[str, str]) -> str:
    return urlencode(options, quote_via=quote)
