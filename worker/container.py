"""Container of the adapters, built once per process: Redis, upstream, clock, owner tokens; it builds the flows."""

import functools
import os
import secrets
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass

from api_client import UpstreamClient
from config.settings import Settings, load_settings
from worker.core.decision import Policy
from worker.core.interfaces import Clock, Notify, Publish, PublishPolls, Upstream
from worker.flows.dial import Dial
from worker.flows.dispatch import Dispatcher
from worker.flows.lookup import LookUpFlow
from worker.flows.poll import PollFlow
from worker.flows.sweep import Sweep
from worker.flows.throttle import ThrottledUpstream
from worker.flows.trigger import TriggerFlow
from worker.runtime.poll_executor import PollExecutor
from worker.store import Keys, RedisStore, Terms, connect

UPTIME = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)  # Linux' monotonic clock stands while a machine sleeps
STORE_CONNECTIONS_SPARE = 16  # beyond two for each thread of the pool: for the sweep, the notifier and the dispatcher


class SystemClock:
    """The process's own clock."""

    def monotonic(self) -> float:
        """Return seconds since an arbitrary moment; they advance while the process or the machine is suspended."""
        return time.clock_gettime(UPTIME)

    def sleep(self, seconds: float) -> None:
        """Block the thread for `seconds`."""
        time.sleep(seconds)


@dataclass(frozen=True, slots=True)
class Container:
    """The settings and adapters of one process, and the flows built from them."""

    settings: Settings
    store: RedisStore
    upstream: Upstream
    clock: Clock

    @property
    def throttled_upstream(self) -> Upstream:
        """The upstream client for queries outside a poll: it waits for the status rate limit."""
        return ThrottledUpstream(self.upstream, self.store, self.clock)

    def trigger_flow(self) -> TriggerFlow:
        """Build the flow of a trigger."""
        settings = self.settings
        dial = Dial(self.store, self.throttled_upstream, self.clock, settings.poll_interval, settings.hours)
        return TriggerFlow(dial, settings.enabled, new_token)

    def look_up_flow(self) -> LookUpFlow:
        """Build the flow of a look-up."""
        return LookUpFlow(self.store, self.throttled_upstream, self.settings.poll_interval)

    def sweep(self, publish: Publish) -> Sweep:
        """Build the flow of the sweep; host name and process id name the owner of the leader lock."""
        return Sweep(
            store=self.store,
            publish=publish,
            owner=f"{socket.gethostname()}:{os.getpid()}",
            interval=self.settings.sweep_interval,
            new_token=new_token,
        )

    def dispatcher(self, publish: PublishPolls, free: Callable[[], int]) -> Dispatcher:
        """Build the flow of the dispatcher; `free` returns for how many polls this process has room."""
        return Dispatcher(self.store, publish, free, self.settings.poll_batch)

    def poll_flow(self, notify: Notify) -> PollFlow:
        """Build the flow of a poll."""
        policy = Policy(self.settings.poll_interval, self.settings.max_retry_count)
        return PollFlow(self.store, notify, self.clock, policy)

    def poll_executor(self, notify: Notify) -> PollExecutor:
        """Build the executor of this process's polls, and start its thread."""
        status = build_upstream(self.settings).for_event_loop()
        return PollExecutor(self.poll_flow(notify), status, lease=self.settings.overdue_grace)


def new_token() -> str:
    """Return an owner token that cannot be guessed."""
    return secrets.token_urlsafe(16)


def build_store(settings: Settings, *, limit: float = 15) -> RedisStore:
    """Return the store of a deployment; it connects at first use, with a time-out of `limit` seconds."""
    connections = 2 * settings.worker_concurrency + STORE_CONNECTIONS_SPARE
    client = connect(settings.redis_url, max_connections=connections, limit=limit)
    return RedisStore(client, Keys(settings.key_prefix), terms(settings))


def terms(settings: Settings) -> Terms:
    """Return the store's times to live, limits and rates from the settings."""
    return Terms(
        lock_ttl=settings.lock_ttl,
        history_ttl=settings.history_ttl,
        max_poll_duration=settings.max_poll_duration,
        interval=settings.poll_interval,
        lease=settings.overdue_grace,
        sending_limit=settings.dial_limit,
        look_up=settings.unknown_lookup,
        hold=settings.unknown_hold,
        channels=settings.notice_channels,
        notice_age=settings.notice_age,
        replicas=settings.replicas,
        status_rate=settings.status_rate,
        dial_rate=settings.dial_rate,
    )


def build_upstream(settings: Settings) -> UpstreamClient:
    """Return the client of upstream; ValueError if the settings name no address."""
    if settings.api_base_url is None:
        raise ValueError(
            "CALLWATCH_API_BASE_URL: missing, should be the upstream's address, like http://127.0.0.1:9015"
        )
    token = settings.api_token.get_secret_value() if settings.api_token else None
    return UpstreamClient(
        str(settings.api_base_url),
        token=token,
        connect_timeout=settings.connect_timeout,
        status_timeout=settings.status_timeout,
        call_timeout=settings.call_timeout,
        pool_size=settings.worker_concurrency,
        trust_env=settings.api_trust_env,
    )


@functools.cache
def container() -> Container:
    """Return this process's container, built at the first call: in a prefork pool after the fork."""
    settings = load_settings()
    return Container(settings, build_store(settings), build_upstream(settings), SystemClock())
