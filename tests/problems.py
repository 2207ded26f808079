"""Shared helpers for the tests of the gateway's pure parts."""

from typing import Any

import pytest

from gateway.problems import Problem

NOW = 1_795_312_064.0
PERSON = "2303191513081131"


def problem_of(call: Any, *args: Any, **named: Any) -> Problem:
    """Return the problem that a call raises."""
    with pytest.raises(Problem) as caught:
        call(*args, **named)
    return caught.value
