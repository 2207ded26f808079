"""TLS to Redis: check the files of its options, and explain a connection that failed because of TLS in one line."""

import contextlib
import socket
import ssl
from collections.abc import Iterator
from dataclasses import dataclass

from config.redis_url import RedisUrl, parse_redis_url

PROBE_LIMIT = 1.0  # seconds to find out whether a server speaks TLS


@dataclass(frozen=True, slots=True)
class TlsFault:
    """Why TLS failed, and the remedy; `{variable}` stands for the setting with the address."""

    reason: str
    remedy: str


SPEAKS_TLS = TlsFault("the server speaks TLS on this port", "Begin {variable} with rediss://")
SPEAKS_PLAIN = TlsFault(
    "the server speaks no TLS on this port",
    "Use its TLS port, or begin {variable} with redis:// where the connection may be unencrypted",
)
_AUTHORITY = TlsFault(
    "the certificate of the server is signed by an authority that this machine does not know",
    "Name the file with that authority's certificate by the option ssl_ca_certs of {variable}",
)
_NAME = TlsFault(
    "the certificate of the server is for another host name",
    "Use a host name of the certificate in {variable}, or give the server a certificate for this one",
)
_CERTIFICATES = {  # by the codes of OpenSSL's X509_V_ERR_…
    9: TlsFault("the certificate of the server is not valid yet", "Correct the clock of this machine or of its issuer"),
    10: TlsFault("the certificate of the server has expired", "Renew it; if it is new, correct this machine's clock"),
    **dict.fromkeys((2, 18, 19, 20, 21), _AUTHORITY),
    **dict.fromkeys((62, 64), _NAME),
}
_CLIENT_MISSING = TlsFault(
    "the server requires a certificate of this client", "Add ssl_certfile and ssl_keyfile to {variable}"
)
CLOSED = TlsFault(  # where the server resets the connection, its alert is lost
    "the server closes the connection without an answer, like one that requires a certificate of this client",
    "Add ssl_certfile and ssl_keyfile to {variable}, or read the log of the server",
)
_CLIENT_REFUSED = TlsFault(
    "the server refuses the certificate of this client", "Renew the file that ssl_certfile in {variable} names"
)
_NOTHING_IN_COMMON = TlsFault(
    "the server has no TLS version or cipher in common with this machine", "Enable TLS 1.2 or 1.3 at the server"
)
_HANDSHAKE = TlsFault(  # in TLS 1.2 both reasons end in the same alert
    "the server refuses the handshake: it requires a certificate of this client, or has no cipher in common with it",
    "Add ssl_certfile and ssl_keyfile to {variable}, or enable TLS 1.3 at the server",
)
_HANDSHAKES = {  # by parts of OpenSSL's names; the first that occurs decides
    "WRONG_VERSION_NUMBER": SPEAKS_PLAIN,
    "CERTIFICATE_REQUIRED": _CLIENT_MISSING,
    "ALERT_UNKNOWN_CA": _CLIENT_REFUSED,
    "_CERTIFICATE": _CLIENT_REFUSED,
    "PROTOCOL": _NOTHING_IN_COMMON,
    "CIPHER": _NOTHING_IN_COMMON,
    "HANDSHAKE_FAILURE": _HANDSHAKE,
}


def check_tls_files(url: RedisUrl) -> None:
    """Raise ValueError if a file that the options of a `rediss://` URL name cannot be used."""
    authorities, certificate, key = map(url.options.get, ("ssl_ca_certs", "ssl_certfile", "ssl_keyfile"))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    if authorities is not None:
        with _named("ssl_ca_certs", authorities, "certificates in PEM"):
            context.load_verify_locations(authorities)
    if certificate is not None and key is None:
        with _named("ssl_certfile", certificate, "a certificate in PEM with its key"):
            context.load_cert_chain(certificate, password="")
    elif certificate is not None and key is not None:
        with _named("ssl_certfile", certificate, "a certificate in PEM"):
            context.load_verify_locations(certificate)  # names the file that is at fault: the next line reads both
        with _named("ssl_keyfile", key, "the key of ssl_certfile in PEM, without a passphrase"):
            context.load_cert_chain(certificate, key, password="")


@contextlib.contextmanager
def _named(option: str, path: str, content: str) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
        strerror = None if isinstance(error, ssl.SSLError) else getattr(error, "strerror", None)
        why = strerror or "no such content"
        raise ValueError(f"has the option {option}: {path} cannot be read ({why}), should hold {content}") from None


def tls_fault(error: BaseException | None) -> TlsFault | None:
    """Return the fault of TLS that an exception or one of its causes reports; None if it reports none. Pure."""
    found = cause(error, ssl.SSLError)
    if isinstance(found, ssl.SSLCertVerificationError):
        default = TlsFault(f"the certificate of the server is refused: {found.verify_message}", "Give it another one")
        return _CERTIFICATES.get(found.verify_code, default)
    name = getattr(found, "reason", None)
    if name is None or isinstance(found, ssl.SSLEOFError):  # also a server without TLS may close the connection
        return None
    default = TlsFault(f"the handshake failed ({name})", "Compare the options in {variable} with the server's")
    return next((fault for part, fault in _HANDSHAKES.items() if part in name), default)


def explain_tls(address: str, variable: str, error: BaseException) -> str | None:
    """Return why TLS failed and the remedy in one line; None if TLS is not the cause.

    `variable` is the setting with this address. A client and a server of which one speaks TLS fail like a lost
    connection: if the server was reached, this function connects once more and tries the other of the two.
    """
    fault = tls_fault(error)
    if fault is None and cause(error, ConnectionRefusedError, socket.gaierror) is None:
        fault = _probe(parse_redis_url(address), closed=_is_closed(error))
    return f"TLS: {fault.reason}. {fault.remedy.format(variable=variable)}." if fault else None


def cause(error: BaseException | None, *kinds: type[BaseException]) -> BaseException | None:
    """Return the first exception of one of the kinds among an exception and its causes."""
    while error is not None and not isinstance(error, kinds):
        error = error.__cause__ or error.__context__
    return error


def _is_closed(error: BaseException) -> bool:
    return cause(error, ssl.SSLEOFError, ConnectionResetError) is not None or "closed by server" in str(error)


def _probe(url: RedisUrl, *, closed: bool) -> TlsFault | None:
    """Return the fault that another connection shows; `closed`: the server has closed the first one."""
    if url.scheme == "redis" and _speaks(url, tls=True):
        return SPEAKS_TLS
    if url.scheme == "rediss" and _speaks(url, tls=False):
        return SPEAKS_PLAIN
    if url.scheme == "rediss" and closed and "ssl_certfile" not in url.options and _speaks(url, tls=True):
        return CLOSED
    return None


def _speaks(url: RedisUrl, *, tls: bool) -> bool:
    """Return whether a server speaks TLS, or plain Redis."""
    host, _, port = url.location.rpartition(":")
    try:
        with socket.create_connection((host.strip("[]"), int(port)), timeout=PROBE_LIMIT) as connection:
            if not tls:
                connection.sendall(b"PING\r\n")
                return connection.recv(1) in (b"+", b"-")
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE  # nothing is sent over it
            with context.wrap_socket(connection):
                return True
    except OSError:
        return False
