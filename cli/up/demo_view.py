"""Show the calls of the sample cases, or of the live system, while `callwatch up` runs."""

from datetime import UTC, datetime

from cli.connect import open_store
from cli.enqueue import Order, enqueue
from cli.signals import Signals
from cli.ui.live_view import LiveView, Screen
from cli.up.samples import mediation_id, samples, teach
from cli.up.supervisor import Supervisor
from config.settings import Settings
from worker.core.interfaces import StoreUnavailable
from worker.core.messages import TriggerRequest
from worker.core.model import Pair
from worker.store import RedisStore


def show_samples(settings: Settings, supervisor: Supervisor, signals: Signals, *, port: int, token: str) -> None:
    """Trigger the samples; show a live table until their calls have ended, then events until a signal arrives."""
    screen = _screen(settings, supervisor)
    now = datetime.now(UTC).astimezone()
    cases, mediation = samples(now), mediation_id(now)
    with open_store(settings) as store:
        view = LiveView(store)
        view.events(wait=0)  # sets the start: earlier events are not shown
        teach(port, token, cases, pause=signals.wait)
        if signals.stopped:
            return
        for case in cases:
            enqueue(Order(TriggerRequest(case_id=case.case_id, mediation_id=mediation)))
        screen.say(f"triggers enqueued: {', '.join(case.case_id for case in cases)}, mediation {mediation}")
        pairs = {Pair(case.case_id, mediation) for case in cases}
        screen.follow(view, until=lambda: signals.stopped or _over(store, pairs), pause=signals.wait)
        if not signals.stopped:
            screen.say("every sample call has ended; serving until Ctrl-C")
            screen.print_events(view, until=lambda: signals.stopped, pause=signals.wait)


def show_live(settings: Settings, supervisor: Supervisor, signals: Signals) -> None:
    """Show the calls of the live system until a signal arrives."""
    screen = _screen(settings, supervisor)
    with open_store(settings) as store:
        screen.follow(LiveView(store), until=lambda: signals.stopped, pause=signals.wait)


def _screen(settings: Settings, supervisor: Supervisor) -> Screen:
    screen = Screen(failure_limit=settings.max_retry_count)
    supervisor.say = screen.say  # above the table, not into it
    return screen


def _over(store: RedisStore, pairs: set[Pair]) -> bool:
    """Return whether the triggers of all pairs, and so their calls, have ended."""
    try:
        return pairs <= {state.pair for state in store.pairs(finished=True) if state.phase == "done"}
    except StoreUnavailable:  # the live table shows it
        return False
