"""The processes of an installation, as `python -m` arguments: `callwatch up` and compose start the same ones."""

POLL_WORKER = ("celery", "-A", "worker.app", "worker", "-Q", "outbound.poll,outbound.control", "-n", "poll@%h")
"""Watches calls and looks up lost answers. Held polls cannot delay a trigger: those have a worker of their own."""

TRIGGER_WORKER = ("celery", "-A", "worker.app", "worker", "-Q", "outbound.trigger", "-n", "trigger@%h")
"""Dials. Stopping it takes as long as a dial may last."""

FLOWER = ("celery", "-A", "worker.app", "flower")
"""Shows both. Whoever starts it says where it listens and gives FLOWER_BASIC_AUTH in the environment (S40)."""
