"""Deliver notices to back ends: by a signed webhook, or by a Celery task of the back end."""

import time

import urllib3
from celery import Celery
from kombu import Exchange, Queue
from kombu.exceptions import OperationalError
from redis.exceptions import RedisError

from api_client.transport import BoundedHTTPConnectionPool, BoundedHTTPSConnectionPool
from worker.core.interfaces import NotDelivered
from worker.core.notice import Notice, signed_headers
from worker.flows.notify import MAX_IN_FLIGHT

CONNECT, WHOLE = 3, 10  # connect and total time-out in seconds: an unresponsive receiver blocks a thread for 10 s
GOOD = range(200, 300)


class Webhook:
    """POST signed notices to one address: without redirects or the environment's proxy, bounded in time and size.

    Only the status of an answer counts. Its body is neither read nor decompressed, because a few hundred compressed
    bytes can expand to gigabytes (S39).
    """

    def __init__(self, url: str, *, secret: str) -> None:
        self._url = url
        self._secret = secret
        self._pool = urllib3.PoolManager(num_pools=1, maxsize=MAX_IN_FLIGHT)
        self._pool.pool_classes_by_scheme = {"http": BoundedHTTPConnectionPool, "https": BoundedHTTPSConnectionPool}

    def __call__(self, notice: Notice) -> None:
        """Deliver a notice; NotDelivered unless the answer is a success. It quotes no address or answer (S37)."""
        body = notice.body()
        headers = {
            "Content-Type": "application/json",
            "User-Agent": "callwatch",
            **signed_headers(notice.id, body, secret=self._secret, now=time.time()),
        }
        try:
            response = self._pool.request(
                "POST",
                self._url,
                body=body,
                headers=headers,
                redirect=False,
                retries=False,
                preload_content=False,
                timeout=urllib3.Timeout(connect=CONNECT, total=WHOLE),
            )
            if response.length_remaining != 0:  # a connection with an unread body cannot be reused
                response.close()
            response.release_conn()
        except Exception as error:  # noqa: BLE001 - parsers of the library raise errors of many types
            raise NotDelivered(type(error).__name__) from None
        if response.status not in GOOD:
            raise NotDelivered(f"HTTP {response.status}")


class TaskCall:
    """Enqueue a Celery task of the back end by its name, with the notice as the kwarg `notice`."""

    def __init__(self, app: Celery, task: str, queue: str) -> None:
        self._app = app
        self._task = task
        self._queue = Queue(queue, Exchange(queue), routing_key=queue)  # as its worker declares it

    def __call__(self, notice: Notice) -> None:
        """Deliver a notice; NotDelivered if the broker does not accept it."""
        try:
            self._app.send_task(
                self._task,
                kwargs={"notice": notice.model_dump(mode="json")},
                queue=self._queue,
                task_id=f"notice-{notice.id}",
                argsrepr="()",
                kwargsrepr=f"{notice.kind} {notice.case_id}/{notice.mediation_id}",
                ignore_result=True,
                retry=False,
            )
        except (OperationalError, RedisError, OSError) as error:
            raise NotDelivered(type(error.__cause__ or error).__name__) from None  # Redis' error, if kombu wraps one
