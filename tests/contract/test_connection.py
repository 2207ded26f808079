"""Test the connection that each thread keeps for its scripts, on a real server."""

import threading
from collections.abc import Callable, Iterator

import pytest
import redis

from tests.contract.conftest import TERMS
from tests.polls import begin_poll
from worker.core.poll_model import PollDropped
from worker.store import Keys, RedisStore, connect
from worker.store.connection import ThreadClient

MOST = 4  # connections
ABSENT = PollDropped("absent")


@pytest.fixture
def store(redis_url: str) -> Iterator[RedisStore]:
    client = connect(redis_url, max_connections=MOST)
    yield RedisStore(client, Keys("t"), TERMS)
    client.close()


def in_a_thread(work: Callable[[], object]) -> None:
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()


def test_thread_keeps_a_connection_of_its_own(redis_url: str) -> None:
    client = connect(redis_url, max_connections=MOST)
    own = ThreadClient(client)
    mine = own.client.client_id()
    others = [client.client_id()]
    in_a_thread(lambda: others.append(own.client.client_id()))
    assert own.client.client_id() == mine
    assert mine not in others
    client.close()


def test_broken_connection_is_replaced_without_an_error(store: RedisStore, redis_url: str) -> None:
    assert begin_poll(store, "job", 1) == ABSENT
    with redis.Redis.from_url(redis_url) as other:
        assert other.client_kill_filter(_type="normal", skipme=True) >= 1
    assert begin_poll(store, "job", 1) == ABSENT


def test_ended_thread_returns_its_connection(store: RedisStore) -> None:
    answers: list[object] = []
    for _ in range(3 * MOST):
        in_a_thread(lambda: answers.append(begin_poll(store, "job", 1)))
    assert answers == [ABSENT] * 3 * MOST


def test_script_is_loaded_again_after_the_server_lost_it(store: RedisStore) -> None:
    assert begin_poll(store, "job", 1) == ABSENT
    store.client.script_flush()
    assert begin_poll(store, "job", 1) == ABSENT
