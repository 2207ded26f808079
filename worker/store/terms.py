"""Define the settings of the store, and compile them and other constants into Lua."""

from dataclasses import dataclass

from worker.core.notice import NoticeChannel

LAST_FAILURE_KEPT = 86_400  # seconds for which the next trigger queries upstream first after a failure (S5)


@dataclass(frozen=True, slots=True)
class Terms:
    """Settings of the store, in seconds unless stated otherwise.

    - `lock_ttl`: safety limit of the lock (S5)
    - `history_ttl`: age up to which finished records are kept (S36)
    - `max_poll_duration`: length of a watch; `interval`: time between two polls (S20)
    - `lease`: time until a poll passes to another process, unless its process renews it (S28)
    - `sending_limit`: longest duration of a request before its outcome is unknown (S18)
    - `look_up`: length of the look-up for a lost answer; `hold`: time for which its pair is held afterwards (S14)
    - `channels`: channels that notify back ends; `notice_age`: age up to which a notice is retried
    - `replicas`: replicas that must have a request on disk before it is sent (S41)
    - `status_rate`, `dial_rate`: status queries and call requests per second of all workers together; 0 is no limit
    """

    lock_ttl: float
    history_ttl: float
    max_poll_duration: float
    interval: float
    lease: float
    sending_limit: float
    look_up: float
    hold: float
    channels: tuple[NoticeChannel, ...] = ()
    notice_age: float = 86_400
    replicas: int = 0
    status_rate: float = 0
    dial_rate: float = 0

    @property
    def task_ttl(self) -> float:
        """Return how long handled triggers are remembered: the history's age, at least the lock's lifetime (S17)."""
        return max(self.history_ttl, self.lock_ttl)

    @property
    def job_ttl(self) -> float:
        """Return a record's time to live: the watch, then the history's age or the day of the last failure (S5)."""
        return self.lock_ttl + max(self.history_ttl, LAST_FAILURE_KEPT)

    @property
    def compiled(self) -> dict[str, float]:
        """Return the settings under their names in scripts: times to live in milliseconds, others unchanged."""
        return {
            "HISTORY_TTL": milliseconds(self.history_ttl),
            "TASK_TTL": milliseconds(self.task_ttl),
            "JOB_TTL": milliseconds(self.job_ttl),
            "LOCK_TTL": milliseconds(self.lock_ttl),
            "WATCH_DURATION": self.max_poll_duration,
            "INTERVAL": self.interval,
            "LEASE": self.lease,
            "SENDING_LIMIT": self.sending_limit,
            "LOOK_UP_WINDOW": self.look_up,
            "HOLD_DURATION": self.hold,
            "NOTICE_AGE": self.notice_age,
            "STATUS_RATE": self.status_rate,
            "DIAL_RATE": self.dial_rate,
        }


def constants(**values: str | float) -> str:
    """Return Lua that defines the given constants; scripts that need them are compiled after it."""
    texts = (_lua_text(value) if isinstance(value, str) else str(value) for value in values.values())
    return f"local {', '.join(values)} = {', '.join(texts)}\n"


def _lua_text(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def milliseconds(seconds: float) -> int:
    """Convert a time to live for Redis: whole milliseconds, at least 1."""
    return max(1, round(seconds * 1000))
