"""Check at the start of a process whether TLS keeps it from a Redis of its settings. The process itself retries."""

import logging

import redis

from config.redis_tls import explain_tls
from config.redis_url import parse_redis_url
from config.secret_files import place_of
from config.settings import Settings
from worker.store import connect

ANSWER_WITHIN = 3.0  # seconds to connect, and for the answer

log = logging.getLogger(__name__)


def report_tls_faults(settings: Settings) -> None:
    """Ping each Redis of the settings once; log one line with fault and remedy for each that TLS keeps away."""
    variables = {  # an address of several settings has the name of the last one
        settings.result_url: "CALLWATCH_RESULT_URL",
        settings.broker_url: "CALLWATCH_BROKER_URL",
        settings.redis_url: "CALLWATCH_REDIS_URL",
    }
    for address, variable in variables.items():
        url = parse_redis_url(address)
        client = connect(address, max_connections=1, limit=ANSWER_WITHIN)
        try:
            client.ping()
        except redis.RedisError as error:
            if fault := explain_tls(address, place_of(address, variable), error):
                log.error("Redis at %s: %s", url.location, fault)  # noqa: TRY400 - a trace explains nothing
        finally:
            client.close()
