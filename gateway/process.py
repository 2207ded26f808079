"""Build a gateway from the settings, and serve it."""

import functools
import logging
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import redis
from fastapi import FastAPI

from config.log import configure_logging
from config.settings import Settings, words
from gateway import memory
from gateway.application import build
from gateway.assets import add_assets
from gateway.demo import TOKEN_LIVES, BackEnd, Simulator, add_demo
from gateway.door import Entrance
from gateway.feed import Feed
from gateway.hub import Hub
from gateway.identity import KeyRing, Tokens
from gateway.live_view import Setting
from gateway.metrics import Metrics
from gateway.server import key_file, listen, raise_open_files, serve
from gateway.service import Gateway, Limits
from gateway.triggers import Triggers
from worker.container import build_store
from worker.runtime.celery_config import TRIGGER_QUEUE
from worker.runtime.producer import Producer
from worker.runtime.redis_check import report_tls_faults
from worker.store import connect

log = logging.getLogger(__name__)

THREADS = 16
REDIS_LIMIT = 3.0  # seconds for a Redis command: a client waits for the response


def build_gateway(settings: Settings, host: str, *, alone: bool) -> Gateway:
    """Build a gateway; KeysError if the API keys cannot be read. It connects to Redis at the first request.

    `alone` means that only this machine can reach it.
    """

    def client(url: str) -> redis.Redis:
        return connect(url, max_connections=2 * THREADS, limit=REDIS_LIMIT)

    store, broker = build_store(settings, limit=REDIS_LIMIT), client(settings.broker_url)
    setting = Setting(settings.poll_interval, settings.enabled)
    metrics, threads = Metrics(), ThreadPoolExecutor(THREADS, thread_name_prefix="redis")
    feed = Feed(store, Hub(setting), threads, metrics, settings.poll_interval)
    producer = Producer.without_results(settings, limit=REDIS_LIMIT)
    prefix = f"/{settings.gateway_url_prefix}" if settings.gateway_url_prefix else ""
    own = f"[{host}]" if ":" in host else host
    secret, token = settings.gateway_token_secret, settings.metrics_token

    def queue_length() -> int:
        with store.translated():
            return int(str(broker.llen(TRIGGER_QUEUE)))

    return Gateway(
        store=store,
        triggers=Triggers(store, producer, client(settings.result_url), feed.now),
        feed=feed,
        keys=KeyRing(key_file(settings.gateway_keys_file)),
        tokens=Tokens(secret.get_secret_value() if secret else None),
        setting=setting,
        entrance=Entrance((*words(settings.gateway_hosts), own.lower()), words(settings.gateway_origins), prefix),
        metrics=metrics,
        threads=threads,
        limits=Limits.of(settings.gateway_rate),
        metrics_token=token.get_secret_value() if token else None,
        open_metrics=alone,
        queue_length=queue_length,
    )


def run(settings: Settings, gateway: Gateway, host: str, port: int) -> None:
    """Serve until a signal arrives; OSError if the port is not available."""
    configure_logging(settings.log_level, settings.log_format)
    logging.getLogger("uvicorn").setLevel(logging.WARNING)  # the gateway logs its own start
    listening = listen(host, port)
    place = f"[{host}]" if ":" in host else host
    sys.stdout.write(f"gateway: http://{place}:{listening.getsockname()[1]}\n")
    sys.stdout.flush()
    memory.settle()
    gateway.threads.submit(report_tls_faults, settings)
    log.info("at most %d open files, %d API keys", raise_open_files(), len(gateway.keys))
    serve(build(gateway, functools.partial(add_pages, settings, gateway)), listening, gateway.feed.close)


def add_pages(settings: Settings, gateway: Gateway, app: FastAPI) -> None:
    """Add the widget and, in a demonstration on loopback, the demo page."""
    add_assets(app, gateway.entrance.prefix)
    if settings.demo and settings.api_base_url and gateway.open_metrics:
        token = settings.api_token
        simulator = Simulator(settings.api_base_url, token.get_secret_value() if token else None)

        def mint(case_id: str) -> str:
            return gateway.tokens.mint("demo", [case_id], case_id, now=time.time(), lives=TOKEN_LIVES)[0]

        add_demo(app, BackEnd(simulator, gateway.triggers), mint, gateway.run)
