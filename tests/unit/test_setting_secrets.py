"""Secrets in settings: read from variables or files, checked, and never shown."""

from pathlib import Path

import pytest
from pydantic import SecretStr, ValidationError

from config.settings import SECRETS, Settings, load_settings
from tests.oneline import fault_of

pytestmark = pytest.mark.usefixtures("empty_environment")


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("REDIS_URL", "amqp://user:s3cret@h/0"), ("REDIS_URL", "redis://:s3cret/x@h:1/0"),
        ("REDIS_URL", "redis://:a@h/s3cret"), ("REDIS_URL", "user:s3cret@h:6379"), ("REDIS_URL", "redis://:s3cret@"),
        ("REDIS_URL", "redis://:s3 cret@h"), ("BROKER_URL", "unix://s3cret"), ("RESULT_URL", "redis://s3cret:x/0"),
        ("REDIS_URL", "unix:///?password=s3cret"), ("API_BASE_URL", "ftp://u:s3cret@h"),
        ("POLL_INTERVAL", "redis://:s3cret@h"), ("REDIS_URL", "redis:s3cret"), ("REDIS_URL", "redis://[s3cret/0"),
    ],
)  # fmt: skip
def test_s37_no_refusal_quotes_a_secret(monkeypatch: pytest.MonkeyPatch, variable: str, value: str) -> None:
    text = fault_of(monkeypatch, f"CALLWATCH_{variable}", value)
    assert text.startswith(f"CALLWATCH_{variable}: ")
    assert "should be" in text
    assert "cret" not in text


def test_s37_no_repr_shows_a_secret() -> None:
    settings = Settings(redis_url="redis://:s3cret@h/0", api_base_url="http://u:s3cret@h/p", api_token=" s3cret\n")
    assert "s3cret" not in f"{settings!r} {settings}"
    assert "redis://***@h/0" in repr(settings)
    assert settings.api_token is not None
    assert settings.api_token.get_secret_value() == "s3cret"
    with pytest.raises(ValidationError) as caught:
        Settings(redis_url="s3cret")
    assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize("name", SECRETS)
def test_s40_every_secret_may_stand_in_a_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str) -> None:
    secret = "redis://:s3cret@h:1/0" if name.endswith("url") else "user:s3cret"
    (tmp_path / "secret").write_text(f"{secret}\n", encoding="utf-8")
    monkeypatch.setenv(f"CALLWATCH_{name.upper()}_FILE", str(tmp_path / "secret"))
    value = getattr(load_settings(), name)
    assert (value.get_secret_value() if isinstance(value, SecretStr) else value) == secret


def test_only_secrets_may_be_in_a_file(monkeypatch: pytest.MonkeyPatch) -> None:
    kinds = {name for name, field in Settings.model_fields.items() if "SecretStr" in str(field.annotation)}
    assert set(SECRETS) == kinds | {"redis_url", "broker_url", "result_url"}
    assert "is no setting" in fault_of(monkeypatch, "CALLWATCH_KEY_PREFIX_FILE", "somewhere")


@pytest.mark.parametrize(
    ("content", "line"),
    [
        (None, "CALLWATCH_API_TOKEN_FILE: f cannot be read (No such file or directory), should be a file with the"),
        (" \n", "CALLWATCH_API_TOKEN_FILE: f is empty, should hold the secret alone"),
        (b"s3cret\xff", "CALLWATCH_API_TOKEN_FILE: f cannot be read (no UTF-8 text), should be a file with the"),
    ],
    ids=["no file", "empty", "no text"],
)
def test_s37_a_file_that_holds_no_secret_is_named(
    monkeypatch: pytest.MonkeyPatch, content: str | bytes | None, line: str
) -> None:
    if content is not None:
        Path("f").write_bytes(content if isinstance(content, bytes) else content.encode())
    fault = fault_of(monkeypatch, "CALLWATCH_API_TOKEN_FILE", "f")
    assert fault.startswith(line)


def test_a_secret_given_twice_is_refused_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also if one of them is in `.env`."""
    Path("f").write_text("s3cret")
    Path(".env").write_text("CALLWATCH_API_TOKEN_FILE=f\n")
    assert (
        fault_of(monkeypatch, "CALLWATCH_API_TOKEN", "s3cret")
        == "CALLWATCH_API_TOKEN: is given, and so is CALLWATCH_API_TOKEN_FILE, should be one of the two"
    )


def test_empty_secret_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """A compose file passes an unset variable as an empty text."""
    Path("f").write_text("s3cret")
    monkeypatch.setenv("CALLWATCH_API_TOKEN", "")
    monkeypatch.setenv("CALLWATCH_METRICS_TOKEN_FILE", "")
    monkeypatch.setenv("CALLWATCH_API_TOKEN_FILE", "f")
    settings = load_settings()
    assert settings.api_token is not None
    assert (settings.api_token.get_secret_value(), settings.metrics_token) == ("s3cret", None)


@pytest.mark.parametrize("value", ["s3cret", ":s3cret", "user:", "a:s3cret,b:c"])
def test_s40_flower_requires_user_and_password(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    text = fault_of(monkeypatch, "CALLWATCH_FLOWER_AUTH", value)
    assert text == "CALLWATCH_FLOWER_AUTH: is no pair, should be user:password without a comma"


@pytest.mark.parametrize("secret", [None, "", " "], ids=["no secret", "empty", "blank"])
def test_s40_webhook_requires_a_secret(monkeypatch: pytest.MonkeyPatch, secret: str | None) -> None:
    if secret is not None:
        monkeypatch.setenv("CALLWATCH_NOTICE_SECRET", secret)
    text = fault_of(monkeypatch, "CALLWATCH_NOTICE_URL", "https://back-end/hook")
    assert text.startswith("CALLWATCH_NOTICE_SECRET: missing, should be the secret that CALLWATCH_NOTICE_URL's")
    assert len(text.splitlines()) == 1


@pytest.mark.parametrize(("secret", "warned"), [("s" * 31, True), ("s" * 32, False)])
def test_a_short_secret_of_tokens_is_warned_about(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, secret: str, warned: bool
) -> None:
    monkeypatch.setenv("CALLWATCH_GATEWAY_TOKEN_SECRET", secret)
    load_settings()
    assert ("CALLWATCH_GATEWAY_TOKEN_SECRET: shorter than 32 characters" in caplog.text) is warned
    assert secret not in caplog.text
