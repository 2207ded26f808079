"""A process logs at its start which Redis TLS keeps away, with the setting, the fault and the remedy."""

import logging
from pathlib import Path

import pytest

from cli.up.embedded_redis import EmbeddedServer
from config.settings import Settings
from tests.tls import TlsProxy
from worker.runtime.redis_check import report_tls_faults


def test_each_redis_with_a_fault_of_tls_is_one_line(
    redis_server: EmbeddedServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    with TlsProxy(redis_server.port, "expired") as proxy:
        place = f"default:{redis_server.password}@localhost:{proxy.port}"
        settings = Settings(
            redis_url=f"redis://{place}/1", broker_url=f"rediss://{place}/2", result_url="redis://127.0.0.1:1/0"
        )
        report_tls_faults(settings)
    assert [record.levelno for record in caplog.records] == [logging.ERROR] * 2
    broker, state = (record.getMessage() for record in caplog.records)
    assert broker.startswith(f"Redis at localhost:{proxy.port}: TLS: the certificate of the server is signed by")
    assert broker.endswith("by the option ssl_ca_certs of CALLWATCH_BROKER_URL.")
    assert state == (
        f"Redis at localhost:{proxy.port}: TLS: the server speaks TLS on this port. Begin CALLWATCH_REDIS_URL with rediss://."
    )


def test_redis_that_answers_is_not_reported(redis_url: str, caplog: pytest.LogCaptureFixture) -> None:
    report_tls_faults(Settings(_env_file=None, redis_url=redis_url))
    assert caplog.records == []
