"""Prometheus metrics of the gateway. No label holds a person, a case or a key (S37)."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

ENDS = ("client", "renew", "shutdown", "slow")
LATENCIES = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
LAGS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.15, 0.25, 0.5, 1, 2.5, 5, 10)


class Metrics:
    """The metrics of one process."""

    def __init__(self) -> None:
        self._registry = registry = CollectorRegistry(auto_describe=False)
        self.streams = Gauge("callwatch_gateway_streams", "Open streams.", registry=registry)
        self.closed = Counter(
            "callwatch_gateway_streams_closed", "Closed streams, by reason.", ["reason"], registry=registry
        )
        self.events = Counter("callwatch_gateway_events", "Events read from the live stream.", registry=registry)
        self.lag = Histogram(
            "callwatch_gateway_event_lag_seconds",
            "Time from an event until its changes are in the buffers of the streams.",
            buckets=LAGS,
            registry=registry,
        )
        self.store_up = Gauge("callwatch_gateway_store_up", "1 while Redis answers the gateway.", registry=registry)
        self.requests = Counter(
            "callwatch_gateway_requests", "Requests, by route and status.", ["route", "status"], registry=registry
        )
        self.latency = Histogram(
            "callwatch_gateway_request_seconds",
            "Time from a request to the end of its response, without the wait requested by Prefer; without streams.",
            ["route"],
            buckets=LATENCIES,
            registry=registry,
        )
        for reason in ENDS:
            self.closed.labels(reason)

    def page(self) -> bytes:
        """Return the text of a scrape."""
        return generate_latest(self._registry)
