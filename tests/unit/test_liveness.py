"""Test the worker's liveness rules and how `callwatch healthcheck` judges the health file."""

import logging
import os
import time
from pathlib import Path

import pytest

from cli.healthcheck import judge
from cli.main import main
from worker.runtime.liveness import HealthFile, Heartbeat, QueueLoad

LONGEST = 108
QUEUE = "outbound.poll"


def last_fault(*seen: tuple[float, int, int, bool]) -> str | None:
    """Return the fault at the last observation; each is time, waiting, taken in total, all threads busy."""
    heartbeat = Heartbeat(longest=LONGEST, now=0)
    fault: str | None = "no observation"
    for now, waiting, taken, full in seen:
        heartbeat.tick(now)
        fault = heartbeat.fault({QUEUE: QueueLoad(waiting, taken)}, now, full=full)
    return fault


@pytest.mark.parametrize(
    "seen",
    [
        pytest.param([(1, 0, 0, False), (900, 0, 0, False)], id="idle for long"),
        pytest.param([(1, 5, 1, False), (2, 5, 2, False)], id="a backlog in progress"),
        pytest.param([(1, 5, 32, True), (LONGEST, 5, 32, True)], id="every thread has a dial that hangs"),
        pytest.param([(1, 5, 3, False), (20, 5, 3, False), (21, 5, 4, False)], id="recovered"),
        pytest.param([(1, 5, 3, False), (20, 5, 3, False), (21, 0, 3, False)], id="another worker took it"),
    ],
)
def test_idle_busy_or_recovered_worker_is_healthy(seen: list[tuple[float, int, int, bool]]) -> None:
    assert last_fault(*seen) is None


@pytest.mark.parametrize(
    ("seen", "fault"),
    [
        pytest.param([(1, 0, 7, False), (4, 2, 7, False)], "2 messages wait in outbound.poll", id="not consuming"),
        pytest.param([(40, 1, 0, False)], "none has been taken for 40 s", id="not consuming from the start"),
        pytest.param(
            [(1, 5, 32, True), (110, 5, 32, True)], "none has been taken for 109 s", id="busy for longer than any dial"
        ),
    ],
)
def test_worker_that_takes_no_waiting_message_is_unhealthy(
    seen: list[tuple[float, int, int, bool]], fault: str
) -> None:
    assert fault in (last_fault(*seen) or "")


def test_activity_in_one_queue_does_not_excuse_another() -> None:
    heartbeat = Heartbeat(longest=LONGEST, now=0)
    for taken in range(1, 4):
        heartbeat.tick(taken)
        fault = heartbeat.fault({QUEUE: QueueLoad(1, taken), "outbound.trigger": QueueLoad(1, 0)}, taken, full=False)
    assert fault == "1 messages wait in outbound.trigger and none has been taken for 3 s"


def test_stuck_event_loop_is_unhealthy_with_empty_queues() -> None:
    heartbeat = Heartbeat(longest=LONGEST, now=0)
    heartbeat.tick(1)
    assert heartbeat.fault({QUEUE: QueueLoad(0, 0)}, 3, full=False) is None
    assert heartbeat.fault({QUEUE: QueueLoad(0, 0)}, 5, full=False) == "the event loop has not run for 4 s"


def test_lasting_fault_and_recovery_are_logged_once_each(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    health_file = HealthFile(tmp_path / "health", valid_for=10, now=0)
    with caplog.at_level(logging.INFO, logger="worker.runtime.liveness"):
        for now, fault in (
            (1, None),
            (9, "not consuming"),
            (12, "not consuming"),
            (13, "not consuming"),
            (14, None),
            (15, None),
        ):
            health_file.renew(lambda fault=fault: fault, now=now)  # type: ignore[misc]
    assert caplog.messages == ["unhealthy: not consuming", "healthy again"]
    health_file.remove()
    health_file.remove()
    assert list(tmp_path.iterdir()) == []


def test_check_that_raises_is_a_fault_and_ends_no_thread(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    def check() -> str | None:
        raise RuntimeError("Set changed size during iteration")

    health_file = HealthFile(tmp_path / "health", valid_for=1, now=0)
    assert health_file.renew(check, now=2) is False
    assert caplog.messages == ["unhealthy: RuntimeError: Set changed size during iteration"]
    assert not (tmp_path / "health").exists()


def test_unwritable_health_file_is_logged_and_raises_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The sweep writes the file in its own thread and must continue."""
    health_file = HealthFile(tmp_path / "no folder" / "health", valid_for=1, now=0)
    health_file.renew(lambda: None, now=2)
    assert caplog.messages == [
        f"unhealthy: {tmp_path / 'no folder' / 'health'} cannot be written: No such file or directory"
    ]
    (tmp_path / "folder").mkdir()
    HealthFile(tmp_path / "folder", valid_for=1, now=0).remove()


@pytest.mark.parametrize(
    ("age", "healthy"),
    [(0, True), (30, True), (31, False), (-30, True), (-31, False)],
    ids=["now", "just in time", "too old", "the clock went back a little", "the clock went back: age unknown"],
)
def test_health_file_counts_for_as_long_as_it_states(tmp_path: Path, age: int, healthy: bool) -> None:
    file = tmp_path / "health"
    HealthFile(file, valid_for=30, now=0).renew(lambda: None, now=1)
    os.utime(file, (1_000, 1_000))
    assert judge(file, now=1_000 + age)[0] is healthy


@pytest.mark.parametrize(
    ("text", "line"), [(None, "the worker has not started yet"), ("", "ValueError"), ("soon", "ValueError")], ids=str
)
def test_healthcheck_fails_with_one_line_for_a_missing_or_invalid_file(
    tmp_path: Path, text: str | None, line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "health"
    if text is not None:
        file.write_text(text)
    assert main(["healthcheck", "--file", str(file)]) == 1
    shown = capsys.readouterr()
    assert (shown.out, shown.err.count("\n")) == ("", 1)
    assert line in shown.err


def test_s40_symbolic_links_are_not_followed(tmp_path: Path) -> None:
    """S40: in a folder writable by others, a link in place of the file could redirect the write."""
    file, other = tmp_path / "health", tmp_path / "other"
    other.write_text("theirs")
    for name in ("health", "health.new"):
        (tmp_path / name).symlink_to(other)
    assert judge(file, now=time.time())[1].endswith("cannot be read: OSError")
    HealthFile(file, valid_for=30, now=0).renew(lambda: None, now=1)
    assert other.read_text() == "theirs"
    assert (file.is_symlink(), file.read_text()) == (False, "30\n")
    assert file.stat().st_mode & 0o777 == 0o644
    assert judge(file, now=time.time())[0]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["health", "health.new", "other"]


def test_failed_replacement_leaves_no_temporary_file(tmp_path: Path) -> None:
    (tmp_path / "health").mkdir()
    health_file = HealthFile(tmp_path / "health", valid_for=30, now=0)
    health_file.renew(lambda: None, now=1)
    assert [path.name for path in tmp_path.iterdir()] == ["health"]


@pytest.mark.parametrize("place", ["environment", ".env", "--file"])
def test_healthcheck_finds_the_file_by_environment_dotenv_or_option(
    place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Invalid values of other settings do not matter here; the worker rejects them."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CALLWATCH_POLL_INTERVAL", "soon")
    HealthFile(tmp_path / "health", valid_for=1_000, now=0).renew(lambda: None, now=1)
    assert main(["healthcheck"]) == 1
    assert capsys.readouterr().err.startswith("callwatch: CALLWATCH_HEALTH_FILE: empty, should be")
    if place == "environment":
        monkeypatch.setenv("callwatch_health_file", str(tmp_path / "health"))
    elif place == ".env":
        Path(".env").write_text("CALLWATCH_HEALTH_FILE=health\n")
    assert main(["healthcheck", *(("--file", "health") if place == "--file" else ())]) == 0
    assert capsys.readouterr().out.startswith("healthy: ")
