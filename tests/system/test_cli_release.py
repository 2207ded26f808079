"""`callwatch release` releases a pair with an unknown outcome, and no other pair, and prints the result (S14)."""

import json
from collections.abc import Callable

import pytest

from cli.main import main
from cli.ui.formatting import moment
from config.redaction import redact
from tests.fakes import PHONE
from tests.pairs import adopt, bring_to
from worker.core.model import Pair
from worker.store import RedisStore

PAIR = Pair("C-1", "20")
ARGUMENTS = ["release", "C-1", "20", "--why", "upstream says that nothing was dialled", "--by", "an operator"]
NOW = [*ARGUMENTS, "--now"]

Read = Callable[[], tuple[str, str]]


def phase_of(store: RedisStore) -> list[str]:
    return [state.phase for state in store.pairs(case_id="C-1", finished=True)]


def test_unknown_outcome_is_released(store: RedisStore, redis_url: str, shown: Read) -> None:
    bring_to(store, "unknown", PAIR)
    assert main(NOW) == 0
    out, err = shown()
    line = "C-1 / 20 is released; no call of it is being watched, and the next trigger queries upstream before it dials"
    address = redact(redis_url)
    assert out == f"{line}\nRedis: {address}; no worker answers\n"
    assert err.startswith(f"callwatch: warning: no worker answers over {address}: check that this is the Redis of")
    assert phase_of(store) == ["done"]
    (event,) = (event for event in store.history("C-1") if event["kind"] == "released")
    assert (event["by"], event["why"]) == ("an operator", "upstream says that nothing was dialled")
    assert main(NOW) == 1, "once"


def test_s14_release_during_the_look_up_needs_now(store: RedisStore, shown: Read) -> None:
    bring_to(store, "unknown", PAIR)
    assert main([*ARGUMENTS, "--json"]) == 1
    out, err = shown()
    document = json.loads(out)
    assert (document["released"], document["phase"]) == (False, "unknown")
    (state,) = store.pairs()
    assert state.until is not None
    assert f"its look-up runs until {moment(state.until)} and may find its call; wait, or add --now if" in err
    assert phase_of(store) == ["unknown"]
    store.client.hset(store.keys.ledger(PAIR), "held_until", store.now() + 600)
    assert main(ARGUMENTS) == 0, "the look-up is over, and the pair is held"
    assert phase_of(store) == ["done"]


def test_adopted_calls_stay_watched_after_a_release(store: RedisStore, redis_url: str, shown: Read) -> None:
    bring_to(store, "unknown", PAIR)
    adopt(store, PAIR)
    assert main([*NOW, "--json"]) == 0
    assert json.loads(shown()[0]) == {
        "released": True, "case_id": "C-1", "mediation_id": "20", "phase": "watching", "watched": 1,
        "redis": redact(redis_url), "workers": 0,
    }  # fmt: skip
    assert phase_of(store) == ["watching"]
    assert len(store.calls()) == 1
    assert main(ARGUMENTS) == 1
    assert "its calls are being watched" in shown()[1]


@pytest.mark.parametrize(
    ("phase", "why"),
    [
        ("absent", "it has no record of a trigger"),
        ("claimed", "its trigger is about to be sent"),
        ("sending", "its request is being sent"),
        ("watching", "its calls are being watched"),
        ("done", "it is free"),
    ],
)
def test_release_refuses_every_other_phase(store: RedisStore, shown: Read, phase: str, why: str) -> None:
    if phase != "absent":
        bring_to(store, "refused" if phase == "done" else phase, PAIR)
    before = phase_of(store)
    assert main(ARGUMENTS) == 1
    out, err = shown()
    assert out == ""
    assert err.splitlines()[-1].startswith("callwatch: C-1 / 20 is not released on redis://***@127.0.0.1:")
    assert f": {why}" in err
    assert main([*ARGUMENTS, "--json"]) == 1
    document = json.loads(shown()[0])
    assert (document["released"], document["phase"]) == (False, None if phase == "absent" else phase)
    assert phase_of(store) == before
    assert not [event for event in store.history("C-1") if event["kind"] == "released"]


def test_s37_stored_reason_has_no_phone_number(store: RedisStore) -> None:
    bring_to(store, "unknown", PAIR)
    assert main(["release", "C-1", "20", "--now", "--why", f"called {PHONE} myself", "--by", PHONE]) == 0
    assert PHONE not in str(store.history("C-1"))


def test_decision_is_stored_with_the_login_name(store: RedisStore, monkeypatch: pytest.MonkeyPatch) -> None:
    bring_to(store, "unknown", PAIR)
    monkeypatch.setattr("getpass.getuser", lambda: "night-shift")
    assert main(["release", " C-1", "20 ", "--now", "--why", "known"]) == 0
    assert [event["by"] for event in store.history("C-1") if event["kind"] == "released"] == ["night-shift"]


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        pytest.param(["C-1", "20"], "--why: empty, should say why", id="no reason"),
        pytest.param(["C-1", "20", "--why", " "], "--why: empty, should say why", id="an empty reason"),
        pytest.param(
            ["C-1", "20", "--why", "x", "--by", ""],
            "--by: empty, should be the name of the person who decides",
            id="empty name",
        ),
        pytest.param(["", "20", "--why", "x"], "CASE_ID: empty, should be an id", id="no case"),
        pytest.param(["C-1", "20", "--why", "x"], "--by: there is no login name", id="no login"),
    ],
)
def test_wrong_usage(arguments: list[str], line: str, monkeypatch: pytest.MonkeyPatch, shown: Read) -> None:
    def no_login_name() -> str:
        raise OSError("No username set in the environment")

    monkeypatch.setattr("getpass.getuser", no_login_name)
    assert main(["release", *arguments]) == 2
    out, err = shown()
    assert (out, err.count("\n")) == ("", 1)
    assert err.startswith(f"callwatch: {line}")
