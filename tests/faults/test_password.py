"""Test a change of Redis' password: workers read the file of the address again (S41)."""

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from cli.up.embedded_redis import HOST, EmbeddedServer
from tests.deployment import Deployment, wait_until
from tests.faults.failovers import INTERVAL, assert_watched_by_one_chain, watch

USER, OLD, NEW = "callwatch", "the-old-password", "the-new-password"
REFUSED = "invalid username-password pair"


@pytest.fixture
def server() -> Iterator[EmbeddedServer]:
    """A server with a user for the workers and an old password."""
    with EmbeddedServer() as one, redis.Redis.from_url(one.url) as admin:
        admin.acl_setuser(USER, enabled=True, passwords=[f"+{OLD}"], keys=["*"], channels=["*"], categories=["+@all"])
        yield one


def test_s41_workers_read_a_changed_password_from_the_file(server: EmbeddedServer, tmp_path: Path) -> None:
    """S41: the server refuses the old password for a while before the file has the new one."""
    file = tmp_path / "redis_url"
    file.write_text(address(server, OLD), encoding="utf-8")
    with (
        redis.Redis.from_url(server.url) as admin,
        Deployment(server.url, redis_url_file=file, poll_interval=INTERVAL) as deployment,
    ):
        worker = deployment.worker()
        jobs = watch(deployment)
        admin.acl_setuser(USER, enabled=True, passwords=[f"+{NEW}", f"-{OLD}"])
        admin.execute_command("CLIENT", "KILL", "USER", USER)
        wait_until(lambda: REFUSED in worker.log)
        file.write_text(address(server, NEW), encoding="utf-8")
        jobs |= watch(deployment, "after")
        assert_watched_by_one_chain(deployment, jobs, since=time.time())
        assert set(deployment.simulator.calls_per_pair().values()) == {1}
        assert OLD not in worker.log
        assert NEW not in worker.log


def address(server: EmbeddedServer, password: str) -> str:
    return f"redis://{USER}:{password}@{HOST}:{server.port}/0"
