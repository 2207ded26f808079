"""The fuzz of the trigger queue runs and finds nothing; `make fuzz` pushes many more entries."""

import pytest

from benchmarks import fuzz_triggers


@pytest.mark.no_cover
def test_s38_a_thousand_hostile_entries_change_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    """S37 S38: with the producer's rights; good triggers between them are carried out once."""
    assert fuzz_triggers.main(["--entries", "1000"]) == 0, capsys.readouterr().out
