"""Tell which installation an order of an operator has reached: the Redis, and the workers that answer over it."""

from dataclasses import dataclass
from pathlib import Path

from redis.exceptions import RedisError

from cli.checks import ask_workers
from cli.connect import connect, reason
from cli.ui.output import complain
from config.redaction import redact
from config.settings import Settings


@dataclass(frozen=True, slots=True)
class Reach:
    """The address of the Redis without its credentials; the number of workers, None if they could not be asked."""

    redis: str
    workers: int | None

    @property
    def line(self) -> str:
        """One line for the operator."""
        workers = {None: "its workers could not be asked", 0: "no worker answers", 1: "1 worker answers"}
        return f"Redis: {self.redis}; {workers.get(self.workers, f'{self.workers} workers answer')}"


def ask_reach(settings: Settings) -> Reach:
    """Count the workers that answer within a second or two; the order itself comes first."""
    workers = None
    with connect(settings.broker_url) as client:
        try:
            client.ping()  # Celery would retry without end
            workers = len(ask_workers(settings))
        except RedisError as error:
            complain(f"the broker {redact(settings.broker_url)} does not answer: {reason(error)}")
    return Reach(redact(settings.redis_url), workers)


def warn_of(reach: Reach, settings: Settings) -> None:
    """Warn on stderr if no worker answers, or if the address is only the default one."""
    if reach.workers == 0:
        complain(f"warning: no worker answers over {reach.redis}: check that this is the Redis of the installation")
    if "redis_url" not in settings.model_fields_set and not Path(".env").exists():
        complain(f"warning: without CALLWATCH_REDIS_URL and without .env in this folder, {reach.redis} is the default")
