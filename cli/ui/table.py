"""Lay out calls and pairs as tables for a terminal. Pure: calls, time and width are arguments."""

from collections.abc import Iterable, Sequence

from rich.cells import cell_len
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from cli.ui.formatting import moment, time_of_day
from cli.ui.output import printable
from worker.core import texts
from worker.core.model import Call, PairState

WIDE = 120  # columns; a terminal of this width has room for the job id
DISPENSABLE = ("verdict", "failures")  # columns that are left out, in this order, where the ids would not fit
BORDERS = 3  # columns of the terminal that the frame of a table takes for each of its columns, and one more
STATUS_STYLES = {"Executing": "green", "Succeeded": "green", "Failed": "red", "Cancelled": "magenta"}
VERDICT_STYLES = {"ended": "dim", "expired": "yellow", "lost": "bold red"}

Rows = list[dict[str, Text]]


def calls_table(
    calls: Sequence[Call], *, now: float, width: int, failure_limit: int, rows: int | None = None
) -> RenderableType:
    """Return the calls as a table; if there are more than `rows`, the latest ones and the number of the others.

    Ids wrap where they do not fit. A line below the table names the columns that the terminal has no room for.
    """
    shown = calls if rows is None else calls[max(0, len(calls) - rows) :]
    hidden = len(calls) - len(shown)
    cells = [_cells(call, now, failure_limit) for call in shown]
    left_out = _left_out(cells, width)
    table = Table(expand=False, caption=f"{hidden} earlier calls not shown" if hidden else None, caption_justify="left")
    for name in cells[0]:
        if name not in left_out:
            numbers = name in ("duration", "failures")
            table.add_column(
                name, justify="right" if numbers else "left", no_wrap=name not in ("case / mediation", "state")
            )
    for row in cells:
        table.add_row(*(text for name, text in row.items() if name not in left_out))
    if not left_out:
        return table
    return Group(table, Text(f"not shown at {width} columns: {', '.join(left_out)}", style="dim"))


def _cells(call: Call, now: float, failure_limit: int) -> dict[str, Text]:
    """Return the texts of a call by the names of their columns."""
    return {
        "case / mediation": _name(call.case_id, call.mediation_id),
        "job": Text(printable(call.job_id)),
        "person": Text(printable(call.person_shown)),
        "state": _cut(texts.label(call.call_status), STATUS_STYLES.get(call.call_status, "yellow")),
        "duration": Text(texts.duration(call.seconds(now))),
        "failures": Text(f"{call.retry_count}/{failure_limit}", style="red" if call.retry_count else ""),
        "verdict": Text(call.verdict or "", style=VERDICT_STYLES.get(call.verdict or "", "")),
    }


def _left_out(cells: Rows, width: int) -> list[str]:
    """Return the columns for which a terminal of this width has no room."""
    needed = {name: max(cell_len(name), *(row[name].cell_len for row in cells)) + BORDERS for name in cells[0]}
    left_out = [] if width >= WIDE else ["job"]
    for name in DISPENSABLE:
        if sum(needed.values()) - sum(needed[one] for one in left_out) + 1 > width:
            left_out.append(name)
    return left_out


def _name(case_id: str, mediation_id: str) -> Text:
    """Return both ids of a pair; they wrap, so that no part of an id is lost."""
    return Text(printable(f"{case_id} / {mediation_id}"), overflow="fold")


def _cut(text: str, style: str = "") -> Text:
    """Return a text of one line that is cut to the width of its column."""
    return Text(printable(text), style=style, no_wrap=True, overflow="ellipsis")


# -- pairs -------------------------------------------------------------------------------------------------------------


def pairs_table(pairs: Iterable[PairState], *, now: float) -> Table:
    """Return the pairs with the phase of their last trigger, its begin and, if it is known, its end."""
    table = Table("case / mediation", "phase", "since", "until")
    for state in pairs:
        moments = (_near(one, now) for one in (state.since, state.until))
        table.add_row(_name(state.pair.case_id, state.pair.mediation_id), state.phase, *moments)
    return table


def advice(state: PairState, *, now: float) -> str | None:
    """Return what follows an unknown outcome, and when an operator may release the pair; None in another phase."""
    if state.phase != "unknown":
        return None
    case_id, mediation_id = state.pair.case_id, state.pair.mediation_id
    release = f"`callwatch release {case_id} {mediation_id} --why TEXT`"
    condition = "only if upstream or the parties confirm that no phone will ring"
    if not state.looking:
        then = f"the look-up found no call; the pair is released at {_near(state.until, now)}, or before by {release}"
        return printable(f"{case_id} / {mediation_id}: {then}, {condition}")
    ends = f"until {_near(state.until, now)}" if state.until and state.until > now else "until upstream answers one"
    found = f"{state.found} found calls are watched" if state.found else "no call is found yet"
    then = f"a phone may be ringing; look-ups go on {ends}, {found}. Until then wait, or {release} with --now"
    return printable(f"{case_id} / {mediation_id}: {then}, {condition}")


def _near(at: float | None, now: float) -> str:
    """Return the time of day, with the date if it is not today's; an empty text for None."""
    if at is None:
        return ""
    return time_of_day(at) if moment(at)[:10] == moment(now)[:10] else moment(at)


def pairs_lines(pairs: Iterable[PairState]) -> list[Text]:
    """Return a line for each pair that is neither watched nor done, and so has no call in the table."""
    words = {
        "claimed": "about to be dialled",
        "sending": "being dialled",
        "unknown": texts.OUTCOME_UNKNOWN,
        "waiting": "waiting",
    }
    return [
        Text(printable(f"{state.pair.case_id} / {state.pair.mediation_id}: {words[state.phase]}"), style="yellow")
        for state in pairs
        if state.phase in words
    ]


def page(
    calls: Sequence[Call],
    pairs: Sequence[PairState],
    notices: Sequence[str],
    *,
    now: float,
    width: int,
    height: int | None,
    failure_limit: int,
) -> RenderableType:
    """Return the whole page: calls, pairs in progress, the latest notices; `height` in lines, None for no limit."""
    below = [*pairs_lines(pairs), *(Text(printable(notice), style="yellow") for notice in notices)]
    frame = 7  # lines of the table without a call, of the columns left out, and of the cursor
    rows = None if height is None else max(1, height - frame - len(below))
    if not calls:
        return Group(Text("no calls are being watched", style="dim"), *below)
    return Group(calls_table(calls, now=now, width=width, failure_limit=failure_limit, rows=rows), *below)
