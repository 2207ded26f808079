"""The state of one simulated upstream, shared by all handlers."""

import asyncio
import time
from dataclasses import dataclass, field
from pathlib import Path

from aiohttp import web

from simulator.book import Book
from simulator.faults import FaultTable
from simulator.life import LifeClock
from simulator.request_log import RequestLog
from simulator.script import Script


@dataclass(frozen=True, slots=True)
class SimConfig:
    """The start configuration: address, bearer token, log, speed of lives, seconds between two records."""

    host: str = "127.0.0.1"
    port: int = 0
    token: str | None = field(default=None, repr=False)
    log_path: Path | None = None
    log_kept: int = 20_000
    speed: float = 1.0
    dial_delay: float = 0.0


@dataclass(slots=True)
class Simulation:
    """Calls, scripts, faults, log, and the dials that continue when their client disconnects."""

    config: SimConfig
    book: Book
    log: RequestLog
    dial_delay: float
    faults: FaultTable = field(default_factory=FaultTable)
    scripts: dict[str, Script] = field(default_factory=dict)
    tasks: set[asyncio.Task[object]] = field(default_factory=set)
    outages: asyncio.Queue[float] = field(default_factory=asyncio.Queue)
    stopping: bool = False

    @classmethod
    def start(cls, config: SimConfig) -> "Simulation":
        """Return an empty simulation; OSError if the log file cannot be opened."""
        log = RequestLog(config.log_path, config.log_kept)
        return cls(config=config, book=_book(config.speed), log=log, dial_delay=config.dial_delay)

    def script(self, case_id: str) -> Script:
        """Return the script of the case, else the one for every case, else the default one."""
        return self.scripts.get(case_id) or self.scripts.get("*") or Script(case_id=case_id)

    def reset(self) -> None:
        """Clear the state and cancel running dials; requests that hang continue to hang."""
        for task in self.tasks:
            task.cancel()
        self.book = _book(self.config.speed)
        self.dial_delay = self.config.dial_delay
        self.scripts.clear()
        self.faults.clear()
        self.log.forget()


def _book(speed: float) -> Book:
    clock = LifeClock()
    clock.set_speed(speed, time.time())
    return Book(clock)


SIM = web.AppKey("sim", Simulation)
