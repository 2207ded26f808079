"""Test the wrong settings of a first start: each ends the command with one line that names the variable."""

from pathlib import Path

import pytest

from cli.main import main
from tests.oneline import SECRET, Wrong

pytestmark = pytest.mark.usefixtures("empty_environment")

NUMBER, REDIS = "a positive number of seconds", "should be redis://host:6379/0"
UPSTREAM = "should be http://host:port or https://host"


@pytest.mark.parametrize(
    ("name", "value", "right"),
    [
        # numbers
        pytest.param("POLL_INTERVAL", "soon", f"'soon' is a text, should be {NUMBER}", id="a word"),
        pytest.param("POLL_INTERVAL", "10s", f"'10s' is a text, should be {NUMBER}", id="a unit"),
        pytest.param("POLL_INTERVAL", "-5", f"'-5' is not positive, should be {NUMBER}", id="a negative interval"),
        pytest.param("MAX_RETRY_COUNT", "2.5", "'2.5' is a fraction, should be a whole number", id="a fraction"),
        pytest.param("DIAL_RATE", "2/s", "'2/s' is a text, should be 0 or a positive number a second", id="a rate"),
        # contradictions
        pytest.param("POLL_INTERVAL", "600", "less than CALLWATCH_VISIBILITY_TIMEOUT (180 s)", id="a long interval"),
        # choices
        pytest.param("ENABLED", "ja", "'ja' is a text, should be true or false", id="yes in German"),
        pytest.param("LOG_LEVEL", "verbose", "one of DEBUG, INFO, WARNING, ERROR, CRITICAL", id="a log level"),
        pytest.param("WORKER_POOL", "process", "one of threads, prefork, gevent", id="a pool"),
        # upstream
        pytest.param("API_BASE_URL", "127.0.0.1:9015", f"is no URL, {UPSTREAM}", id="upstream without a scheme"),
        pytest.param("API_BASE_URL", "ftp://upstream", f"is no URL, {UPSTREAM}", id="upstream with another scheme"),
        pytest.param("API_BASE_URL", "http://upstream:99999", f"is no URL, {UPSTREAM}", id="no port of upstream"),
        pytest.param("API_BASE_URL", "http://h/api?x=1", f"a query or a fragment, {UPSTREAM}", id="upstream's query"),
        pytest.param("API_TOKEN", f"{SECRET}\nx", "should be one visible ASCII word", id="a token of two lines"),
        pytest.param("API_TOKEN", f"{SECRET}密码", "should be one visible ASCII word", id="a token in Chinese"),
        # Redis
        pytest.param("REDIS_URL", "localhost:6379", f"is no URL, {REDIS}", id="Redis without a scheme"),
        pytest.param("REDIS_URL", "http://localhost:6379", f"has the scheme 'http', {REDIS}", id="Redis over HTTP"),
        pytest.param(
            "REDIS_URL", "redis://localhost:abc", f"has a host or port that cannot be read, {REDIS}", id="port"
        ),
        pytest.param("REDIS_URL", "redis:///0", f"has no host, {REDIS}", id="Redis without a host"),
        pytest.param("REDIS_URL", "redis://h/first", f"has a database that is no number, {REDIS}", id="a database"),
        pytest.param("REDIS_URL", f"redis://:{SECRET}/x@h/0", "(a password percent-encoded)", id="an odd password"),
        pytest.param("BROKER_URL", "amqp://guest@h", f"has the scheme 'amqp', {REDIS}", id="RabbitMQ"),
        pytest.param("REDIS_URL", "'redis://h/0'", "in quotation marks, should stand without them", id="in quotes"),
        pytest.param("POLL_INTERVAL", '"10"', "in quotation marks, should stand without them", id="a quoted number"),
        # calling hours
        pytest.param("CALLING_HOURS", "9-21", "is no span of a day, should be like 09:00-21:00", id="hours"),
        pytest.param("CALLING_HOURS", "21:00-09:00", "closes before it opens, should be a span", id="over midnight"),
        pytest.param("CALLING_DAYS", "weekdays", "names no days, should be like mon-sat", id="days"),
        pytest.param("CALLING_ZONE", "UTC+8", "is no time zone, should be one like Asia/Shanghai", id="a zone"),
        # others
        pytest.param("FLOWER_AUTH", SECRET, "is no pair, should be user:password", id="a password alone"),
        pytest.param("KEY_PREFIX", "my app", "should be a word such as callwatch", id="a prefix"),
        pytest.param("GATEWAY_ORIGINS", "example.org", "should be like https://host", id="an origin"),
        # names
        pytest.param("POLL_INTERVL", "5", "is no setting, did you mean CALLWATCH_POLL_INTERVAL?", id="misspelt"),
        pytest.param("API_URL", "http://h", "is no setting, did you mean CALLWATCH_API_BASE_URL?", id="shortened"),
        pytest.param("UPSTREAM_URL", "http://h", "is no setting, should be taken away", id="invented"),
    ],
)
def test_wrong_value_is_one_line_with_the_variable(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str, value: str, right: str
) -> None:
    monkeypatch.setenv(f"CALLWATCH_{name}", value)
    code = main(["status"])
    shown = capsys.readouterr()
    Wrong(2, f"CALLWATCH_{name}: ", right).judge(code, shown.err)
    assert shown.out == ""


@pytest.mark.parametrize(
    ("given", "field", "right"),
    [
        pytest.param({"NOTICE_URL": "http://h/x"}, "NOTICE_SECRET", "missing, should be the secret", id="no secret"),
        pytest.param({"NOTICE_TASK": "a.b"}, "NOTICE_QUEUE", "should be set both, or neither", id="a task alone"),
        pytest.param({"API_TOKEN_FILE": "none"}, "API_TOKEN_FILE", "(No such file or directory)", id="no such file"),
        pytest.param({"API_TOKEN_FILE": "."}, "API_TOKEN_FILE", "(Is a directory)", id="a folder"),
        pytest.param({"API_TOKEN_FILE": "empty"}, "API_TOKEN_FILE", "is empty, should hold the secret", id="empty"),
        pytest.param({"API_TOKEN_FILE": "binary"}, "API_TOKEN_FILE", "(no UTF-8 text)", id="no text"),
        pytest.param({"API_TOKEN_FILE": "lines"}, "API_TOKEN", "one visible ASCII word", id="a file of two lines"),
        pytest.param(
            {"API_TOKEN_FILE": "good", "API_TOKEN": SECRET}, "API_TOKEN", "should be one of the two", id="given twice"
        ),
        pytest.param({"POLL_INTERVAL_FILE": "good"}, "POLL_INTERVAL_FILE", "did you mean", id="no secret in a file"),
    ],
)
def test_wrong_secret_is_one_line_without_the_secret(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    given: dict[str, str],
    field: str,
    right: str,
) -> None:
    contents = {"empty": b"\n", "binary": b"\xff\xfe\x00", "lines": f"{SECRET}\nmore\n".encode(), "good": b"good"}
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    for name, value in given.items():
        monkeypatch.setenv(f"CALLWATCH_{name}", value)
    code = main(["status"])
    Wrong(2, f"CALLWATCH_{field}: ", right).judge(code, capsys.readouterr().err)


@pytest.mark.parametrize(
    ("content", "field", "right"),
    [
        pytest.param(b"CALLWATCH_POLL_INTERVL=3\n", "CALLWATCH_POLL_INTERVL: ", "did you mean", id="misspelt"),
        pytest.param(b"export CALLWATCH_POLL_INTERVAL=x\n", "CALLWATCH_POLL_INTERVAL: ", NUMBER, id="exported"),
        pytest.param("CALLWATCH_ENABLED=true\n".encode("utf-16"), ".env: ", "should be UTF-8 text", id="UTF-16"),
    ],
)
def test_wrong_env_file_is_one_line(capsys: pytest.CaptureFixture[str], content: bytes, field: str, right: str) -> None:
    Path(".env").write_bytes(content)
    code = main(["status"])
    Wrong(2, field, right).judge(code, capsys.readouterr().err)
