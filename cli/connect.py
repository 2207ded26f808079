"""The way from a command to Redis: the settings, a quick look whether it answers, and why it does not."""

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from cli.ui.output import WRONG_USAGE, Failure
from config.redaction import redact
from config.redis_url import parse_redis_url
from config.settings import Settings, SettingsError, load_settings

if TYPE_CHECKING:
    from worker.store import RedisStore

PATIENCE = 3.0  # seconds for a first answer: whoever types a command waits for it


def read_settings() -> Settings:
    """Return the settings; Failure, wrong usage, where they cannot be used."""
    try:
        return load_settings()
    except SettingsError as error:
        raise Failure(str(error), exit_code=WRONG_USAGE) from None


def connect(url: str) -> redis.Redis:
    """Return a client for one command: it asks once, and not for long."""
    return redis.Redis.from_url(
        parse_redis_url(url).for_redis_py(),
        decode_responses=True,
        socket_connect_timeout=PATIENCE,
        socket_timeout=PATIENCE,
        retry=Retry(NoBackoff(), 0),
    )


def require_redis(url: str, variable: str) -> None:
    """Return once the Redis at `url` has answered; Failure where it does not, naming the variable that would help."""
    client = connect(url)
    try:
        client.ping()
    except redis.RedisError as error:
        raise Failure(silence(url, variable, error)) from None
    finally:
        client.close()


def require_broker(settings: Settings) -> None:
    """Return once the broker has answered, and the results' Redis where that is another one."""
    require_redis(settings.broker_url, _variable("BROKER_URL", settings.broker_url, settings))
    if settings.result_url != settings.broker_url:
        require_redis(settings.result_url, _variable("RESULT_URL", settings.result_url, settings))


@contextlib.contextmanager
def open_store(settings: Settings) -> Iterator["RedisStore"]:
    """Give the store of a deployment; Failure where its Redis does not answer, then or later."""
    require_redis(settings.redis_url, "CALLWATCH_REDIS_URL")
    from worker.container import build_store  # noqa: PLC0415
    from worker.core.interfaces import StoreUnavailable  # noqa: PLC0415 - takes a second, which a silent Redis need not cost

    store = build_store(settings)
    try:
        yield store
    except StoreUnavailable as error:
        raise Failure(silence(settings.redis_url, "CALLWATCH_REDIS_URL", error)) from None
    finally:
        store.client.close()


def bounded_store(settings: Settings) -> "RedisStore":
    """Return the store over a client that asks once and not for long; nothing has been asked yet."""
    from worker.container import terms  # noqa: PLC0415
    from worker.store import Keys, RedisStore  # noqa: PLC0415 - as above

    return RedisStore(connect(settings.redis_url), Keys(settings.key_prefix), terms(settings))


def silence(url: str, variable: str, error: BaseException) -> str:
    """Return the line about a Redis that does not serve: where it is, its password masked, why, and what to do."""
    place = redact(url)
    if _caused_by(error, redis.AuthenticationError) or "NOAUTH" in str(error):
        return f"Redis at {place} wants another password. Set {variable} with the right one."
    return f"Redis at {place} does not answer: {reason(error)}. Start one, or set {variable}."


def reason(error: BaseException) -> str:
    """Return why Redis did not answer, in the system's words where it has any."""
    system = _caused_by(error, OSError)
    if isinstance(system, OSError) and system.strerror:
        return system.strerror.lower()
    if _caused_by(error, TimeoutError) or _caused_by(error, redis.TimeoutError):
        return "no answer in time"
    return redact(str(error) or type(error).__name__)


def _caused_by(error: BaseException | None, kind: type[BaseException]) -> BaseException | None:
    while error is not None and not isinstance(error, kind):
        error = error.__cause__ or error.__context__
    return error


def _variable(name: str, url: str, settings: Settings) -> str:
    return "CALLWATCH_REDIS_URL" if url == settings.redis_url else f"CALLWATCH_{name}"
