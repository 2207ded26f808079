"""Copy the store's content out of fakeredis and back, and shift all of its times.

A script depends on its keys, its arguments and Redis' time. The clock of the search therefore stands still: when time
passes, every time in the state is shifted into the past. States that differ only by the moment they were reached are
then equal, and a script runs only once per content.
"""

import dataclasses
import functools
import json
import math
import re
from collections import UserDict
from typing import Any, NamedTuple, cast

import fakeredis
from fakeredis._core._database import Item
from fakeredis.model import ExpiringMembersSet, Hash, ZSet

from tests.fakes import START
from worker.store import Keys

EPOCH = 1_000_000_000  # seconds: a larger number is a time
HOUR = 3_600  # seconds

Entry = tuple[str, Any, float | None]
"""A key, its value (a text, or a kind and items), and the epoch second at which it expires."""

_TIME = re.compile(r"(?<!\d)(?:(\d{10})(\d{3})(?=-)|(\d{10})(?![\d-]))")
"""The creation time of a job id in milliseconds, or the whole seconds of a time."""
_UNREAD = frozenset(
    {"watching_at", "unknown_at", "done_at", "waiting_at", "last_polled_at", "finished_at", "executing_since"}
)


class Published(NamedTuple):
    """An event that a script published."""

    kind: str
    mediation_id: str
    job_id: str


class Snapshot:
    """The content of the store; equal contents share one object."""

    def __init__(self, entries: tuple[Entry, ...], keys: Keys) -> None:
        self.entries = entries
        self._values = {name: value for name, value, _ in entries}
        self._keys = keys

    def text(self, name: str) -> str | None:
        """Return a string; None if there is none."""
        return cast("str | None", self._values.get(name))

    def fields(self, name: str) -> dict[str, str]:
        """Return a hash; empty if there is none."""
        return dict(self._values[name][1]) if name in self._values else {}

    def members(self, name: str) -> frozenset[str]:
        """Return a set; empty if there is none."""
        return frozenset(self._values[name][1]) if name in self._values else frozenset()

    def scores(self, name: str) -> dict[str, float]:
        """Return a sorted set; empty if there is none."""
        return dict(self._values[name][1]) if name in self._values else {}

    def under(self, prefix: str) -> list[str]:
        """Return the remainders of all key names that begin with a prefix."""
        return [name.removeprefix(prefix) for name in self._values if name.startswith(prefix)]

    @functools.cached_property
    def ledgers(self) -> dict[str, dict[str, str]]:
        """The ledgers by pair."""
        prefix = f"{self._keys.prefix}:ledger:"
        return {name: self.fields(prefix + name) for name in self.under(prefix)}

    @functools.cached_property
    def records(self) -> dict[str, dict[str, str]]:
        """The records of calls by job id."""
        return {name: self.fields(self._keys.job(name)) for name in self.under(self._keys.job(""))}

    @functools.cached_property
    def watched(self) -> list[dict[str, str]]:
        """The records of watched calls."""
        return [record for record in self.records.values() if "verdict" not in record]

    @functools.cached_property
    def tokens(self) -> frozenset[str]:
        """The owner tokens in the store."""
        prefix = f"{self._keys.prefix}:lock:"
        locks = {self.text(prefix + name) or "" for name in self.under(prefix)}
        return frozenset(locks | {ledger.get("token", "") for ledger in self.ledgers.values()})

    @functools.cached_property
    def attended_at(self) -> float:
        """Time of the sweep's next attention to a pair, in epoch seconds."""
        return min(self.scores(self._keys.pairs).values(), default=math.inf)

    @functools.cached_property
    def quiet(self) -> bool:
        """Whether nothing more happens without an external event."""
        return self.attended_at == math.inf and not self.watched


class Shelf:
    """Store the contents of one fake server."""

    def __init__(self, server: fakeredis.FakeServer, keys: Keys, *, plain: bool) -> None:
        self._database, self._keys, self._plain = server.dbs[0], keys, plain
        self._history = keys.history("")
        # Written here and read by none of these scripts: outages need five calls, and views are for operators.
        failed = (keys.failed("query"), keys.failed("dial"))
        self._trails = (keys.events, keys.counters, keys.good, keys.failing, keys.done, keys.finished, *failed)
        self._kept: dict[tuple[Entry, ...], Snapshot] = {}
        self._moved: dict[tuple[Snapshot, int], Snapshot] = {}

    def take(self) -> tuple[Snapshot, list[Published]]:
        """Return the server's content without histories, and the events of the histories."""
        events: list[Published] = []
        entries: list[Entry] = []
        for key, item in self._database._dict.items():  # commands would take twenty times as long
            name = key.decode()
            if name.startswith(self._history):
                events += [_published(entry) for entry in item.value]
            elif name not in self._trails:
                entries.append((name, _value(item.value), item.expireat))
        return self._keep(entries), events

    def put(self, snapshot: Snapshot) -> None:
        """Replace the server's content."""
        self._database._dict.clear()
        for name, value, expires in snapshot.entries:
            self._database._dict[name.encode()] = item = Item(_model(value))
            item.expireat = expires

    def later(self, snapshot: Snapshot, seconds: int) -> Snapshot:
        """Return a content after time has passed: every time is earlier, and expired keys are gone."""
        known = self._moved.get((snapshot, seconds))
        if known is None:
            entries = [
                (moved(name, seconds), moved(value, seconds), None if expires is None else expires - seconds)
                for name, value, expires in snapshot.entries
                if expires is None or expires - seconds > START
            ]
            known = self._moved[snapshot, seconds] = self._keep(entries)
        return known

    def _keep(self, entries: list[Entry]) -> Snapshot:
        if self._plain:
            entries = [plain(entry, self._keys) for entry in entries]
        content = tuple(sorted(entries, key=lambda entry: entry[0]))
        known = self._kept.get(content)
        if known is None:
            known = self._kept[content] = Snapshot(content, self._keys)
        return known


def moved(value: Any, seconds: int) -> Any:
    """Return a value with every time in it `seconds` earlier, job ids included."""
    if isinstance(value, str):
        return _TIME.sub(lambda found: f"{int(found[1] or found[3]) - seconds}{found[2] or ''}", value)
    if isinstance(value, float):
        return value - seconds if value > EPOCH else value
    if isinstance(value, tuple | list):
        items = [moved(one, seconds) for one in value]
        return value._make(items) if hasattr(value, "_make") else type(value)(items)
    if isinstance(value, dict | UserDict):
        return type(value)({name: moved(one, seconds) for name, one in value.items()})
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {one.name: moved(getattr(value, one.name), seconds) for one in dataclasses.fields(value)}
        return dataclasses.replace(value, **fields)
    return value


def plain(entry: Entry, keys: Keys) -> Entry:
    """Return an entry without details that change no step of the search; a test proves that they change none."""
    name, value, expires = entry
    if expires is not None:
        expires = START + math.ceil((expires - START) / HOUR) * HOUR
    if name in (keys.due, keys.dialled):
        return name, ("scores", tuple((item, START) for item, _ in value[1])), expires
    if isinstance(value, str) or value[0] != "hash":
        return name, value, expires
    fields = {field: text for field, text in value[1] if field not in _UNREAD}
    if "due" in fields:
        fields["due"] = fields["deadline"]
    if fields.get("phase", "claimed") != "claimed" and "claimed_at" in fields:
        fields["claimed_at"] = f"{START:.3f}"
    if "last_failure_at" in fields:
        fields["last_failure_at"] = f"{START + math.ceil((float(fields['last_failure_at']) - START) / HOUR) * HOUR:.3f}"
    return name, ("hash", tuple(fields.items())), expires


def _published(entry: bytes) -> Published:
    event = json.loads(entry)
    return Published(event["kind"], event.get("mediation_id", ""), event.get("job_id", ""))


def _value(model: Any) -> Any:
    """Return a value of fakeredis as texts and tuples."""
    if isinstance(model, bytes):
        return model.decode()
    if isinstance(model, Hash):
        return ("hash", tuple(sorted((name.decode(), value.decode()) for name, value in model._values.items())))
    if isinstance(model, ZSet):
        return ("scores", tuple(sorted((name.decode(), score) for name, score in model._bylex.items())))
    if isinstance(model, ExpiringMembersSet):
        return ("members", tuple(sorted(name.decode() for name in model)))
    raise TypeError(type(model).__name__)


def _model(value: Any) -> Any:
    """Return the argument of `_value`."""
    if isinstance(value, str):
        return value.encode()
    kind, items = value
    if kind == "members":
        return ExpiringMembersSet({name.encode(): None for name in items})
    if kind == "hash":
        fields = Hash()
        fields._values = {name.encode(): text.encode() for name, text in items}
        return fields
    scores = ZSet()
    for name, score in items:
        scores.add(name.encode(), score)
    return scores
