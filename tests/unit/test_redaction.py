"""Redaction removes all personal data and changes no id (S37)."""

import socket
import time
import uuid
from dataclasses import dataclass

import pytest
import requests
from hypothesis import example, given
from hypothesis import strategies as st

from config.redaction import MARK, mask_person, redact, redact_value
from tests.fakes import PHONE

JOB_ID = "1770463000471-447e-96ea-97523c61189b"

digits = st.text("0123456789", min_size=8, max_size=8)
hexes = "0123456789abcdef"
job_ids = st.builds(
    lambda ms, a, b, c: f"{ms}-{a}-{b}-{c}",
    st.integers(10**12, 10**13 - 1),
    st.text(hexes, min_size=4, max_size=4),
    st.text(hexes, min_size=4, max_size=4),
    st.text(hexes, min_size=12, max_size=12),
)
opaque_ids = st.text("ABCxyz0123456789_.-", min_size=1, max_size=128)
prefixes = st.sampled_from(["", "+86", "0086", "86", "+86 ", "+86-", "(+86)", "(+86) ", "0086 "])
separators = st.sampled_from(["", " ", "-", "\u00a0", " - "])
contexts = st.sampled_from(["", "电话", "请致电:", "tel", "call_", "x=", "/", ", ", "“", "(", "'", "\n", "手机号"])


@st.composite
def mobiles(draw: st.DrawFn) -> tuple[str, str]:
    """Return the last eight digits of a number, and the number in one of its notations."""
    head = "1" + draw(st.sampled_from("3456789")) + draw(st.sampled_from("0123456789"))
    rest, gap = draw(digits), draw(separators)
    return rest, draw(prefixes) + gap.join((head, rest[:4], rest[4:]))


@given(mobiles(), contexts, contexts)
def test_s37_a_mobile_number_disappears_in_any_notation(mobile: tuple[str, str], before: str, after: str) -> None:
    rest, written = mobile
    redacted = redact(f"{before}{written}{after}")
    assert MARK in redacted
    assert not any(part in redacted for part in (rest, rest[4:]))


@given(job_ids, contexts, contexts)
@example(f"{PHONE}22-1380-0001-{PHONE}2", "", "")
def test_s37_job_id_is_unchanged(job_id: str, before: str, after: str) -> None:
    text = f"{before} {job_id} {after}"
    assert redact(text) == text
    assert redact(f"存储 jobId: {job_id}, callStatus: X") == f"存储 jobId: {job_id}, callStatus: X"


@given(opaque_ids)
@example(PHONE)
@example(f"AJ-{PHONE}-2")
@example(f"{PHONE}.")
@example(f"-{PHONE[:3]}-{PHONE[3:7]}-{PHONE[7:]}")
def test_s37_kept_id_is_unchanged_as_a_whole_token(kept: str) -> None:
    text = f"发起外呼,mediationId: 12, caseId: {kept}"
    assert redact(text, keep={kept, "12"}) == text


@given(st.uuids(version=4))
@example(uuid.UUID(f"13800001-1111-4380-8000-{PHONE}2"))
def test_s37_task_id_is_unchanged(task_id: uuid.UUID) -> None:
    assert redact(f"Task outbound.poll[{task_id}] received") == f"Task outbound.poll[{task_id}] received"


@given(
    st.lists(
        st.sampled_from(
            [PHONE, "+86 ", "138 ", "0000 ", "1111", "0571-", JOB_ID, "***", "张", " ", "[", "{", "/", "?", "a=", "&",
             "=", "://", "u:p@", "%3F", "%40", "'", '"', "\\", ": ", "name", "person_id", "P00001234", "Bearer ",
             "token", "authorization"]
        ),
        max_size=12,
    ).map("".join)
)  # fmt: skip
@example(f"://+86 {PHONE}?{PHONE}{PHONE}")
def test_s37_redacting_twice_changes_nothing_more(text: str) -> None:
    assert redact(redact(text)) == redact(text)


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("部分联系人外呼失败:***1234(未知错误)、***5678(次数已达上限)", id="a product text"),
        pytest.param("due 1770463000.4715338, deadline 1770470200.0, took 13800 ms", id="epoch seconds"),
        pytest.param("1770463000471", id="epoch milliseconds"),
        pytest.param("2026-02-07T13:00:00.138+08:00 2026-02-07 13:00:00", id="times"),
        pytest.param("真的吗?是的?yes! 100% sure, or/and?", id="question marks"),
        pytest.param("makeCallV2 failed: connect to http://127.0.0.1:9015/api/v1/outbound-bot/call-v2", id="a URL"),
        pytest.param(f"order 5{PHONE}222 of 400 pieces, 12 380 0001", id="other numbers"),
        pytest.param("callwatch:lock:C-2026-0001:4711 worker@host", id="a key and a node name"),
        pytest.param("took 0.01062345678 s, 3.0212345678 of 12.02123456789", id="fractions"),
        pytest.param("1770463000471234567 2026-02-07 13:00:00+0800 1.2.3.4:6379 192.168.100.200", id="long numbers"),
        pytest.param("部分联系人外呼失败:未知联系人(未知错误)、未知联系人(错误码 7)、另有 3 人", id="our texts"),
        pytest.param(f"jobs+{JOB_ID} 110101 {JOB_ID} +1 {JOB_ID} 联系人:{JOB_ID}", id="jobIds"),
        pytest.param("the bearer", id="a word with nothing behind it"),
    ],
)  # fmt: skip
def test_s37_text_without_personal_data_is_unchanged(text: str) -> None:
    assert redact(text) == text


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param(f"{PHONE},caseId", f"{MARK},caseId", id="a mobile number"),
        pytest.param("１３８" + "００００" + "１１１１", MARK, id="full-width digits"),
        pytest.param("座机 010-" + "1234" + "5678", f"座机 {MARK}", id="a landline"),
        pytest.param("(0571)" + "8888" + "-1234 转 8", f"{MARK} 转 8", id="an area code in brackets"),
        pytest.param("+86 571 " + "8888" + " 1234", MARK, id="a landline from abroad"),
        pytest.param("号码 138" + ".0000." + "1111。", f"号码 {MARK}。", id="a mobile number with points"),
        pytest.param("138" + "·0000·" + "1111", MARK, id="a mobile number with middle dots"),
        pytest.param("138" + "/0000/" + "1111", MARK, id="a mobile number with slashes"),
        pytest.param("138" + " 0000" + "1111", MARK, id="a mobile number with one gap"),
        pytest.param("138" + "-000-" + "01111", MARK, id="a mobile number in other groups"),
        pytest.param("1380" + " 000 " + "1111", MARK, id="a mobile number in four, three, four"),
        pytest.param("致电010" + "62345678", f"致电{MARK}", id="a landline without a gap"),
        pytest.param("0571" + "8888" + "1234,", f"{MARK},", id="another landline without a gap"),
        pytest.param("010." + "6234" + ".5678", MARK, id="a landline with points"),
        pytest.param("+852" + " 9123 4567", MARK, id="a number of Hong Kong"),
        pytest.param("00852" + "91234567", MARK, id="the same with zeros"),
        pytest.param("+886-912" + "-345-678", MARK, id="a number of Taiwan"),
        pytest.param("+1 (212) " + "555-0123 x", f"{MARK} x", id="a number of America"),
        pytest.param("证 110101" + "19900307" + "451X 号", f"证 {MARK} 号", id="an ID card"),
        pytest.param("110101" + " 19900307 " + "4514", MARK, id="an ID card with gaps"),
        pytest.param("姓名：张三，未接", f"姓名：{MARK}，未接", id="a labelled name"),
        pytest.param("姓名:张三 未接", f"姓名:{MARK} 未接", id="a labelled name with a narrow colon"),
        pytest.param("当事人 = 欧阳某某;", f"当事人 = {MARK};", id="a labelled party"),
        pytest.param("联系人为李四(未接)", f"联系人为{MARK}(未接)", id="a name in a sentence"),
        pytest.param("身份证号码：A123456(7)", f"身份证号码：{MARK}(7)", id="a labelled number of any shape"),
        pytest.param("住址：某市某路1号", f"住址：{MARK}", id="a labelled address"),
        pytest.param("GET http://h:1/p?a=1&b=x%20y#z done", f"GET http://h:1/p?a={MARK}&b={MARK} done", id="a query"),
        pytest.param("with url: /api/v1/x?caseRef=C1 (Caused by", f"with url: /api/v1/x?caseRef={MARK} (Caused by",
                     id="a query without a scheme"),
        pytest.param("http://h/p?name=张三&x=1", f"http://h/p?name={MARK}&x={MARK}", id="a raw name in a query"),
        pytest.param("https://h/p?opaque后", f"https://h/p?{MARK}", id="a query without names"),
        pytest.param("next=%2Fp%3Fphone%3D1%26b%3D2", f"next=%2Fp%3Fphone%3D{MARK}%26b%3D{MARK}", id="percent-encoded"),
        pytest.param("http%3A%2F%2Fu%3Ap%40h%2Fp%3Fa%3D1", f"http%3A%2F%2F{MARK}%40h%2Fp%3Fa%3D{MARK}",
                     id="a percent-encoded URL whole"),
        pytest.param(f"/s?jobId={JOB_ID}&caseRef=C1", f"/s?jobId={JOB_ID}&caseRef={MARK}", id="a jobId in a query"),
        pytest.param("redis://:s3@cr/et@h:6379/0", f"redis://{MARK}@h:6379/0", id="a password in a URL"),
        pytest.param("Authorization: Bearer abc.def", f"Authorization: Bearer {MARK}", id="a header"),
        pytest.param("header value: 'Bearer abc\\n'", f"header value: 'Bearer {MARK}'", id="a quoted credential"),
        pytest.param("authorization=abc, x", f"authorization={MARK}, x", id="a credential without a scheme"),
        pytest.param("{'name': '张三', 'b': 1}", f"{{'name': '{MARK}', 'b': 1}}", id="a name in a repr"),
        pytest.param("Party(name='张三')", f"Party(name='{MARK}')", id="a name in a call's repr"),
        pytest.param("{'personId': 'P00001234'}", f"{{'personId': '{MARK}1234'}}", id="a person id in a repr"),
        pytest.param("P(person_id='P00001234')", f"P(person_id='{MARK}1234')", id="a person id in a call's repr"),
        pytest.param(r'{\"script\": \"你\\\"好\", \"a\": 1}', rf'{{\"script\": \"{MARK}\", \"a\": 1}}', id="escaped"),
        pytest.param('{"script": "你好, 我是', f'{{"script": "{MARK}"', id="a transcript cut off"),
        pytest.param('{"conversations": [{"x": "你好"}]}', f'{{"conversations": {MARK}', id="a transcript as a list"),
        pytest.param('{"phone": 123, "a": 1}', f'{{"phone": {MARK}, "a": 1}}', id="a number that is no text"),
    ],
)  # fmt: skip
def test_s37_personal_data_and_secrets_are_removed(text: str, expected: str) -> None:
    assert redact(text) == expected


@pytest.mark.parametrize(
    ("text", "keep", "expected"),
    [
        pytest.param(f"caseId: {PHONE}。", [PHONE], f"caseId: {PHONE}。", id="a case id like a phone number"),
        pytest.param(f"x-{PHONE}", [PHONE], f"x-{MARK}", id="no whole token"),
        pytest.param(f"+86 {PHONE}", [PHONE], MARK, id="the same digits as a phone number"),
        pytest.param("138" + " 0000 1111", ["138"], MARK, id="a short id does not break up a phone number"),
        pytest.param(f"/s?caseRef={PHONE}&phone={PHONE}", [PHONE], f"/s?caseRef={PHONE}&phone={MARK}", id="in a query"),
        pytest.param(PHONE, [""], MARK, id="an empty id keeps nothing"),
    ],
)
def test_s37_kept_ids_are_unchanged(text: str, keep: list[str], expected: str) -> None:
    assert redact(text, keep=keep) == expected


@pytest.mark.parametrize(
    ("person_id", "expected"),
    [
        (None, "***"), ("", "***"), ("12", "***"), ("123", "***3"), ("1234567", "***7"), ("P0001234", "***1234"),
        pytest.param("***1234", "***1234", id="masked before"),
    ],
)  # fmt: skip
def test_s37_mask_person(person_id: str | None, expected: str) -> None:
    assert mask_person(person_id) == expected


@dataclass
class Party:
    name: str


class Broken:
    def __repr__(self) -> str:
        raise ZeroDivisionError


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        pytest.param({"phoneNumber": PHONE, "record_url": "x", "API_TOKEN": 1}, dict.fromkeys(
            ("phoneNumber", "record_url", "API_TOKEN"), MARK), id="sensitive keys, however written"),
        pytest.param({"name": None}, {"name": None}, id="nothing is no secret"),
        pytest.param({"call-person-id": "P00001234"}, {"call-person-id": "***1234"}, id="a person id"),
        pytest.param({"a": [{"b": (PHONE, {PHONE})}]}, {"a": [{"b": [MARK, [MARK]]}]}, id="every depth"),
        pytest.param({PHONE: 1, 7: 2}, {MARK: 1, "7": 2}, id="keys"),
        pytest.param([True, None, 1.5, 7, JOB_ID], [True, None, 1.5, 7, JOB_ID], id="values of JSON"),
        pytest.param(int(PHONE), MARK, id="a phone number as an integer"),
        pytest.param([float("nan"), float("inf")], ["nan", "inf"], id="no values of JSON"),
        pytest.param(Party("张三"), "Party(name='***')", id="any object"),
        pytest.param(Broken(), "<Broken whose repr raises ZeroDivisionError>", id="a broken object"),
    ],
)  # fmt: skip
def test_s37_redact_value(value: object, expected: object) -> None:
    assert redact_value(value) == expected


def test_s37_recursive_value_is_cut() -> None:
    endless: list[object] = [PHONE]
    endless.append(endless)
    assert PHONE not in str(redact_value(endless))


def test_s37_a_real_exception_of_requests_quotes_nothing_personal() -> None:
    with socket.socket() as unused:  # bound but not listening: the connection is refused
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}/api/v1/outbound-bot/status"
        link = "http://h/a.wav?Expires=1770549400&AccessKeyId=FAKE&Signature=c2ln%2B"
        parameters = {"phoneNumber": PHONE, "jobId": JOB_ID, "link": link}
        with pytest.raises(requests.ConnectionError) as caught:
            requests.get(url, params=parameters, timeout=5, proxies={"http": ""})
    assert PHONE in str(caught.value)  # the exception does contain it
    redacted = redact(str(caught.value))
    assert not any(part in redacted for part in (PHONE, "1770549400", "FAKE", "c2ln"))
    assert JOB_ID in redacted
    assert "/api/v1/outbound-bot/status" in redacted


PIECES = (
    "1",
    "13",
    "+1 ",
    "0 ",
    "01 ",
    "00852",
    "110101 ",
    "姓名",
    "姓名:",
    "联系人为",
    "1-1-",
    "(",
    "1.",
    "138 0",
    "a=1&",
    "?a=",
    "'name': ",
    "://a:b",
)


@pytest.mark.parametrize("piece", PIECES)
def test_s37_redaction_takes_time_linear_in_the_text(piece: str) -> None:
    """Four times the text takes about four times as long; a quadratic time would be sixteen times."""

    def seconds(length: int) -> float:
        text = (piece * length)[:length]
        took = []
        for _ in range(3):
            begin = time.thread_time()
            redact(text)
            took.append(time.thread_time() - begin)
        return min(took)

    seconds(1_000)  # compiles
    assert seconds(80_000) < 9 * seconds(20_000) + 0.02
