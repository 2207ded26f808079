"""`callwatch release`: a person lets an unknown outcome go (S14)."""

from dataclasses import dataclass

from cli.connect import open_store, read_settings
from cli.ui.formatting import PHASES
from cli.ui.operator import operator_name
from cli.ui.output import DONE, FAILED, WRONG_USAGE, Failure, complain, printable, say, say_json
from config.redaction import redact
from worker.core.model import Pair


@dataclass(frozen=True, slots=True)
class Release:
    """What was typed, checked: which pair, who decides, and why, without phone numbers."""

    pair: Pair
    by: str
    why: str


def read_release(case_id: str, mediation_id: str, *, why: str, by: str | None) -> Release:
    """Return the checked order; Failure, wrong usage, which names what is missing."""
    given = {"CASE_ID": (case_id, "an id"), "MEDIATION_ID": (mediation_id, "an id"), "--why": (why, "why")}
    for name, (text, wanted) in given.items():
        if not text.strip():
            should = "say why" if wanted == "why" else f"be {wanted}"
            raise Failure(f"{name}: empty, should {should}", exit_code=WRONG_USAGE)
    who = operator_name(by)
    pair = Pair(case_id.strip(), mediation_id.strip())
    return Release(pair, who, redact(why.strip(), keep=(pair.case_id, pair.mediation_id)))


def release(order: Release, *, as_json: bool) -> int:
    """Let the pair go and say what that changed; returns the exit code, 1 where it must not be let go."""
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
        say(f"{name} is let go; {watched} of its calls are still being watched and hold it until they end")
    elif released:
        say(f"{name} is let go; no call of it is being watched, and the next trigger looks upstream before it calls")
    if not released:
        complain(f"{name} is not let go: {PHASES.get(answer, answer)}; only an unknown outcome can be")
        return FAILED
    return DONE
