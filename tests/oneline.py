"""Judge an answer to a wrong input: one line that names the field and the right form, without a trace or a secret."""

from dataclasses import dataclass

import pytest

from config.settings import SettingsError, load_settings

SECRET = "s3cr3t-0f-th3-t3sts"  # given in wrong places, never to be quoted
TRACES = ("Traceback", 'File "', "raise ", "  at ")


@dataclass(frozen=True, slots=True)
class Wrong:
    """A wrong input, and the answer to it: the exit code, the name of the field, and the right form or the remedy."""

    code: int
    field: str
    right: str

    def judge(self, code: int, error: str) -> None:
        """Assert that an exit code and the text on standard error are one clear line."""
        line, *more = error.removesuffix("\n").split("\n")
        assert more == [], error
        assert not [trace for trace in TRACES if trace in line], line
        assert SECRET not in line
        assert self.field in line
        assert self.right in line
        assert code == self.code, line
        assert len(line) < 300, "a line that is read at once"


def fault_of(monkeypatch: pytest.MonkeyPatch, variable: str, value: str) -> str:
    """Return the one line with which the settings refuse a value; no line shows the password `s3cret`."""
    monkeypatch.setenv(variable, value)
    with pytest.raises(SettingsError) as caught:
        load_settings()
    (line,) = caught.value.faults
    assert "s3cret" not in line
    return line
