"""`callwatch flower`, `metrics` and `serve`: the HTTP services beside the workers."""

from typing import Annotated

import typer

from cli.commands.parameters import Host, PortOrFree


def flower(
    port: Annotated[int, typer.Option(min=1, max=65535, help="The TCP port to listen on.")] = 5555,
    host: Host = "127.0.0.1",
) -> None:
    """Serve Flower behind the credential CALLWATCH_FLOWER_AUTH.

    Flower shows tasks, watched calls and workers. It is read-only: its pages cannot dial, revoke or shut down.
    Arguments and results are masked.

    Example: callwatch flower --port 5555
    """
    from cli.flower import flower  # noqa: PLC0415

    flower(host, port)


def metrics(port: PortOrFree = 9464, host: Host = "127.0.0.1") -> None:
    """Serve the metrics of all workers for Prometheus.

    The page is /metrics. The counters are in Redis: one such process is enough, and a restart loses nothing. With
    CALLWATCH_METRICS_TOKEN the page requires that bearer token; without it the command listens on loopback only.
    /healthz needs no token and answers only that the process runs.

    Example: callwatch metrics --port 9464
    """
    from cli.metrics import metrics  # noqa: PLC0415

    metrics(host, port)


def serve(port: PortOrFree = 8080, host: Host = "127.0.0.1") -> None:
    """Serve the HTTP API and the live stream.

    The API is for back ends, the stream for the pages that follow cases. Back ends authenticate with an API key of
    CALLWATCH_GATEWAY_KEYS_FILE, pages with a token. Without keys the command listens on loopback only. The gateway is
    stateless: any number of such processes can run. /healthz and /readyz need no credential and show no data.

    Example: callwatch serve --port 8080
    """
    from cli.serve import serve  # noqa: PLC0415

    serve(host, port)
