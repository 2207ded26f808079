"""The shared state in Redis, whole: every change of it is one atomic step."""

import redis

from worker.store.base import Steps, Terms
from worker.store.case_reads import CaseReads
from worker.store.case_steps import CaseSteps, Erased, NotErased
from worker.store.dispatch_steps import DispatchSteps
from worker.store.health import Health
from worker.store.keys import Keys
from worker.store.look_up_steps import LookUpSteps
from worker.store.poll_steps import PollSteps
from worker.store.request_steps import RequestSteps
from worker.store.settle_steps import SettleSteps
from worker.store.sweep_steps import SweepSteps
from worker.store.tallies import Tallies
from worker.store.trigger_steps import TriggerSteps
from worker.store.views import Views

__all__ = ["Erased", "Keys", "NotErased", "RedisStore", "Steps", "Terms", "connect"]


class RedisStore(
    TriggerSteps,
    SettleSteps,
    DispatchSteps,
    PollSteps,
    SweepSteps,
    LookUpSteps,
    CaseSteps,
    RequestSteps,
    CaseReads,
    Views,
    Health,
    Tallies,
):
    """The Store of worker.ports on a Redis 6.2 or newer, or a Valkey; it can be shared by threads."""


def connect(url: str, *, max_connections: int, limit: float = 15) -> redis.Redis:
    """Return a client for the store: bounded in time, so that a half-open connection never hangs a worker.

    An answer may take `limit` seconds; one silent retry over a fresh connection is safe: each step can be taken twice.
    """
    return redis.Redis.from_url(
        url,
        decode_responses=True,
        max_connections=max_connections,
        socket_timeout=limit,
        socket_connect_timeout=min(5, limit),
        socket_keepalive=True,
        health_check_interval=25,
        retry=redis.retry.Retry(redis.backoff.NoBackoff(), 1),
    )
