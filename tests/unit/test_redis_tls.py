"""TLS to Redis: the options of an address, the files that they name, and the line about each fault."""

import contextlib
import re
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import redis

from config import redis_tls
from config.redis_options import OPTIONS
from config.redis_tls import CLOSED, SPEAKS_PLAIN, SPEAKS_TLS, explain_tls, tls_fault
from config.redis_url import parse_redis_url
from config.settings import load_settings
from tests.oneline import fault_of
from tests.tls import certificate_file, key_file, server_context

VARIABLE = "CALLWATCH_REDIS_URL"


@pytest.fixture(autouse=True)
def own_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(
    ("url", "line"),
    [
        pytest.param(
            "rediss://u:s3cret@h:1/0?ssl_ca_cert=/ca",
            "has the option ssl_ca_cert, which rediss:// does not have, did you mean ssl_ca_certs?",
            id="misspelt",
        ),
        pytest.param(
            "redis://h:1/0?socket_timeout=5",
            "has the option socket_timeout, which redis:// does not have, should be one of db, virtual_host",
            id="of redis-py alone",
        ),
        pytest.param(
            "redis://h:1/0?ssl_ca_certs=/ca",
            "has the option ssl_ca_certs, but redis:// is not encrypted, should begin with rediss://",
            id="TLS without encryption",
        ),
        pytest.param(
            "unix:///run/r.sock?ssl_cert_reqs=none",
            "has the option ssl_cert_reqs, but unix:// is not encrypted, should begin with rediss://",
            id="TLS of a socket",
        ),
        pytest.param(
            "redis://h:1/0?s3cret@=1",
            "has the option with a name that is no word, which redis:// does not have,"
            " should be one of db, virtual_host",
            id="rest of a password",
        ),
        pytest.param(
            "rediss://h:1/0?ssl_ca_certs",
            "has the option ssl_ca_certs without a value, should be ssl_ca_certs=…",
            id="without a value",
        ),
        pytest.param(
            "rediss://h:1/0?ssl_cert_reqs=s3cret",
            "has another ssl_cert_reqs, should be one of required, optional, none",
            id="another value",
        ),
        pytest.param(
            "rediss://h:1/0?ssl_keyfile=/key",
            "has ssl_keyfile alone, should have ssl_certfile too",
            id="key without certificate",
        ),
    ],
)
def test_wrong_option_is_refused_by_its_name(monkeypatch: pytest.MonkeyPatch, url: str, line: str) -> None:
    assert fault_of(monkeypatch, VARIABLE, url) == f"{VARIABLE}: {line}"


@pytest.mark.parametrize("case", [str.lower, str.upper])
@pytest.mark.parametrize("value", ["required", "cert_required", "optional", "none", "cert_none"])
def test_both_forms_of_ssl_cert_reqs_are_known(
    monkeypatch: pytest.MonkeyPatch, value: str, case: Callable[[str], str]
) -> None:
    monkeypatch.setenv(VARIABLE, f"rediss://h:1/0?ssl_cert_reqs={case(value)}")
    url = parse_redis_url(load_settings().redis_url)
    assert url.options["ssl_cert_reqs"] == value.removeprefix("cert_")


def test_missing_and_unusable_files_are_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """At the start: redis-py would report them as a server that does not answer."""
    certificate, key = certificate_file(tmp_path), key_file(tmp_path)
    (tmp_path / "no.pem").write_text("no certificate")
    authority, own = "should hold certificates in PEM", "should hold a certificate in PEM with its key"
    of_certificate = "should hold the key of ssl_certfile in PEM, without a passphrase"
    for option, reason in (
        ("ssl_ca_certs=/none.pem", f"ssl_ca_certs: /none.pem cannot be read (No such file or directory), {authority}"),
        ("ssl_ca_certs=no.pem", f"ssl_ca_certs: no.pem cannot be read (no such content), {authority}"),
        ("ssl_certfile=/none.pem", f"ssl_certfile: /none.pem cannot be read (No such file or directory), {own}"),
        (f"ssl_certfile={certificate}", f"ssl_certfile: {certificate} cannot be read (no such content), {own}"),
        (
            f"ssl_certfile=/none.pem&ssl_keyfile={key}",
            "ssl_certfile: /none.pem cannot be read (No such file or directory), should hold a certificate in PEM",
        ),
        (
            f"ssl_certfile={certificate}&ssl_keyfile=/none.key",
            f"ssl_keyfile: /none.key cannot be read (No such file or directory), {of_certificate}",
        ),
        (
            f"ssl_certfile={certificate}&ssl_keyfile=no.pem",
            f"ssl_keyfile: no.pem cannot be read (no such content), {of_certificate}",
        ),
    ):
        url = f"rediss://u:s3cret@h:1/0?{option}"
        assert fault_of(monkeypatch, VARIABLE, url) == f"{VARIABLE}: has the option {reason}"
    whole = f"rediss://h:1/0?ssl_ca_certs={certificate}&ssl_certfile={certificate}&ssl_keyfile={key}"
    monkeypatch.setenv(VARIABLE, whole)
    assert load_settings().redis_url == whole


def refused_certificate(code: int, message: str = "") -> ssl.SSLCertVerificationError:
    error = ssl.SSLCertVerificationError(1, "certificate verify failed")
    error.verify_code, error.verify_message = code, message
    return error


def broken_handshake(reason: str) -> ssl.SSLError:
    error = ssl.SSLError(1, reason)
    error.reason = reason
    return error


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (refused_certificate(10), "the certificate of the server has expired"),
        (refused_certificate(9), "the certificate of the server is not valid yet"),
        (refused_certificate(18), "the certificate of the server is signed by an authority that this machine does not"),
        (refused_certificate(20), "the certificate of the server is signed by an authority that this machine does not"),
        (refused_certificate(62), "the certificate of the server is for another host name"),
        (refused_certificate(64), "the certificate of the server is for another host name"),
        (refused_certificate(23, "certificate revoked"), "the certificate of the server is refused: certificate revo"),
        (broken_handshake("WRONG_VERSION_NUMBER"), SPEAKS_PLAIN.reason),
        (broken_handshake("TLSV13_ALERT_CERTIFICATE_REQUIRED"), "the server requires a certificate of this client"),
        (broken_handshake("TLSV1_ALERT_UNKNOWN_CA"), "the server refuses the certificate of this client"),
        (broken_handshake("SSLV3_ALERT_BAD_CERTIFICATE"), "the server refuses the certificate of this client"),
        (broken_handshake("SSLV3_ALERT_CERTIFICATE_EXPIRED"), "the server refuses the certificate of this client"),
        (broken_handshake("TLSV1_ALERT_PROTOCOL_VERSION"), "the server has no TLS version or cipher in common"),
        (broken_handshake("NO_SHARED_CIPHER"), "the server has no TLS version or cipher in common"),
        (broken_handshake("SSLV3_ALERT_HANDSHAKE_FAILURE"), "the server refuses the handshake: it requires"),
        (broken_handshake("BAD_EXTENSION"), "the handshake failed (BAD_EXTENSION)"),
    ],
)
def test_fault_is_found_in_the_causes_of_an_error(error: ssl.SSLError, reason: str) -> None:
    outer = redis.ConnectionError("Error 1 connecting")
    outer.__context__ = error
    found = tls_fault(outer)
    assert found is not None
    assert found.reason.startswith(reason)
    line = explain_tls("rediss://h:1/0", VARIABLE, outer)
    assert line == f"TLS: {found.reason}. {found.remedy.format(variable=VARIABLE)}."


@pytest.mark.parametrize(
    "error",
    [
        redis.ConnectionError("Connection closed by server."),
        ssl.SSLEOFError(8, "EOF occurred"),
        ssl.SSLError("no reason"),
        OSError(),
    ],
)
def test_error_without_a_reason_of_tls_is_no_fault_of_tls(error: Exception) -> None:
    assert tls_fault(error) is None


@pytest.fixture
def listening() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(5)  # a client that does not come fails the test instead of stopping it
        yield server


def answer_once(listening: socket.socket, answer: Callable[[socket.socket], object]) -> threading.Thread:
    """Let a thread accept one connection and answer it."""

    def accept() -> None:
        with contextlib.suppress(TimeoutError):
            accepted, _ = listening.accept()
            with accepted:
                answer(accepted)

    thread = threading.Thread(target=accept)
    thread.start()
    return thread


LOST = redis.ConnectionError("Connection closed by server.")


@pytest.mark.parametrize("reply", [b"+PONG\r\n", b"-NOAUTH Authentication required.\r\n", b"HTTP/1.1", b""])
def test_server_without_tls_is_recognized_by_its_answer(listening: socket.socket, reply: bytes) -> None:
    def answer(accepted: socket.socket) -> None:
        accepted.recv(100)
        accepted.sendall(reply)

    thread = answer_once(listening, answer)
    line = explain_tls(f"rediss://127.0.0.1:{listening.getsockname()[1]}/0", VARIABLE, LOST)
    thread.join()
    assert (line is not None) is reply.startswith((b"+", b"-"))
    assert line is None or line.startswith(f"TLS: {SPEAKS_PLAIN.reason}. ")


@pytest.mark.parametrize("secure", [True, False])
def test_server_with_tls_is_recognized_by_its_handshake(listening: socket.socket, tmp_path: Path, secure: bool) -> None:
    def answer(accepted: socket.socket) -> None:
        if secure:
            server_context(tmp_path, "expired", asks=False).wrap_socket(accepted, server_side=True).close()
        else:
            accepted.recv(1_000)

    thread = answer_once(listening, answer)
    line = explain_tls(f"redis://u:s3cret@127.0.0.1:{listening.getsockname()[1]}/0", VARIABLE, LOST)
    thread.join()
    assert line == (f"TLS: {SPEAKS_TLS.reason}. Begin {VARIABLE} with rediss://." if secure else None)


@pytest.mark.parametrize(
    ("url", "error"),
    [
        ("redis://127.0.0.1:1/0", ConnectionRefusedError()),
        ("redis://h.invalid:1/0", socket.gaierror()),
        ("unix:///run/r.sock", FileNotFoundError()),
    ],
)
def test_server_that_was_not_reached_is_not_connected_to_again(
    monkeypatch: pytest.MonkeyPatch, url: str, error: Exception
) -> None:
    monkeypatch.setattr(redis_tls, "_speaks", lambda *_, **__: pytest.fail("connected again"))
    assert explain_tls(url, VARIABLE, error) is None


@pytest.mark.parametrize(
    ("options", "error", "found"),
    [
        pytest.param("", LOST, True, id="closed"),
        pytest.param("", ssl.SSLEOFError(8, "EOF occurred"), True, id="end of file"),
        pytest.param("", ConnectionResetError(), True, id="reset"),
        pytest.param("", TimeoutError(), False, id="no answer"),
        pytest.param("?ssl_certfile=/own.pem", LOST, False, id="with a certificate"),
    ],
)
def test_connection_closed_after_the_handshake_names_the_certificate_of_the_client(
    listening: socket.socket, tmp_path: Path, options: str, error: Exception, found: bool
) -> None:
    """In TLS 1.3 the server refuses a client after its handshake, and the alert may be lost."""

    def answer(accepted: socket.socket) -> None:
        with contextlib.suppress(OSError):  # the first connection sends a plain PING
            server_context(tmp_path, "sound", asks=True).wrap_socket(accepted, server_side=True)

    threads = [answer_once(listening, answer) for _ in range(2 if found else 1)]
    line = explain_tls(f"rediss://u:s3cret@127.0.0.1:{listening.getsockname()[1]}/0{options}", VARIABLE, error)
    for thread in threads:
        thread.join()
    assert line == (f"TLS: {CLOSED.reason}. {CLOSED.remedy.format(variable=VARIABLE)}." if found else None)


def test_page_has_every_option_and_quotes_every_fault() -> None:
    page = (Path(__file__).parents[2] / "docs" / "redis.md").read_text(encoding="utf-8")
    options, faults = page.split("## TLS")[1].split("## Rotation")[0].split("\n| fault |")
    rows = re.findall(r"^\| (`.*?`) \| (.*) \|$", options, flags=re.MULTILINE)
    named = {name for cell, _ in rows for name in re.findall(r"`(\w+)`", cell)}
    assert named == {*OPTIONS["rediss"]}
    quoted = re.findall(r"^\| [^|]+ \| ([^|]+) \| [^|]+ \|$", faults, flags=re.MULTILINE)[1:]
    errors = [refused_certificate(code) for code in (10, 9, 18, 62)]
    reasons = [fault.reason for error in errors if (fault := tls_fault(error))]
    reasons += [
        SPEAKS_TLS.reason,
        SPEAKS_PLAIN.reason,
        CLOSED.reason,
        "the server requires a certificate of this client",
    ]
    parts = [part for cell in quoted for part in cell.split(", ")]
    assert [part for part in parts if not any(part in reason for reason in reasons)] == []
