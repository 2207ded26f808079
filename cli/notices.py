"""Show undelivered notices and replay dead letters: `callwatch notices`."""

from dataclasses import asdict
from typing import Any

from cli.connect import open_store, read_settings
from cli.ui.formatting import event_line, moment
from cli.ui.output import DONE, FAILED, complain, printable, say, say_json
from worker.store.outbox import DeadLetter, Waiting


def notices(*, dead: bool, replay: bool, as_json: bool) -> int:
    """Print the outbox of each channel; list or replay the dead letters on request; return the exit code.

    The exit code is 1 if the outbox had no room for a dead letter.
    """
    with open_store(read_settings()) as store:
        before = store.dead_letters()
        replayed = store.replay() if replay else None
        left = store.dead_letters() if replay else before
        waiting = store.notices()
    if as_json:
        document: dict[str, Any] = {"channels": [asdict(one) for one in waiting], "dead": len(left)}
        if dead:
            document["letters"] = [asdict(letter) for letter in before]
        if replay:
            document["replayed"] = replayed
        say_json(document)
    else:
        for letter in before if dead else ():
            say(_dead_letter_line(letter))
        if replay:
            say(f"{replayed} dead letters are back in the outbox")
        for line in _lines(waiting, len(left)):
            say(line)
    if replay and left:
        complain(f"the outbox had no room for {len(left)} dead letters; try again when fewer notices wait")
        return FAILED
    return DONE


def _lines(waiting: list[Waiting], dead: int) -> list[str]:
    lines = [_waiting_line(one) for one in waiting]
    if not waiting:
        lines = ["no channel: neither CALLWATCH_NOTICE_URL nor CALLWATCH_NOTICE_TASK is set"]
    return [*lines, f"dead letters: {dead}"]


def _waiting_line(one: Waiting) -> str:
    since = "" if one.oldest_at is None else f", the oldest since {moment(one.oldest_at)}"
    ends = f"{one.delivered} delivered, {one.given_up} given up, {one.pushed_out} pushed out"
    return f"{one.channel}: {one.waiting} waiting{since}; {ends}"


def _dead_letter_line(letter: DeadLetter) -> str:
    head = f"{letter.notice_id}  {letter.channel}  given up {moment(letter.died_at)}: {letter.reason}"
    return printable(f"{head}  {event_line(letter.event)}")
