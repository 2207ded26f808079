"""Check the addresses of the settings for unencrypted connections and for a shared Redis."""

from collections.abc import Iterator
from urllib.parse import urlsplit

from cli.checks import Check
from config.listening import is_loopback
from config.redis_url import parse_redis_url
from config.settings import Settings

CLEAR = ("http", "redis", "sentinel")


def exposure(settings: Settings) -> Iterator[Check]:
    """Check that connections to other hosts are encrypted, and that producers cannot fill the Redis of the state."""
    yield _encryption(settings)
    yield _sharing(settings)


def _encryption(settings: Settings) -> Check:
    addresses = {
        "CALLWATCH_API_BASE_URL": settings.api_base_url,
        "CALLWATCH_NOTICE_URL": settings.notice_url,
        "CALLWATCH_REDIS_URL": settings.redis_url,
        "CALLWATCH_BROKER_URL": settings.broker_url,
        "CALLWATCH_RESULT_URL": settings.result_url,
    }
    found: dict[str, str] = {}  # an address of two settings appears once
    for name, url in addresses.items():
        parts = urlsplit(url or "")
        if parts.scheme in CLEAR and not is_loopback(parts.hostname or "") and not _is_encrypted_by_option(url or ""):
            found.setdefault(f"{parts.scheme}://{parts.hostname}", name)
    if not found:
        return Check("encryption", "ok", "every connection to another host is encrypted")
    names = ", ".join(f"{name} ({origin})" for origin, name in found.items())
    why = "credentials and person ids can be read in transit; https:// and rediss:// encrypt"
    return Check("encryption", "warn", f"not encrypted to another host: {names}: {why}")


def _is_encrypted_by_option(url: str) -> bool:
    """Return whether the options of a `sentinel://` URL encrypt the connections to Redis."""
    return url.startswith("sentinel://") and parse_redis_url(url).is_encrypted()


def _sharing(settings: Settings) -> Check:
    state, broker = parse_redis_url(settings.redis_url), parse_redis_url(settings.broker_url)
    if (state.location, state.service) != (broker.location, broker.service):
        return Check("broker memory", "ok", "the queues have a Redis of their own")
    if settings.demo or state.is_socket or is_loopback(state.location.rpartition(":")[0]):
        return Check(
            "broker memory", "ok", "the queues share the Redis of the state, on this machine or in a demonstration"
        )
    why = "a producer can fill it, and with a full Redis no call is placed; CALLWATCH_BROKER_URL can name another"
    return Check("broker memory", "warn", f"the queues share the Redis of locks and records: {why}")
