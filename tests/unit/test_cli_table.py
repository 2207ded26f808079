"""The live table fits any terminal and shows no person, and an event is one line (S30-S32, S37)."""

import io
import re
from dataclasses import replace
from typing import Any

import pytest
from rich.cells import cell_len
from rich.console import Console

from cli.case import with_persons
from cli.ui.formatting import event_line, moment, time_of_day
from cli.ui.table import advice, page, pairs_table
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


@pytest.mark.parametrize("width", [50, 60, 80, 119, 120, 140, 300])
@pytest.mark.parametrize(
    "call",
    [
        pytest.param(CALL, id="plain"),
        pytest.param(replace(CALL, person_id=""), id="Chinese"),
        pytest.param(replace(OVER, case_id="案" * 200), id="a long Chinese case id"),
        pytest.param(replace(CALL, case_id="C-" + "9" * 200, call_status="Z" * 200), id="nothing fits"),
    ],
)
def test_no_line_is_wider_than_the_terminal_and_no_id_is_cut(call: Call, width: int) -> None:
    lines = drawn(call, CALL, width=width, notices=["one that is long " * 20])
    assert max(map(cell_len, lines)) <= width
    rows = [line for line in lines if line.startswith("│")]
    assert len(set(map(cell_len, rows))) == 1, "the frame is straight"
    ids = "".join(row.split("│")[1].strip() for row in rows)
    assert f"{call.case_id} / 20".replace(" ", "") in ids.replace(" ", "")


@pytest.mark.parametrize(
    ("case_id", "width", "left_out"),
    [
        pytest.param("C-1001", 59, "job, verdict, failures", id="the verdict and the failures go first"),
        pytest.param("C-1001", 66, "job, verdict", id="the verdict alone"),
        pytest.param("C-1001", 80, "job", id="ids that fit"),
        pytest.param("C-2026-0000123", 80, "job", id="80 columns"),
        pytest.param("9" * 36, 80, "job, verdict, failures", id="a long id"),
        pytest.param("C-1001", 119, "job", id="nearly wide"),
        pytest.param("C-1001", 120, None, id="wide"),
        pytest.param("9" * 200, 300, None, id="wider"),
    ],
)
def test_columns_that_are_left_out_are_named(case_id: str, width: int, left_out: str | None) -> None:
    lines = drawn(replace(CALL, case_id=case_id, retry_count=3), width=width)
    assert [line for line in lines if "not shown" in line] == (
        [] if left_out is None else [f"not shown at {width} columns: {left_out}"]
    )
    head = lines[1]
    for name in ("job", "person", "state", "duration", "failures", "verdict"):
        assert (name in head) is (name not in (left_out or ""))
    assert any("3/10" in line for line in lines) is ("failures" not in (left_out or ""))
    assert any(JOB in line for line in lines) is (width >= 120), "the job id is shown whole or not at all"


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
            {"kind": "released", "by": "night shift", "why": "no phone rang"},
            "C-1/20  released  by night shift: no phone rang",
            id="an operator and the reason",
        ),
        pytest.param({"kind": "released", "by": "me"}, "C-1/20  released  by me", id="an operator without a reason"),
        pytest.param({"kind": "released", "by": "time"}, "C-1/20  released  its hold has ended", id="S14 the hold"),
        pytest.param(
            {"kind": "adopted", "job_id": JOB}, f"C-1/20  found by a look-up, watched from here on  {JOB}", id="S14"
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
    assert re.fullmatch(r"\d\d:\d\d:\d\d[+-]\d\d:\d\d", time)


def test_a_deferred_trigger_names_its_time_with_the_offset() -> None:
    line = event_line({"at": 0, "kind": "deferred", "until": 1_770_463_000}, dated=True)
    stamp = r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d[+-]\d\d:\d\d"
    assert re.fullmatch(rf"{stamp}  deferred  until {stamp}", line)


def test_s36_each_event_of_a_call_has_its_masked_person() -> None:
    events = [
        {"kind": "started", "job_id": "a", "person": "***0001"},
        {"kind": "refused", "person": "***0002"},
        {"kind": "ended", "job_id": "a"},
        {"kind": "adopted", "job_id": "b"},
        {"kind": "unknown"},
    ]
    assert [event.get("person") for event in with_persons(events)] == [
        "***0001", "***0002", "***0001", "未知联系人", None,
    ]  # fmt: skip


def advised(**more: Any) -> str:
    return advice(PairState(Pair("C-1", "20"), "unknown", 1_000, **more), now=1_050) or ""


@pytest.mark.parametrize(
    ("line", "wanted"),
    [
        pytest.param(
            advised(until=1_120, looking=True),
            [time_of_day(1_120), "no call is found yet", "with --now, only if upstream or the parties confirm"],
            id="S14 the look-up",
        ),
        pytest.param(advised(until=1_120, looking=True, found=1), ["1 found calls are watched"], id="S14 adopted"),
        pytest.param(advised(until=1_010, looking=True), ["until upstream answers one"], id="S14 upstream is silent"),
        pytest.param(
            advised(until=1_720),
            [f"the look-up found no call; the pair is released at {time_of_day(1_720)}", "only if upstream or the"],
            id="S14 the hold",
        ),
    ],
)
def test_an_unknown_outcome_has_its_end_and_the_condition_for_a_release(line: str, wanted: list[str]) -> None:
    assert line.startswith("C-1 / 20: ")
    assert [part for part in wanted if part not in line] == []
    assert "`callwatch release C-1 20 --why TEXT`" in line


def test_no_other_phase_has_advice() -> None:
    assert advice(PairState(Pair("C-1", "20"), "watching"), now=0) is None


def test_pairs_have_since_and_until_with_the_offset() -> None:
    console = Console(file=io.StringIO(), width=200)
    day = 86_400
    pairs = [PairState(Pair("C-1", "20"), "waiting", 1_000, 1_000 + 2 * day), PairState(Pair("C-2", "20"), "watching")]
    console.print(pairs_table(pairs, now=1_050))
    rows = [
        [cell.strip() for cell in line.split("│")[1:-1]]
        for line in console.file.getvalue().splitlines()  # type: ignore[attr-defined]
        if line.startswith("│")
    ]
    assert rows == [
        ["C-1 / 20", "waiting", time_of_day(1_000), moment(1_000 + 2 * day)], ["C-2 / 20", "watching", "", ""],
    ]  # fmt: skip


def test_event_without_a_case_is_one_line() -> None:
    assert event_line({"at": 0, "kind": "outage_began", "message": "m"}).split("  ")[1:] == ["outage_began", "m"]
