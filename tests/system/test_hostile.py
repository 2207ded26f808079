"""A hostile upstream and a hostile receiver of notices stop no worker; `make hostile` lets them answer much more."""

import pytest

from benchmarks import fuzz_answers, fuzz_receiver


@pytest.mark.no_cover
def test_s39_hostile_answers_stop_no_worker(capsys: pytest.CaptureFixture[str]) -> None:
    """S21 S37 S38 S39: of calls, queries and logs; sound calls in between are dialled once and watched to their end."""
    assert fuzz_answers.main(["--answers", "60", "--threads", "8", "--short"]) == 0, capsys.readouterr().out


@pytest.mark.no_cover
def test_s39_a_hostile_receiver_stops_no_worker(capsys: pytest.CaptureFixture[str]) -> None:
    """S35 S37 S39: and holds up no notices of other pairs."""
    assert fuzz_receiver.main(["--answers", "6", "--short"]) == 0, capsys.readouterr().out
