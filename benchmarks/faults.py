"""What watched calls notice when things break: workers killed, Redis killed, upstream away, all workers restarted.

Run it with `make faults`. Each scenario has a server with an append-only file, a simulated upstream and real workers of
its own. The upstream's request log alone says when a call was polled and how often a pair was requested. The exit
status is 1 when a figure is missed. A pause of the machine shows in the plain tick as well: then run it again.
"""

import argparse
import sys
import time

from benchmarks.fault_figures import Figure
from benchmarks.fault_scenarios import SCENARIOS

VERDICTS = {True: "pass", False: "**FAIL**", None: "-"}


def main() -> None:
    """Run the chosen scenarios and print the table."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--scenario", nargs="+", choices=SCENARIOS, default=list(SCENARIOS), metavar="NAME")
    options.add_argument("--calls", type=int, help="watched calls in each of them instead of its own number")
    chosen = options.parse_args()
    if chosen.calls is not None and chosen.calls < 1:
        options.error("--calls: should be 1 or more")
    figures: dict[str, list[Figure]] = {}
    for name in chosen.scenario:
        begin = time.monotonic()
        figures[name] = SCENARIOS[name].act(chosen.calls or SCENARIOS[name].calls)
        print(f"{name}: {time.monotonic() - begin:.0f} s", file=sys.stderr)
    print(table(figures))
    sys.exit(any(one.passed is False for several in figures.values() for one in several))


def table(figures: dict[str, list[Figure]]) -> str:
    """Return all figures as one Markdown table."""
    head = "| scenario | figure | to reach | measured | |\n| --- | --- | --- | --- | --- |"
    lines = [
        f"| {name} | {one.name} | {one.goal} | {one.measured} | {VERDICTS[one.passed]} |"
        for name, several in figures.items()
        for one in several
    ]
    return "\n".join((head, *lines))


if __name__ == "__main__":
    main()
