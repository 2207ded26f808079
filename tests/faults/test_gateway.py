"""Kill gateway, worker and Redis at chosen moments: one request per key, and pages show the records again."""

import json
from pathlib import Path

import pytest
import redis

from cli.up.embedded_redis import EmbeddedServer
from config.settings import Settings
from tests.deployment import Deployment, wait_until
from tests.faults.test_killed import SETTINGS
from tests.gatewayprocess import Gateway, Stream, environment
from tests.pairs import bring_to
from tests.system.test_gateway_stream import shows_the_records
from worker.container import build_store
from worker.core.model import Pair


@pytest.mark.parametrize("point", ["before publish", "after publish"])
def test_s42_gateway_killed_around_publishing_makes_one_call_per_key(
    redis_url: str, tmp_path: Path, point: str
) -> None:
    """The back end cannot know whether the trigger was stored and enqueued, and retries with its key."""
    fuse = tmp_path / "fuse"
    fuse.touch()
    with Deployment(redis_url, poll_interval=2) as deployment:
        fused = deployment.environment | {"FUSE": point, "FUSE_FILE": str(fuse)}
        with Gateway(fused, module="tests.faults.oddgateway") as gateway:
            with pytest.raises((OSError, EOFError)):
                gateway.trigger("k-1")
            wait_until(lambda: gateway.process.poll() is not None)
            assert not fuse.exists()
            gateway.start()
            deployment.worker()
            first = gateway.trigger("k-1")
            assert first.status == 202
            place = first.headers["location"]
            wait_until(lambda: gateway.get(place).json["state"] == "finished")
            assert gateway.get(place).json["result"]["outcome"] == "started"
            assert gateway.trigger("k-1").json["state"] == "finished"
            assert deployment.simulator.calls_per_pair() == {("C-1", "20"): 1}
            other = gateway.trigger("k-2")
            wait_until(lambda: gateway.get(other.headers["location"]).json["state"] == "finished")
            assert gateway.get(other.headers["location"]).json["result"]["outcome"] == "skipped"
            assert deployment.simulator.calls_per_pair() == {("C-1", "20"): 1}


def test_s35_streams_report_an_outage_of_redis_and_recover(server: EmbeddedServer) -> None:
    """Every response is a 503 with Retry-After; that of a trigger allows the same key again; streams stay open."""
    store = build_store(Settings(redis_url=server.url))
    with Gateway(environment(server.url)) as gateway, gateway.follow("C-1") as page:
        wait_until(lambda: page.events)
        server.kill()
        page.wait(lambda shown: {"store": "away"} in shown.states)
        refused = [
            gateway.trigger("k-1"),
            *map(gateway.get, ("/v1/stream?case=C-1", "/v1/cases/C-1", "/v1/cases/C-1/history", "/readyz")),
        ]
        assert {(one.status, one.problem, one.headers["retry-after"]) for one in refused} == {
            (503, "store-unavailable", "2")
        }
        assert refused[0].json["retry"] == {"key": "same"}
        assert gateway.get("/healthz", key="").status == 200
        server.start()
        page.wait(lambda shown: {"store": "ok"} in shown.states)
        wait_until(lambda: gateway.get("/readyz", key="").status == 200)
        assert gateway.trigger("k-1").status == 202
        bring_to(store, "watching", Pair("C-1", "20"), "job-1")
        page.wait(lambda shown: "job-1" in shown.calls)
        assert not page.ended.is_set()
        assert page.kinds().count("bye") == 0
    store.client.close()


def test_s42_broker_time_out_is_a_503_and_the_same_key_is_accepted_later(
    server: EmbeddedServer, redis_url: str
) -> None:
    """The key was stored and its message may still arrive: a retry with the same key is the same trigger."""
    with (
        Gateway(environment(redis_url, broker_url=server.url)) as gateway,
        redis.Redis.from_url(server.url, decode_responses=True) as broker,
    ):
        broker.client_pause(120_000, all=False)
        refused = gateway.trigger("k-1")
        assert (refused.status, refused.problem) == (503, "store-unavailable")
        assert (refused.headers["retry-after"], refused.json["retry"]) == ("2", {"key": "same"})
        assert "Idempotency-Key" in refused.json["detail"]
        broker.client_unpause()
        taken = gateway.trigger("k-1")
        assert (taken.status, taken.json["state"]) == (202, "queued")
        wait_until(lambda: broker.llen("outbound.trigger") >= 1)
        ids = {json.loads(text)["headers"]["id"] for text in broker.lrange("outbound.trigger", 0, -1)}
        assert ids == {taken.json["id"]}


def test_s34_idle_page_shows_the_records_after_any_kill(server: EmbeddedServer) -> None:
    """Redis, worker and gateway are killed in turn during calls; a page reconnects with the last id it received."""
    life = [["Scheduling", 0], ["Executing", 3], ["Succeeded", 12]]
    with Deployment(server.url, **SETTINGS | {"poll_interval": 1, "status_timeout": 1}) as deployment:
        deployment.simulator.script("*", life=life)
        worker = deployment.worker()
        with Gateway.of(deployment) as gateway:
            page = gateway.follow("C-1")
            assert gateway.trigger("k-1").status == 202
            page.wait(lambda shown: shown.calls)
            server.kill()
            page.wait(lambda shown: shown.states)
            server.start()
            page.wait(lambda shown: any(call["label"] == "通话中" for call in shown.calls.values()))
            worker.kill()
            gateway.kill()
            page.close()
            deployment.worker(name="another")
            gateway.start()
            back = gateway.follow("C-1", Last_Event_ID=page.last_id)
            wait_until(lambda: deployment.finished(2), limit=120)
            wait_until(lambda: shows_the_records(back, deployment.store, "C-1"))
            assert not delivered_again(page, back)
            back.close()
        assert set(deployment.simulator.calls_per_pair().values()) == {1}


def delivered_again(page: Stream, back: Stream) -> set[str]:
    """Return the notices that a page received again after reconnecting with its last id."""
    return page.shown.notices.keys() & back.shown.notices.keys()
