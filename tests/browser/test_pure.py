"""Test the widget's parser, reducer and texts in the browser against Python models and the product's own texts."""

import itertools
import json
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from playwright.sync_api import Browser, Page

from config.redaction import mask_person
from gateway.assets import FOLDER
from worker.core import texts

LOAD = """(sources) => Promise.all(sources.map(([name, source]) => {
    const url = URL.createObjectURL(new Blob([source], {type: "text/javascript"}));
    return import(url).then((module) => { globalThis[name] = module; });
}))"""
PARSE = """(parts) => {
    const parser = new stream.Parser();
    return parts.flatMap((part) => parser.push(Uint8Array.from(part)));
}"""
REDUCE = """(events) => {
    const known = events.reduce((now, [type, data]) => state.reduce(now, type, data), state.NOTHING);
    return {
        calls: [...known.calls.values()].map(({case_id, job_id, label}) => [case_id, job_id, label]).sort(),
        notices: [...known.notices.values()].map(({id, resolved}) => [id, resolved === true]),
        system: [known.store, known.upstream, known.upstream_since],
    };
}"""


@pytest.fixture(scope="module")
def page(browser: Browser) -> Iterator[Page]:
    page = browser.new_page()
    page.goto("about:blank")
    page.evaluate(LOAD, [[name, (FOLDER / f"{name}.js").read_text("utf-8")] for name in ("stream", "state", "texts")])
    yield page
    page.close()


# -- the parser --------------------------------------------------------------------------------------------------------

fields = st.sampled_from(["data", "data", "data", "event", "id", "retry", "", "dat", "data "])
values = st.text("通话中a: \0\ufeff\u2028😀", max_size=8)
lines = st.one_of(
    st.just(""),
    st.just(""),
    st.builds("{}: {}".format, fields, values),
    st.builds("{}:{}".format, fields, values),
    fields,
)
streams = st.lists(st.tuples(lines, st.sampled_from(["\n", "\r", "\r\n"])), max_size=12)


def parsed(text: str) -> list[dict[str, str]]:
    """Return the events of a complete stream as the standard defines them."""
    *whole, _ = text.removeprefix("\ufeff").replace("\r\n", "\n").replace("\r", "\n").split("\n")
    events, last_id, kind, data = [], "", "", list[str]()
    for line in whole:
        name, colon, value = line.partition(":")
        value = value.removeprefix(" ") if colon else ""
        if not line:
            if data:
                events.append({"type": kind or "message", "data": "\n".join(data), "id": last_id})
            kind, data = "", []
        elif name == "data":
            data.append(value)
        elif name == "event":
            kind = value
        elif name == "id" and "\0" not in value:
            last_id = value
    return events


@given(stream=streams, sizes=st.lists(st.integers(1, 12), min_size=1, max_size=4))
@settings(max_examples=150)
def test_parser_finds_the_events_for_every_split_of_the_bytes(
    page: Page, stream: list[tuple[str, str]], sizes: list[int]
) -> None:
    text = "".join(line + end for line, end in stream)
    raw, parts = text.encode(), list[list[int]]()
    for size in itertools.cycle(sizes):
        parts.append(list(raw[:size]))
        raw = raw[size:]
        if not raw:
            break
    assert page.evaluate(PARSE, parts) == parsed(text)


# -- the reducer -------------------------------------------------------------------------------------------------------

cases, jobs, mediations = st.sampled_from(["C-1", "C-2"]), st.sampled_from("123"), st.sampled_from(["20", "21"])
labels = st.sampled_from(["拨号中", "通话中"])
phases = st.sampled_from(["claimed", "sending", "unknown", "watching", "waiting", "done"])
kinds = st.sampled_from(["unknown", "nothing_found", "adopted", "released", "lost", "refused"])


@st.composite
def call(draw: st.DrawFn, case: str) -> dict[str, Any]:
    return {"job_id": f"{case}-{draw(jobs)}", "label": draw(labels), "verdict": None}


@st.composite
def notice(draw: st.DrawFn, case: str) -> dict[str, Any]:
    number = draw(st.integers(1, 8))
    return {"id": f"{case}-{number}", "kind": draw(kinds), "case_id": case, "mediation_id": draw(mediations)}


@st.composite
def pair(draw: st.DrawFn) -> dict[str, Any]:
    return {"mediation_id": draw(mediations), "phase": draw(phases)}


@st.composite
def event(draw: st.DrawFn) -> tuple[str, dict[str, Any]]:
    case, kind = (
        draw(cases),
        draw(st.sampled_from(["snapshot", "call", "pair", "notice", "gone", "state", "beat", "new"])),
    )
    data: dict[str, Any]
    match kind:
        case "snapshot":
            part = {
                "case_id": case,
                "calls": draw(st.lists(call(case), max_size=3, unique_by=lambda one: one["job_id"])),
                "pairs": draw(st.lists(pair(), max_size=2, unique_by=lambda one: one["mediation_id"])),
                "notices": draw(st.lists(notice(case), max_size=3, unique_by=lambda one: one["id"])),
            }
            head = draw(
                st.sampled_from([{}, {"now": 5, "upstream": "ok"}, {"now": 6, "upstream": "away", "upstream_since": 3}])
            )
            data = {**head, "cases": [part]}
        case "call":
            data = {"case_id": case, "call": draw(call(case))}
        case "pair":
            data = {"case_id": case, **draw(pair())}
        case "notice":
            data = draw(notice(case))
        case "state":
            data = draw(
                st.sampled_from(
                    [{"store": "away"}, {"store": "ok", "upstream": "ok"}, {"upstream": "away", "upstream_since": 4}]
                )
            )
        case _:
            data = {"case_id": case, "now": 7}
    return kind, data


class Model:
    """Second implementation of the reducer: derives a page's state from the last event about each object."""

    def __init__(self) -> None:
        self.calls: dict[tuple[str, str], str] = {}
        self.notices: dict[str, dict[str, Any]] = {}
        self.system: list[Any] = ["ok", "ok", None]

    def take(self, kind: str, data: dict[str, Any]) -> None:
        match kind:
            case "snapshot":
                self.replace(data)
            case "call":
                self.calls[data["case_id"], data["call"]["job_id"]] = data["call"]["label"]
            case "notice" if data["id"] not in self.notices:
                if data["kind"] in ("adopted", "released", "nothing_found"):
                    self.resolve(data["case_id"], data["mediation_id"])
                self.notices[data["id"]] = dict(data, resolved=False)
            case "pair" if data["phase"] in ("watching", "done"):
                self.resolve(data["case_id"], data["mediation_id"])
            case "gone":
                self.forget(data["case_id"])
                for one in self.notices.values():
                    one["resolved"] |= one["case_id"] == data["case_id"]
            case "state":
                upstream = [data["upstream"], data.get("upstream_since")] if "upstream" in data else self.system[1:]
                self.system = [data.get("store", self.system[0]), *upstream]

    def replace(self, data: dict[str, Any]) -> None:
        for part in data["cases"]:
            self.forget(part["case_id"])
            for one in part["calls"]:
                self.calls[part["case_id"], one["job_id"]] = one["label"]
            for one in part["notices"]:
                self.take("notice", one)
            for one in part["pairs"]:
                self.take("pair", {"case_id": part["case_id"], **one})
        if "now" in data:
            self.system = ["ok", data["upstream"], data.get("upstream_since")]

    def resolve(self, case_id: str, mediation_id: str) -> None:
        for one in self.notices.values():
            open_kinds = ("unknown", "nothing_found")
            if (one["case_id"], one["mediation_id"]) == (case_id, mediation_id) and one["kind"] in open_kinds:
                one["resolved"] = True

    def forget(self, case_id: str) -> None:
        self.calls = {key: label for key, label in self.calls.items() if key[0] != case_id}

    def shown(self) -> dict[str, Any]:
        return {
            "calls": sorted([case, job, label] for (case, job), label in self.calls.items()),
            "notices": [[one["id"], one["resolved"]] for one in self.notices.values()],
            "system": self.system,
        }


@given(events=st.lists(event(), max_size=15))
@settings(max_examples=150)
def test_s34_reducer_state_equals_the_model(page: Page, events: list[tuple[str, dict[str, Any]]]) -> None:
    """For any sequence of events, with repetitions."""
    model = Model()
    for kind, data in events:
        model.take(kind, data)
    assert page.evaluate(REDUCE, json.loads(json.dumps(events))) == model.shown()


# -- texts -------------------------------------------------------------------------------------------------------------


@given(seconds=st.floats(-10, 100_000))
@settings(max_examples=60)
def test_s31_durations_are_formatted_like_the_products(page: Page, seconds: float) -> None:
    assert page.evaluate("(seconds) => texts.duration(seconds)", seconds) == texts.duration(seconds)


@given(person=st.text("*P1通😀", max_size=10))
@settings(max_examples=100)
def test_s37_persons_are_masked_like_the_products(page: Page, person: str) -> None:
    assert page.evaluate("(person) => texts.maskPerson(person)", person) == mask_person(person)


def test_widget_texts_equal_the_products(page: Page) -> None:
    """Exactly; the texts of the first design appear nowhere."""
    refused = [("***0001", "m"), ("", "")]
    for some in (True, False):
        text = page.evaluate("([refused, some]) => texts.refusals(refused, some)", [refused, some])
        assert text == texts.refusals(refused, some_started=some)
    ours = page.evaluate(
        """[texts.UNKNOWN_CONTACT, texts.UNKNOWN_ERROR, texts.callFailed("张三"), texts.talking("张三"),
            texts.status("通话中"), texts.LASTED, texts.WORKING, texts.interrupted("12:00:00"), texts.more(3),
            texts.expand(3), texts.MINIMISE, texts.REGION]"""
    )
    assert ours == [
        texts.UNKNOWN_CONTACT, texts.UNKNOWN_ERROR, texts.call_failed("张三"), "正在与 张三 电话沟通中...",
        "状态:通话中", "已持续: ", "智能体工作中", "更新中断,最后更新 12:00:00", "还有 3 个通话",
        "展开智能外呼,3 个通话", "最小化", "智能外呼",
    ]  # fmt: skip
    everything = "".join(path.read_text("utf-8") for path in FOLDER.rglob("*.js"))
    for text in ("通话成功", "通话已取消", "智能外呼发起失败", "查询失败次数过多", "暂无进行中的通话"):
        assert text not in everything
    assert "innerHTML" not in everything
    assert "console" not in everything
    assert "Date.now" not in everything
