"""Run a worker that dies by SIGKILL at one chosen effect, once: `celery -A tests.faults.fused worker`.

FUSE names the effect (`before settle`, `after publish` …). The fuse blows while the file FUSE_FILE exists, and deletes
it.
"""

import dataclasses
import os
import signal
from pathlib import Path
from typing import Any, cast

from api_client import AsyncStatus, CallStatus
from worker import bootsteps, container, tasks
from worker.app import app
from worker.core.poll_model import DuePolls

__all__ = ["app"]

WHEN, EFFECT = os.environ["FUSE"].split()
FILE = Path(os.environ["FUSE_FILE"])


def blow(when: str, effect: str) -> None:
    """Die here if this is the chosen effect."""
    if (when, effect) == (WHEN, EFFECT) and FILE.exists():
        FILE.unlink()
        os.kill(os.getpid(), signal.SIGKILL)


class Fused:
    """Pass every call on, with a chance to die before and after it."""

    def __init__(self, real: Any) -> None:
        self._real = real

    def __getattr__(self, name: str) -> Any:
        attribute = getattr(self._real, name)
        if not callable(attribute):
            return attribute

        def call(*args: Any, **kwargs: Any) -> Any:
            blow("before", name)
            answer = attribute(*args, **kwargs)
            if answer not in (False, [], DuePolls([])):  # no lock acquired, no poll due: no effect
                blow("after", name)
            return answer

        return call


_parts = container.container()
_fused = dataclasses.replace(_parts, store=cast("Any", Fused(_parts.store)), upstream=Fused(_parts.upstream))
if EFFECT not in ("publish", "status") and not any(hasattr(one, EFFECT) for one in (_parts.store, _parts.upstream)):
    raise SystemExit(f"FUSE: {EFFECT} is no effect of a worker")
_apply_async = tasks.poll.apply_async
_status = AsyncStatus.__call__


async def _ask(self: AsyncStatus, **query: str) -> CallStatus:
    answer = await _status(self, **query)
    blow("after", "status")
    return answer


AsyncStatus.__call__ = _ask  # type: ignore[method-assign]


def _publish(**options: Any) -> Any:
    blow("before", "publish")
    answer = _apply_async(**options)
    blow("after", "publish")
    return answer


tasks.poll.apply_async = _publish
for module in (tasks, bootsteps):
    vars(module)["container"] = lambda: _fused
