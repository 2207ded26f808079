"""How often one caller may ask: a bucket of tokens for each. Pure: the time is an argument."""

import math
from dataclasses import dataclass

from gateway.problems import Problem, fault

WINDOW = 60.0  # seconds whose average counts: a burst of that many seconds' requests is let through
REMEMBERED = 10_000  # callers; beyond that the first ones are dropped


@dataclass(slots=True)
class Bucket:
    """What is left of a caller's tokens at a time."""

    left: float
    at: float


class Limit:
    """Lets each caller through `rate` times a second on the average of `window` seconds; 0 is no limit."""

    def __init__(self, name: str, rate: float, *, window: float = WINDOW) -> None:
        self.name = name
        self.rate = rate
        self.window = window
        self._buckets: dict[str, Bucket] = {}

    @property
    def burst(self) -> float:
        """How many requests of one caller are let through at once."""
        return max(1.0, self.rate * self.window)

    def take(self, caller: str, now: float) -> None:
        """Take a token for one request at `now` (monotonic seconds); Problem where there is none."""
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
        """Drop the buckets that are full again at `now`, and return how many: a new one would be full as well."""
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
