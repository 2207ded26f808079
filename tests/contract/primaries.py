"""Connect Celery to a server whose role a test changes."""

from celery import Celery

from config.settings import Settings
from worker.runtime import transport
from worker.runtime.celery_config import celery_config

OTHER_PASSWORD = "another-password"


def application(url: str) -> Celery:
    """Return a Celery application with the transport of callwatch."""
    transport.install()
    app = Celery(set_as_current=False)
    app.conf.update(celery_config(Settings(redis_url=url)))
    return app
