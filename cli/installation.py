"""Find the installation that a command reached: the Redis, and the workers that answer over it."""

from dataclasses import dataclass
from pathlib import Path

from redis.exceptions import RedisError

from cli.checks import ask_workers
from cli.connect import connect, reason
from cli.ui.output import complain
from config.redaction import redact
from config.settings import Settings


@dataclass(frozen=True, slots=True)
class Installation:
    """The address of the Redis without its credentials; the number of workers, None if they could not be asked."""

    redis: str
    workers: int | None

    @property
    def line(self) -> str:
        """One line for the operator."""
        workers = {None: "its workers could not be asked", 0: "no worker answers", 1: "1 worker answers"}
        return f"Redis: {self.redis}; {workers.get(self.workers, f'{self.workers} workers answer')}"


def ask_installation(settings: Settings) -> Installation:
    """Count the workers that answer within a second or two; the command has done its work before."""
    workers = None
    with connect(settings.broker_url) as client:
        try:
            client.ping()  # Celery would retry without end
            workers = len(ask_workers(settings))
        except RedisError as error:
            complain(f"the broker {redact(settings.broker_url)} does not answer: {reason(error)}")
    return Installation(redact(settings.redis_url), workers)


def warn_of(reached: Installation, settings: Settings) -> None:
    """Warn on stderr if no worker answers, or if the address is only the default one."""
    if reached.workers == 0:
        complain(f"warning: no worker answers over {reached.redis}: check that this is the Redis of the installation")
    if "redis_url" not in settings.model_fields_set and not Path(".env").exists():
        complain(
            f"warning: without CALLWATCH_REDIS_URL and without .env in this folder, {reached.redis} is the default"
        )
