"""The Celery application and its configuration. What stands here was measured; see docs/adr/0004-celery-settings.md."""

import logging
import os
import sys
from typing import Any

import kombu
from celery import Celery, signals
from kombu import Exchange, Queue

from api_client import GateBrokenError, check_gate
from config.log import configure_logging
from config.settings import Settings, SettingsError, load_settings
from worker import broker
from worker.consumer import take_no_commands

TRIGGER_QUEUE = "outbound.trigger"
POLL_QUEUE = "outbound.poll"
CONTROL_QUEUE = "outbound.control"
TASKS = {TRIGGER_QUEUE: "outbound.trigger", POLL_QUEUE: "outbound.poll", CONTROL_QUEUE: "outbound.lookup"}
"""The queues, and the one task that each takes (S38)."""

CELERY_VARIABLES = {
    *("BROKER_URL", "CELERY_BROKER_URL", "CELERY_BROKER_READ_URL", "CELERY_BROKER_WRITE_URL"),
    *("RESULT_BACKEND", "CELERY_RESULT_BACKEND", "CELERY_CONFIG_MODULE", "CELERY_LOADER"),
}


def celery_config(settings: Settings) -> dict[str, Any]:
    """Return Celery's configuration."""
    transport = {
        # How long a message of a dead worker stays away. Counted from delivery: countdown and run time must fit in.
        "visibility_timeout": settings.visibility_timeout,
        "unacked_restore_interval": 5,  # by default kombu looks every 100 s only
        "unacked_restore_throttle": 1,
        "unacked_mutex_expire": 30,
        "task_queues": TASKS,  # of our own transport, see worker/malformed.py
        "max_connections": settings.worker_concurrency + 16,  # too few lose acknowledgements in a burst
        "socket_timeout": 15,  # unset by default: a publish could hang for ever on a half-open connection
        "socket_connect_timeout": 5,
        "socket_keepalive": True,
        "health_check_interval": 25,
    }
    return {
        "broker_url": settings.celery_broker_url,
        "broker_transport_options": transport,
        "broker_connection_retry_on_startup": True,
        "broker_connection_max_retries": None,
        "result_backend": settings.celery_result_url,
        "result_expires": settings.history_ttl,
        "redis_socket_timeout": 15,
        "redis_socket_connect_timeout": 5,
        "redis_socket_keepalive": True,
        "redis_backend_health_check_interval": 25,
        # JSON only (S38): whatever else arrives is refused unread.
        "task_serializer": "json",
        "result_serializer": "json",
        "event_serializer": "json",
        "accept_content": ["json"],
        "result_accept_content": ["json"],
        "enable_utc": True,
        # A queue each, so that dials never stand in the way of polls.
        "task_queues": [Queue(name, Exchange(name), routing_key=name) for name in TASKS],
        "task_default_queue": CONTROL_QUEUE,
        "task_create_missing_queues": False,
        "task_routes": {task: queue for queue, task in TASKS.items()},
        # Acknowledged when done; the fence makes the second delivery harmless.
        "task_acks_late": True,
        "task_send_sent_event": False,
        "worker_send_task_events": True,  # those of polls excepted: see CALLWATCH_POLL_EVENTS
        "worker_consumer": "worker.consumer:Consumer",
        "worker_pool": settings.worker_pool,
        "worker_concurrency": settings.worker_concurrency,
        "worker_prefetch_multiplier": 1,
        "worker_disable_rate_limits": True,
        "worker_hijack_root_logger": False,
        "worker_redirect_stdouts": False,
        "worker_soft_shutdown_timeout": settings.dial_limit,
        "worker_enable_soft_shutdown_on_idle": True,
        "worker_cancel_long_running_tasks_on_connection_loss": False,
    }


def create_app(settings: Settings) -> Celery:
    """Return the application.

    Celery lets some variables of the environment overrule its configuration. A worker on another broker than its
    producers, or than the lock's Redis, is how people get rung twice: the settings alone decide.
    """
    broker.install()
    for name in CELERY_VARIABLES & os.environ.keys():
        logging.getLogger(__name__).warning(
            "%s is left out of account: the addresses are callwatch's own settings", name
        )
        del os.environ[name]
    application = Celery("callwatch", include=["worker.tasks", "worker.steps"], events=f"{broker.__name__}:Events")
    application.conf.update(celery_config(settings))
    return application


def _load() -> Settings:
    try:
        return load_settings()
    except SettingsError as error:  # one line, not the trace that Celery's command line would make of it
        sys.exit(str(error))


_settings = _load()
app = create_app(_settings)
every_poll_is_shown = _settings.poll_events == "all"


@signals.setup_logging.connect
def _configure_logging(**_: object) -> None:
    configure_logging(_settings)
    if not logging.getLogger().isEnabledFor(logging.DEBUG):
        for name in ("celery.worker.strategy", "celery.app.trace"):  # two lines a poll that say nothing of the call
            logging.getLogger(name).setLevel(logging.WARNING)
    logging.getLogger("celery.pool").setLevel(
        max(logging.INFO, logging.getLogger().level)
    )  # else it quotes bodies (S37)


@signals.celeryd_init.connect
def _take_no_commands(**_: object) -> None:
    take_no_commands()


@signals.celeryd_init.connect
def _check_kombu(**_: object) -> None:
    if not kombu.__version__.startswith(f"{broker.MADE_FOR_KOMBU}."):
        logging.getLogger(__name__).warning(
            "kombu %s is installed; the mends of its Redis transport were made for %s: a worker may not outlive its"
            " connection",
            kombu.__version__,
            broker.MADE_FOR_KOMBU,
        )


@signals.celeryd_init.connect
def _require_upstream(**_: object) -> None:
    if _settings.api_base_url is None:
        sys.exit("CALLWATCH_API_BASE_URL: missing, should be the upstream's address, like http://127.0.0.1:9015")


@signals.celeryd_init.connect
def _require_gate(**_: object) -> None:
    """Refuse to start where a call request could leave before `sending` is written (S18)."""
    try:
        check_gate()
    except GateBrokenError as error:
        sys.exit(f"{error}: no worker starts like this; install the versions that requirements.lock names")
