"""Convert a drawn list of numbers into a run of the machine."""

import random
from collections.abc import Callable, Iterable
from typing import TypeVar

from tests.faults.endpoints import DISTURBANCES, JOBS_AWAY, PACES, SILENCES, Disturbance
from tests.faults.memory import DAY
from tests.faults.processes import Order, Trap
from tests.faults.reality import LASTING, LIVES, PLANS, SELDOM, SPREADS, Plan
from tests.faults.simulation import PAIRS, Machine
from tests.faults.tasks import SETTINGS
from worker.store.claims import CLAIM_STALE_AFTER

T = TypeVar("T")
Step = tuple[str, int, int]

SECONDS = (0.1, 1, 2.1, 5, 8, 9.1, 10, 12.5, 15, 31, 45, 62, 110, 121, 200)
LONG = (45, 121, 200, 900, 3_600, 10_800, 100_000)  # seconds for which an endpoint is away
DAYS = (3_600, 86_400, 86_400, 97_200, 30 * 86_400)  # seconds for which nothing works …
AROUND = (-200, -121, -110, -62, -31, -5, 0, 5, 31, 62, 121, 200)  # … plus so many more: records expire about then
WITHOUT_CALLS = ("", "lost before any call", "all refused")
EXPIRES = 3_600  # seconds after which a trigger expires
ORDERS: tuple[Order, ...] = ("stop", "stop", "stop", "die", "die after", "fail", "fail after", "twice")
KINDS = ("trigger", "poll", "lookup", "sweep", "trigger", "poll", "dispatch")


def draw(seed: int) -> tuple[list[Step], float]:
    """Return the script of a seed and the skew for its run."""
    chance = random.Random(seed)  # noqa: S311 - it draws faults
    script = [
        (chance.choice(DRAWN), chance.randrange(64), chance.randrange(2**14)) for _ in range(chance.randint(40, 80))
    ]
    return script, chance.choice((0, -50, 5))


def play(machine: Machine, steps: Iterable[Step]) -> None:
    """Run drawn steps."""
    for name, a, b in steps:
        ACTIONS[name](machine, a, b)
        machine.counts["drawn steps"] += 1


def reduce(steps: list[Step], fails: Callable[[list[Step]], bool]) -> list[Step]:
    """Shorten a failing script: remove runs of half its length, a quarter, …, in at most 100 tries."""
    tries = 100
    size = len(steps) // 2
    while size:
        start = 0
        while start < len(steps) and tries:
            shorter, tries = steps[:start] + steps[start + size :], tries - 1
            if fails(shorter):
                steps = shorter
            else:
                start += size
        size //= 2
    return steps


def _pick(among: list[T], number: int) -> T | None:
    return among[number % len(among)] if among else None


def _go(machine: Machine, a: int, _b: int) -> None:
    machine.say(f"go {SECONDS[a % len(SECONDS)]}")
    machine.go(SECONDS[a % len(SECONDS)])


def _jump(machine: Machine, a: int, _b: int) -> None:
    machine.say(f"jump {SECONDS[a % len(SECONDS)]}")
    machine.jump(SECONDS[a % len(SECONDS)])


def _trigger(machine: Machine, a: int, b: int) -> None:
    expires = EXPIRES if a // len(PAIRS) % 4 == 3 else None
    machine.trigger(PAIRS[a % len(PAIRS)], Plan.of((b * 7_919 + a) % PLANS if b else 0), expires=expires)


def _once_more(machine: Machine, a: int, _b: int) -> None:
    if message := _pick(machine.triggers, a):
        machine.again(message)


def _step(machine: Machine, a: int, _b: int) -> None:
    if process := _pick(machine.ready(), a):
        machine.step(process)


def _disturb(machine: Machine, a: int, b: int) -> None:
    if process := _pick(machine.ready(), a):
        machine.step(process, ORDERS[b % len(ORDERS)], redelivered=b % 2 == 0)


def _wake(machine: Machine, a: int, b: int) -> None:
    if process := _pick([process for process in machine.ready() if process.stopped], a):
        machine.step(process)
        if b % 2:
            machine.run(process)


def _trap(machine: Machine, a: int, b: int) -> None:
    """Set a trap for the next process of a kind."""
    trap = Trap(KINDS[a % len(KINDS)], a // len(KINDS) % 8, ORDERS[b % len(ORDERS)], b // len(ORDERS) % 8)
    machine.traps.append(trap)
    machine.say(f"{trap}")


def _stall(machine: Machine, a: int, b: int) -> None:
    """Stop a trigger until its claim has passed to another owner, and resume it while that one works."""
    machine.traps.insert(0, Trap("trigger", 1 + b % 6, "stop", b // 6 % 8))
    _trigger(machine, a, b)
    machine.go(CLAIM_STALE_AFTER + 2)


def _straggle(machine: Machine, a: int, b: int) -> None:
    """Stop a poll until its successor is taken."""
    machine.traps.insert(0, Trap("poll", 2 + a % 3, "stop", 1 + b % 5))
    machine.go(SETTINGS.poll_interval + 2 * SETTINGS.overdue_grace)


def _deliver(machine: Machine, a: int, b: int) -> None:
    soon = [message for message in machine.queue if message.at <= machine.now + b % 8]
    if message := _pick(soon, a):
        machine.deliver(message)


def _lose(machine: Machine, a: int, _b: int) -> None:
    if message := _pick(machine.queue, a):
        machine.lose(message)


def _double(machine: Machine, a: int, b: int) -> None:
    if message := _pick(machine.queue, a):
        machine.again(message, countdown=message.at - machine.now + b % 3)


def _delay(machine: Machine, a: int, b: int) -> None:
    if message := _pick(machine.queue, a):
        message.at += SECONDS[b % len(SECONDS)]
        machine.say(f"late by {SECONDS[b % len(SECONDS)]}: {message.task} {message.task_id or message.kwargs}")


def _sweep(machine: Machine, a: int, _b: int) -> None:
    machine.sweep("AB"[a % 2])


def _sweeping(machine: Machine, a: int, _b: int) -> None:
    machine.sweeping = a % 3 > 0
    machine.say(f"sweepers at work: {machine.sweeping}")


def _disturb_long(machine: Machine, a: int, b: int) -> None:
    _disturb_for(machine, DISTURBANCES[a % len(DISTURBANCES)], LONG[b % len(LONG)], pace=PACES[b % len(PACES)])


def _disturb_for(machine: Machine, disturbance: Disturbance, seconds: float, *, pace: float = PACES[-1]) -> None:
    what = machine.endpoints.disturb(disturbance, machine.now + seconds, pace=pace)
    machine.say(f"{what} for {seconds} s")


def _silence(machine: Machine, a: int, b: int) -> None:
    """Lose an answer, let upstream show few of its calls, and trigger the pair again after window and hold.

    Some of the next requests make no call, and one more follows when upstream shows all of its calls.
    """
    pair, life = PAIRS[a % len(PAIRS)], LASTING[b % len(LASTING)]
    for disturbance in SILENCES[b // 3 % len(SILENCES)]:
        _disturb_for(machine, disturbance, LONG[b // 20 % len(LONG)])
    machine.trigger(pair, Plan(ending="lost at once", life=life, visible=SELDOM[a % len(SELDOM)]))
    machine.go(SECONDS[-1])
    for disturbance in SILENCES[b // 140 % len(SILENCES)]:
        _disturb_for(machine, disturbance, LONG[b // 20 % len(LONG)])
    if ending := WITHOUT_CALLS[b // 840 % len(WITHOUT_CALLS)]:
        machine.trigger(pair, Plan(ending))
        machine.go(SECONDS[-1])
        machine.endpoints.recover()
    machine.trigger(pair, Plan())


def _day_later(machine: Machine, a: int, b: int) -> None:
    """Trigger a pair again about a day after its request, when the last failure expires."""
    requests = list(machine.invariants.memory.requests.values())
    if request := _pick(requests, a):
        machine.go(SECONDS[-1])
        machine.jump(request.at + DAY + AROUND[b % len(AROUND)] - machine.now)
        machine.trigger(request.pair, Plan())


def _outage(machine: Machine, a: int, b: int) -> None:
    """Leave the queries of several calls at once unanswered."""
    for pair in PAIRS[a % 2 :: 2]:
        machine.trigger(pair, Plan(persons=3, life=a % len(LIVES), spread=SPREADS[b % len(SPREADS)]))
    machine.go(SECONDS[b % 9])
    _disturb_for(machine, JOBS_AWAY, LONG[b % len(LONG)])
    machine.go(62)


def _days(machine: Machine, a: int, b: int) -> None:
    """Stop everything for hours or days: all processes are dead or stand still."""
    dead, seconds = b // len(AROUND) % 3 > 0, DAYS[a % len(DAYS)] + AROUND[b % len(AROUND)]
    machine.say(f"all {'dead' if dead else 'stopped'} for {seconds} s")
    if dead:
        machine.blackout()
    machine.jump(seconds)


def _cut_short(machine: Machine, a: int, b: int) -> None:
    """Kill a sender during its dial, and stop everything for hours or days."""
    machine.traps.insert(0, Trap("trigger", 3 + a % 5, ("die", "die after")[b % 2], 0))
    _trigger(machine, a, b)
    machine.go(SECONDS[b % 9])
    _days(machine, a, len(AROUND) + b)


def _person(machine: Machine, a: int, b: int) -> None:
    pair, machine.dirty = PAIRS[b % len(PAIRS)], True
    if a % 4 == 0:
        machine.store.pause("by a person")
    elif a % 4 < 3:
        machine.store.resume()
    elif machine.store.release(pair, by="operator", why="") == "released":
        machine.invariants.on_release(pair)
    machine.say(f"a person: {('pause', 'resume', 'resume', f'release {pair}')[a % 4]}")


ACTIONS: dict[str, Callable[[Machine, int, int], None]] = {
    "go": _go,
    "jump": _jump,
    "trigger": _trigger,
    "once more": _once_more,
    "step": _step,
    "disturb": _disturb,
    "wake": _wake,
    "trap": _trap,
    "stall": _stall,
    "straggle": _straggle,
    "deliver": _deliver,
    "lose": _lose,
    "double": _double,
    "delay": _delay,
    "sweep": _sweep,
    "sweeping": _sweeping,
    "disturbance": _disturb_long,
    "silence": _silence,
    "day later": _day_later,
    "outage": _outage,
    "days": _days,
    "cut short": _cut_short,
    "person": _person,
}
OFTEN = {
    "go": 6,
    "jump": 2,
    "trigger": 5,
    "step": 5,
    "disturb": 4,
    "wake": 2,
    "trap": 5,
    "stall": 3,
    "straggle": 2,
    "deliver": 3,
    "sweep": 2,
    "disturbance": 3,
    "silence": 3,
    "day later": 2,
    "days": 2,
}
DRAWN = [name for name in ACTIONS for _ in range(OFTEN.get(name, 1))]
