"""How Celery's worker shows a task: with its arguments masked (S37)."""

from datetime import datetime
from typing import Any

from celery.worker.request import Request

from worker.core.messages import masked_kwargs, read_polls, shown_polls


class MaskedRequest(Request):
    """A request whose arguments are masked in events, logs and inspections, whatever the producer sent along.

    Arguments by position do not appear at all.
    """

    def __init__(self, message: Any, **options: Any) -> None:
        super().__init__(message, maybe_iso8601=read_time, **options)

    @property
    def argsrepr(self) -> str:
        """Return the arguments given by position as they may be shown."""
        return f"({len(self.args)} by position)" if self.args else "()"

    @property
    def kwargsrepr(self) -> str:
        """Return the arguments given by name as they may be shown."""
        return masked_kwargs(self.kwargs) if isinstance(self.kwargs, dict) else "not by name"

    def info(self, safe: bool = False) -> dict[str, Any]:  # noqa: ARG002 - Celery's own signature
        """Return what inspections show, Flower's pages among them."""
        shown: dict[str, Any] = super().info(safe=True)
        return shown | {"args": self.argsrepr, "kwargs": self.kwargsrepr}


class PollRequest(MaskedRequest):
    """A poll, whose message may carry several calls: each is named."""

    @property
    def kwargsrepr(self) -> str:
        """Return whose polls these are as they may be shown."""
        polls = read_polls(self.kwargs) if isinstance(self.kwargs, dict) else []
        return shown_polls(polls) if polls else super().kwargsrepr


def read_time(moment: str | datetime | None) -> datetime | None:
    """Return the time in a message's header; ValueError where it is none. An empty text ends Celery's own loop."""
    return datetime.fromisoformat(moment) if isinstance(moment, str) else moment
