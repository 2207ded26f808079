"""The route to upstream: its address, its credential, and the environment only if it is trusted (S39)."""

import base64
import ssl
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from api_client import CallRequest, NotSent, OutcomeUnknown, Rejected, Unavailable, UpstreamClient
from tests.on_a_loop import BOTH_WAYS
from tests.rawserver import (
    PATIENCE,
    Connection,
    RawServer,
    answers,
    assert_discreet,
    certificate,
    http,
    ok,
    tls_context,
    upstream,
)

REQUEST = CallRequest("C1", "M1")
STATUS = ok({"jobId": "J1", "callStatus": "Executing"})
PASSWORD = "s3cret"


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Ignore the proxies and credentials of this machine."""
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "none"))


def poll(client: UpstreamClient) -> None:
    assert client.status(case_ref="C1", job_id="J1").call_status == "Executing"


@pytest.mark.parametrize(
    "url",
    [
        "",
        "127.0.0.1:9015",
        "//127.0.0.1:9015",
        "http://",
        "http:///path",
        f"ftp://user:{PASSWORD}@127.0.0.1",
        f"http://user:{PASSWORD}@:9015",
        f"http://user:{PASSWORD}@127.0.0.1:port",
        f"http://user:{PASSWORD}@127.0.0.1:99999",
        f"http://user:{PASSWORD}@127.0.0.1:0",
        f"http://user:{PASSWORD}@[::1",
        f"http://user:{PASSWORD}@*.upstream.test",
        f"http://user:{PASSWORD}@.upstream.test",
        f"http://127.0.0.1/?token={PASSWORD}",
        f"http://127.0.0.1/#{PASSWORD}",
    ],
)
def test_invalid_address_is_refused_at_once(url: str) -> None:
    with pytest.raises(ValueError, match=r"^(base_url must|the upstream's address)") as caught:
        UpstreamClient(url)
    assert_discreet(caught.value.with_traceback(None), PASSWORD)


@pytest.mark.parametrize("token", ["two words", f"{PASSWORD}\r\nX-Header: y", "密码", " "])
def test_invalid_token_is_refused_at_once(token: str) -> None:
    with pytest.raises(ValueError, match=r"^token must") as caught:
        UpstreamClient("http://127.0.0.1:9015", token=token)
    assert_discreet(caught.value, PASSWORD)


@pytest.mark.parametrize("timeout", ["connect_timeout", "status_timeout", "call_timeout"])
def test_time_out_must_be_positive(timeout: str) -> None:
    with pytest.raises(ValueError, match="0"):
        UpstreamClient("http://127.0.0.1:9015", **{timeout: 0})  # type: ignore[arg-type]


@BOTH_WAYS
@pytest.mark.parametrize(
    ("path", "expected"),
    [("", ""), ("/", ""), ("/tenant/7", "/tenant/7"), ("/tenant/7/", "/tenant/7"), ("/案", "/%E6%A1%88")],
)
def test_an_address_may_carry_a_path(path: str, expected: str) -> None:
    with RawServer(answers(STATUS, STATUS), answers(ok([]))) as server:
        client = UpstreamClient(server.url + path)
        poll(client)
        client.dial(REQUEST, before_send=lambda: None)
        client.close()
    assert [request.split()[1].partition(b"?")[0].decode() for request in server.requests] == [
        f"{expected}/api/v1/outbound-bot/status",
        f"{expected}/api/v1/outbound-bot/call-v2",
    ]


def authorization(server: RawServer) -> str | None:
    lines = server.requests[-1].decode().split("\r\n")
    return next((line.partition(": ")[2] for line in lines if line.startswith("Authorization: ")), None)


BASIC = "Basic " + base64.b64encode(f"user:{PASSWORD}".encode()).decode()


@BOTH_WAYS
@pytest.mark.parametrize(
    ("in_address", "token", "trust_env", "expected"),
    [
        pytest.param(False, None, False, None, id="none"),
        pytest.param(False, "", False, None, id="an empty token is none"),
        pytest.param(False, "t0ken", False, "Bearer t0ken", id="token"),
        pytest.param(True, None, False, BASIC, id="password in the address"),
        pytest.param(True, "t0ken", False, "Bearer t0ken", id="the token goes before the address"),
        pytest.param(False, None, True, BASIC, id=".netrc where trusted"),
        pytest.param(False, "t0ken", True, "Bearer t0ken", id="the token goes before .netrc"),
    ],
)
def test_credential_of_the_configured_source_is_sent(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, *, in_address: bool, token: str | None, trust_env: bool,
    expected: str | None,
) -> None:  # fmt: skip
    netrc = tmp_path / "netrc"
    netrc.write_text(f"machine 127.0.0.1 login user password {PASSWORD}\n")
    netrc.chmod(0o600)
    monkeypatch.setenv("NETRC", str(netrc))
    with RawServer(answers(STATUS)) as server:
        url = server.url.replace("http://", f"http://user:{PASSWORD}@") if in_address else server.url
        client = UpstreamClient(url, token=token, trust_env=trust_env)
        poll(client)
        client.close()
    assert authorization(server) == expected


@pytest.fixture
def proxy(monkeypatch: pytest.MonkeyPatch) -> Iterator[RawServer]:
    """A proxy in the environment that answers by itself."""
    with RawServer(answers(STATUS)) as server:
        for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
            monkeypatch.setenv(name, server.url)
        yield server


@BOTH_WAYS
def test_proxy_of_the_environment_is_not_used(proxy: RawServer) -> None:
    with upstream(answers(STATUS), answers(ok([]))) as (server, client):
        poll(client)
        client.dial(REQUEST, before_send=lambda: None)
    assert (server.connections, proxy.connections) == (2, 0)


@BOTH_WAYS
def test_proxy_of_a_trusted_environment_is_used(proxy: RawServer) -> None:
    client = UpstreamClient("http://upstream.test/x", trust_env=True)
    poll(client)
    client.close()
    expected = (
        b"GET http://upstream.test/x/api/v1/outbound-bot/status?caseRef=C1&jobId=J1 HTTP/1.1\r\nHost: upstream.test"
    )
    assert proxy.requests[0].startswith(expected)


def test_no_byte_reaches_a_proxy_before_before_send(proxy: RawServer) -> None:
    """S18."""
    heard: list[bytes] = []
    client = UpstreamClient("http://upstream.test", trust_env=True)
    with pytest.raises(OutcomeUnknown):  # the proxy answers with a status
        client.dial(REQUEST, before_send=lambda: heard.append(proxy.accepted.get(timeout=PATIENCE).pending()))
    client.close()
    assert heard == [b""]
    assert proxy.requests[0].startswith(b"POST http://upstream.test/")


def tunnel(monkeypatch: pytest.MonkeyPatch, server: RawServer, bundle: Path) -> UpstreamClient:
    monkeypatch.setenv("HTTPS_PROXY", server.url.replace("http://", f"http://user:{PASSWORD}@"))
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(bundle))
    return UpstreamClient("https://localhost", trust_env=True, connect_timeout=5)


def tunnelling(script: Callable[[Connection], None], context: ssl.SSLContext) -> Callable[[Connection], None]:
    def connect(connection: Connection) -> None:
        connection.read_request()
        connection.send(b"HTTP/1.1 200 Connection established\r\n\r\n")
        connection.start_tls(context)
        script(connection)

    return connect


def test_before_send_waits_for_the_tunnel(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """S18: proxy, tunnel and TLS are established before upstream receives a byte."""
    heard: list[int] = []
    with RawServer(tunnelling(answers(ok([])), tls_context())) as server:
        client = tunnel(monkeypatch, server, certificate(tmp_path))
        client.dial(REQUEST, before_send=lambda: heard.append(len(server.requests)))
        client.close()
    assert heard == [1]
    connect, post = server.requests
    assert connect.startswith(b"CONNECT localhost:443 HTTP/1.")
    assert f"Proxy-Authorization: {BASIC}".encode() in connect
    assert post.startswith(b"POST /api/v1/outbound-bot/call-v2 HTTP/1.1")
    assert b"Proxy-Authorization" not in post


@BOTH_WAYS
def test_dial_with_a_refused_tunnel_is_not_sent(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """S12."""
    runs: list[None] = []
    with RawServer(answers(http(407))) as server:
        client = tunnel(monkeypatch, server, certificate(tmp_path))
        with pytest.raises(NotSent) as dialled:
            client.dial(REQUEST, before_send=lambda: runs.append(None))
        with pytest.raises(Unavailable) as read:
            poll(client)
        client.close()
    assert runs == []
    for error in (dialled.value, read.value):
        assert_discreet(error, PASSWORD, "localhost")


def test_refusal_by_a_forwarding_proxy_counts_as_upstreams(monkeypatch: pytest.MonkeyPatch) -> None:
    """S12: after a 4xx no call was started, also if the proxy answers it."""
    with RawServer(answers(http(407))) as server:
        monkeypatch.setenv("http_proxy", server.url)
        client = UpstreamClient("http://upstream.test", trust_env=True)
        with pytest.raises(Rejected):
            client.dial(REQUEST, before_send=lambda: None)
        client.close()


@pytest.mark.parametrize("url", [f"socks5://user:{PASSWORD}@127.0.0.1:1080", f"http://user:{PASSWORD}@:3128"])
def test_invalid_proxy_is_refused_at_once(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    """A SOCKS proxy would use connections without a gate."""
    monkeypatch.setenv("http_proxy", url)
    with pytest.raises(ValueError, match="unusable") as caught:
        UpstreamClient("http://upstream.test", trust_env=True)
    assert_discreet(caught.value.with_traceback(None), PASSWORD)


def test_a_missing_bundle_is_refused_at_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(tmp_path / "none.pem"))
    with pytest.raises(ValueError, match="FileNotFoundError"):
        UpstreamClient("https://upstream.test", trust_env=True)
