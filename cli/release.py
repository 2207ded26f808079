"""Release a pair with an unknown outcome (S14): `callwatch release`."""

from dataclasses import dataclass

from cli.connect import open_store, read_settings
from cli.ui.formatting import PHASES
from cli.ui.operator import operator_name
from cli.ui.output import DONE, FAILED, WRONG_USAGE, Failure, complain, printable, say, say_json
from config.redaction import redact
from worker.core.model import Pair


@dataclass(frozen=True, slots=True)
class Release:
    """A checked request to release a pair; name and reason contain no phone numbers."""

    pair: Pair
    by: str
    why: str


def read_release(case_id: str, mediation_id: str, *, why: str, by: str | None) -> Release:
    """Return the checked request; Failure (wrong usage) names a missing argument."""
    given = {"CASE_ID": (case_id, "an id"), "MEDIATION_ID": (mediation_id, "an id"), "--why": (why, "why")}
    for name, (text, wanted) in given.items():
        if not text.strip():
            should = "say why" if wanted == "why" else f"be {wanted}"
            raise Failure(f"{name}: empty, should {should}", exit_code=WRONG_USAGE)
    who = operator_name(by)
    pair = Pair(case_id.strip(), mediation_id.strip())
    return Release(pair, who, redact(why.strip(), keep=(pair.case_id, pair.mediation_id)))


def release(order: Release, *, as_json: bool) -> int:
    """Release the pair and print the result; return the exit code, 1 if its outcome is not unknown."""
    pair = order.pair
    with open_store(read_settings()) as store:
        answer = store.release(pair, by=order.by, why=order.why)
        watched = store.watched(pair)
    released = answer == "released"
    phase = ("watching" if watched else "done") if released else answer
    name = printable(f"{pair.case_id} / {pair.mediation_id}")
    if as_json:
        names = {"case_id": pair.case_id, "mediation_id": pair.mediation_id}
        say_json({"released": released, **names, "phase": None if phase == "absent" else phase, "watched": watched})
    elif released and watched:
        say(f"{name} is released; {watched} of its calls are still being watched and keep it locked until they end")
    elif released:
        say(
            f"{name} is released; no call of it is being watched, and the next trigger queries upstream before it dials"
        )
    if not released:
        complain(f"{name} is not released: {PHASES.get(answer, answer)}; only a pair with an unknown outcome can be")
        return FAILED
    return DONE
