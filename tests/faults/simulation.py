"""Simulate processes, messages, time and faults around the real store and the real flows, one step at a time."""

import itertools
import json
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from types import SimpleNamespace
from typing import Any, cast

import redis
import time_machine

from tests.fakes import START, VirtualClock
from tests.faults.endpoints import Endpoints
from tests.faults.invariants import Invariants
from tests.faults.processes import Message, Order, Process, Trap
from tests.faults.reality import Job, Plan, Reality
from tests.faults.tasks import SETTINGS, Tasks
from worker.container import terms
from worker.core.model import Pair
from worker.flows.dispatch import TICK
from worker.runtime.poll_executor import RENEWALS
from worker.store import Keys, RedisStore
from worker.store.keys import LEASED

PAIRS = tuple(Pair(case_id, mediation_id) for case_id in ("C-1", "C-2") for mediation_id in ("20", "21"))
VISIBILITY = 60  # seconds until the broker redelivers a dead process's message: beyond a dial's time-outs
LATEST = 3 * 3_600  # seconds within which everything must end after the last fault
AWAKE = (0, 35, 80, 200)  # seconds after which processes stopped at the end of all faults continue
MOMENT = 0.001  # seconds: the resolution of the store's times


class Machine:
    """A deployment on a virtual clock; nothing happens except through these methods. `skew` as in Reality."""

    def __init__(self, traveller: time_machine.Traveller, client: redis.Redis, *, skew: float = 0) -> None:
        self.redis, self.keys = client, Keys(SETTINGS.key_prefix)
        self.clock = VirtualClock(traveller)
        self.store = RedisStore(client, self.keys, terms(SETTINGS))
        self.store._own = cast("Any", SimpleNamespace(client=client))  # processes run one at a time
        self.reality = Reality(skew)
        for pair in PAIRS[::2]:
            self.reality.stranger(pair)
        self.invariants = Invariants(self)
        self._tasks = Tasks(self)
        self.queue: list[Message] = []
        self.triggers: list[Message] = []
        self.processes: list[Process] = []
        self.traps: list[Trap] = []
        self.calm, self.sweeping = False, True
        self.endpoints = Endpoints()
        self.steps = 0
        self.counts: Counter[str] = Counter()
        self.trace: list[str] = []
        self._plans: dict[str, Plan] = {}
        self._held: dict[Process, Message] = {}
        self.dirty = True
        """The store has changed, so the next sweep's time must be read again."""
        self._due = self._swept_at = 0.0
        self._dispatch_due = self._dispatched_at = self._renewed_at = 0.0
        self._numbers = itertools.count(1)

    @property
    def now(self) -> float:
        """Return epoch seconds."""
        return time.time()

    def reached(self, moment: float) -> bool:
        """Tell whether an epoch second is reached; clocks of microseconds do not stop at it exactly."""
        return moment <= self.now + MOMENT / 2

    def say(self, line: str) -> None:
        """Log an event of the run."""
        self.trace.append(f"{self.now - START:9.3f}  {line}")

    # -- upstream's behaviour -----------------------------------------------------------------------------------------

    def plan(self, task_id: str) -> Plan:
        """Return the plan for the request of a trigger."""
        plan = self._plans[task_id]
        return replace(plan, ending="answered", connect=0) if self.calm else plan

    def mute(self, job: Job | None) -> bool:
        """Tell whether queries for a call are unanswered now."""
        return not self.calm and job is not None and job.mute_at(self.now)

    def named(self, case_id: str, now: float) -> Job:
        """Return the call that the status by case names: the newest, or the oldest while the endpoint strays."""
        calls, strays = self.reality.of_case(case_id, now), self.endpoints.is_("strays", "status by case", now)
        return sorted(calls, key=lambda job: job.created)[0 if strays else -1]

    # -- messages ------------------------------------------------------------------------------------------------------

    def put(self, task: str, kwargs: dict[str, Any], *, countdown: float = 0, **more: Any) -> Message:
        """Put a message into the queue."""
        kwargs = json.loads(json.dumps(kwargs))
        self.queue.append(Message(self.now + countdown, next(self._numbers), task, kwargs, **more))
        return self.queue[-1]

    def trigger(self, pair: Pair, plan: Plan, *, expires: float | None = None) -> None:
        """Enqueue a trigger like a back end; its request follows the plan."""
        kwargs = {"case_id": pair.case_id, "mediation_id": pair.mediation_id}
        ends = None if expires is None else self.now + expires
        message = self.put("trigger", kwargs, task_id=f"load:{len(self.triggers)}", expires=ends)
        self._plans[message.task_id] = plan
        self.triggers.append(message)
        self.say(f"enqueue {message.task_id} for {pair.case_id}:{pair.mediation_id}, {plan}")

    def again(self, message: Message, *, countdown: float = 0) -> None:
        """Redeliver a message, as brokers do."""
        self.say(f"in {countdown} s once more: {message.task} {message.task_id or message.kwargs}")
        more = {"task_id": message.task_id, "expires": message.expires}
        self.put(message.task, message.kwargs, countdown=countdown, **more)

    def lose(self, message: Message) -> None:
        """Lose a message."""
        self.say(f"lost: {message.task} {message.task_id or message.kwargs}")
        self.queue.remove(message)

    def deliver(self, message: Message) -> None:
        """Deliver a message to a worker, which starts at its next step."""
        self.queue.remove(message)
        if message.expires is not None and self.now > message.expires:
            self.say(f"expired: {message.task} {message.kwargs}")
            return
        body = {"trigger": self._tasks.trigger, "poll": self._tasks.poll, "lookup": self._tasks.look_up}[message.task]
        kwargs = message.kwargs.get("polls", [message.kwargs])[0]
        subject = kwargs.get("job_id") or f"{kwargs['case_id']}:{kwargs['mediation_id']}"
        self._held[self._begin(message.task, subject, message.task_id, partial(body, message))] = message

    # -- processes -----------------------------------------------------------------------------------------------------

    def sweep(self, owner: str) -> None:
        """Start a sweep."""
        self._begin("sweep", "", "", partial(self._tasks.sweep, owner))

    def dispatch(self) -> None:
        """Start a round of a dispatcher."""
        self._begin("dispatch", "", "", self._tasks.dispatch)

    def step(self, process: Process, order: Order = "go", *, redelivered: bool = True) -> None:
        """Continue one process up to its next effect."""
        self.say(f"{process}: {process.label}{'' if order == 'go' else f' [{order}]'}")
        self.steps += 1
        self.counts[order] += 1
        process.stopped = order == "stop"
        if process.stopped:
            return
        process.resume(order)
        if process.done:
            self.processes.remove(process)
            message = self._held.pop(process, None)
            if process.died and redelivered and message is not None:
                self.again(message, countdown=VISIBILITY)
        elif process.subject:
            self._meet(process)

    def run(self, process: Process) -> None:
        """Continue one process while it has work now."""
        while not (process.done or process.stopped) and self.reached(process.until):
            self.step(process, "go" if self.calm else process.next_order())

    def blackout(self) -> None:
        """Kill all processes; the broker keeps their messages."""
        for process in list(self.processes):
            self.step(process, "die")

    def ready(self) -> list[Process]:
        """Return the processes that could continue at once, including stopped ones."""
        return [process for process in self.processes if self.reached(process.until)]

    def end(self) -> None:
        """Kill the remaining processes."""
        for process in self.processes:
            process.end()

    def _meet(self, process: Process) -> None:
        """Resume the processes that wait for another one to reach this point."""
        for other in [one for one in self.processes if one.stopped and one.meets == process.points]:
            if other.stopped and other is not process and other.subject == process.subject:  # others may have done so
                self.step(other)
                self.run(other)

    def _begin(self, kind: str, subject: str, task_id: str, body: Callable[[Process], None]) -> Process:
        process = Process(kind, next(self._numbers), subject, task_id, body)
        trap = next((trap for trap in self.traps if trap.kind == kind), None)
        if trap is not None:
            self.traps.remove(trap)
            process.trap, process.meets = (trap.point, trap.order), trap.meets
        self.processes.append(process)
        return process

    # -- time ----------------------------------------------------------------------------------------------------------

    def jump(self, seconds: float) -> None:
        """Let time pass while everything stands still."""
        self.clock.move_to(self.now + seconds)

    def go(self, seconds: float) -> None:
        """Let time pass while all processes work that are not stopped."""
        end = self.now + seconds
        self._work()
        while not self.reached(end):
            self.clock.move_to(min(self._upcoming(), end))
            self._work()

    def settle_down(self) -> None:
        """End all faults and let time pass until everything is over."""
        self.say("-- from here on nothing goes wrong --")
        self.calm = self.sweeping = True
        self.endpoints.recover()
        self.store.resume()
        for process in self.processes:
            process.stopped, process.trap = False, None
            process.delay(self.now + AWAKE[process.number % len(AWAKE)])
        end = self.now + LATEST
        self._work()
        while not self._quiet():
            assert self.now < end, f"still at work after {LATEST} s: {self.processes} {self.queue}"
            self.clock.move_to(self._upcoming())
            self._work()
            self.invariants.on_calm()

    def _quiet(self) -> bool:
        return not (self.processes or self.queue or self._sweep_due() < float("inf"))

    def _work(self) -> None:
        """Do all the work that is possible now."""
        while True:
            for message in sorted(message for message in self.queue if self.reached(message.at)):
                self.deliver(message)
            if self.sweeping and self.reached(self._sweep_due()):
                self._swept_at = self.now
                self.sweep("A")
            if self.sweeping and self.reached(self._next_dispatch()):
                self._dispatched_at = self.now
                self.dispatch()
            if self.reached(self._next_renewal()):
                self._renew()
            ready = [process for process in self.ready() if not process.stopped]
            if not ready:
                return
            for process in ready:
                self.run(process)

    def _upcoming(self) -> float:
        """Return the time of the next scheduled event, in epoch seconds."""
        times = [message.at for message in self.queue]
        times += [process.until for process in self.processes if not process.stopped]
        times += [self._next_renewal()]
        return min([*times, self._sweep_due(), self._next_dispatch()] if self.sweeping else times)

    def _renew(self) -> None:
        """Let every working process renew the leases of its polls."""
        self._renewed_at = self.now
        for process in self.processes:
            if process.leases and not process.stopped:
                self.store.renew_polls(process.leases)
                self.dirty = True

    def _next_renewal(self) -> float:
        """Return the time of the next renewal of leases; infinity if there is none."""
        if not any(process.leases and not process.stopped for process in self.processes):
            return float("inf")
        return self._renewed_at + SETTINGS.overdue_grace / RENEWALS

    def _sweep_due(self) -> float:
        """Return the time of the next sweep that finds work; others are omitted."""
        self._look()
        return max(self._due, self._swept_at + SETTINGS.sweep_interval)

    def _next_dispatch(self) -> float:
        """Return the time at which a dispatcher next finds a due poll or an expired lease."""
        self._look()
        return max(self._dispatch_due, self._dispatched_at + TICK)

    def _look(self) -> None:
        if self.dirty:
            self._due = self._least(self.keys.pairs) + MOMENT
            lease = self._least(self.keys.due, LEASED) - LEASED
            self._dispatch_due = min(self._least(self.keys.due), lease) + MOMENT
            self.dirty = False

    def _least(self, name: str, least: float = 0) -> float:
        """Return the lowest score from `least` on in a sorted set of the store; infinity if there is none."""
        entries: Any = self.redis.zrange(name, least, "+inf", byscore=True, offset=0, num=1, withscores=True)
        return float(entries[0][1]) if entries else float("inf")
