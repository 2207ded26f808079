"""The sample cases of the demonstration: three invented cases with a refusal and a failure, done in half a minute."""

import http.client
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from cli.ui.output import Failure

_FIRST_ROUND_AGAIN = timedelta(days=1)
START_LIMIT = 30.0  # seconds for the simulator to start


@dataclass(frozen=True, slots=True)
class Sample:
    """One case and the script of its calls, in the form of the simulator."""

    case_id: str
    parties: tuple[dict[str, Any], ...]


def samples(now: datetime) -> tuple[Sample, ...]:
    """Return the three cases; the ages in a life are seconds since the call was placed."""
    tomorrow = (now + _FIRST_ROUND_AGAIN).strftime("%Y-%m-%d 09:00:00")
    return (
        Sample(
            "C-1001",
            (
                {"person_id": "P-10010001", "life": _talk(5, 15)},
                {"person_id": "P-10010002", "person_type": 2, "life": _talk(8, 20)},
            ),
        ),
        Sample(
            "C-1002",
            (
                {"person_id": "P-10020003", "life": _talk(6, 17)},
                {"person_id": "P-10020004", "person_type": 2, "error_code": 1001, "start_time": tomorrow},
            ),
        ),
        Sample("C-1003", ({"person_id": "P-10030005", "life": [["Scheduling", 0], ["Failed", 12]]},)),
    )


def mediation_id(now: datetime) -> str:
    """Return a mediation id of this run: pairs of an earlier run in the same data folder may still be locked."""
    return str(100_000 + int(now.timestamp()) % 900_000)


def teach(port: int, token: str, cases: tuple[Sample, ...], *, pause: Callable[[float], bool]) -> None:
    """Send the scripts to the simulator as soon as it answers; Failure if it does not within the limit."""
    give_up = time.monotonic() + START_LIMIT
    waiting = list(cases)
    while waiting and not pause(0):
        try:
            _post(port, token, {"case_id": waiting[0].case_id, "parties": list(waiting[0].parties)})
            waiting.pop(0)
        except OSError as error:
            if time.monotonic() > give_up:
                raise Failure(f"the simulator does not answer on port {port}: {error}") from None
            pause(0.05)


def _post(port: int, token: str, script: dict[str, Any]) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    headers = {"Content-Type": "application/json", "Authorization": f"Bearer {token}"}
    try:
        connection.request("POST", "/_sim/script", json.dumps(script), headers)
        answer = connection.getresponse()
        text = answer.read().decode("utf-8", "replace")
    finally:
        connection.close()
    if answer.status == http.client.UNAUTHORIZED:  # another `callwatch up` started at the same moment
        raise Failure(f"another program took port {port} of the simulator meanwhile: start again")
    if answer.status != http.client.OK:
        raise Failure(f"the simulator refused a sample: {text.strip()}")


def _talk(first_word: float, end: float) -> list[list[object]]:
    return [["Scheduling", 0], ["Executing", first_word], ["Succeeded", end]]
