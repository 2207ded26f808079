"""Configure Celery. The values were measured; see docs/adr/0004-celery-settings.md."""

from typing import Any

from kombu import Exchange, Queue

from config.settings import Settings
from worker.store.primary import primary_of

TRIGGER_QUEUE = "outbound.trigger"
POLL_QUEUE = "outbound.poll"
CONTROL_QUEUE = "outbound.control"
TASKS = {TRIGGER_QUEUE: "outbound.trigger", POLL_QUEUE: "outbound.poll", CONTROL_QUEUE: "outbound.lookup"}
"""Each queue accepts one task (S38)."""


def celery_config(settings: Settings) -> dict[str, Any]:
    """Return Celery's configuration."""
    broker = primary_of(settings.broker_url)
    transport_options = {
        # Seconds until a dead worker's message is delivered again; countdown and run time together must be shorter.
        "visibility_timeout": settings.visibility_timeout,
        "unacked_restore_interval": 5,  # kombu's default checks every 100 s
        "unacked_restore_throttle": 1,
        "unacked_mutex_expire": 30,
        "task_queues": TASKS,  # options of callwatch's transport, see worker/runtime/malformed.py and transport.py
        "leased_queues": (POLL_QUEUE,),
        "primary": broker,  # likewise, see worker/store/primary.py
        **({"master_name": broker.url.service} if broker.url.service else {}),  # for Flower's page of the broker
        "max_connections": settings.worker_concurrency + 16,  # with fewer, a burst loses acknowledgements
        "socket_timeout": 15,  # without it (the default) a publish can block for ever on a half-open connection
        "socket_connect_timeout": 5,
        "socket_keepalive": True,
        "health_check_interval": 25,
    }
    return {
        "broker_url": settings.celery_broker_url,
        "broker_transport_options": transport_options,
        "broker_connection_retry_on_startup": True,
        "broker_connection_max_retries": None,
        "result_backend": settings.celery_result_url,
        "result_backend_transport_options": {"primary": primary_of(settings.result_url)},
        "result_expires": settings.history_ttl,
        "redis_socket_timeout": 15,
        "redis_socket_connect_timeout": 5,
        "redis_socket_keepalive": True,
        "redis_backend_health_check_interval": 25,
        # JSON only (S38): any other content is refused unread.
        "task_serializer": "json",
        "result_serializer": "json",
        "event_serializer": "json",
        "accept_content": ["json"],
        "result_accept_content": ["json"],
        "enable_utc": True,
        # One queue for each task, so that waiting dials never delay polls.
        "task_queues": [Queue(name, Exchange(name), routing_key=name) for name in TASKS],
        "task_default_queue": CONTROL_QUEUE,
        "task_create_missing_queues": False,
        "task_routes": {task: queue for queue, task in TASKS.items()},
        # Acknowledged after the task: a dead worker's trigger is delivered again, and the claim drops duplicates (S17).
        "task_acks_late": True,
        "task_send_sent_event": False,
        "worker_send_task_events": True,  # except for polls: see CALLWATCH_POLL_EVENTS
        "worker_consumer": "worker.runtime.consumer:Consumer",
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
