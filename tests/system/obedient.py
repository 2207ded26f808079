"""Start a worker whose consuming can be stopped: `celery -A tests.system.obedient worker`.

It accepts the two remote commands that stop and start consuming a queue; the product's own workers do not (S40).
"""

from celery import signals
from celery.worker.control import Panel

from worker.app import app

__all__ = ["app"]

OBEYED = {name: Panel.data[name] for name in ("cancel_consumer", "add_consumer")}


def obey(**_: object) -> None:
    """Restore the commands that the application removes."""
    Panel.data.update(OBEYED)


signals.celeryd_init.connect(obey)
