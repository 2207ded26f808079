"""Pure decisions and values: no clock, no Redis, no Celery."""
