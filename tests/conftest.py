"""What every tier shares: a real server, the tiers' marks and their closing lines, how Hypothesis searches."""

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

TIERS = ("unit", "eager", "contract", "system", "faults")
ORDER = ("faults", "system")  # before all others: they wait for each other's processors, the others for none
HERE = Path(__file__).parent

# A shared machine pauses at will, so no example has a deadline; CI repeats the same examples in every run.
hypothesis.settings.register_profile("local", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow])
hypothesis.settings.register_profile(
    "callwatch-ci", hypothesis.settings.get_profile("local"), derandomize=True, database=None, print_blob=True
)
hypothesis.settings.load_profile("callwatch-ci" if os.environ.get("CI") else "local")


@pytest.fixture(scope="session")
def redis_server() -> Iterator[EmbeddedServer]:
    """One server for all tests that do not harm it."""
    with EmbeddedServer(appendfsync="no") as server:
        yield server


_databases = itertools.cycle(range(16))


@pytest.fixture
def redis_url(redis_server: EmbeddedServer) -> str:
    """An empty database for one test; the next test gets another, so that no straggler can reach it."""
    url = f"{redis_server.url.removesuffix('/0')}/{next(_databases)}"
    with redis.Redis.from_url(url) as client:
        client.flushdb()
    return url


def pytest_configure(config: pytest.Config) -> None:
    """Make each tier's mark known, and let children hear Ctrl-C though the tests run in a shell's background."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, signal.default_int_handler)
    for tier in TIERS:
        config.addinivalue_line("markers", f"{tier}: the tests under tests/{tier}, marked by their folder")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark each test with the folder that it is in, so that `-m unit` runs a tier; those that wait most come first.

    What the tests of faults carry out is carried out by others as well: counting it would only double their time. The
    same is true of the few that say `no_cover` themselves.
    """
    for item in items:
        tier = _tier(item.path)
        if tier in TIERS:
            item.add_marker(tier)
        if tier == "faults":
            item.add_marker("no_cover")
    items.sort(key=lambda item: ORDER.index(_tier(item.path)) if _tier(item.path) in ORDER else len(ORDER))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print the figures that tests recorded, how many tests of each tier ran, and how long they took with set-up."""
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
    """The first folder below tests/; empty elsewhere."""
    return path.relative_to(HERE).parts[0] if path.is_relative_to(HERE) else ""
