"""The route to upstream: its address, the headers, the proxy if any, and connection pools."""

import functools
import re
import ssl
from pathlib import Path
from typing import Any, cast
from urllib.parse import quote, urlencode, urlsplit

import requests
from requests.adapters import HTTPAdapter
from requests.utils import DEFAULT_CA_BUNDLE_PATH, prepend_scheme_if_needed, select_proxy
from urllib3 import HTTPConnectionPool
from urllib3.util.ssl_ import create_urllib3_context

from api_client.gate import Gate
from api_client.transport import (
    MAX_ANSWER_BYTES,
    BoundedHTTPConnectionPool,
    BoundedHTTPSConnectionPool,
    GatedHTTPConnectionPool,
    GatedHTTPSConnectionPool,
)

_READING = {"http": BoundedHTTPConnectionPool, "https": BoundedHTTPSConnectionPool}
_DIALLING = {"http": GatedHTTPConnectionPool, "https": GatedHTTPSConnectionPool}
API = "/api/v1/outbound-bot"
STATUS_PATH = f"{API}/status"
_TOKEN = re.compile(r"[!-~]+")


class _BoundedAdapter(HTTPAdapter):
    """An adapter with pools of these classes by scheme, with and without a proxy."""

    def __init__(self, pool_classes: Any, pool_size: int, tls: ssl.SSLContext) -> None:
        self._pool_classes = pool_classes
        self._tls = tls
        super().__init__(pool_connections=1, pool_maxsize=pool_size, max_retries=0)

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        super().init_poolmanager(*args, ssl_context=self._tls, **kwargs)
        self.poolmanager.pool_classes_by_scheme = self._pool_classes

    def proxy_manager_for(self, proxy: str, **kwargs: Any) -> Any:
        if not proxy.lower().startswith(("http://", "https://")):
            # A SOCKS proxy would use connections without gate and bounds.
            raise ValueError("the proxy must be an http or https one")
        manager = super().proxy_manager_for(proxy, ssl_context=self._tls, proxy_ssl_context=self._tls, **kwargs)
        manager.pool_classes_by_scheme = self._pool_classes
        return manager


class Route:
    """The route to one upstream, determined once: requests reads the environment (if trusted), urllib3 does the rest.

    Raises ValueError, without a credential in its text, if `base_url` or `token` is invalid.
    """

    def __init__(self, base_url: str, *, token: str | None, trust_env: bool, tls: ssl.SSLContext | None = None) -> None:
        _check(base_url, token)
        with requests.Session() as session:
            session.trust_env = trust_env
            session.headers.clear()
            try:
                self._base = session.prepare_request(_template(base_url, token))
                found = session.merge_environment_settings(base_url, {}, None, None, None)
                self._proxies = found["proxies"]
                self._tls = tls or _tls_context(_bundle(found["verify"]))
                adapter = _BoundedAdapter(_READING, 1, self._tls)
                self._prefix = adapter.request_url(self._base, self._proxies).rstrip("/")
                self.open_pool(1).close()
            except (ValueError, OSError) as error:
                kind = type(error).__name__  # its text contains addresses with passwords (S37)
                raise ValueError(f"the upstream's address or the way to it is unusable ({kind})") from None
        self.headers = dict(self._base.headers)
        parts = urlsplit(str(self._base.url))
        self._origin = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"
        self._path = parts.path.rstrip("/")
        proxy = select_proxy(str(self._base.url), self._proxies)
        self.proxy = proxy and prepend_scheme_if_needed(proxy, "http")  # type: ignore[no-untyped-call]
        """The address of the proxy, with its credentials; None without a proxy."""
        self.tls = self._tls

    def open_pool(self, size: int, *, max_answer: int = MAX_ANSWER_BYTES) -> HTTPConnectionPool:
        """Return a new pool of `size` connections for reads; an answer has at most `max_answer` bytes."""
        pool = self._pool(_READING, size)
        pool.conn_kw["max_answer"] = max_answer
        return pool

    def open_dial(self, gate: Gate) -> HTTPConnectionPool:
        """Return a new pool for one dial; its connections send no byte before this gate permits it."""
        pool = cast("GatedHTTPConnectionPool", self._pool(_DIALLING, 1))
        pool.use(gate)  # a pool of another class has no such method: nothing is sent
        return pool

    def _pool(self, pool_classes: Any, size: int) -> HTTPConnectionPool:
        adapter = _BoundedAdapter(pool_classes, size, self._tls)
        return cast(
            "HTTPConnectionPool",
            adapter.get_connection_with_tls_context(self._base, verify=True, proxies=self._proxies),
        )

    def target(self, path: str, query: dict[str, str] | None = None) -> str:
        """Return the target of the request line: `path` below the path of the base URL, with its query."""
        return f"{self._prefix}{path}" + (f"?{urlencode(query, quote_via=quote)}" if query else "")

    def url(self, path: str, query: dict[str, str]) -> str:
        """Return the URL of `path` below the path of the base URL, with its query and without credentials."""
        return f"{self._origin}{self._path}{path}?{urlencode(query, quote_via=quote)}"


def _check(base_url: str, token: str | None) -> None:
    try:
        parts = urlsplit(base_url)
        usable = parts.scheme in _READING and bool(parts.hostname) and parts.port != 0
    except ValueError:
        usable = False
    if not usable or parts.query or parts.fragment:
        raise ValueError("base_url must be http(s)://host[:port][/path], without query and fragment")
    if token and not _TOKEN.fullmatch(token):
        raise ValueError("token must consist of visible ASCII characters")


def _template(base_url: str, token: str | None) -> requests.Request:
    headers = {"Accept": "application/json", "Accept-Encoding": "identity", "User-Agent": "callwatch"}
    if not token:
        return requests.Request("GET", base_url, headers=headers)

    def bearer(request: requests.PreparedRequest) -> requests.PreparedRequest:
        # As auth, not as a header, which a .netrc or a password in the address would replace.
        request.headers["Authorization"] = f"Bearer {token}"
        return request

    return requests.Request("GET", base_url, headers=headers, auth=bearer)


def _bundle(verify: object) -> Path:
    return Path(verify if isinstance(verify, str) else DEFAULT_CA_BUNDLE_PATH)


@functools.cache  # loading a bundle takes a tenth of a second
def _tls_context(bundle: Path) -> ssl.SSLContext:
    """Return a TLS context that verifies upstream by this file or folder of authorities."""
    context = create_urllib3_context()
    if bundle.is_dir():
        context.load_verify_locations(capath=bundle)
    else:
        context.load_verify_locations(cafile=bundle)
    return context
