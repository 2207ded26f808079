"""Search for a script that breaks a rule: one seed after the other, each reducible to its necessary steps."""

import itertools
import re
from collections import Counter
from collections.abc import Callable
from functools import partial

import redis

from tests.fakes import virtual_time
from tests.faults.aftermath import judge
from tests.faults.script import Step, draw, play, reduce
from tests.faults.simulation import Machine


class Broken(Exception):  # noqa: N818 - the name states the finding
    """A rule is broken by the script of `seed`, caused by the chained exception, after `steps` steps of the search."""

    def __init__(self, seed: int, steps: int) -> None:
        super().__init__(f"seed {seed}, after {steps} steps")
        self.seed = seed


def enact(
    client: redis.Redis, scene: Callable[[Machine], None], *, skew: float = 0
) -> tuple[Machine, BaseException | None]:
    """Play a scene on a new machine until everything has ended; return the machine and its error."""
    client.flushall()
    with virtual_time() as traveller:
        machine = Machine(traveller, client, skew=skew)
        try:
            scene(machine)
            machine.settle_down()
            judge(machine)
        except Exception as error:  # noqa: BLE001 - examined by several callers
            return machine, error
        finally:
            machine.end()
        return machine, None


def run(client: redis.Redis, script: list[Step], skew: float) -> tuple[Machine, BaseException | None]:
    """Play a script on a new machine; return the machine and its error."""
    return enact(client, partial(play, steps=script), skew=skew)


def search(client: redis.Redis, pattern: str = "", *, steps: int, first: int = 0) -> Counter[str]:
    """Run the scripts of the seeds from `first` on for at least `steps` steps, and return the counts of all.

    Raise Broken at the first message that matches `pattern`; other messages are skipped.
    """
    total: Counter[str] = Counter()
    for seed in itertools.count(first):
        machine, error = run(client, *draw(seed))
        total.update(machine.counts, steps=machine.steps)
        if error is not None and re.search(pattern, str(error)):
            raise Broken(seed, total["steps"]) from error
        if total["steps"] >= steps:
            return total
    raise AssertionError  # there is always one more seed


def explained(client: redis.Redis, broken: Broken) -> str:
    """Return the shortest script found to break the same rule, and its trace."""
    where = _where(broken.__cause__)
    script, skew = draw(broken.seed)
    script = reduce(script, lambda shorter: _where(run(client, shorter, skew)[1]) == where)
    machine, error = run(client, script, skew)
    return "\n".join([str(broken), *machine.trace, f"{script} {skew}", repr(error)])


def _where(error: BaseException | None) -> object:
    """The line at which a rule was broken."""
    place = error.__traceback__ if error else None
    while place and place.tb_next:
        place = place.tb_next
    return place and (place.tb_frame.f_code, place.tb_lineno)
