"""`callwatch doctor`: looks at everything at once, for a bounded time, and says what is not as it should be."""

import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from urllib.parse import urlsplit

import redis
import requests
from requests.utils import DEFAULT_CA_BUNDLE_PATH, select_proxy

from api_client.route import Route
from cli import checks
from cli.checks import Check
from cli.connect import PATIENCE, bounded_store, connect, reason, silence
from cli.exposure import exposure
from cli.ui.output import DONE, FAILED, say, say_json
from config.api_keys import KeysError, read_keys
from config.redaction import redact
from config.settings import Settings, SettingsError, load_settings
from worker.core.interfaces import StoreUnavailable

LIMIT = 7.0  # seconds for everything; what has not been answered by then is not well
QUEUES = ("outbound.trigger", "outbound.poll", "outbound.control")
PORTS = {"http": 80, "https": 443}

Probe = Callable[[], Iterator[Check]]


def doctor(*, as_json: bool) -> int:
    """Say how everything is; returns the exit code, 1 where something is amiss."""
    found = examine()
    ok = all(check.status != "FAIL" for check in found)
    if as_json:
        say_json({"ok": ok, "checks": [asdict(check) for check in found]})
    else:
        for check in found:
            say(f"{check.status:4} {check.check}: {check.detail}")
    return DONE if ok else FAILED


def examine() -> list[Check]:
    """Look at everything, the settings first: wrong ones leave nothing to look at."""
    try:
        settings = load_settings()
    except SettingsError as error:
        return [Check("settings", "FAIL", fault) for fault in error.faults]
    import worker.app  # noqa: F401, PLC0415 - reads the settings; takes time, which must not be taken for Redis' own

    probes: dict[str, Probe] = {
        "redis": lambda: look_at_store(settings),
        "broker": lambda: look_at_broker(settings),
        "results": lambda: look_at_results(settings),
        "upstream": lambda: iter((look_at_upstream(settings),)),
        "gateway": lambda: look_at_gateway(settings),
    }
    return [Check("settings", "ok", "valid"), *exposure(settings), *look(probes, limit=LIMIT)]


def look(probes: dict[str, Probe], *, limit: float) -> list[Check]:
    """Run the probes at the same time; what they have not said within `limit` seconds is a check that failed."""
    give_up = time.monotonic() + limit
    running = [(name, *_start(name, probe)) for name, probe in probes.items()]
    found: list[Check] = []
    for name, thread, checks_of_one in running:
        thread.join(max(0.0, give_up - time.monotonic()))
        late = [Check(name, "FAIL", f"not answered within {limit:g} s")] if thread.is_alive() else []
        found += [*checks_of_one, *late]
    return found


def _start(name: str, probe: Probe) -> tuple[threading.Thread, list[Check]]:
    found: list[Check] = []

    def run() -> None:
        try:
            found.extend(probe())
        except Exception as error:  # noqa: BLE001 - a diagnosis that breaks off diagnoses nothing
            found.append(Check(name, "FAIL", f"{type(error).__name__}: {reason(error)}"))

    thread = threading.Thread(target=run, name=f"doctor {name}", daemon=True)  # one that hangs keeps nobody waiting
    thread.start()
    return thread, found


# -- the probes --------------------------------------------------------------------------------------------------------


def look_at_store(settings: Settings) -> Iterator[Check]:
    """Look at the Redis of lock and records, and at what stands in it."""
    store = bounded_store(settings)
    try:
        yield from checks.state(store, settings)
    except StoreUnavailable as error:
        yield Check("redis", "FAIL", silence(settings.redis_url, "CALLWATCH_REDIS_URL", error))
    finally:
        store.client.close()


def look_at_broker(settings: Settings) -> Iterator[Check]:
    """Look at the broker, at what waits there, and at who takes it."""
    elsewhere = settings.broker_url != settings.redis_url
    client = connect(settings.broker_url)
    try:
        client.ping()
        if elsewhere:
            yield Check("broker", "ok", f"{redact(settings.broker_url)} answers")
        yield checks.queues(client, QUEUES)
    except redis.RedisError as error:
        if elsewhere:  # else it is said of the store's
            yield Check("broker", "FAIL", silence(settings.broker_url, "CALLWATCH_BROKER_URL", error))
        return  # Celery would try again for ever
    finally:
        client.close()
    yield checks.workers(checks.ask_workers(settings), QUEUES)


def look_at_results(settings: Settings) -> Iterator[Check]:
    """Look at the results' Redis, where that is another one."""
    if settings.result_url in (settings.redis_url, settings.broker_url):
        return
    client = connect(settings.result_url)
    try:
        client.ping()
        yield Check("results", "ok", f"{redact(settings.result_url)} answers")
    except redis.RedisError as error:
        yield Check("results", "FAIL", silence(settings.result_url, "CALLWATCH_RESULT_URL", error))
    finally:
        client.close()


def look_at_gateway(settings: Settings) -> Iterator[Check]:
    """Look at the API keys of the HTTP gateway, where there are any."""
    if not settings.gateway_keys_file:
        return
    try:
        keys = read_keys(Path(settings.gateway_keys_file).expanduser())
    except KeysError as error:
        yield Check("gateway keys", "FAIL", str(error))
        return
    names = ", ".join(f"{key.name} ({', '.join(sorted(key.scopes))})" for key in keys)
    yield Check("gateway keys", "ok" if keys else "warn", names or "none: no back end may use the gateway")
    if any("mint" in key.scopes for key in keys) and settings.gateway_token_secret is None:
        yield Check("gateway tokens", "warn", "a key may mint, and CALLWATCH_GATEWAY_TOKEN_SECRET is not set")


def look_at_upstream(settings: Settings) -> Check:
    """Connect to upstream, or to the proxy before it, and send nothing: no request, so nobody is called."""
    url = settings.api_base_url
    if url is None:
        return Check("upstream", "FAIL", "CALLWATCH_API_BASE_URL: missing, nothing can be dialled or asked")
    token = settings.api_token.get_secret_value() if settings.api_token else None
    try:
        Route(url, token=token, trust_env=settings.api_trust_env)
    except ValueError as error:
        return Check("upstream", "FAIL", f"CALLWATCH_API_BASE_URL: {error}")
    with requests.Session() as session:
        session.trust_env = settings.api_trust_env
        found = session.merge_environment_settings(url, {}, None, None, None)
    proxy = select_proxy(url, found["proxies"])
    target = urlsplit(proxy or url)
    host, port = target.hostname or "", target.port or PORTS[target.scheme]
    place = f"the proxy {host}:{port} before it" if proxy else f"{host}:{port}"
    try:
        _connect(host, port, bundle=found["verify"] if target.scheme == "https" else None)
    except OSError as error:
        return Check("upstream", "FAIL", f"{place} cannot be reached: {reason(error)}")
    return Check("upstream", "ok", f"{place} takes connections")


def _connect(host: str, port: int, *, bundle: object) -> None:
    """Connect and, with a bundle of certificates (True for the usual one), agree on TLS."""
    with socket.create_connection((host, port), timeout=PATIENCE) as connection:
        if bundle is None:
            return
        place = Path(bundle if isinstance(bundle, str) else DEFAULT_CA_BUNDLE_PATH)
        is_folder = place.is_dir()
        context = ssl.create_default_context(cafile=None if is_folder else place, capath=place if is_folder else None)
        with context.wrap_socket(connection, server_hostname=host):
            pass
