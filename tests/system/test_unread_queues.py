"""`callwatch doctor` names each queue of the broker that holds messages and that no worker reads."""

import json
import time
from collections.abc import Iterator

import pytest
import redis
from celery import Celery

from cli import checks, unread_queues
from cli.checks import Check
from cli.connect import connect
from cli.doctor import probe_broker
from config.settings import Settings
from tests.users import guarded_server

READ = {"outbound.trigger", "outbound.poll", "outbound.control", "outbound.malformed", "back-end"}
NONE = Check("unread queues", "ok", "none")
MESSAGE = json.dumps({"body": "W10=", "headers": {"task": "outbound.trigger"}, "properties": {}})


@pytest.fixture
def client(redis_url: str) -> Iterator[redis.Redis]:
    with connect(redis_url, decode=False) as client:
        yield client


def search(client: redis.Redis) -> Check:
    return unread_queues.unread_queues(client, "callwatch", READ)


def test_misspelt_and_default_queue_are_named_with_their_messages(client: redis.Redis, redis_url: str) -> None:
    """S1: such a trigger is never carried out, and the back end sees no error."""
    with Celery("back-end", broker=redis_url) as back_end:
        for queue in ("outbound.triggers", "outbound.triggers", None):
            back_end.send_task("outbound.trigger", kwargs={"case_id": "C-1"}, queue=queue)
        back_end.send_task("outbound.trigger", queue="outbound.triggers", priority=6)
        back_end.send_task("outbound.trigger", queue="outbound.trigger", priority=6)
    assert {b"celery", b"outbound.triggers", b"outbound.triggers\x06\x166", b"_kombu.binding.celery"} < set(
        client.keys()
    )
    assert search(client) == Check(
        "unread queues",
        "warn",
        "messages that no worker reads: outbound.triggers 3, celery 1; the queue for triggers is outbound.trigger",
    )


def test_other_keys_are_no_queues(client: redis.Redis) -> None:
    for name in (*READ, "outbound.poll\x06\x163", "x.reply.celery.pidbox", "callwatch:history:C-1"):
        client.lpush(name, MESSAGE)
    for number, entry in enumerate(("", "{}", '{"body": 1}', '{"properties": 1}', '["body", "properties"]')):
        client.lpush(f"list-of-another-program-{number}", entry)
    client.set("celery", MESSAGE)
    client.hset("unacked", "x", MESSAGE)
    assert search(client) == NONE


def test_name_of_a_queue_is_cut_and_printable(client: redis.Redis) -> None:
    client.lpush(b"\xff\n\x1b[2J" + b"x" * 100, MESSAGE)
    assert search(client).detail.startswith("messages that no worker reads: \N{REPLACEMENT CHARACTER}")
    (shown,) = (word for word in search(client).detail.split() if "xxx" in word)
    assert shown == "\N{REPLACEMENT CHARACTER}" * 3 + "[2J" + "x" * 54 + "…"


def test_many_queues_are_counted(client: redis.Redis) -> None:
    for number in range(7):
        client.lpush(f"queue-{number}", *[MESSAGE] * (9 - number))
    assert "queue-0 9, queue-1 8, " in search(client).detail
    assert "queue-4 5 and 2 more; " in search(client).detail


def test_search_of_a_large_database_ends(client: redis.Redis, monkeypatch: pytest.MonkeyPatch) -> None:
    """A queue that was found by then is named."""
    client.mset({f"key-{number}": "" for number in range(3_000)})
    monkeypatch.setattr(unread_queues, "SEARCH_LIMIT", 0.0)
    assert search(client).detail == "none found within 0 s, the database holds more keys"
    monkeypatch.setattr(unread_queues, "PAGE", 10_000)
    assert search(client) == NONE, "one page holds all keys"
    client.lpush("celery", MESSAGE)
    client.lpush("other", MESSAGE)
    assert search(client).status == "warn"


def test_large_message_is_not_read_whole(client: redis.Redis) -> None:
    client.lpush("celery", MESSAGE[:-1] + ', "more": "' + "x" * 10_000_000 + '"}')
    begin = time.monotonic()
    sent = client.info("stats")["total_net_output_bytes"]
    assert "celery 1" in search(client).detail
    assert client.info("stats")["total_net_output_bytes"] - sent < 200_000
    assert time.monotonic() - begin < 5


@pytest.mark.parametrize("reader", ["worker", "notices"])
def test_queue_with_a_reader_is_not_named(
    client: redis.Redis, redis_url: str, monkeypatch: pytest.MonkeyPatch, reader: str
) -> None:
    """Another program may use the same broker; its workers answer too, and notices go to a queue of the back end."""
    client.lpush("celery", MESSAGE)
    answers: dict[str, dict[str, list[str]]] = {"worker": {"other@host": ["celery"]}, "notices": {}}
    monkeypatch.setattr(checks, "ask_workers", lambda _settings: answers[reader])
    notices = {"notice_task": "x", "notice_queue": "celery"} if reader == "notices" else {}
    settings = Settings(_env_file=None, redis_url=redis_url, **notices)  # type: ignore[arg-type]
    assert list(probe_broker(settings))[-1] == NONE
    monkeypatch.setattr(checks, "ask_workers", lambda _settings: {})
    assert list(probe_broker(Settings(_env_file=None, redis_url=redis_url)))[-1].status == "warn"
    client.delete("celery")


def test_s40_each_redis_user_gets_a_line(tmp_path_factory: pytest.TempPathFactory) -> None:
    """The users of `ops/make-secrets`: a worker's may search, and reads the queues of callwatch alone."""
    with guarded_server(tmp_path_factory.mktemp("users")) as server:
        with server.client("producer") as producer:
            producer.lpush("outbound.triggers", MESSAGE)
        with server.client("admin") as admin:
            admin.lpush("celery", MESSAGE)
        found: dict[str, Check] = {}
        for user in ("admin", "worker", "metrics", "gateway"):
            with connect(server.url(user), decode=False) as client:
                found[user] = search(client)
    assert "outbound.triggers 1" in found["admin"].detail
    assert "celery 1" in found["admin"].detail
    assert found["worker"].detail.startswith("messages that no worker reads: outbound.triggers 1; the queue")
    refused = Check("unread queues", "ok", "not searched: this Redis user may not list the keys of the broker")
    assert found["metrics"] == found["gateway"] == refused
