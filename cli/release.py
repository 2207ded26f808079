"""Release a pair with an unknown outcome (S14): `callwatch release`."""

from dataclasses import asdict, dataclass

from cli.connect import open_store, read_settings
from cli.installation import ask_installation, warn_of
from cli.ui.formatting import PHASES, moment
from cli.ui.operator import operator_name
from cli.ui.output import DONE, FAILED, WRONG_USAGE, Failure, complain, printable, say, say_json
from config.redaction import redact
from worker.core.model import Pair


@dataclass(frozen=True, slots=True)
class Release:
    """A checked request to release a pair; name and reason contain no phone numbers.

    `now` releases it although its look-up may still find a call.
    """

    pair: Pair
    by: str
    why: str
    now: bool = False


def read_release(case_id: str, mediation_id: str, *, why: str, by: str | None, now: bool = False) -> Release:
    """Return the checked request; Failure (wrong usage) names a missing argument."""
    given = {"CASE_ID": (case_id, "an id"), "MEDIATION_ID": (mediation_id, "an id"), "--why": (why, "why")}
    for name, (text, wanted) in given.items():
        if not text.strip():
            should = "say why" if wanted == "why" else f"be {wanted}"
            raise Failure(f"{name}: empty, should {should}", exit_code=WRONG_USAGE)
    who = operator_name(by)
    pair = Pair(case_id.strip(), mediation_id.strip())
    return Release(pair, who, redact(why.strip(), keep=(pair.case_id, pair.mediation_id)), now)


def release(order: Release, *, as_json: bool) -> int:
    """Release the pair and print the result; return the exit code, 1 if it is not released."""
    pair, settings = order.pair, read_settings()
    with open_store(settings) as store:
        looking = next((one for one in store.pairs(case_id=pair.case_id) if one.pair == pair and one.looking), None)
        early = looking is not None and not order.now
        answer = "unknown" if early else store.release(pair, by=order.by, why=order.why)
        watched = store.watched(pair)
    reached = ask_installation(settings)
    released = answer == "released"
    phase = ("watching" if watched else "done") if released else answer
    name = printable(f"{pair.case_id} / {pair.mediation_id}")
    if as_json:
        names = {"case_id": pair.case_id, "mediation_id": pair.mediation_id}
        stated = {"phase": None if phase == "absent" else phase, "watched": watched}
        say_json({"released": released, **names, **stated, **asdict(reached)})
    elif released:
        rest = (
            f"{watched} of its calls are still being watched and keep it locked until they end"
            if watched
            else "no call of it is being watched, and the next trigger queries upstream before it dials"
        )
        say(f"{name} is released; {rest}\n{reached.line}")
    warn_of(reached, settings)
    if released:
        return DONE
    if looking is not None and early:
        ends = f"until {moment(looking.until)}" if looking.until else "now"
        why = f"its look-up runs {ends} and may find its call; wait, or add --now if you know that no phone will ring"
    else:
        why = f"{PHASES.get(answer, answer)}; only a pair with an unknown outcome can be"
    complain(f"{name} is not released on {reached.redis}: {why}")
    return FAILED
