"""Prove when a worker counts as working, and what `callwatch healthcheck` makes of the sign that it gives."""

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


def looks(*seen: tuple[float, int, int, bool]) -> str | None:
    """What is said at the last look: each is a time, what waits, what was taken in all, and whether all are busy."""
    beat = Heartbeat(longest=LONGEST, now=0)
    said: str | None = "never looked"
    for now, waiting, taken, full in seen:
        beat.tick(now)
        said = beat.fault({QUEUE: QueueLoad(waiting, taken)}, now, full=full)
    return said


@pytest.mark.parametrize(
    "seen",
    [
        pytest.param([(1, 0, 0, False), (900, 0, 0, False)], id="nothing to do for long"),
        pytest.param([(1, 5, 1, False), (2, 5, 2, False)], id="a backlog that it works at"),
        pytest.param([(1, 5, 32, True), (LONGEST, 5, 32, True)], id="every thread has a dial that hangs"),
        pytest.param([(1, 5, 3, False), (20, 5, 3, False), (21, 5, 4, False)], id="it works again"),
        pytest.param([(1, 5, 3, False), (20, 5, 3, False), (21, 0, 3, False)], id="another worker took it"),
    ],
)
def test_it_works(seen: list[tuple[float, int, int, bool]]) -> None:
    assert looks(*seen) is None


@pytest.mark.parametrize(
    ("seen", "trouble"),
    [
        pytest.param([(1, 0, 7, False), (4, 2, 7, False)], "2 messages wait in outbound.poll", id="deaf"),
        pytest.param([(40, 1, 0, False)], "none has been taken for 40 s", id="deaf from the start"),
        pytest.param([(1, 5, 32, True), (110, 5, 32, True)], "none has been taken for 109 s", id="full for ever"),
    ],
)
def test_it_does_not_work(seen: list[tuple[float, int, int, bool]], trouble: str) -> None:
    assert trouble in (looks(*seen) or "")


def test_a_queue_that_it_serves_says_nothing_of_another() -> None:
    beat = Heartbeat(longest=LONGEST, now=0)
    for taken in range(1, 4):
        beat.tick(taken)
        said = beat.fault({QUEUE: QueueLoad(1, taken), "outbound.trigger": QueueLoad(1, 0)}, taken, full=False)
    assert said == "1 messages wait in outbound.trigger and none has been taken for 3 s"


def test_a_stuck_event_loop_is_no_work_even_where_nothing_waits() -> None:
    beat = Heartbeat(longest=LONGEST, now=0)
    beat.tick(1)
    assert beat.fault({QUEUE: QueueLoad(0, 0)}, 3, full=False) is None
    assert beat.fault({QUEUE: QueueLoad(0, 0)}, 5, full=False) == "the event loop has not run for 4 s"


def test_trouble_that_lasts_is_logged_once_and_so_is_its_end(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    sign = HealthFile(tmp_path / "sign", holds=10, now=0)
    with caplog.at_level(logging.INFO, logger="worker.runtime.liveness"):
        for now, trouble in ((1, None), (9, "deaf"), (12, "deaf"), (13, "deaf"), (14, None), (15, None)):
            sign.renew(lambda trouble=trouble: trouble, now=now)  # type: ignore[misc]
    assert caplog.messages == ["unhealthy: deaf", "healthy again"]
    sign.remove()
    sign.remove()
    assert list(tmp_path.iterdir()) == []


def test_a_sign_that_cannot_be_given_harms_nobody(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The sweep, whose thread it is, goes on."""
    sign = HealthFile(tmp_path / "no folder" / "sign", holds=1, now=0)
    sign.renew(lambda: None, now=2)
    assert "FileNotFoundError" in caplog.text
    (tmp_path / "folder").mkdir()
    HealthFile(tmp_path / "folder", holds=1, now=0).remove()


@pytest.mark.parametrize(
    ("age", "healthy"),
    [(0, True), (30, True), (31, False), (-30, True), (-31, False)],
    ids=["now", "just in time", "too old", "the clock went back a little", "the clock went back: nobody knows"],
)
def test_how_old_a_sign_may_be(tmp_path: Path, age: int, healthy: bool) -> None:
    file = tmp_path / "sign"
    HealthFile(file, holds=30, now=0).renew(lambda: None, now=1)
    os.utime(file, (1_000, 1_000))
    assert judge(file, now=1_000 + age)[0] is healthy


@pytest.mark.parametrize(
    ("text", "line"), [(None, "the worker has not started yet"), ("", "ValueError"), ("soon", "ValueError")], ids=str
)
def test_no_sign(tmp_path: Path, text: str | None, line: str, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "sign"
    if text is not None:
        file.write_text(text)
    assert main(["healthcheck", "--file", str(file)]) == 1
    shown = capsys.readouterr()
    assert (shown.out, shown.err.count("\n")) == ("", 1)
    assert line in shown.err


def test_no_link_is_followed(tmp_path: Path) -> None:
    """S40: in a folder that others can write to, a link in the file's place would have theirs written over."""
    file, other = tmp_path / "sign", tmp_path / "other"
    other.write_text("theirs")
    for name in ("sign", "sign.new"):
        (tmp_path / name).symlink_to(other)
    assert judge(file, now=time.time())[1].endswith("cannot be read: OSError")
    HealthFile(file, holds=30, now=0).renew(lambda: None, now=1)
    assert other.read_text() == "theirs"
    assert (file.is_symlink(), file.read_text()) == (False, "30\n")
    assert file.stat().st_mode & 0o777 == 0o644
    assert judge(file, now=time.time())[0]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["other", "sign", "sign.new"]


def test_a_sign_that_cannot_be_put_in_place_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "sign").mkdir()
    sign = HealthFile(tmp_path / "sign", holds=30, now=0)
    sign.renew(lambda: None, now=1)
    assert [path.name for path in tmp_path.iterdir()] == ["sign"]


@pytest.mark.parametrize("place", ["environment", ".env", "--file"])
def test_where_the_file_is_named(
    place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Other settings may be as wrong as they like: the worker refuses those."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CALLWATCH_POLL_INTERVAL", "soon")
    HealthFile(tmp_path / "sign", holds=1_000, now=0).renew(lambda: None, now=1)
    assert main(["healthcheck"]) == 1
    assert capsys.readouterr().err.startswith("CALLWATCH_HEALTH_FILE: empty, should be")
    if place == "environment":
        monkeypatch.setenv("callwatch_health_file", str(tmp_path / "sign"))
    elif place == ".env":
        Path(".env").write_text("CALLWATCH_HEALTH_FILE=sign\n")
    assert main(["healthcheck", *(("--file", "sign") if place == "--file" else ())]) == 0
    assert capsys.readouterr().out.startswith("healthy: ")
