"""Simulate upstream's endpoints: each can be away, slow or wrong on its own, for a while."""

from dataclasses import dataclass, field
from typing import Literal

Endpoint = Literal["call", "status by job", "status by case", "log"]
Manner = Literal["away", "slow", "denies", "strays"]

STRAYS = 90_000  # seconds that an endpoint strays longer than it is away: this matches its construction
QUERY_TIME_OUT = 10  # seconds for which a query waits for its answer
PROMPT = 0.05  # seconds that an answer takes normally
PACES = (0.6, 4, 9.5, 40)  # seconds that it takes where an endpoint is slow

Disturbance = tuple[tuple[Endpoint, ...], Manner]

READS: tuple[Endpoint, ...] = ("status by job", "status by case", "log")
LOG_AWAY: Disturbance = (("log",), "away")
JOBS_AWAY: Disturbance = (("status by job",), "away")
ALL_AWAY: Disturbance = (READS, "away")
ALL_SLOW: Disturbance = (READS, "slow")
STRAYING: Disturbance = (("status by case",), "strays")
DENYING: Disturbance = (("status by case",), "denies")
DISTURBANCES: tuple[Disturbance, ...] = (
    *(LOG_AWAY, JOBS_AWAY, ALL_AWAY, ALL_SLOW, STRAYING, DENYING),
    (("status by case",), "away"),
    (("call",), "away"),
    (("log",), "slow"),
    (("status by job",), "slow"),
    (("log", "status by case"), "away"),
    (("status by job",), "denies"),
)
SILENCES: tuple[tuple[Disturbance, ...], ...] = (  # during which upstream shows little of a case
    *((STRAYING,), (LOG_AWAY,), (STRAYING, LOG_AWAY)),
    *((ALL_AWAY,), (DENYING,), (ALL_SLOW,)),
)


@dataclass
class Endpoints:
    """State of each endpoint: its disturbance and its end in epoch seconds.

    `away`: its answers are errors. `slow`: its answers take long, some longer than the time-out. `denies`: it answers
    that there is no such call. `strays`: it names the oldest call of the case instead of the newest.
    """

    _until: dict[tuple[Endpoint, Manner], float] = field(default_factory=dict)
    _pace: float = PROMPT

    def disturb(self, disturbance: Disturbance, until: float, *, pace: float = PACES[-1]) -> str:
        """Begin a disturbance and return it; a slow endpoint takes `pace` seconds per answer."""
        endpoints, manner = disturbance
        if manner == "slow":
            self._pace = pace
        for endpoint in endpoints:
            self._until[endpoint, manner] = until + (STRAYS if manner == "strays" else 0)
        return f"{', '.join(endpoints)}: {manner}"

    def is_(self, manner: Manner, endpoint: Endpoint, now: float) -> bool:
        """Tell whether an endpoint has that disturbance now."""
        return self._until.get((endpoint, manner), 0) > now

    def latency(self, endpoint: Endpoint, now: float) -> float:
        """Return the duration of an answer in seconds."""
        return self._pace if self.is_("slow", endpoint, now) else PROMPT

    def recover(self) -> None:
        """End all disturbances."""
        self._until.clear()
