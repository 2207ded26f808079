"""Run a gateway that dies at one chosen point, once, or has another pace: `python -m tests.faults.oddgateway`.

FUSE names the point (`before publish`, `after publish`); the fuse blows while the file FUSE_FILE exists, and deletes
it. PACE is JSON with fields of gateway.feed.Pace.
"""

import json
import os
import signal
from pathlib import Path
from typing import Any

from gateway import __main__, process
from gateway.feed import Pace
from gateway.service import Gateway
from worker.runtime.producer import Producer

FUSE, FILE = os.environ.get("FUSE", ""), Path(os.environ.get("FUSE_FILE", "/nonexistent"))
_publish, _build = Producer.publish_all, process.build_gateway


def blow(point: str) -> None:
    """Die here if this is the chosen point."""
    if point == FUSE and FILE.exists():
        FILE.unlink()
        os.kill(os.getpid(), signal.SIGKILL)


def publish_all(self: Producer, *args: Any, **named: Any) -> None:
    """Publish, with a chance to die before and after it."""
    blow("before publish")
    _publish(self, *args, **named)
    blow("after publish")


def build(*args: Any, **named: Any) -> Gateway:
    """Build the gateway and change its pace."""
    gateway = _build(*args, **named)
    gateway.feed.pace = Pace(**json.loads(os.environ.get("PACE", "{}")))
    return gateway


Producer.publish_all = publish_all  # type: ignore[method-assign]
process.build_gateway = build

if __name__ == "__main__":
    raise SystemExit(__main__.main())
