"""Put triggers on the queue, as any producer does: for the command line and the HTTP gateway."""

from dataclasses import dataclass
from typing import Any

from celery import Celery
from kombu.exceptions import OperationalError
from redis.exceptions import RedisError

from config.settings import Settings
from worker.core.messages import TriggerRequest, masked_kwargs
from worker.runtime.celery_config import TRIGGER_QUEUE, celery_config

TRIGGER_TASK = "outbound.trigger"


class NotPublished(Exception):  # noqa: N818 - named for what it is
    """The broker did not take a trigger, or did not say so; it may have it all the same."""


@dataclass(frozen=True, slots=True)
class Producer:
    """Publishes triggers over an application of Celery; it can be shared by threads."""

    application: Celery

    @classmethod
    def without_results(cls, settings: Settings, *, limit: float) -> "Producer":
        """Return one that subscribes to no result: one subscription for each trigger would stay for ever.

        The broker has `limit` seconds to answer.
        """
        application = Celery("callwatch-producer", set_as_current=False)
        config = celery_config(settings)
        limits = {"socket_timeout": limit, "socket_connect_timeout": limit}
        transport = config["broker_transport_options"] | limits
        application.conf.update(config | {"result_backend": "disabled://", "broker_transport_options": transport})
        return cls(application)

    def publish(self, request: TriggerRequest, *, task_id: str | None, expires: float) -> Any:
        """Enqueue a trigger that is dropped after `expires` seconds; return Celery's result of it.

        Raises NotPublished. It is tried once: the task id decides whether twice is once.
        """
        kwargs = request.model_dump()
        try:
            return self.application.send_task(
                TRIGGER_TASK,
                kwargs=kwargs,
                queue=TRIGGER_QUEUE,
                expires=expires,
                task_id=task_id,
                argsrepr="()",
                kwargsrepr=masked_kwargs(kwargs),
                retry=False,
            )
        except (OperationalError, RedisError, OSError) as error:
            raise NotPublished(str(error)) from error
