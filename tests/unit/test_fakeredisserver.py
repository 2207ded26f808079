"""The Lua of fakeredis in these tests refuses what Redis refuses, and keeps no state between scripts."""

import pytest
import redis

from cli.up.embedded_redis import EmbeddedServer
from tests.fakeredisserver import fake_redis


def test_script_that_creates_a_global_variable_fails_as_in_redis(redis_server: EmbeddedServer) -> None:
    with redis.Redis.from_url(redis_server.url) as real, fake_redis() as fake:
        for client in (real, fake):
            with pytest.raises(redis.ResponseError):
                client.eval("redis.call('SET', 'before', 1) counter = 1", 0)


def test_script_runs_with_the_arguments_of_each_run() -> None:
    with fake_redis() as client:
        script = client.register_script("redis.call('SET', KEYS[1], ARGV[1]) return redis.call('GET', KEYS[1])")
        assert [script(["a"], ["1"]), script(["b"], ["2"]), script(["a"], ["3"])] == ["1", "2", "3"]
        assert client.mget("a", "b") == ["3", "2"]


def test_error_of_a_command_ends_a_script_as_in_redis() -> None:
    with fake_redis() as client:
        client.set("text", "")
        with pytest.raises(redis.ResponseError, match="WRONGTYPE"):
            client.eval("redis.call('HSET', 'text', 'a', 1) redis.call('SET', 'after', 1)", 0)
        assert client.exists("after") == 0
