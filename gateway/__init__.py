"""The HTTP API and the live stream: back ends trigger calls and pages follow them, without Celery."""
