"""Celery and kombu, extended: transport, consumer, requests, poll executor, delivery of notices."""
