"""A line of `.env` that cannot be read is one line with file and number, without a name or a value from the file."""

import os
import threading
from pathlib import Path

import pytest

from cli.main import main
from config.env_file import read_env_file
from config.settings import SettingsError, load_settings

SHOULD_BE = "should be NAME=value, the value with a quote at both ends or at none"
QUOTE = f"a quote at one end of its value, or text after the quote, {SHOULD_BE}"
NO_PAIR = f"no NAME=value, {SHOULD_BE}"
NO_EQUALS = f"a name without =, {SHOULD_BE}"
OPEN = f"an open quote, its value goes on in the lines below, {SHOULD_BE}"


@pytest.fixture(autouse=True)
def own_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)


def faults(text: str) -> tuple[str, ...]:
    Path(".env").write_bytes(text.encode("utf-8-sig"))
    with pytest.raises(SettingsError) as caught:
        read_env_file()
    assert "s3cret" not in str(caught.value)
    return caught.value.faults


@pytest.mark.parametrize(
    ("text", "line", "kind"),
    [
        pytest.param('CALLWATCH_API_TOKEN="s3cret\n', 1, QUOTE, id="open double quote"),
        pytest.param("A=1\n\n# note\n\nCALLWATCH_API_TOKEN='s3cret\nB=2\n", 5, QUOTE, id="open single quote"),
        pytest.param('CALLWATCH_API_TOKEN="s3cret" s3cret\n', 1, QUOTE, id="text after the quote"),
        pytest.param("A=1\r\n\r\nCALLWATCH_API_TOKEN s3cret\r\n", 3, NO_PAIR, id="blank instead of the sign"),
        pytest.param("CALLWATCH_API_TOKEN: s3cret\n", 1, NO_PAIR, id="colon instead of the sign"),
        pytest.param("=s3cret\n", 1, NO_PAIR, id="no name"),
        pytest.param("A=1\nCALLWATCH_API_TOKEN\n", 2, NO_EQUALS, id="name alone"),
        pytest.param("export CALLWATCH_API_TOKEN # s3cret", 1, NO_EQUALS, id="exported name alone"),
        pytest.param("A=1\ns3cret\n", 2, NO_EQUALS, id="rest of a value of several lines"),
        pytest.param('A="x\nCALLWATCH_API_TOKEN=s3cret\nB="\n', 1, OPEN, id="a setting within the quotes of another"),
        pytest.param('callwatch_api_token="s3cret\n x"\n', 1, OPEN, id="a setting of several lines"),
    ],
)
def test_broken_line_is_named_by_its_number(text: str, line: int, kind: str) -> None:
    assert faults(text) == (f".env, line {line}: {kind}",)


def test_every_broken_line_has_its_own_fault() -> None:
    assert faults("A\nB=1\nC c\n") == (f".env, line 1: {NO_EQUALS}", f".env, line 3: {NO_PAIR}")


def test_unreadable_file_is_one_line() -> None:
    Path(".env").write_bytes(b"\xff")
    with pytest.raises(SettingsError, match=r"^\.env: cannot be read \(UnicodeDecodeError\), should be UTF-8 text$"):
        read_env_file()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", {}),
        ("# CALLWATCH_X\n\n  \n", {}),
        ("A = 1 # note\nexport B='2'\nC=\nD=\"$A ${A}\"\n", {"A": "1", "B": "2", "C": "", "D": "$A 1"}),
        ("A=it's\nB=1", {"A": "it's", "B": "1"}),
        ('KEY="-----BEGIN\nabc=\n-----END"\nA=1\n', {"KEY": "-----BEGIN\nabc=\n-----END", "A": "1"}),
    ],
)
def test_sound_file_is_read(text: str, expected: dict[str, str]) -> None:
    Path(".env").write_text(text, encoding="utf-8")
    assert read_env_file() == expected


def test_no_file_and_a_folder_of_that_name_hold_no_variables() -> None:
    assert read_env_file() == {}
    Path(".env").mkdir()
    assert read_env_file() == {}


def test_named_pipe_of_a_password_manager_is_read() -> None:
    os.mkfifo(".env")
    writer = threading.Thread(target=Path(".env").write_text, args=("A=1\n",))
    writer.start()
    assert read_env_file() == {"A": "1"}
    writer.join()


def test_settings_are_not_loaded_from_a_broken_file() -> None:
    """Also where the environment sets the same variable: the file says something that its author did not mean."""
    Path(".env").write_text('CALLWATCH_KEY_PREFIX="other\nCALLWATCH_OOPS\n', encoding="utf-8")
    with pytest.raises(SettingsError) as caught:
        load_settings()
    assert caught.value.faults == (f".env, line 1: {QUOTE}", f".env, line 2: {NO_EQUALS}")


@pytest.mark.parametrize("command", ["status", "healthcheck"])
def test_commands_end_with_the_line(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    Path(".env").write_text("CALLWATCH_HEALTH_FILE='health\n", encoding="utf-8")
    assert main([command]) != 0
    assert capsys.readouterr().err == f"callwatch: .env, line 1: {QUOTE}\n"
