"""Connect a command to Redis: read the settings, ping once, and explain a failure in one line."""

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING

import redis

from cli.ui.output import WRONG_USAGE, Failure
from config.redaction import redact
from config.redis_kinds import wrong_server
from config.redis_tls import cause, explain_tls, tls_fault
from config.secret_files import place_of
from config.setting_types import LOCAL_REDIS
from config.settings import Settings, SettingsError, load_settings

if TYPE_CHECKING:
    from worker.store import RedisStore

CONNECT_LIMIT = 3.0  # seconds to connect and for each answer: an operator waits for the command


def read_settings() -> Settings:
    """Return the settings; Failure (wrong usage) if they are invalid."""
    try:
        return load_settings()
    except SettingsError as error:
        raise Failure(str(error), exit_code=WRONG_USAGE) from None


def connect(url: str, *, decode: bool = True) -> redis.Redis:
    """Return a client for one command: short time-outs, no retry; it returns text, without `decode` bytes."""
    from worker.store.connection import connect as connect_store  # noqa: PLC0415 - `--help` must not wait for it

    return connect_store(url, limit=CONNECT_LIMIT, retries=0, decode=decode)


def require_redis(url: str, variable: str) -> None:
    """Ping the Redis at `url`; Failure names the `variable` to set if it does not answer."""
    client = connect(url)
    try:
        client.ping()
    except redis.RedisError as error:
        raise Failure(no_answer(url, variable, error)) from None
    finally:
        client.close()


def require_broker(settings: Settings) -> None:
    """Ping the broker, and the Redis of the results if it is another one; Failure if one does not answer."""
    require_redis(settings.broker_url, _variable("BROKER_URL", settings.broker_url, settings))
    if settings.result_url != settings.broker_url:
        require_redis(settings.result_url, _variable("RESULT_URL", settings.result_url, settings))


@contextlib.contextmanager
def open_store(settings: Settings) -> Iterator["RedisStore"]:
    """Yield the store of a deployment; Failure if its Redis does not answer, at the start or within the block."""
    require_redis(settings.redis_url, "CALLWATCH_REDIS_URL")
    from worker.container import build_store  # noqa: PLC0415
    from worker.core.interfaces import (  # noqa: PLC0415 - takes a second; not before Redis has answered
        StoreUnavailable,
        StoreUnconfirmed,
    )

    store = build_store(settings)
    try:
        yield store
    except StoreUnconfirmed as error:
        why = "a failover may undo it, see the line replicas of `callwatch doctor`"
        raise Failure(f"done, but not confirmed: {error}; {why}") from None
    except StoreUnavailable as error:
        raise Failure(no_answer(settings.redis_url, "CALLWATCH_REDIS_URL", error)) from None
    finally:
        store.client.close()


def bounded_store(settings: Settings) -> "RedisStore":
    """Return the store with short time-outs and without retries; sends no command yet."""
    from worker.container import terms  # noqa: PLC0415
    from worker.store import Keys, RedisStore  # noqa: PLC0415 - see open_store

    return RedisStore(connect(settings.redis_url), Keys(settings.key_prefix), terms(settings))


def no_answer(url: str, variable: str, error: BaseException) -> str:
    """Return one line about a Redis that does not serve: address with masked password, reason, remedy."""
    address, variable = redact(url), place_of(url, variable)
    if cause(error, redis.AuthenticationError) or "NOAUTH" in str(error):
        return f"Redis at {address} requires another password. Set {variable} with the right one."
    if fault := explain_tls(url, variable, error):
        return f"Redis at {address}: {fault}"
    if wrong := wrong_server(error):
        return f"Redis at {address} {wrong.kind}. {wrong.remedy.format(variable=variable)}."
    remedy = "This is the default: run the command in the folder of .env" if url == LOCAL_REDIS else "Start one"
    return f"Redis at {address} does not answer: {reason(error)}. {remedy}, or set {variable}."


def reason(error: BaseException) -> str:
    """Return why a server did not answer: the fault of TLS or the operating system's error text if there is one."""
    if fault := tls_fault(error):
        return f"TLS: {fault.reason}"
    system = cause(error, OSError)
    if isinstance(system, OSError) and system.strerror:
        return system.strerror.lower()
    if wrong := wrong_server(error):
        return f"it {wrong.kind}"
    if cause(error, TimeoutError, redis.TimeoutError):
        return "no answer in time"
    return redact(str(error) or type(error).__name__).rstrip(".")


def _variable(name: str, url: str, settings: Settings) -> str:
    return "CALLWATCH_REDIS_URL" if url == settings.redis_url else f"CALLWATCH_{name}"
