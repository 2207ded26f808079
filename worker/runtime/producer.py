"""Publish triggers for the command line and the HTTP gateway, like any other producer."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from celery import Celery
from kombu.exceptions import BatchPublishError, OperationalError
from redis.exceptions import RedisError

from config.settings import Settings
from worker.core.messages import TriggerRequest, masked_kwargs
from worker.runtime import transport
from worker.runtime.celery_config import TRIGGER_QUEUE, celery_config

TRIGGER_TASK = "outbound.trigger"


class NotPublished(Exception):  # noqa: N818 - the name states the condition
    """The broker did not confirm a trigger; it may have received it."""


@dataclass(frozen=True, slots=True)
class Producer:
    """Publish triggers through a Celery application; safe to share between threads."""

    application: Celery

    @classmethod
    def without_results(cls, settings: Settings, *, limit: float) -> "Producer":
        """Return a producer that subscribes to no results; subscriptions would otherwise accumulate.

        `limit` is the time-out of the broker in seconds.
        """
        transport.install()
        application = Celery("callwatch-producer", set_as_current=False)
        config = celery_config(settings)
        limits = {"socket_timeout": limit, "socket_connect_timeout": limit}
        options = config["broker_transport_options"] | limits
        application.conf.update(config | {"result_backend": "disabled://", "broker_transport_options": options})
        return cls(application)

    def publish(self, request: TriggerRequest, *, task_id: str | None, expires: float) -> Any:
        """Publish a trigger that expires after `expires` seconds; return its Celery result.

        Raises NotPublished. There is no retry: the caller may publish again safely under the same task id.
        """
        with _translated():
            return self._send(request, task_id=task_id, expires=expires)

    def publish_all(self, triggers: Iterable[tuple[TriggerRequest, str, float]]) -> None:
        """Enqueue triggers (request, task id, seconds until it expires) in one round trip, each as `publish` does.

        Raises NotPublished; any of them may be enqueued then.
        """
        with _translated(), self.application.producer_pool.acquire(block=True) as producer, producer.batch():
            for request, task_id, expires in triggers:
                self._send(request, task_id=task_id, expires=expires, producer=producer)

    def _send(self, request: TriggerRequest, *, task_id: str | None, expires: float, producer: Any = None) -> Any:
        kwargs = request.model_dump()
        return self.application.send_task(
            TRIGGER_TASK,
            kwargs=kwargs,
            queue=TRIGGER_QUEUE,
            expires=expires,
            task_id=task_id,
            argsrepr="()",
            kwargsrepr=masked_kwargs(kwargs),
            retry=False,
            producer=producer,
        )


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except (OperationalError, BatchPublishError, RedisError, OSError) as error:
        raise NotPublished(str(error)) from error
