"""Parse a Redis URL, and write it in the forms of redis-py, kombu and Celery."""

from dataclasses import dataclass, field, replace
from urllib.parse import SplitResult, parse_qsl, quote, unquote, urlencode, urlsplit

from config.redis_options import check_options

_SHOULD_BE = (
    "should be redis://host:6379/0, rediss://host:6379/0, unix:///path?db=0, redis+socket:///path?virtual_host=0"
    " or sentinel://host1:26379,host2:26379/0?service=NAME (a password percent-encoded)"
)
_TCP, _SOCKET, _SENTINEL = ("redis", "rediss"), ("unix", "redis+socket"), "sentinel"
_PORTS = {"redis": 6379, "rediss": 6379, _SENTINEL: 26379}
_LONGEST_SCHEME = 20


@dataclass(frozen=True, slots=True)
class RedisUrl:
    """One Redis server and database, by its own address or by those of its Sentinels.

    The forms differ: kombu has no `unix://`, redis-py no `redis+socket://`, and neither has the form of `sentinel://`.
    """

    scheme: str
    userinfo: str = field(repr=False)
    location: str  # host and port, those of each Sentinel, or the path of a socket, percent-encoded
    database: int
    options: dict[str, str] = field(repr=False)

    @property
    def is_socket(self) -> bool:
        """Whether the server listens on a Unix domain socket."""
        return self.scheme in _SOCKET

    @property
    def service(self) -> str | None:
        """The name by which Sentinels know the primary; None for the address of a server."""
        return self.options["service"] if self.scheme == _SENTINEL else None

    @property
    def sentinels(self) -> tuple[tuple[str, int], ...]:
        """Host and port of each Sentinel."""
        places = (place.rpartition(":") for place in self.location.split(","))
        return tuple((host.strip("[]"), int(port)) for host, _, port in places)

    @property
    def credentials(self) -> tuple[str | None, str | None]:
        """The username and the password, decoded."""
        username, _, password = self.userinfo.removesuffix("@").partition(":")
        return unquote(username) or None, unquote(password) or None

    def is_encrypted(self, option: str = "ssl") -> bool:
        """Return whether connections to Redis use TLS; with `sentinel_ssl`, those to the Sentinels."""
        return self.scheme == "rediss" or self.options.get(option) == "true"

    @property
    def tls_options(self) -> dict[str, str]:
        """The options of TLS, for both kinds of connections of a `sentinel://` URL."""
        return {key: self.options[key] for key in self.options if key.startswith("ssl_")}

    def with_secrets_of(self, other: "RedisUrl") -> "RedisUrl":
        """Return this address with the credentials of another URL."""
        secrets = {key: other.options[key] for key in other.options if key.startswith("sentinel_")}
        return replace(self, userinfo=other.userinfo, options=self.options | secrets)

    def for_redis_py(self) -> str:
        """Return the URL for `redis.Redis.from_url`; for Sentinel that of the first one, as if it were the server."""
        if self.is_socket:
            return f"unix://{self.userinfo}{self.location}?{_query({'db': str(self.database)} | self.options)}"
        given = self.options
        if self.service:  # its options of TLS may be meant for the Sentinels alone
            given = self.tls_options if self.is_encrypted() else {}
        options = f"?{_query(given)}" if given else ""
        scheme = "rediss" if self.is_encrypted() else "redis"
        return f"{scheme}://{self.userinfo}{self._first}/{self.database}{options}"

    def for_celery(self) -> str:
        """Return the URL for `broker_url` and `result_backend`; of the options, Celery gets only those of TLS."""
        if self.is_socket:  # kombu overwrites `?db=` with 0
            return f"redis+socket://{self.userinfo}{self.location}?virtual_host={self.database}"
        if self.scheme != "rediss":
            return f"{self.scheme}://{self.userinfo}{self._first}/{self.database}"
        # Without this option Celery's result backend refuses TLS, and kombu does not verify the certificate.
        tls = {"ssl_cert_reqs": "required"} | self.tls_options
        return f"rediss://{self.userinfo}{self.location}/{self.database}?{_query(tls)}"

    @property
    def _first(self) -> str:
        return self.location.partition(",")[0]


def parse_redis_url(text: str) -> RedisUrl:
    """Return the parts of a Redis URL.

    Raises ValueError with the fault and the right form; it quotes nothing that could be a password.
    """
    try:
        parts = urlsplit(text)
    except ValueError:
        raise ValueError(f"has a host or port that cannot be read, {_SHOULD_BE}") from None
    if not text.isprintable() or " " in text or "://" not in text:
        raise ValueError(f"is no URL, {_SHOULD_BE}")
    if parts.scheme not in (*_TCP, *_SOCKET, _SENTINEL):
        raise ValueError(f"has the scheme {parts.scheme[:_LONGEST_SCHEME]!r}, {_SHOULD_BE}")
    options = dict(parse_qsl(parts.query, keep_blank_values=True))
    if parts.scheme in _SOCKET:
        location, database = _socket(parts), "0"
    else:
        location, database = _hosts_and_ports(parts), parts.path.strip("/") or "0"
    for name in options.keys() & {"ssl", "sentinel_ssl"}:
        options[name] = options[name].lower()
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


def _hosts_and_ports(parts: SplitResult) -> str:
    """Return host and port of a server, or those of each Sentinel, separated by commas."""
    places = parts.netloc.rpartition("@")[2]
    return ",".join(
        _host_and_port(place, _PORTS[parts.scheme])
        for place in (places.split(",") if parts.scheme == _SENTINEL else [places])
    )


def _host_and_port(place: str, port: int) -> str:
    try:
        parts = urlsplit(f"//{place}")
        port = parts.port or port
    except ValueError:
        raise ValueError(f"has a host or port that cannot be read, {_SHOULD_BE}") from None
    if not parts.hostname:  # no default: locks on two servers would let a phone ring twice
        raise ValueError(f"has no host, {_SHOULD_BE}")
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    return f"{host}:{port}"


def _userinfo(parts: SplitResult) -> str:
    username, password = (quote(unquote(part or ""), safe="") for part in (parts.username, parts.password))
    if not (username or password):
        return ""
    return f"{username}:{password}@" if password else f"{username}@"


def _query(options: dict[str, str]) -> str:
    return urlencode(options, quote_via=quote)
