"""Test that connections log in with a rotated password (S41)."""

from pathlib import Path

import pytest
import redis
from redis.exceptions import AuthenticationError, NoPermissionError

from cli.up.embedded_redis import HOST, EmbeddedServer
from config.secret_files import read_files
from tests.contract.primaries import OTHER_PASSWORD, application
from worker.store import connect
from worker.store.primary import primary_of


@pytest.fixture
def secret_file(server: EmbeddedServer, tmp_path: Path) -> Path:
    """The file that the address of the server was read from."""
    file = tmp_path / "redis_url"
    file.write_text(f"{server.url}\n", encoding="utf-8")
    read, faults = read_files({"X_REDIS_URL_FILE": str(file)}, ["redis_url"], prefix="X_")
    assert (read, faults) == ({"redis_url": server.url}, [])
    return file


def rotate(server: EmbeddedServer, operator: redis.Redis, client: redis.Redis) -> None:
    """Change the password, and end all connections of the client."""
    operator.config_set("requirepass", OTHER_PASSWORD)
    client.connection_pool.disconnect()
    assert server.password != OTHER_PASSWORD


def test_s41_rotated_password_is_read_again_when_a_login_fails(
    server: EmbeddedServer, operator: redis.Redis, secret_file: Path
) -> None:
    client, other = connect(server.url), connect(server.url)
    made = other.client_id()
    secret_file.write_text(server.url.replace(server.password, OTHER_PASSWORD), encoding="utf-8")
    rotate(server, operator, client)
    assert client.set("a", 1)
    assert other.client_id() != made
    with application(server.url) as app, app.connection_for_write() as connection:
        connection.SimpleQueue("q").put("one")
        app.backend.client.ping()
    for one in (client, other):
        one.close()


@pytest.mark.parametrize(
    ("content", "logged"),
    [
        (None, ""),
        ("redis://s3cret", ""),
        ("s3cret", "the file with the address of Redis at 127.0.0.1:{port} is no URL"),
        ("redis://:s3cret@other.example/1", "names another server, which takes a restart"),
    ],
)
def test_s41_unchanged_or_wrong_secret_file_keeps_the_address(
    server: EmbeddedServer,
    operator: redis.Redis,
    secret_file: Path,
    content: str | None,
    logged: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    client = connect(server.url)
    if content == "redis://s3cret":
        secret_file.unlink()
    elif content:
        secret_file.write_text(content, encoding="utf-8")
    rotate(server, operator, client)
    with pytest.raises(AuthenticationError):
        client.ping()
    assert logged.format(port=server.port) in caplog.text
    assert "s3cret" not in caplog.text
    assert primary_of(server.url).url.location == f"127.0.0.1:{server.port}"
    client.close()


def test_s41_missing_right_is_a_reason_to_read_the_secret_again(
    server: EmbeddedServer, operator: redis.Redis, secret_file: Path
) -> None:
    operator.execute_command("ACL", "SETUSER", "app", "on", ">pw", "~*", "+@all")  # type: ignore[no-untyped-call]
    operator.execute_command("ACL", "SETUSER", "default", "-set")  # type: ignore[no-untyped-call]
    client = connect(server.url)
    with pytest.raises(NoPermissionError):
        client.set("a", 1)
    secret_file.write_text(f"redis://app:pw@{HOST}:{server.port}/0", encoding="utf-8")
    with pytest.raises(NoPermissionError):
        client.set("a", 1)
    assert client.set("a", 1)
    client.close()
