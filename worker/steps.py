"""The sweep in a worker: a thread that starts and ends with it; no process of its own could be the one that died."""

import threading
from typing import Any

from celery import bootsteps

from worker.app import app
from worker.sweep import sweep_forever
from worker.tasks import Publisher
from worker.wiring import parts


class SweepStep(bootsteps.StartStopStep):
    """Sweeps from the worker's start to its end; of all workers one at a time does the work (S28)."""

    requires = ("celery.worker.components:Pool",)

    def __init__(self, parent: Any, **_: Any) -> None:
        super().__init__(parent)
        self._over = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self, _parent: Any) -> None:
        """Start the thread."""
        sweep = parts().sweep(Publisher())
        self._thread = threading.Thread(target=sweep_forever, args=(sweep, self._over.wait), name="sweep", daemon=True)
        self._thread.start()

    def stop(self, _parent: Any) -> None:
        """End the thread after the sweep that it is at."""
        self._over.set()
        if self._thread is not None:
            self._thread.join(timeout=5)

    terminate = stop


app.steps["worker"].add(SweepStep)
