"""Rate limits: one token bucket per caller. Pure: the time is an argument."""

import math
from dataclasses import dataclass

from gateway.problems import Problem, fault

WINDOW = 60.0  # seconds of the average: a burst may use the requests of this whole window
REMEMBERED = 10_000  # callers; beyond that the oldest buckets are dropped


@dataclass(slots=True)
class Bucket:
    """The tokens left for a caller at a time."""

    left: float
    at: float


class Limit:
    """Allows each caller `rate` requests a second, averaged over `window` seconds; a rate of 0 means no limit."""

    def __init__(self, name: str, rate: float, *, window: float = WINDOW) -> None:
        self.name = name
        self.rate = rate
        self.window = window
        self._buckets: dict[str, Bucket] = {}

    @property
    def burst(self) -> float:
        """The number of requests that one caller may send at once."""
        return max(1.0, self.rate * self.window)

    def take(self, caller: str, now: float) -> None:
        """Take a token for one request at `now` (monotonic seconds); Problem if the caller is throttled."""
        if not self.rate:
            return
        bucket = self._buckets.get(caller)
        if bucket is None:
            if len(self._buckets) >= REMEMBERED and not self.forget(now):
                for name in list(self._buckets)[: REMEMBERED // 2]:
                    del self._buckets[name]
            bucket = self._buckets[caller] = Bucket(self.burst, now)
        bucket.left = min(self.burst, bucket.left + (now - bucket.at) * self.rate)
        bucket.at = now
        if bucket.left < 1:
            raise self._exceeded((1 - bucket.left) / self.rate)
        bucket.left -= 1

    def forget(self, now: float) -> int:
        """Drop the buckets that are full again at `now`, which equal new ones; return their number."""
        full = [name for name, one in self._buckets.items() if one.left + (now - one.at) * self.rate >= self.burst]
        for name in full:
            del self._buckets[name]
        return len(full)

    def _exceeded(self, wait: float) -> Problem:
        seconds = math.ceil(wait)
        return Problem(
            "quota-exceeded",
            headers={
                "Retry-After": str(seconds),
                "RateLimit": f'"{self.name}";r=0;t={seconds}',
                "RateLimit-Policy": f'"{self.name}";q={self.burst:g};w={self.window:g}',
            },
            members={"violated-policies": [self.name]},
            errors=[fault("requests", "more than the limit", f"{self.burst:g} in {self.window:g} s")],
        )
