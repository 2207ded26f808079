"""Test that upstream's refusal texts stay in the trigger's result; all other output is ours and bounded (S38)."""

import json
import time

import pytest

from tests.fakes import record
from tests.world import World
from worker.core.dial_result import MOST_NAMED, MOST_REFUSALS, TEXT_LENGTH

JOB = "1770463000471-447e-96ea-97523c61189b"
PHONE = "138" + ".0000." + "1111"
TEXT = f"person-0001 姓名：张三丰 的号码 {PHONE} 已停机 person-0002"


def test_s38_upstreams_text_stays_in_the_result_with_the_answers_persons_masked(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    world.upstream.dials = [
        [record(JOB, person="person-0001"), record(None, code=1001, person="person-0002", message=TEXT)]
    ]
    result = world.trigger()
    (refused,) = result["refused"]
    assert refused["person_id"] == "person-0002"
    assert refused["message"] == "***0001 姓名：*** 的号码 *** 已停机 ***0002"
    assert refused["message"] in result["message"]
    output = caplog.text + repr(result) + json.dumps(world.store.history("C-1"), ensure_ascii=False)
    for secret in ("person-000", "张三", PHONE, "停机"):
        assert secret not in output
    (event,) = [event for event in world.store.history("C-1") if event["kind"] == "refused"]
    assert (event["error_code"], event["message"], event["person"]) == (1001, "未到下一轮外呼时间,请等待", "***0002")
    assert world.store.refused([state.pair for state in world.store.pairs()]) == [result["refused"]]


@pytest.mark.parametrize("code", [13800001111, 110101199003074514, -5, 100_000])
def test_s37_error_code_that_resembles_a_persons_number_is_not_published(
    world: World, caplog: pytest.LogCaptureFixture, code: int
) -> None:
    world.upstream.dials = [[record(None, code=code, person="person-0002", message="x", startTime=13800001111)]]
    result = world.trigger()
    assert result["refused"][0]["error_code"] == code
    (event,) = world.store.history("C-1")
    assert (event["error_code"], event["message"]) == (None, "未知错误")
    assert event["start_time"] == "***"
    assert str(code) not in repr(result) + caplog.text


def test_s38_first_500_refusals_are_reported_singly_and_the_rest_as_a_number(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    """An answer of 1 MiB has room for tens of thousands; the started call is still watched."""
    answer = [record(None, code=1002, person=f"person-{number:05}", message="长" * 5_000) for number in range(3_000)]
    world.upstream.dials = [[*answer, record(JOB, person="person-0001")]]
    result = world.trigger()
    assert [job["job_id"] for job in result["jobs"]] == [JOB]
    assert (len(result["refused"]), result["more_refused"]) == (MOST_REFUSALS, 3_000 - MOST_REFUSALS)
    assert {len(one["message"]) for one in result["refused"]} == {TEXT_LENGTH}
    assert result["message"].endswith(f"、另有 {3_000 - MOST_NAMED} 人")
    assert len(result["message"]) < MOST_NAMED * (TEXT_LENGTH + 20)
    assert world.events().count("refused") == MOST_REFUSALS + 1
    (rest,) = [event for event in world.store.history("C-1") if event.get("message", "").startswith("另有")]
    assert rest["message"] == "另有 2500 人外呼失败"
    assert max(map(len, caplog.messages)) < 3_000
    assert len(repr(result)) < 1_000
    assert len(json.dumps(result.data)) < 1_000_000


def test_many_records_without_a_job_make_one_bounded_warning(world: World, caplog: pytest.LogCaptureFixture) -> None:
    """S7."""
    world.upstream.dials = [[record(None, person=f"person-{number:05}") for number in range(1_000)]]
    assert world.trigger()["outcome"] == "unknown"
    (line,) = [line for line in caplog.messages if line.startswith("外呼记录缺少 jobId")]
    assert line.endswith(f"、另有 {1_000 - MOST_NAMED} 人")
    assert len(line) < 1_000


def test_masking_the_persons_of_an_answer_takes_linear_time(world: World) -> None:
    """Compare two sizes, the better of three runs each: the ratio is 8 for linear, 64 for quadratic."""

    def seconds(number: int) -> float:
        took = []
        for run in range(3):
            answer = [
                record(None, code=1, person=f"p{number}-{one}", message=f"p{number}-{one} ") for one in range(number)
            ]
            world.upstream.dials = [answer]
            begin = time.process_time()
            world.trigger(case_id=f"C-{number}-{run}", task_id=f"{number}-{run}")
            took.append(time.process_time() - begin)
        return min(took)

    assert seconds(4_000) < 30 * seconds(500)
