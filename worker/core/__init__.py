"""Decisions and values without side effects: no clock, no Redis, no Celery."""
