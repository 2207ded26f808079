"""The live table fits any terminal and shows no person, and an event is one line (S30-S32, S37)."""

import io
from dataclasses import replace
from typing import Any

import pytest
from rich.cells import cell_len
from rich.console import Console

from cli.ui.formatting import event_line
from cli.ui.table import page
from worker.core.model import Call, Pair, PairState

JOB = "1770463000471-447e-96ea-97523c61189b"
CALL = Call(
    job_id=JOB,
    case_id="C-1001",
    mediation_id="20",
    person_id="P-10010001",
    call_status="Scheduling",
    verdict=None,
    retry_count=0,
    poll_no=1,
    started_at=1_000,
    watched_at=1_000,
    deadline=8_200,
    due=1_002,
)
TALKING = replace(CALL, call_status="Executing", executing_since=1_010)
OVER = replace(TALKING, call_status="Succeeded", verdict="ended", finished_at=1_030)


def drawn(*calls: Call, now: float = 1_000, width: int = 80, height: int | None = 24, **more: Any) -> list[str]:
    stream = io.StringIO()
    console = Console(file=stream, width=width, force_terminal=False)
    options: dict[str, Any] = {"pairs": (), "notices": (), **more}
    console.print(page(calls, **options, now=now, width=width, height=height, failure_limit=10))
    return stream.getvalue().splitlines()


@pytest.mark.parametrize(
    ("call", "now", "seconds"),
    [
        pytest.param(CALL, 1_005, 5, id="since the trigger"),
        pytest.param(TALKING, 1_015, 5, id="since it was seen Executing"),
        pytest.param(OVER, 9_999, 20, id="a finished call has its final duration"),
        pytest.param(replace(CALL, verdict="lost", finished_at=1_100), 9_999, 100, id="never seen Executing"),
    ],
)
def test_s31_duration(call: Call, now: float, seconds: float) -> None:
    assert call.seconds(now) == seconds


@pytest.mark.parametrize(
    ("call", "now", "cells"),
    [
        pytest.param(CALL, 1_059, ["C-1001 / 20", "***0001", "拨号中", "00:59", "0/10", ""], id="S30 S31"),
        pytest.param(TALKING, 4_670, ["C-1001 / 20", "***0001", "通话中", "1:01:00", "0/10", ""], id="an hour"),
        pytest.param(
            replace(OVER, call_status="Failed"),
            0,
            ["C-1001 / 20", "***0001", "失败", "00:20", "0/10", "ended"],
            id="S22",
        ),
        pytest.param(
            replace(CALL, person_id="", retry_count=10, verdict="lost", finished_at=1_001),
            0,
            ["C-1001 / 20", "未知联系人", "拨号中", "00:01", "10/10", "lost"],
            id="S24 S32",
        ),
        pytest.param(
            replace(CALL, call_status="Transferring"),
            1_000,
            ["C-1001 / 20", "***0001", "Transferring", "00:00", "0/10", ""],
            id="S19 raw",
        ),
    ],
)
def test_row_shows_a_call(call: Call, now: float, cells: list[str]) -> None:
    row = drawn(call, now=now)[3]
    assert [cell.strip() for cell in row.strip("│").split("│")] == cells


@pytest.mark.parametrize("width", [60, 80, 119, 120, 140, 300])
@pytest.mark.parametrize(
    "call",
    [
        pytest.param(CALL, id="plain"),
        pytest.param(replace(CALL, person_id=""), id="Chinese"),
        pytest.param(replace(OVER, case_id="案" * 200), id="a long Chinese case id"),
        pytest.param(replace(CALL, case_id="C-" + "9" * 200, call_status="Z" * 200), id="nothing fits"),
    ],
)
def test_no_line_is_wider_than_the_terminal(call: Call, width: int) -> None:
    lines = drawn(call, CALL, width=width, notices=["one that is long " * 20])
    assert max(map(cell_len, lines)) <= width
    rows = [line for line in lines if line.startswith("│")]
    assert len(rows) == 2, "a row is one line"
    assert len(set(map(cell_len, rows))) == 1, "the frame is straight"
    assert "0/10" in rows[0]
    assert (call.verdict or "") in rows[0]


@pytest.mark.parametrize(("width", "shown"), [(80, False), (119, False), (120, True), (140, True)])
def test_the_job_id_is_shown_whole_or_not_at_all(width: int, shown: bool) -> None:
    assert any(JOB in line for line in drawn(CALL, width=width)) is shown


def test_s37_no_person_id_is_shown() -> None:
    assert CALL.person_id not in "".join(drawn(CALL, width=300))


def test_hidden_calls_are_counted() -> None:
    calls = [replace(CALL, case_id=f"C-{number}") for number in range(100)]
    lines = drawn(*calls, height=24)
    assert len(lines) <= 23
    assert any("C-99 " in line for line in lines)
    rows = sum(line.startswith("│") for line in lines)
    assert any(f"{100 - rows} earlier calls not shown" in line for line in lines)
    assert sum(line.startswith("│") for line in drawn(*calls, height=None)) == 100


def test_pairs_and_notices_are_shown_below_the_table() -> None:
    pairs = [PairState(Pair("C-7", "1"), "unknown"), PairState(Pair("C-8", "1"), "watching")]
    text = "\n".join(drawn(pairs=pairs, notices=["12:00:00  refused"]))
    assert "no calls are being watched" in text
    assert "C-7 / 1: 外呼结果未知" in text
    assert "12:00:00  refused" in text
    assert "C-8" not in text


def test_foreign_text_moves_no_cursor_and_is_no_markup() -> None:
    evil = replace(CALL, case_id="C\x1b[2J\nC-2", call_status="[red]x", person_id="")
    text = "\n".join(drawn(evil, width=200, notices=["a\x1b[2Jb"]))
    assert "\x1b" not in text
    assert "[red]x" in text
    assert "C\ufffd[2J\ufffdC-2 / 20" in text


@pytest.mark.parametrize(
    ("event", "expected"),
    [
        pytest.param(
            {"kind": "started", "job_id": JOB, "call_status": "Scheduling", "label": "拨号中", "person": "***0001"},
            f"C-1/20  started  拨号中  ***0001  {JOB}",
            id="S10",
        ),
        pytest.param(
            {"kind": "status_changed", "job_id": JOB, "call_status": "Executing", "label": "通话中"},
            f"C-1/20  status  通话中  {JOB}",
            id="S19",
        ),
        pytest.param(
            {"kind": "refused", "error_code": 1001, "message": "等待", "person": "***0004", "start_time": "2026-01-01"},
            "C-1/20  refused  1001  等待  ***0004  next round 2026-01-01",
            id="S9",
        ),
        pytest.param(
            {"kind": "refused", "error_code": 1001, "message": "等待", "person": "***0004", "call_interval": 30},
            "C-1/20  refused  1001  等待  ***0004  interval 30",
            id="S9 interval",
        ),
        pytest.param(
            {"kind": "dial_failed", "message": "发起外呼失败,请稍后重试", "reason": "http_401"},
            "C-1/20  failed  发起外呼失败,请稍后重试  http_401",
            id="S12 S38",
        ),
        pytest.param(
            {"kind": "unknown", "message": "a\nb\x1b[2J"}, "C-1/20  unknown  a\ufffdb\ufffd[2J", id="one line"
        ),
    ],
)
def test_an_event_is_one_line(event: dict[str, Any], expected: str) -> None:
    time, _, line = event_line({"at": 1_770_463_000.471, "case_id": "C-1", "mediation_id": "20", **event}).partition(
        "  "
    )
    assert line == expected
    assert len(time) == len("12:00:00")


def test_event_without_a_case_is_one_line() -> None:
    assert event_line({"at": 0, "kind": "outage_began", "message": "m"}).split("  ")[1:] == ["outage_began", "m"]
