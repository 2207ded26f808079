"""Show calls, and stop or allow new ones: `callwatch status`, `watch`, `pause` and `resume`."""

import time
from dataclasses import asdict, dataclass
from typing import Any

from rich.console import Console

from cli.connect import open_store, read_settings
from cli.installation import ask_installation, warn_of
from cli.ui.live_view import LiveView, Screen
from cli.ui.operator import operator_name, stopped_by
from cli.ui.output import DONE, ask, no_record, say, say_json
from cli.ui.table import advice, calls_table, pairs_table
from config.redaction import redact
from worker.core import texts
from worker.core.model import Call, PairState
from worker.store import RedisStore

PIPED_WIDTH = 1_000  # columns without a terminal; wide enough to leave nothing out


@dataclass(frozen=True, slots=True)
class Query:
    """A selection of calls: None selects all, `everything` includes finished ones."""

    case_id: str | None = None
    job_id: str | None = None
    everything: bool = False

    @property
    def name(self) -> str | None:
        """The call or the case that is selected; None if the selection names neither."""
        if self.job_id is not None:
            return f"call {self.job_id}"
        return None if self.case_id is None else f"case {self.case_id}"


def status(query: Query, *, as_json: bool) -> int:
    """Print calls and pairs; return the exit code, 1 if the case or the job has no record."""
    settings = read_settings()
    with open_store(settings) as store:
        known = store.calls(
            case_id=query.case_id, job_id=query.job_id, finished=query.everything or query.case_id is not None
        )
        calls = [call for call in known if query.everything or query.job_id is not None or call.verdict is None]
        pairs = _pairs(store, query, calls)
        now, stop = store.now(), store.paused()
        refused = store.refused([state.pair for state in pairs]) if as_json else []
    if as_json:
        cases = [_pair_json(*both) for both in zip(pairs, refused, strict=True)]
        document: dict[str, Any] = {"calls": [call_json(call) for call in calls], "cases": cases}
        say_json(document if stop is None else document | {"new_calls": {"allowed": False, **asdict(stop)}})
    elif stop is not None:
        say(f"new calls are stopped{stopped_by(stop)}")
    if not known and not pairs and query.name is not None:
        return no_record(query.name)
    if not as_json:
        _print_status(calls, pairs, now=now, failure_limit=settings.max_retry_count, finished=len(known) - len(calls))
    return DONE


def call_json(call: Call) -> dict[str, Any]:
    """Return a call as `status --json` prints it: the person id whole, times in epoch seconds or null."""
    return {
        "job_id": call.job_id,
        "case_id": call.case_id,
        "mediation_id": call.mediation_id,
        "person_id": call.person_id,
        "call_status": call.call_status,
        "label": texts.label(call.call_status),
        "verdict": call.verdict,
        "retry_count": call.retry_count,
        "started_at": call.started_at,
        "deadline": call.deadline,
        "last_polled_at": call.last_polled_at,
        "next_poll_at": call.due if call.verdict is None else None,
        "finished_at": call.finished_at,
    }


def _pair_json(state: PairState, refused: list[dict[str, Any]]) -> dict[str, Any]:
    """Return a pair as JSON, with the texts of upstream for the persons that its last trigger refused (S38)."""
    shown: dict[str, Any] = {"case_id": state.pair.case_id, "mediation_id": state.pair.mediation_id}
    shown |= {"phase": state.phase, "since": state.since, "until": state.until}
    if state.phase == "unknown":
        shown["found"] = state.found
    return shown | {"refused": refused} if refused else shown


def _pairs(store: RedisStore, query: Query, calls: list[Call]) -> list[PairState]:
    wanted = query.everything or query.case_id is not None or query.job_id is not None
    pairs = store.pairs(case_id=query.case_id, finished=wanted)
    if query.job_id is None:
        return pairs
    own = {(call.case_id, call.mediation_id) for call in calls}
    return [state for state in pairs if (state.pair.case_id, state.pair.mediation_id) in own]


def _print_status(calls: list[Call], pairs: list[PairState], *, now: float, failure_limit: int, finished: int) -> None:
    """Print calls and pairs as tables; `finished` is the number of the case's calls that --all would add."""
    console = Console(highlight=False, markup=False, emoji=False)
    if not console.is_terminal:
        console.width = PIPED_WIDTH
    if calls:
        console.print(calls_table(calls, now=now, width=console.width, failure_limit=failure_limit))
    if not calls or finished:
        head = "" if calls else "no calls are being watched"
        more = f"--all shows {finished} finished" if finished else ""
        say("; ".join(filter(None, (head, more))))
    if pairs:
        console.print(pairs_table(pairs, now=now))
    for line in filter(None, (advice(state, now=now) for state in pairs)):
        say(line)


def watch(*, case_id: str | None, once: bool) -> int:
    """Show the live table until Ctrl-C; `once` prints it and returns, with exit code 1 if the case has no record."""
    settings = read_settings()
    screen = Screen(failure_limit=settings.max_retry_count)
    with open_store(settings) as store:
        view = LiveView(store, case_id=case_id)
        try:
            if once:
                if case_id is not None and not store.calls(case_id=case_id, finished=True):
                    return no_record(f"case {case_id}")
                view.refresh(wait=0)
                screen.console.print(screen.render(view, bounded=False))
            else:
                screen.follow(view, until=lambda: False, pause=time.sleep)
        except KeyboardInterrupt:  # the normal end
            return DONE
    return DONE


def pause(why: str, *, by: str | None, as_json: bool) -> int:
    """Stop new calls; store name, reason and time (S16)."""
    settings, who = read_settings(), operator_name(by)
    why = redact(ask("why are new calls stopped? ", why, as_json=as_json))
    with open_store(settings) as store:
        earlier = store.paused()
        before = store.pause(why, by=who)
    reached = ask_installation(settings)
    if as_json:
        say_json({"paused": True, "was_paused": before, "reason": why, "enabled": settings.enabled, **asdict(reached)})
    else:
        replaced = f"new calls were stopped before{stopped_by(earlier)}\nthey stay stopped" if earlier else ""
        say(f"{replaced or 'new calls are stopped'}; calls already made stay watched\n{reached.line}")
    warn_of(reached, settings)
    return DONE


def resume(why: str, *, by: str | None, as_json: bool) -> int:
    """Allow new calls again; store name, reason and time (S16)."""
    settings, who = read_settings(), operator_name(by)
    why = redact(ask("why are new calls allowed again? ", why, as_json=as_json))
    with open_store(settings) as store:
        earlier = store.paused()
        changed = store.resume(why, by=who)
    reached = ask_installation(settings)
    if as_json:
        say_json({"paused": False, "was_paused": changed, "enabled": settings.enabled, **asdict(reached)})
    else:
        stopped = f"new calls were stopped{stopped_by(earlier)}\n" if earlier else ""
        head = f"{stopped}new calls are allowed again" if changed else "new calls were not stopped by `callwatch pause`"
        say(f"{head}\n{reached.line}")
        if not settings.enabled:
            say("workers with CALLWATCH_ENABLED=false still place no calls")
    warn_of(reached, settings)
    return DONE
