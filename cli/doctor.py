"""Check an installation within a bounded time: `callwatch doctor`."""

import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from itertools import chain
from pathlib import Path
from urllib.parse import urlsplit

import redis
import requests
from requests.utils import DEFAULT_CA_BUNDLE_PATH, select_proxy

from api_client.route import Route
from cli import checks
from cli.checks import Check
from cli.connect import CONNECT_LIMIT, bounded_store, connect, no_answer, reason
from cli.exposure import exposure
from cli.ui.output import DONE, FAILED, say, say_json
from cli.unread_queues import unread_queues
from config.api_keys import KeysError, read_keys
from config.redaction import redact
from config.settings import Settings, SettingsError, load_settings
from worker.core.interfaces import StoreUnavailable
from worker.runtime.malformed import MALFORMED_QUEUE

LIMIT = 7.0  # seconds for all probes together; a probe without a result by then is a FAIL
QUEUES = ("outbound.trigger", "outbound.poll", "outbound.control")
PORTS = {"http": 80, "https": 443}

Probe = Callable[[], Iterator[Check]]


def doctor(*, as_json: bool) -> int:
    """Print all checks; return the exit code, 1 if one is a FAIL."""
    found = examine()
    ok = all(check.status != "FAIL" for check in found)
    if as_json:
        say_json({"ok": ok, "checks": [asdict(check) for check in found]})
    else:
        for check in found:
            say(f"{check.status:4} {check.check}: {check.detail}")
    return DONE if ok else FAILED


def examine() -> list[Check]:
    """Run all checks; with invalid settings, only the check of the settings."""
    try:
        settings = load_settings()
    except SettingsError as error:
        return [Check("settings", "FAIL", fault) for fault in error.faults]
    import worker.app  # noqa: F401, PLC0415 - reads the settings; its import time must not count as latency of Redis

    probes: dict[str, Probe] = {
        "redis": lambda: probe_store(settings),
        "broker": lambda: probe_broker(settings),
        "results": lambda: probe_results(settings),
        "upstream": lambda: iter((probe_upstream(settings),)),
        "gateway": lambda: probe_gateway(settings),
    }
    return [Check("settings", "ok", "valid"), *exposure(settings), *run_probes(probes, limit=LIMIT)]


def run_probes(probes: dict[str, Probe], *, limit: float) -> list[Check]:
    """Run the probes concurrently; one without a result after `limit` seconds is a FAIL."""
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
        except Exception as error:  # noqa: BLE001 - one failed probe must not hide the others
            found.append(Check(name, "FAIL", f"{type(error).__name__}: {reason(error)}"))

    thread = threading.Thread(
        target=run, name=f"doctor {name}", daemon=True
    )  # daemon: a probe that hangs does not delay the exit
    thread.start()
    return thread, found


# -- the probes --------------------------------------------------------------------------------------------------------


def probe_store(settings: Settings) -> Iterator[Check]:
    """Check the Redis of locks and records, and the state in it."""
    store = bounded_store(settings)
    try:
        yield from checks.state(store, settings)
    except StoreUnavailable as error:
        yield Check("redis", "FAIL", no_answer(settings.redis_url, "CALLWATCH_REDIS_URL", error))
    finally:
        store.client.close()


def probe_broker(settings: Settings) -> Iterator[Check]:
    """Check the broker, its queues, and the workers that consume them."""
    elsewhere = settings.broker_url != settings.redis_url
    client = connect(settings.broker_url)
    try:
        client.ping()
        if elsewhere:
            yield Check("broker", "ok", f"{redact(settings.broker_url)} answers")
        yield checks.queues(client, QUEUES)
        yield checks.malformed(client)
    except redis.RedisError as error:
        if elsewhere:  # else the check of the store reports it
            yield Check("broker", "FAIL", no_answer(settings.broker_url, "CALLWATCH_BROKER_URL", error))
        return  # Celery would retry without end
    finally:
        client.close()
    consumed = checks.ask_workers(settings)
    yield checks.workers(consumed, QUEUES)
    with connect(settings.broker_url, decode=False) as raw:
        read = {*QUEUES, MALFORMED_QUEUE, settings.notice_queue, *chain.from_iterable(consumed.values())}
        yield unread_queues(raw, settings.key_prefix, read)


def probe_results(settings: Settings) -> Iterator[Check]:
    """Check the Redis of the results, if it is another one."""
    if settings.result_url in (settings.redis_url, settings.broker_url):
        return
    client = connect(settings.result_url)
    try:
        client.ping()
        yield Check("results", "ok", f"{redact(settings.result_url)} answers")
    except redis.RedisError as error:
        yield Check("results", "FAIL", no_answer(settings.result_url, "CALLWATCH_RESULT_URL", error))
    finally:
        client.close()


def probe_gateway(settings: Settings) -> Iterator[Check]:
    """Check the API keys of the HTTP gateway, if a file of keys is set."""
    if not settings.gateway_keys_file:
        return
    try:
        keys = read_keys(Path(settings.gateway_keys_file).expanduser())
    except KeysError as error:
        yield Check("gateway keys", "FAIL", str(error))
        return
    names = ", ".join(f"{key.name} ({', '.join(sorted(key.scopes))})" for key in keys)
    yield Check("gateway keys", "ok" if keys else "warn", names or "none: no back end can use the gateway")
    if any("mint" in key.scopes for key in keys) and settings.gateway_token_secret is None:
        yield Check("gateway tokens", "warn", "a key has the scope mint, but CALLWATCH_GATEWAY_TOKEN_SECRET is not set")


def probe_upstream(settings: Settings) -> Check:
    """Connect to upstream, or to its proxy, and send nothing: without a request, no phone rings."""
    url = settings.api_base_url
    if url is None:
        return Check("upstream", "FAIL", "CALLWATCH_API_BASE_URL: missing, no call can be placed or queried")
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
    address = f"the proxy {host}:{port}" if proxy else f"{host}:{port}"
    try:
        _connect(host, port, bundle=found["verify"] if target.scheme == "https" else None)
    except OSError as error:
        return Check("upstream", "FAIL", f"{address} cannot be reached: {reason(error)}")
    return Check("upstream", "ok", f"{address} accepts connections")


def _connect(host: str, port: int, *, bundle: object) -> None:
    """Connect; with a CA bundle (True: the default one), also complete the TLS handshake."""
    with socket.create_connection((host, port), timeout=CONNECT_LIMIT) as connection:
        if bundle is None:
            return
        bundle_path = Path(bundle if isinstance(bundle, str) else DEFAULT_CA_BUNDLE_PATH)
        is_folder = bundle_path.is_dir()
        context = ssl.create_default_context(
            cafile=None if is_folder else bundle_path, capath=bundle_path if is_folder else None
        )
        with context.wrap_socket(connection, server_hostname=host):
            pass
