"""Run the fuzz of the trigger queue briefly; `make fuzz` pushes many more entries."""

import pytest

from benchmarks import fuzz_triggers


@pytest.mark.no_cover
def test_s38_thousand_hostile_entries_leave_all_figures_within_bounds(capsys: pytest.CaptureFixture[str]) -> None:
    """S37 S38: with the producer's rights; valid triggers between them run once each."""
    assert fuzz_triggers.main(["--entries", "1000"]) == 0, capsys.readouterr().out
