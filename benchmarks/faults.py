"""Measure the effect of faults on watched calls: killed workers, killed Redis, upstream outage, rolling restart.

Run all scenarios with `make faults`, or one with `python -m benchmarks.faults --scenario kill-redis-one-worker`. The
output is a Markdown table of goals and measured values; the exit status is 1 if a goal is missed. Each scenario has its
own Redis with an append-only file, simulated upstream and real workers. All poll times and dial counts come from the
upstream's request log. A pause of the machine shows in the figure of the plain tick; repeat the run in that case.
"""

import argparse
import sys
import time
from collections.abc import Mapping

from benchmarks.fault_figures import Figure
from benchmarks.fault_scenarios import SCENARIOS, Scenario

VERDICTS = {True: "pass", False: "**FAIL**", None: "-"}


def main(scenarios: Mapping[str, Scenario], description: str | None) -> None:
    """Run the scenarios that the command line names, by default all, and print the table."""
    options = argparse.ArgumentParser(description=description)
    options.add_argument("--scenario", nargs="+", choices=scenarios, default=list(scenarios), metavar="NAME")
    options.add_argument("--calls", type=int, help="watched calls in each scenario instead of its default")
    chosen = options.parse_args()
    if chosen.calls is not None and chosen.calls < 1:
        options.error("--calls: should be 1 or more")
    figures: dict[str, list[Figure]] = {}
    for name in chosen.scenario:
        begin = time.monotonic()
        figures[name] = scenarios[name].act(chosen.calls or scenarios[name].calls)
        print(f"{name}: {time.monotonic() - begin:.0f} s", file=sys.stderr)
    print(table(figures))
    sys.exit(any(one.passed is False for several in figures.values() for one in several))


def table(figures: dict[str, list[Figure]]) -> str:
    """Return the figures of all scenarios as one Markdown table."""
    head = "| scenario | figure | to reach | measured | |\n| --- | --- | --- | --- | --- |"
    lines = [
        f"| {name} | {one.name} | {one.goal} | {one.measured} | {VERDICTS[one.passed]} |"
        for name, several in figures.items()
        for one in several
    ]
    return "\n".join((head, *lines))


if __name__ == "__main__":
    main(SCENARIOS, __doc__)
