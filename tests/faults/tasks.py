"""The tasks as worker.tasks has them, over the ports of one process, with messages that pass through the machine."""

import itertools
import json
from functools import partial
from typing import TYPE_CHECKING, Any, cast

from config.settings import Settings
from tests.faults.ports import ClockPort, StorePort, UpstreamPort
from tests.faults.processes import Process
from worker.decision import Policy
from worker.lookup import Search
from worker.messages import PollMessage
from worker.poll import Watch
from worker.ports import ScheduleFailed, Store, StoreUnavailable, Upstream
from worker.sweep import Sweep
from worker.trigger import Trigger
from worker.values import Abandoned, Pair

if TYPE_CHECKING:
    from tests.faults.simulation import Machine, Message

SETTINGS = Settings(  # shorter than a deployment's, so that a run of some minutes crosses every one of them
    key_prefix="t", max_poll_duration=150, call_timeout=20, unknown_lookup=40, unknown_hold=90
)


class Tasks:
    """What a worker of the machine carries out; each method is the body of a process."""

    def __init__(self, machine: "Machine") -> None:
        self._machine = machine
        self._tokens = (f"token-{number}" for number in itertools.count(1))

    def trigger(self, message: "Message", process: Process) -> None:
        """Call the parties of a case."""
        store, upstream = self._ports(process)
        flow = Trigger(
            store=store,
            upstream=upstream,
            schedule=partial(self._publish_poll, process),
            clock=ClockPort(process),
            interval=SETTINGS.poll_interval,
            enabled=True,
            new_token=self._token,
        )
        try:
            result = flow(message.kwargs, task_id=message.task_id, expires=message.expires)
        except StoreUnavailable:
            self._machine.again(message)
        else:
            self._returned(process, "copy" if result is None else result["outcome"])

    def poll(self, message: "Message", process: Process) -> None:
        """Ask once how a call stands."""
        policy = Policy(SETTINGS.poll_interval, SETTINGS.max_retry_count)
        publish = partial(self._publish_poll, process)
        flow = Watch(*self._ports(process), publish, lambda _news: None, ClockPort(process), policy)
        try:
            self._returned(process, flow(PollMessage.model_validate(message.kwargs)))
        except StoreUnavailable:
            self._returned(process, "given up")

    def look_up(self, message: "Message", process: Process) -> None:
        """Look once for the calls of a request whose answer was lost."""
        flow = Search(*self._ports(process), partial(self._publish_poll, process), SETTINGS.poll_interval)
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
            grace=SETTINGS.overdue_grace,
            new_token=self._token,
        )
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

    def _publish_poll(self, process: Process, message: PollMessage) -> None:
        publish(self._machine, process, "poll", message.kwargs(), countdown=message.countdown)


class Publisher:
    """What a sweep sends to the queues."""

    def __init__(self, process: Process, machine: "Machine") -> None:
        self._process, self._machine = process, machine

    def polls(self, messages: list[PollMessage]) -> None:
        """Publish polls, one after the other: a process may die between any two of them."""
        for message in messages:
            self._machine.counts["reissued"] += 1
            publish(self._machine, self._process, "poll", message.kwargs(), countdown=message.countdown)

    def trigger(self, abandoned: Abandoned) -> None:
        """Publish a trigger again as it was."""
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
