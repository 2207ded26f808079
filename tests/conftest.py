"""Share fixtures of all tiers: a real Redis, tier markers, a summary per tier, Hypothesis profiles."""

import itertools
import os
import signal
import threading
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest
import redis

from cli.up.embedded_redis import EmbeddedServer

TIERS = ("unit", "eager", "contract", "system", "faults", "browser")
ORDER = ("faults", "browser", "system")  # first, because these tiers wait for processes and run longest
HERE = Path(__file__).parent

# A shared machine may pause at any time, so examples have no deadline; CI repeats the same examples in every run.
hypothesis.settings.register_profile("local", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow])
hypothesis.settings.register_profile(
    "callwatch-ci", hypothesis.settings.get_profile("local"), derandomize=True, database=None, print_blob=True
)
hypothesis.settings.load_profile("callwatch-ci" if os.environ.get("CI") else "local")


@pytest.fixture(scope="session")
def redis_server() -> Iterator[EmbeddedServer]:
    """One server for all tests that do not stop or reconfigure it."""
    with EmbeddedServer(appendfsync="no") as server:
        yield server


_databases = itertools.cycle(range(16))


@pytest.fixture
def redis_url(redis_server: EmbeddedServer) -> str:
    """An empty database for one test; the next test gets another, out of reach of leftover processes."""
    url = f"{redis_server.url.removesuffix('/0')}/{next(_databases)}"
    with redis.Redis.from_url(url) as client:
        client.flushdb()
    return url


def pytest_configure(config: pytest.Config) -> None:
    """Register the tier markers; restore SIGINT, which a shell's background jobs ignore, for child processes."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, signal.default_int_handler)
    for tier in TIERS:
        config.addinivalue_line("markers", f"{tier}: the tests under tests/{tier}, marked by their folder")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark each test with its folder, so that `-m unit` runs a tier; run the longest tiers first.

    The tests of faults and of the widget execute no line that other tests do not, and coverage would double their time,
    so they run without it. The same applies to the few tests marked `no_cover`.
    """
    for item in items:
        tier = _tier(item.path)
        if tier in TIERS:
            item.add_marker(tier)
        if tier in ("faults", "browser"):
            item.add_marker("no_cover")
    items.sort(key=lambda item: ORDER.index(_tier(item.path)) if _tier(item.path) in ORDER else len(ORDER))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print the recorded figures, and the number of tests of each tier with their duration including fixtures."""
    tests: defaultdict[str, set[str]] = defaultdict(set)
    seconds: defaultdict[str, float] = defaultdict(float)
    for report in itertools.chain.from_iterable(terminalreporter.stats.values()):
        if isinstance(report, pytest.TestReport):
            tier = _tier(terminalreporter.config.rootpath / report.nodeid.partition("::")[0])
            tests[tier].add(report.nodeid)
            seconds[tier] += report.duration
            if report.when == "call" and report.user_properties:
                figures = ", ".join(f"{name} {value:,.8g}" for name, value in report.user_properties)
                terminalreporter.write_line(f"{report.nodeid.rpartition('::')[2]}: {figures}")
    for tier in (tier for tier in TIERS if tier in tests):
        terminalreporter.write_line(f"tier {tier}: {len(tests[tier])} tests in {seconds[tier]:.1f} s")


def _tier(path: Path) -> str:
    """Return the first folder below tests/, or an empty string for other paths."""
    return path.relative_to(HERE).parts[0] if path.is_relative_to(HERE) else ""
