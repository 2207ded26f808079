"""Run the tasks like worker.tasks, over the interfaces of one process; messages pass through the machine."""

import itertools
import json
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, cast

from api_client import CallStatus
from config.settings import Settings
from tests.faults.interfaces import ClockPort, StorePort, UpstreamPort
from tests.faults.processes import Message, Process
from tests.world import run_through
from worker.core.decision import Policy
from worker.core.interfaces import ScheduleFailed, Store, StoreUnavailable, Upstream
from worker.core.messages import PollMessage, polls_kwargs, read_polls
from worker.core.model import Pair
from worker.core.poll_model import PollInProgress
from worker.core.trigger_model import AbandonedClaim
from worker.flows.dial import Dial
from worker.flows.dispatch import Dispatcher
from worker.flows.lookup import LookUpFlow
from worker.flows.poll import PollFlow
from worker.flows.sweep import Sweep
from worker.flows.trigger import TriggerFlow
from worker.runtime.poll_executor import MAX_POLLS

if TYPE_CHECKING:
    from tests.faults.simulation import Machine

SETTINGS = Settings(  # shorter than a deployment's, so that a run of some minutes reaches each of them
    key_prefix="t", max_poll_duration=150, call_timeout=20, unknown_lookup=40, unknown_hold=90
)


class Tasks:
    """Tasks of a worker of the machine; each method is the body of a process."""

    def __init__(self, machine: "Machine") -> None:
        self._machine = machine
        self._tokens = (f"token-{number}" for number in itertools.count(1))

    def trigger(self, message: "Message", process: Process) -> None:
        """Call the parties of a case."""
        store, upstream = self._ports(process)
        dial = Dial(store, upstream, ClockPort(process), SETTINGS.poll_interval)
        flow = TriggerFlow(dial, enabled=True, new_token=self._token)
        try:
            result = flow(
                message.kwargs,
                task_id=message.task_id,
                expires=message.expires,
            )
        except StoreUnavailable:
            self._machine.again(message)
        else:
            self._returned(process, "copy" if result is None else result["outcome"])

    def poll(self, message: "Message", process: Process) -> None:
        """Let the polls of a message pass the fence, query each call and write the results."""
        policy = Policy(SETTINGS.poll_interval, SETTINGS.max_retry_count)
        store, upstream = self._ports(process)
        flow = PollFlow(store, lambda _news: None, ClockPort(process), policy)
        asks: list[PollInProgress] = []

        async def status(**query: str) -> CallStatus:
            return upstream.status(**query)

        async def sleep(seconds: float) -> None:
            ClockPort(process).sleep(seconds)

        try:
            self._returned(process, flow.begin(read_polls(message.kwargs), asks.extend))
            process.leases = [ask.lease for ask in asks]
            for ask in asks:
                judged = flow.decide_end(ask, run_through(flow.query(ask, status, sleep)))
                (line,) = flow.write([judged])
                process.leases.remove(ask.lease)
                self._returned(process, line)
        except StoreUnavailable:
            self._returned(process, "given up")
        finally:
            process.leases = []

    def look_up(self, message: "Message", process: Process) -> None:
        """Look once for the calls of a request whose answer was lost."""
        flow = LookUpFlow(*self._ports(process), SETTINGS.poll_interval)
        try:
            self._returned(process, flow(Pair(**message.kwargs)))
        except StoreUnavailable:
            self._returned(process, "given up")

    def sweep(self, owner: str, process: Process) -> None:
        """Sweep once."""
        store, _ = self._ports(process)
        flow = Sweep(
            store=store,
            publish=Publisher(process, self._machine),
            owner=owner,
            interval=SETTINGS.sweep_interval,
            new_token=self._token,
        )
        try:
            flow()
        except (ScheduleFailed, StoreUnavailable):
            self._returned(process, "given up")

    def dispatch(self, process: Process) -> None:
        """Dispatch once."""
        store, _ = self._ports(process)
        flow = Dispatcher(store, PollQueue(process, self._machine), lambda: MAX_POLLS, SETTINGS.poll_batch)
        try:
            flow()
        except (ScheduleFailed, StoreUnavailable):
            self._returned(process, "given up")

    def _ports(self, process: Process) -> tuple[Store, Upstream]:
        store, upstream = StorePort(process, self._machine), UpstreamPort(process, self._machine)
        return cast("Store", store), cast("Upstream", upstream)

    def _token(self) -> str:
        return next(self._tokens)

    def _returned(self, process: Process, line: str) -> None:
        self._machine.counts[line.partition(" ")[0].rstrip(":")] += 1
        self._machine.say(f"{process}: {line}")


class PollQueue:
    """The queue of polls for a dispatcher."""

    def __init__(self, process: Process, machine: "Machine") -> None:
        self._process, self._machine = process, machine

    def waiting(self) -> int:
        """Return the number of waiting messages of polls."""
        return sum(message.task == "poll" and message.at <= self._machine.now for message in self._machine.queue)

    def __call__(self, polls: Sequence[PollMessage]) -> None:
        """Publish a message: a process may die between two messages."""
        publish(self._machine, self._process, "poll", polls_kwargs(polls))


class Publisher:
    """The queues as the sweep uses them."""

    def __init__(self, process: Process, machine: "Machine") -> None:
        self._process, self._machine = process, machine

    def trigger(self, abandoned: AbandonedClaim) -> None:
        """Publish a trigger again, unchanged."""
        kwargs, more = json.loads(abandoned.arguments), {"task_id": abandoned.task_id, "expires": abandoned.expires}
        publish(self._machine, self._process, "trigger", kwargs, **more)

    def look_up(self, pair: Pair, *, expires: float) -> None:
        """Publish a look-up."""
        kwargs = {"case_id": pair.case_id, "mediation_id": pair.mediation_id}
        publish(self._machine, self._process, "lookup", kwargs, expires=self._machine.now + expires)


def publish(machine: "Machine", process: Process, task: str, kwargs: dict[str, Any], **more: Any) -> None:
    """Publish a message for a process, as one effect."""
    put = partial(machine.put, task, kwargs, **more)
    process.effect(f"publish {task} {kwargs}", put, lambda: ScheduleFailed("broker: cut off"))
