"""The processes of an installation, as arguments of `python -m`; `callwatch up` and compose start the same ones."""

POLL_WORKER = ("celery", "-A", "worker.app", "worker", "-Q", "outbound.poll,outbound.control", "-n", "poll@%h")
"""Watches calls and looks up unknown outcomes. A separate worker dials, so that polls delay no trigger."""

TRIGGER_WORKER = ("celery", "-A", "worker.app", "worker", "-Q", "outbound.trigger", "-n", "trigger@%h")
"""Dials. It stops after at most the time-outs of a dial."""

FLOWER = ("cli.main", "flower")
"""Shows both workers behind CALLWATCH_FLOWER_AUTH; its options give the address to listen on (S40)."""

GATEWAY = ("gateway",)
"""Takes triggers and shows calls over HTTP, with a key or a token; without keys on loopback only (S40)."""

SIMULATOR = ("cli.main", "simulate")
"""The simulated upstream; requires the bearer token in SIMULATOR_TOKEN."""

METRICS = ("cli.main", "metrics")
"""Exports the metrics of both workers; requires CALLWATCH_METRICS_TOKEN, without it on loopback only (S40)."""
