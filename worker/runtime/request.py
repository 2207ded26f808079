"""Celery's requests: mask a task's arguments in events, logs and inspections (S37)."""

from datetime import datetime
from typing import Any

from celery.worker.request import Request

from worker.core.messages import masked_kwargs, read_polls, shown_polls


class MaskedRequest(Request):
    """A request with masked arguments; the producer's own `argsrepr` and `kwargsrepr` are ignored.

    Positional arguments are counted, not shown.
    """

    def __init__(self, message: Any, **options: Any) -> None:
        super().__init__(message, maybe_iso8601=read_time, **options)

    @property
    def argsrepr(self) -> str:
        """Return the number of positional arguments."""
        return f"({len(self.args)} by position)" if self.args else "()"

    @property
    def kwargsrepr(self) -> str:
        """Return the keyword arguments, masked."""
        return masked_kwargs(self.kwargs) if isinstance(self.kwargs, dict) else "not by name"

    def info(self, safe: bool = False) -> dict[str, Any]:  # noqa: ARG002 - Celery's own signature
        """Return the masked task for inspections, which Flower's pages use."""
        shown: dict[str, Any] = super().info(safe=True)
        return shown | {"args": self.argsrepr, "kwargs": self.kwargsrepr}


class PollRequest(MaskedRequest):
    """The request of a message of polls, which may carry several calls."""

    @property
    def kwargsrepr(self) -> str:
        """Return the ids of the message's calls, masked."""
        polls = read_polls(self.kwargs) if isinstance(self.kwargs, dict) else []
        return shown_polls(polls) if polls else super().kwargsrepr


def read_time(moment: str | datetime | None) -> datetime | None:
    """Return the time in a message's header; ValueError if it is not one.

    Celery's own parser would let an empty text end the event loop.
    """
    return datetime.fromisoformat(moment) if isinstance(moment, str) else moment
