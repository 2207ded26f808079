"""A worker that can be made deaf: `celery -A tests.system.obedient worker`.

It obeys the two remote commands that stop and start its consuming; the product's own workers do not (S40).
"""

from celery import signals
from celery.worker.control import Panel

from worker.app import app

__all__ = ["app"]

OBEYED = {name: Panel.data[name] for name in ("cancel_consumer", "add_consumer")}


def obey(**_: object) -> None:
    """Put the commands back that the application has taken away."""
    Panel.data.update(OBEYED)


signals.celeryd_init.connect(obey)
