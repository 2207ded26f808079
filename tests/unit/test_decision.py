"""Test the decisions after a poll and a dial response: the full table, and its boundaries by property tests."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.core.decision import (
    ACTIVE,
    TERMINAL,
    Answer,
    Finish,
    Next,
    Outcome,
    Phase,
    Policy,
    Poll,
    RecordKind,
    decide,
    first_delay,
    judge_answer,
    judge_record,
    may_query,
    next_due,
    phase_after,
    read_status,
)

POLICY = Policy(interval=10, max_retry_count=10)


def poll(*, no: int = 1, due: float = 10, deadline: float = 7_200, retry_count: int = 0) -> Poll:
    return Poll(no, due, deadline, retry_count)


@pytest.mark.parametrize(
    ("answer", "retry_count", "now", "expected"),
    [
        pytest.param("running", 7, 10, Next(poll(no=2, due=20)), id="S23 a response clears the failures"),
        pytest.param("silent", 0, 10, Next(poll(no=2, due=20, retry_count=1)), id="S23 a failure counts"),
        pytest.param(
            "silent", 8, 10, Next(poll(no=2, due=20, retry_count=9)), id="S24 the watch continues after nine failures"
        ),
        pytest.param("silent", 9, 10, Finish("lost", 10), id="S24 the tenth consecutive failure ends it"),
        pytest.param("outage", 9, 10, Next(poll(no=2, due=20, retry_count=9)), id="S29 not counted in an outage"),
        pytest.param("running", 0, 19.9, Next(poll(no=2, due=20)), id="S20 a slow response keeps the grid"),
        pytest.param("running", 0, 20.1, Next(poll(no=2, due=20)), id="S20 so does one slower than the interval"),
        pytest.param("running", 0, 7_200, Finish("expired", 0), id="S25 the deadline itself is too late"),
        pytest.param("silent", 9, 7_200, Finish("expired", 10), id="S25 the deadline precedes the failure limit"),
        pytest.param("ended", 9, 9_999, Finish("ended", 0), id="S25 S27 a late terminal status counts"),
    ],
)
def test_decision_after_each_answer(answer: Answer, retry_count: int, now: float, expected: Next | Finish) -> None:
    assert decide(answer, poll(retry_count=retry_count), POLICY, began=10, now=now) == expected


@pytest.mark.parametrize(
    ("began", "due"),
    [
        pytest.param(10, 20, id="in time"),
        pytest.param(16, 20, id="late, the next one keeps its time"),
        pytest.param(17.5, 20, id="a quarter of an interval is left"),
        pytest.param(17.6, 30, id="less than that: skipped"),
        pytest.param(23, 30, id="one missed: no immediate second query"),
        pytest.param(65, 70, id="many missed: no burst"),
    ],
)
def test_s20_late_poll_keeps_the_grid_and_causes_no_burst(began: float, due: float) -> None:
    """S20: due times at which less than a quarter of an interval remains are skipped."""
    assert decide("running", poll(), POLICY, began=began, now=began) == Next(poll(no=2, due=due))


@pytest.mark.parametrize(("not_before", "due"), [(0, 20), (20, 20), (20.1, 30), (301, 310), (9_999, 7_200)])
def test_retry_after_skips_due_times_and_keeps_grid_and_deadline(not_before: float, due: float) -> None:
    """Due times before `not_before` are skipped."""
    decision = decide("outage", poll(), POLICY, began=10, now=10, not_before=not_before)
    assert decision == Next(poll(no=2, due=due))


def test_s25_last_poll_is_due_at_the_deadline_and_sends_no_query() -> None:
    """S25: at most two hours; the poll at the deadline only ends the watch."""
    decision = decide("running", poll(due=7_195), POLICY, began=7_195, now=7_195)
    assert decision == Next(poll(no=2, due=7_200))
    assert not may_query(poll(no=2, due=7_200), POLICY, began=7_209.999, queried=True)
    assert may_query(poll(no=2, due=7_199.999), POLICY, began=7_200, queried=True)


def test_s25_poll_long_after_the_deadline_queries_once_more() -> None:
    """S25: all workers were down, or the dial response arrived after the call's deadline."""
    assert may_query(poll(no=2, due=7_200), POLICY, began=7_210, queried=True)
    assert may_query(poll(no=2, due=7_200), POLICY, began=7_200, queried=False)


def test_s24_poll_at_the_failure_limit_ends_the_watch_without_a_query() -> None:
    """S24 S28: queries that outlived their leases count as failures and leave no poll to report them."""
    assert may_query(poll(retry_count=9), POLICY, began=10, queried=True)
    assert not may_query(poll(retry_count=10), POLICY, began=10, queried=False)
    assert decide("outage", poll(retry_count=10), POLICY, began=10, now=10) == Finish("lost", 10)


near_deadline = st.floats(7_140, 7_260)


@given(near_deadline, near_deadline, st.integers(0, 12), st.sampled_from(["running", "silent", "outage", "ended"]))
def test_s25_decisions_within_a_minute_of_the_deadline_are_consistent(
    due: float, now: float, failures: int, answer: Answer
) -> None:
    """S20-S25: each verdict has its cause, and each next poll is later than the one before."""
    before = poll(no=5, due=min(due, 7_200), retry_count=failures)
    decision = decide(answer, before, POLICY, began=now, now=now)
    match decision:
        case Finish("ended"):
            assert answer == "ended"
        case Finish("expired"):
            assert now >= before.deadline
            assert answer != "ended"
        case Finish("lost", count):
            assert answer == "silent" or (answer == "outage" and failures >= POLICY.max_retry_count)
            assert count >= POLICY.max_retry_count
            assert now < before.deadline
        case Next(after):
            assert after.poll_no == before.poll_no + 1
            assert before.due < after.due <= before.deadline or before.due == before.deadline
            assert after.retry_count == {"running": 0, "silent": failures + 1, "outage": failures}[answer]
            assert answer != "silent" or after.retry_count < POLICY.max_retry_count


@given(st.lists(st.sampled_from(["running", "silent"]), max_size=60))
def test_s24_only_consecutive_failures_lead_to_lost(answers: list[Answer]) -> None:
    """S23, S24: the verdict is `lost` exactly when the last ten polls failed."""
    current = poll()
    for index, answer in enumerate(answers):
        decision = decide(answer, current, POLICY, began=current.due, now=current.due)
        if answers[max(0, index - 9) : index + 1] == ["silent"] * 10:
            assert decision == Finish("lost", 10)
            return
        assert isinstance(decision, Next)
        current = decision.poll


@given(st.floats(0, 1e6), st.floats(0.1, 600), st.floats(0, 1e5))
def test_s20_next_due_time_stays_on_the_grid(due: float, interval: float, late: float) -> None:
    """S20: whole intervals from the last due time; the first at least a quarter of an interval away."""
    after = next_due(due, interval, began=due + late)
    steps = (after - due) / interval
    assert steps >= 1 - 1e-9
    assert math.isclose(steps, round(steps), abs_tol=1e-4)
    slack = 1e-6 * (1 + due + late)
    assert after >= due + late + interval / 4 - slack
    assert after <= max(due + interval, due + late + 1.25 * interval) + slack


@given(st.text("0123456789abcdef-", min_size=1), st.floats(0.1, 600))
def test_s20_first_polls_fall_within_one_interval(job_id: str, interval: float) -> None:
    """S20: the delay is positive and at most one interval."""
    assert 0 < first_delay(job_id, interval) <= interval


def test_s20_first_polls_are_spread_over_the_interval() -> None:
    """S20: a thousand calls started at once are not polled at once."""
    delays = sorted(first_delay(f"17704630{number:05}-447e", 10) for number in range(1_000))
    for tenth in range(10):
        assert 50 < sum(tenth < delay <= tenth + 1 for delay in delays) < 200


@pytest.mark.parametrize("status", sorted(TERMINAL))
def test_s19_terminal_statuses_end_a_call(status: str) -> None:
    """S19: each status of the terminal set."""
    assert read_status(status) == "ended"


@pytest.mark.parametrize("status", [*sorted(ACTIVE), "Ringing", "succeeded", "新状态"])
def test_s19_active_and_unknown_statuses_continue_the_watch(status: str) -> None:
    """S19: a status outside both sets is treated as active."""
    assert read_status(status) == "running"


@pytest.mark.parametrize(
    ("code", "job_id", "kind"),
    [
        pytest.param(0, "j-1", "started", id="S7 code 0 and a job"),
        pytest.param(0, None, "fault", id="S7 code 0 without a job"),
        pytest.param(0, "", "fault", id="S7 code 0 with an empty job"),
        pytest.param(None, "j-1", "fault", id="a job without a code may be a started call"),
        pytest.param(None, None, "fault", id="an empty record"),
        pytest.param(1001, None, "refused", id="S9 must wait"),
        pytest.param(1002, None, "refused", id="S9 limit reached"),
        pytest.param(-1, "j-1", "refused", id="S9 any other code"),
    ],
)
def test_record_kind_by_code_and_job(code: int | None, job_id: str | None, kind: RecordKind) -> None:
    assert judge_record(code, job_id) == kind


@pytest.mark.parametrize(
    ("kinds", "outcome", "phase"),
    [
        pytest.param(["started"], "started", "watching", id="all started"),
        pytest.param(["refused", "started"], "started", "watching", id="S8 some refused"),
        pytest.param(["fault", "started"], "started", "watching", id="S7 a started call and a record without a job"),
        pytest.param(["refused", "refused"], "refused", "done", id="S8 all refused"),
        pytest.param(["fault"], "unknown", "unknown", id="S7 no record has a job"),
        pytest.param(["refused", "fault"], "unknown", "unknown", id="S7 a refusal and a possibly started call"),
        pytest.param([], "unknown", "unknown", id="S7 an empty response"),
    ],
)
def test_outcome_and_phase_by_record_kinds(kinds: list[RecordKind], outcome: Outcome, phase: Phase) -> None:
    assert judge_answer(kinds) == outcome
    assert phase_after(outcome) == phase


@pytest.mark.parametrize("outcome", ["refused", "failed", "disabled"])
def test_s5_trigger_that_started_no_call_releases_its_pair(outcome: Outcome) -> None:
    """S5, S12."""
    assert phase_after(outcome) == "done"
