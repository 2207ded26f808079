"""Lay out calls as a table for a terminal. Pure: calls, time and width are arguments."""

from collections.abc import Iterable, Sequence

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from cli.ui.output import printable
from worker.core import texts
from worker.core.model import Call, PairState

WIDE = 120  # columns; a terminal of this width has room for the job id
STATUS_STYLES = {"Executing": "green", "Succeeded": "green", "Failed": "red", "Cancelled": "magenta"}
VERDICT_STYLES = {"ended": "dim", "expired": "yellow", "lost": "bold red"}


def calls_table(calls: Sequence[Call], *, now: float, width: int, failure_limit: int, rows: int | None = None) -> Table:
    """Return the calls as a table; if there are more than `rows`, the latest ones and the number of the others."""
    shown = calls if rows is None else calls[max(0, len(calls) - rows) :]
    hidden = len(calls) - len(shown)
    table = Table(expand=False, caption=f"{hidden} earlier calls not shown" if hidden else None, caption_justify="left")
    table.add_column("case / mediation")  # this column and the state shrink on a narrow terminal
    if width >= WIDE:
        table.add_column("job", no_wrap=True)
    table.add_column("person", no_wrap=True)
    table.add_column("state")
    for name in ("duration", "failures"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("verdict", no_wrap=True)
    for call in shown:
        table.add_row(*_row(call, now, wide=width >= WIDE, failure_limit=failure_limit))
    return table


def _row(call: Call, now: float, *, wide: bool, failure_limit: int) -> Iterable[RenderableType]:
    yield _cut(f"{call.case_id} / {call.mediation_id}")
    if wide:
        yield Text(printable(call.job_id))
    yield Text(printable(call.person_shown))
    yield _cut(texts.label(call.call_status), STATUS_STYLES.get(call.call_status, "yellow"))
    yield Text(texts.duration(call.seconds(now)))
    yield Text(f"{call.retry_count}/{failure_limit}", style="red" if call.retry_count else "")
    yield Text(call.verdict or "", style=VERDICT_STYLES.get(call.verdict or "", ""))


def _cut(text: str, style: str = "") -> Text:
    """Return a text of one line that is cut to the width of its column."""
    return Text(printable(text), style=style, no_wrap=True, overflow="ellipsis")


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
    frame = 6  # lines of the table without a call, and the line of the cursor
    rows = None if height is None else max(1, height - frame - len(below))
    if not calls:
        return Group(Text("no calls are being watched", style="dim"), *below)
    return Group(calls_table(calls, now=now, width=width, failure_limit=failure_limit, rows=rows), *below)
