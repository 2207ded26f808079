"""Test the figures of the fault benchmarks: gaps, lateness, doubled and lost calls from arrival times."""

import math

import pytest

from benchmarks.fault_figures import (
    Watched,
    at_least,
    at_most,
    count_doubled,
    exactly,
    grid,
    is_lost,
    latest,
    longest_return,
    longest_silence,
    widest_gap,
)

INTERVAL = 10.0
NEVER = math.inf
BEFORE = (-30, -20, -10)  # polls on time that determine the grid


def watched(*arrivals: float, ended_at: float = NEVER) -> Watched:
    return Watched("1770463000471-447e-96ea-97523c61189b", arrivals, ended_at)


@pytest.mark.parametrize(
    ("call", "end", "expected"),
    [
        pytest.param(watched(0, 10, 24, 30), 35, (14, 10), id="between two polls"),
        pytest.param(watched(0, 10), 40, (30, 10), id="the gap up to the end of the run counts"),
        pytest.param(watched(0, 10, ended_at=9), 40, (10, 0), id="no gap after the poll that saw the end"),
        pytest.param(watched(0, 10, ended_at=11), 40, (30, 10), id="an end that no poll saw leaves the gap open"),
        pytest.param(watched(5, ended_at=4), 40, (0, 5), id="the only poll saw the end"),
        pytest.param(watched(), 40, (NEVER, -NEVER), id="never polled"),
    ],
)
def test_widest_gap_is_the_longest_time_without_a_poll(
    call: Watched, end: float, expected: tuple[float, float]
) -> None:
    assert widest_gap(call, end) == expected


@pytest.mark.parametrize(
    ("call", "lost"),
    [
        pytest.param(watched(0, 85), False, id="polled 15 s before the end"),
        pytest.param(watched(0, 84.9), True, id="not polled for more than 15 s"),
        pytest.param(watched(0, 20, ended_at=20), False, id="its end was seen"),
        pytest.param(watched(0, 20, ended_at=21), True, id="polls stopped before its end"),
        pytest.param(watched(), True, id="never polled"),
        pytest.param(watched(ended_at=0), True, id="never polled, though it ended"),
    ],
)
def test_call_is_lost_when_polls_stop_before_its_end_is_seen(call: Watched, lost: bool) -> None:
    assert is_lost(call, end=100) is lost


@pytest.mark.parametrize(
    ("call", "expected"),
    [
        pytest.param(watched(0, 10, 20.3, 30), 0, id="a single chain"),
        pytest.param(watched(0, 10, 10.1, 20, 30), 1, id="one poll sent twice"),
        pytest.param(watched(*BEFORE, 0, 10, 14, 20), 0, id="its worker was killed: one reissue"),
        pytest.param(watched(*BEFORE, 0, 10, 11.8, 20), 1, id="a reissue before the lease has expired"),
        pytest.param(watched(*BEFORE, 0, 10, 14, 20, 24, 30), 1, id="a second reissue"),
        pytest.param(watched(*BEFORE, 0, 9.1, 20), 0, id="a moment early"),
        pytest.param(watched(9.5, 11, *range(20, 270, 10)), 1, id="the first a moment early, and one sent twice"),
        pytest.param(watched(0, 12, 12.1, 20, 30), 0, id="its worker was killed: a late reissue, then on the grid"),
        pytest.param(watched(*BEFORE, 0, 12, 12.1, 12.2, 20), 1, id="reissued, and one more"),
        pytest.param(
            watched(*BEFORE, 0, 28, 28.1, 30, 40),
            0,
            id="late by nearly two intervals: the newest due time follows at once",
        ),
        pytest.param(watched(*BEFORE, 0, 28, 28.1, 28.2, 30), 1, id="late, and more polls than skipped due times"),
        pytest.param(watched(*BEFORE, 0, 38, 38.1, 38.2, 40), 1, id="only the newest skipped due time is served"),
        pytest.param(watched(0, 16.8, 26.7, 31.7, 40, 50, 60), 0, id="several late polls, each once"),
        pytest.param(watched(*BEFORE, 0, 11.4, 11.5, 20), 1, id="jitter is no reissue"),
        pytest.param(
            watched(*BEFORE, 0, 12, 12.1, 20, 21.8, 30, 31.8), 2, id="a reissue that left a second chain behind"
        ),
        pytest.param(watched(0, 3, 10, 13, 20, 23, 30, 33, 40, 43), 2, id="two chains from the start"),
        pytest.param(watched(7, 10, 20, 30, 40), 0, id="the first poll was late"),
        pytest.param(watched(12, 12.1, 20, 30, 40), 0, id="the first poll was reissued"),
        pytest.param(watched(18.85, 22.45), 0, id="the first of only two polls was late"),
        pytest.param(watched(0, 0.1, 10, 20), 1, id="the first poll was sent twice"),
        pytest.param(watched(), 0, id="never polled"),
    ],
)
def test_doubled_polls_have_no_due_time_of_their_own(call: Watched, expected: int) -> None:
    assert count_doubled(call, INTERVAL) == expected


@pytest.mark.parametrize(
    ("call", "expected"),
    [
        pytest.param(watched(0, 12, 12.1, 20), 1, id="a repeated query counts"),
        pytest.param(watched(12, 12.1, 20, 30, 40), 1, id="a repeated first poll counts"),
        pytest.param(watched(0, 12, 20, 30), 0, id="late"),
        pytest.param(watched(*range(-250, 10, 10), 16, 19.5, 30), 0, id="late, and the next a moment early"),
        pytest.param(
            watched(*BEFORE, 0, 28, 28.1, 30, 40),
            0,
            id="late by nearly two intervals: the newest due time follows at once",
        ),
    ],
)
def test_without_reissues_each_repeated_query_counts_as_doubled(call: Watched, expected: int) -> None:
    assert count_doubled(call, INTERVAL, reissues=False) == expected


@pytest.mark.parametrize(
    ("arrivals", "base"),
    [
        pytest.param((3, 13, 23.2), 3, id="the first"),
        pytest.param((7, 10, 20, 30), 10, id="the first was late"),
        pytest.param((3.01, 13, 23.01), 13, id="one came a moment early"),
    ],
)
def test_grid_is_set_by_the_arrivals_on_time(arrivals: tuple[float, ...], base: float) -> None:
    assert grid(arrivals, INTERVAL) == base


@pytest.mark.parametrize(
    ("call", "end", "expected"),
    [
        pytest.param(watched(3, 13, 25, 33), 40, (2, 23), id="late by two seconds"),
        pytest.param(watched(3, 13, 35, 35.1, 43), 50, (12, 23), id="late by more than an interval"),
        pytest.param(watched(3, 13, 33, 43), 50, (10, 23), id="one due time skipped"),
        pytest.param(watched(3, 13, 23), 40, (7, 33), id="the last poll is missing"),
        pytest.param(watched(7, 10, 20, 30), 35, (7, 0), id="the first was late"),
        pytest.param(watched(3.01, 13, 23.01), 30, (0.01, 23), id="a moment early does not count as an interval late"),
        pytest.param(watched(), 40, (NEVER, -NEVER), id="never polled"),
    ],
)
def test_latest_poll_and_its_due_time(call: Watched, end: float, expected: tuple[float, float]) -> None:
    seconds, due = latest(call, INTERVAL, end)
    assert (round(seconds, 2), round(due, 2)) == expected


@pytest.mark.parametrize(
    ("call", "end"),
    [
        pytest.param(watched(3, 13, 23), 29, id="on time"),
        pytest.param(watched(3, 13, 23, ended_at=20), 90, id="none is due after the end"),
        pytest.param(watched(2.5, *range(13, 253, 10)), 250, id="the first was a moment early"),
    ],
)
def test_polls_on_time_have_no_lateness(call: Watched, end: float) -> None:
    assert latest(call, INTERVAL, end)[0] == 0


@pytest.mark.parametrize(
    ("calls", "expected"),
    [
        pytest.param([watched(0, 101), watched(0, 108, 118)], 8, id="the last of all calls"),
        pytest.param([watched(0, 101), watched(0, 99)], NEVER, id="one was never polled again"),
        pytest.param([], NEVER, id="no calls"),
    ],
)
def test_longest_return_lasts_until_every_call_is_polled_again(calls: list[Watched], expected: float) -> None:
    assert longest_return(calls, back=100) == expected


@pytest.mark.parametrize(
    ("calls", "expected"),
    [
        pytest.param([watched(10, 20, 70), watched(15, 25, 60)], 35, id="between the polls of all calls"),
        pytest.param([watched(10, 20)], 80, id="to the end"),
        pytest.param([watched(90)], 90, id="from the beginning"),
        pytest.param([watched(-5, 50, 200)], 50, id="polls outside the window do not count"),
        pytest.param([], 100, id="no calls"),
    ],
)
def test_longest_silence_covers_all_calls_within_the_window(calls: list[Watched], expected: float) -> None:
    assert longest_silence(calls, begin=0, end=100) == expected


def test_missing_measurements_fail() -> None:
    assert not at_most("latest", math.inf, 5).passed
    assert not at_most("latest", math.nan, 5).passed
    assert not at_least("polls a second", math.nan, 5).passed
    assert not exactly("calls", 0, 2_000).passed
    assert not exactly("notices", 2, 1).passed


def test_figure_passes_at_its_limit_and_fails_beyond() -> None:
    assert at_most("gap", 15.0, 15, "s").passed
    assert at_least("pairs", 45, 45).passed
    assert not at_most("gap", 15.001, 15, "s").passed
    assert not at_least("pairs", 44, 45).passed
    figure = at_most("gap", 12.345, 15, "s")
    assert (figure.goal, figure.measured) == ("≤ 15 s", "12.35 s")
