"""The ways to a back end: a webhook, or a Celery task of its own."""

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

CONNECT, WHOLE = 3, 10  # seconds to connect, and for everything: as long as one hand is held by a silent receiver
GOOD = range(200, 300)


class Webhook:
    """POSTs notices to one address, signed. No redirects, no proxy of the environment, bounded in time and size.

    Of an answer the status counts: its body is neither read nor decompressed, for a few hundred bytes can stand for
    gigabytes (S39).
    """

    def __init__(self, url: str, *, secret: str) -> None:
        self._url = url
        self._secret = secret
        self._pool = urllib3.PoolManager(num_pools=1, maxsize=MAX_IN_FLIGHT)
        self._pool.pool_classes_by_scheme = {"http": BoundedHTTPConnectionPool, "https": BoundedHTTPSConnectionPool}

    def __call__(self, notice: Notice) -> None:
        """Hand a notice over: NotDelivered unless the answer is a success. Quotes neither address nor answer (S37)."""
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
            if response.length_remaining != 0:  # an unread body ends the connection
                response.close()
            response.release_conn()
        except Exception as error:  # noqa: BLE001 - also what the parsers beneath stumble over
            raise NotDelivered(type(error).__name__) from None
        if response.status not in GOOD:
            raise NotDelivered(f"HTTP {response.status}")


class TaskCall:
    """Enqueues a Celery task of the back end's, by name, with the notice as its kwarg `notice`."""

    def __init__(self, app: Celery, task: str, queue: str) -> None:
        self._app = app
        self._task = task
        self._queue = Queue(queue, Exchange(queue), routing_key=queue)  # as a worker of that queue declares it

    def __call__(self, notice: Notice) -> None:
        """Hand a notice over: NotDelivered where the broker does not take it."""
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
            raise NotDelivered(type(error.__cause__ or error).__name__) from None  # Redis' own word, if kombu has one
