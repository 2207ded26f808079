"""Hold the settings of the store, and compile them and other constants into Lua."""

from dataclasses import dataclass

from worker.core.notice import NoticeChannel

LAST_FAILURE_KEPT = 86_400  # seconds for which a bad end makes the next trigger look first (S5)


@dataclass(frozen=True, slots=True)
class Terms:
    """For how long things are kept, watched and waited for, in seconds.

    `lock_ttl` is the net under the lock (S5), `history_ttl` the age to which finished things are kept (S36),
    `max_poll_duration` the length of a watch and `interval` the time between two polls (S20), `lease` how long a
    poll is given to a process that does not renew it (S28), `sending_limit` how long a request may take at the most
    before its outcome is unknown (S18), `look_up` and `hold` how long a lost answer is looked for and its pair held
    after that (S14). Back ends are told over `channels`, and a notice is tried until it is `notice_age` old.
    All workers together send at most `status_rate` queries and `dial_rate` call requests a second; 0 is no limit.
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
    status_rate: float = 0
    dial_rate: float = 0

    @property
    def task_ttl(self) -> float:
        """Handled triggers are remembered as long as the history, and never shorter than the lock lives (S17)."""
        return max(self.history_ttl, self.lock_ttl)

    @property
    def job_ttl(self) -> float:
        """A record outlives its watch by the history's age, and by the day for which a bad end is remembered (S5)."""
        return self.lock_ttl + max(self.history_ttl, LAST_FAILURE_KEPT)

    @property
    def compiled(self) -> dict[str, float]:
        """Return the settings under the names that scripts use: times to live in milliseconds, the rest in seconds."""
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
    """Return Lua that defines values under the names given: the head of a script that needs them."""
    texts = (_lua_text(value) if isinstance(value, str) else str(value) for value in values.values())
    return f"local {', '.join(values)} = {', '.join(texts)}\n"


def _lua_text(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def milliseconds(seconds: float) -> int:
    """Return a time to live as Redis wants it."""
    return max(1, round(seconds * 1000))
