"""Share fixtures of the system tests: a store, captured output, `callwatch doctor`, both clients of a status query."""

import functools
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cli import checks
from cli.up.embedded_redis import EmbeddedServer
from config.settings import Settings
from tests.deployment import Deployment
from tests.doctor import Doctor, diagnose
from tests.on_a_loop import asked_on_a_loop
from worker.container import build_store
from worker.store import RedisStore


@pytest.fixture
def store(redis_url: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[RedisStore]:
    """The store that commands under test use, without a worker; the working directory has no settings file."""
    monkeypatch.setattr(checks, "REPLIES_WITHIN", 0.05)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CALLWATCH_REDIS_URL", redis_url)
    store = build_store(Settings(redis_url=redis_url))
    yield store
    store.client.close()


@pytest.fixture(scope="module")
def deployment(redis_server: EmbeddedServer) -> Iterator[Deployment]:
    """One deployment with a worker for all tests of a module; each test uses its own cases."""
    with Deployment(redis_server.url, speed=20, poll_interval=1) as deployed:
        deployed.store.client.flushdb()
        deployed.worker()
        yield deployed


@pytest.fixture
def shown(capsys: pytest.CaptureFixture[str]) -> Callable[[], tuple[str, str]]:
    """Return a function that returns standard output and error since its last call."""

    def read() -> tuple[str, str]:
        both = capsys.readouterr()
        return both.out, both.err

    return read


@pytest.fixture
def upstream() -> Iterator[int]:
    """A port that accepts connections."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield int(server.getsockname()[1])


@pytest.fixture
def doctor(
    store: RedisStore,  # noqa: ARG001 - the settings of the command
    upstream: int,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Doctor:
    """`callwatch doctor` for a reachable store and upstream."""
    monkeypatch.setenv("CALLWATCH_API_BASE_URL", f"http://127.0.0.1:{upstream}")
    return functools.partial(diagnose, capsys)


@pytest.fixture(params=["in a thread", "on an event loop"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Run a test with the threaded and with the event-loop client, which must behave the same."""
    if request.param == "in a thread":
        yield
        return
    with asked_on_a_loop(monkeypatch):
        yield
