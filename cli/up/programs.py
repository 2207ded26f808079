"""The processes of an installation, as `python -m` arguments: `callwatch up` and compose start the same ones."""

POLL_WORKER = ("celery", "-A", "worker.app", "worker", "-Q", "outbound.poll,outbound.control", "-n", "poll@%h")
"""Watches calls and looks up lost answers. Held polls cannot delay a trigger: those have a worker of their own."""

TRIGGER_WORKER = ("celery", "-A", "worker.app", "worker", "-Q", "outbound.trigger", "-n", "trigger@%h")
"""Dials. Stopping it takes as long as a dial may last."""

FLOWER = ("cli.main", "flower")
"""Shows both, to whoever knows CALLWATCH_FLOWER_AUTH; whoever starts it says where it listens (S40)."""

GATEWAY = ("gateway",)
"""Takes triggers and shows calls over HTTP, to who has a key or a token; without keys it keeps to loopback (S40)."""

METRICS = ("cli.main", "metrics")
"""Tells Prometheus of both; it asks for CALLWATCH_METRICS_TOKEN, and without one it keeps to loopback (S40)."""
