"""The HTTP API and the live stream: back ends trigger, pages follow, without knowing Celery."""
