"""Test triggers and streams with real workers: pages show the records."""

import http.client
import json
import os
import re
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol

import pytest

from tests.deployment import LIMIT, Deployment, wait_until
from tests.gatewayprocess import Gateway, Shown, environment
from tests.pairs import bring_to, finish
from worker.core.model import Pair
from worker.store import RedisStore

LIFE = [["Scheduling", 0], ["Executing", 2], ["Succeeded", 4]]


class Showing(Protocol):
    """A stream, or a page that reconnects, with the state that it shows."""

    shown: Shown


def shows_the_records(page: Showing, store: RedisStore, *cases: str) -> bool:
    """Return whether a page shows the calls and pairs of the store (S34)."""
    calls = {
        call.job_id: (call.call_status, call.verdict)
        for case_id in cases
        for call in store.calls(case_id=case_id, finished=True)
    }
    pairs = {
        (one.pair.case_id, one.pair.mediation_id): one.phase
        for case_id in cases
        for one in store.pairs(case_id=case_id, finished=True)
    }
    shown = {job: (call["call_status"], call["verdict"]) for job, call in page.shown.calls.items()}
    return shown == calls and page.shown.pairs == pairs


def test_page_follows_a_trigger_to_the_end_of_its_calls(redis_url: str) -> None:
    """S1, S30, S31, S34, S42: the page opens before the trigger is sent, and its only source is the gateway."""
    with Deployment(redis_url, poll_interval=1) as deployment, Gateway.of(deployment) as gateway:
        deployment.simulator.script("C-1", life=LIFE, parties=[
            {"person_id": "P-10010001"}, {"person_id": "P-10010002", "error_code": 1001, "message": "wait"},
        ])  # fmt: skip
        deployment.worker()
        with gateway.follow("C-1", key=gateway.token("C-1")) as page:
            wait_until(lambda: page.events)
            assert page.events[0][1:] == (
                "snapshot",
                {**page.events[0][2], "cases": [{"case_id": "C-1", "pairs": [], "calls": [], "notices": []}]},
            )
            answer = gateway.trigger("load-1", Prefer="wait=30")
            assert (answer.status, answer.headers["preference-applied"]) == (200, "wait=30")
            state = answer.json
            assert (state["state"], state["result"]["outcome"], state["retry"]) == (
                "finished",
                "started",
                {"key": "none"},
            )
            page.wait(lambda shown: any(call["verdict"] for call in shown.calls.values()))
            page.wait(lambda shown: shown.pairs.get(("C-1", "20")) == "done")
            assert shows_the_records(page, deployment.store, "C-1")
            (call,) = page.shown.calls.values()
            assert (call["label"], call["person"]) == ("已完成", "***0001")
            (notice,) = page.shown.notices.values()
            assert (notice["kind"], notice["level"], notice["some_started"]) == ("refused", "warning", True)
            labels = [data["call"]["label"] for _, kind, data in page.events if kind == "call"]
            assert labels[0] == "拨号中"
            assert "通话中" in labels
            again = gateway.trigger("load-1")
            assert (again.status, again.json["state"]) == (202, "finished")
            with gateway.follow("C-1", Last_Event_ID=page.last_id) as resumed:
                wait_until(lambda: resumed.events)
                assert resumed.shown.notices == {}, "the stream delivered both statuses"
                assert resumed.shown.calls == page.shown.calls
            ids = [tuple(map(int, entry.split("-"))) for entry, _, _ in page.events if entry]
            assert ids == sorted(ids)
        assert set(deployment.simulator.calls_per_pair().values()) == {1}
        everything = gateway.log + json.dumps(page.events) + answer.body.decode()
        for secret in ("P-10010001", "P-10010002", gateway.key, "eyJ"):
            assert secret not in everything


def post_all(gateway: Gateway, keys: list[str]) -> list[tuple[int, str]]:
    """Send triggers of one pair at once over many connections; return the status and location of each."""

    def one(key: str) -> tuple[int, str]:
        answer = gateway.trigger(key)
        return answer.status, answer.headers.get("location", "")

    with ThreadPoolExecutor(100) as pool:
        return list(pool.map(one, keys))


@pytest.mark.parametrize("keys", [["one"] * 1_000, [f"key-{n}" for n in range(1_000)]], ids=["one key", "1,000 keys"])
def test_s42_thousand_triggers_of_one_pair_make_one_request(redis_url: str, keys: list[str]) -> None:
    """S4, S6, S17: one key makes one trigger; a thousand keys make a thousand, and all but one are skipped."""
    with Deployment(redis_url, poll_interval=2) as deployment, Gateway.of(deployment) as gateway:
        deployment.simulator.script("*", life="talking")
        deployment.worker("-Q", "outbound.trigger")
        answers = post_all(gateway, keys)
        assert {status for status, _ in answers} == {202}
        places = {place for _, place in answers}
        assert len(places) == len(set(keys))
        wait_until(lambda: all(gateway.get(place).json["state"] == "finished" for place in list(places)[:20]))
        wait_until(lambda: deployment.store.client.llen("outbound.trigger") == 0)
        assert deployment.simulator.calls_per_pair() == {("C-1", "20"): 1}


# -- streams -----------------------------------------------------------------------------------------------------------


def test_s36_s16_s29_events_and_global_state_reach_a_page(redis_url: str, store: RedisStore) -> None:
    """A pause reaches pages without the operator's name; an erased case disappears at once; a failed call shows."""
    with Gateway(environment(redis_url)) as gateway, gateway.follow("C-1", key=gateway.token("C-1")) as page:
        wait_until(lambda: page.events)
        bring_to(store, "watching", Pair("C-1", "20"), "job-1")
        page.wait(lambda shown: "job-1" in shown.calls)
        assert gateway.metric("callwatch_gateway_event_lag_seconds_count") >= 1
        store.pause("secret reason", by="张三")
        page.wait(lambda shown: shown.states)
        assert page.shown.states[-1] == {"upstream": "ok", "new_calls": "stopped", "store": "ok"}
        store.resume()
        page.wait(lambda shown: len(shown.states) == 2)
        finish(store, "ended", Pair("C-1", "20"), "job-1")
        page.wait(lambda shown: shown.calls["job-1"]["verdict"] == "ended")
        assert shows_the_records(page, store, "C-1")
        store.erase("C-1", anyway=True)
        wait_until(lambda: "gone" in page.kinds(), limit=5)
        assert (page.shown.calls, page.shown.pairs) == ({}, {})
        bring_to(store, "watching", Pair("C-2", "20"), "job-2")
        assert gateway.get("/v1/cases/C-1/history").json["events"] == []
        events = gateway.get("/v1/cases/C-2/history?limit=1").json
        assert ([event["kind"] for event in events["events"]], events["next"]) == (["started"], None)
        assert gateway.get(f"/v1/cases/C-2/history?after={events['events'][0]['id']}").json["events"] == []
        assert "job-2" not in json.dumps(page.events), "another case's"
        assert "张三" not in json.dumps(page.events, ensure_ascii=False)


def test_periodic_refresh_shows_a_poll_without_an_event(redis_url: str, store: RedisStore) -> None:
    """The failures and the time of the last query change without an event."""
    with Gateway(environment(redis_url, poll_interval=0.5)) as gateway, gateway.follow("C-1") as page:
        bring_to(store, "watching", Pair("C-1", "20"), "job-1")
        page.wait(lambda shown: "job-1" in shown.calls)
        store.client.hset(store.keys.job("job-1"), "retry_count", 3)
        page.wait(lambda shown: shown.calls["job-1"]["failures"] == 3)
        assert [entry for entry, kind, data in page.events if kind == "call" and data["call"]["failures"]] != [""]


def test_page_opened_after_a_refused_trigger_gets_its_notice(redis_url: str, store: RedisStore) -> None:
    """S35."""
    store.claim(Pair("C-1", "20"), token="t", task_id="t", arguments="{}", expires=None, enabled=False)
    with Gateway(environment(redis_url)) as gateway:
        (notice,) = gateway.case("C-1")["notices"]
        assert (notice["kind"], notice["text"]) == ("disabled", "外呼已暂停,未发起新外呼")
        with gateway.follow("C-1") as page:
            page.wait(lambda shown: notice["id"] in shown.notices)
        answer = gateway.trigger("k")
        store.claim(
            Pair("C-1", "20"), token="u", task_id=answer.json["id"], arguments="{}", expires=None, enabled=False
        )
        state = gateway.get(f"/v1/triggers/{answer.json['id']}").json
        assert (state["state"], state["result"]["outcome"], state["retry"]) == ("finished", "disabled", {"key": "new"})


def test_stream_ends_before_its_token_expires(redis_url: str) -> None:
    with Gateway(environment(redis_url)) as gateway:
        token = gateway.post("/v1/tokens", {"cases": ["C-1"], "expires_in": 3}).json["token"]
        with gateway.follow(key=token) as page:
            assert page.ended.wait(10)
            _, kind, data = page.events[-1]
            assert (kind, data["reason"]) == ("bye", "renew")
            assert 1_000 <= data["retry"] <= 10_000
        wait_until(lambda: gateway.metric('callwatch_gateway_streams_closed_total{reason="renew"}') == 1)
        assert gateway.metric("callwatch_gateway_streams") == 0


def test_one_subject_opens_at_most_twenty_streams(redis_url: str) -> None:
    with Gateway(environment(redis_url)) as gateway:
        token = gateway.token("C-1")
        streams = [gateway.follow(key=token) for _ in range(20)]
        assert {stream.status for stream in streams} == {200}
        refused = gateway.get("/v1/stream", key=token)
        assert (refused.status, refused.problem) == (503, "too-many-streams")
        streams.pop().close()
        wait_until(lambda: gateway.metric("callwatch_gateway_streams") == 19)
        streams.append(gateway.follow(key=token))
        assert streams[-1].status == 200
        for stream in streams:
            stream.close()
        wait_until(lambda: gateway.metric("callwatch_gateway_streams") == 0)


def test_stream_needs_the_event_stream_type_and_head_returns_headers_only(redis_url: str) -> None:
    with Gateway(environment(redis_url)) as gateway:
        assert gateway.get("/v1/stream?case=C-1", Accept="application/json").problem == "event-stream-only"
        head = gateway.request("HEAD", "/v1/stream?case=C-1")
        assert (head.status, head.headers["content-type"]) == (200, "text/event-stream; charset=utf-8")
        assert head.headers["x-accel-buffering"] == "no"
        assert head.headers["cache-control"] == "no-store, no-transform"


def test_slow_reader_is_dropped_with_bye_and_does_not_delay_others(redis_url: str, store: RedisStore) -> None:
    pace = json.dumps({"beat": 0.5, "blocked": 1.0})
    odd = environment(redis_url) | {"PACE": pace}
    with (
        Gateway(odd, module="tests.faults.oddgateway") as gateway,
        gateway.follow("C-1") as page,
        socket.socket() as slow,
    ):
        slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 32_768)
        slow.connect(("127.0.0.1", gateway.port))
        head = f"GET /v1/stream?case=C-1 HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {gateway.key}\r\n\r\n"
        slow.sendall(head.encode())
        wait_until(lambda: gateway.metric("callwatch_gateway_streams") == 2)
        event = json.dumps({"kind": "unknown", "case_id": "C-1", "mediation_id": "20", "message": "x" * 20_000})
        script = store.script("emit(PREFIX .. ':events', KEYS[1], 60000, now(), ARGV[1])")
        number = 0
        while gateway.metric('callwatch_gateway_streams_closed_total{reason="slow"}') == 0:
            number += 1
            store.run(script, [store.keys.history("C-1")], [event])
            page.wait(lambda shown, wanted=number: len(shown.notices) >= wanted)  # type: ignore[misc]
            assert number < 500
        last = b"".join(iter(lambda: slow.recv(65_536), b""))
        assert re.search(rb'event: bye\ndata: {"reason":"slow","retry":\d+}\n\n\r\n0\r\n\r\n$', last)
        assert not page.ended.is_set()


def test_shutdown_ends_streams_at_once_with_spread_reconnect_delays(redis_url: str) -> None:
    with Gateway(environment(redis_url)) as gateway:
        pages = [gateway.follow(f"C-{number}") for number in range(500)]
        wait_until(lambda: all(page.events for page in pages))
        begin = time.monotonic()
        assert gateway.stop() == 0
        took = time.monotonic() - begin
        assert took < 10, "the bound allows for a busy machine; `python -m benchmarks.gateway` measures the time"
        assert all(page.ended.wait(LIMIT) for page in pages)
        byes = [page.events[-1] for page in pages]
        assert {(kind, data["reason"]) for _, kind, data in byes} == {("bye", "shutdown")}
        assert len({data["retry"] for _, _, data in byes}) > 300
        for page in pages:
            page.close()


def test_shutdown_finishes_responses_in_progress(redis_url: str) -> None:
    with Gateway(environment(redis_url)) as gateway, ThreadPoolExecutor(1) as pool:
        waits = pool.submit(gateway.trigger, "k", Prefer="wait=30")
        wait_until(lambda: '"/v1/cases' in gateway.log or gateway.get("/v1/cases/C-1").status == 200)
        wait_until(lambda: gateway.trigger("k").status == 202)
        assert gateway.stop() == 0
        assert waits.result(LIMIT).status == 202


def test_closed_connection_ends_its_stream_at_once(redis_url: str) -> None:
    with Gateway(environment(redis_url)) as gateway:
        page = gateway.follow("C-1")
        wait_until(lambda: gateway.metric("callwatch_gateway_streams") == 1)
        page.close()
        wait_until(lambda: gateway.metric("callwatch_gateway_streams") == 0, limit=5)
        assert gateway.metric('callwatch_gateway_streams_closed_total{reason="client"}') == 1


def test_native_clients_resume_with_a_query_parameter(redis_url: str, store: RedisStore) -> None:
    with Gateway(environment(redis_url)) as gateway:
        bring_to(store, "watching", Pair("C-1", "20"), "job-1")
        last = store.history("C-1")[-1]["id"]
        connection = http.client.HTTPConnection("127.0.0.1", gateway.port, timeout=LIMIT)
        connection.request(
            "GET", f"/v1/stream?case=C-1&last_event_id={last}", headers={"Authorization": f"Bearer {gateway.key}"}
        )
        answer = connection.getresponse()
        assert answer.readline() == b"retry: 3000\n"
        assert answer.readline() == b"\n"
        assert answer.readline() == f"id: {last}\n".encode()
        connection.close()
        assert gateway.get("/v1/stream?case=C-1&last_event_id=x").problem == "malformed"


def test_gateway_without_keys_serves_loopback_and_knows_no_credential(redis_url: str) -> None:
    """S40: without a keys file the gateway listens on loopback only, and every credential is unknown."""
    started_alone = (sys.executable, "-m", "cli.main", "serve", "--port", "0")
    with subprocess.Popen(
        started_alone, env={**os.environ, "CALLWATCH_REDIS_URL": redis_url}, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout
        port = int(process.stdout.readline().rpartition(":")[2])
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=LIMIT)
        connection.request("GET", "/v1/cases/C-1", headers={"Authorization": "Bearer cw_a_b"})
        assert connection.getresponse().status == 401
        connection.close()
        process.terminate()
        assert process.wait(LIMIT) == 0
