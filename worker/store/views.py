"""What can be read of the state: calls, pairs, events; and the switch that stops new calls."""

import json
from collections.abc import Iterable, Sequence
from typing import Any, cast

from worker.decision import Phase, Verdict
from worker.store.base import Steps
from worker.store.keys import pair_of
from worker.values import Call, Pair, PairState


class Views(Steps):
    """Reads for operators, and S16's switch. All raise StoreUnavailable."""

    def calls(self, *, case_id: str | None = None, job_id: str | None = None, finished: bool = False) -> list[Call]:
        """Return the watched calls, and the finished ones if asked, the oldest first."""
        with self.translated():
            if job_id is not None:
                ids = {job_id}
            elif case_id is not None:
                ids = cast("set[str]", self.client.smembers(self.keys.jobs(case_id)))
            else:
                ids = set(self._members(self.keys.due))
                if finished:
                    ids |= set(self._members(self.keys.finished))
            records = self._hashes(self.keys.job(one) for one in ids)
        calls = [_call(record) for record in records if record]
        wanted = (call for call in calls if finished or job_id is not None or call.verdict is None)
        return sorted(
            (call for call in wanted if case_id in (None, call.case_id)),
            key=lambda call: (call.started_at, call.job_id),
        )

    def pairs(self, *, case_id: str | None = None, finished: bool = False) -> list[PairState]:
        """Return the pairs whose last trigger is not done, and the done ones if asked, the oldest first."""
        with self.translated():
            members = self._members(self.keys.pairs)
            if finished:
                members = [*self._members(self.keys.done), *members]
            pairs = [pair for pair in map(pair_of, members) if case_id in (None, pair.case_id)]
            ledgers = self._hashes(self.keys.ledger(pair) for pair in pairs)
        return [
            PairState(pair, cast("Phase", ledger["phase"]))
            for pair, ledger in zip(pairs, ledgers, strict=True)
            if "phase" in ledger
        ]

    def refused(self, pairs: Sequence[Pair]) -> list[list[dict[str, Any]]]:
        """Return for each pair the refusals of its last trigger, with upstream's own texts and whole person ids."""
        with self.translated():
            pipeline = self.client.pipeline(transaction=False)
            for pair in pairs:
                pipeline.hget(self.keys.ledger(pair), "task_id")
            tasks = [self.keys.task(task_id or "") for task_id in cast("list[str | None]", pipeline.execute())]
            results = cast("list[str | None]", self.client.mget(tasks)) if tasks else []
        return [json.loads(result)["refused"] if result else [] for result in results]

    def history(self, case_id: str) -> list[dict[str, Any]]:
        """Return the events of a case, the oldest first (S36)."""
        with self.translated():
            return [json.loads(entry) for entry in self.client.lrange(self.keys.history(case_id), 0, -1)]

    def events(self, after: str, *, wait: float) -> list[tuple[str, dict[str, Any]]]:
        """Return what changed after the entry `after` (`$`: from now on), waiting up to `wait` seconds for one."""
        with self.translated():
            reply = cast(
                "list[tuple[str, list[tuple[str, dict[str, str]]]]] | None",
                self.client.xread({self.keys.events: after}, block=max(1, round(wait * 1000))),
            )
        return [(entry, json.loads(fields["event"])) for _, entries in reply or () for entry, fields in entries]

    def pause(self, reason: str) -> None:
        """Stop new calls at once (S16)."""
        with self.translated():
            self.client.set(self.keys.paused, reason)

    def resume(self) -> bool:
        """Allow new calls again; False where they were not stopped."""
        with self.translated():
            return bool(self.client.delete(self.keys.paused))

    def is_paused(self) -> bool:
        """Tell whether new calls are stopped, without a look at the reason."""
        with self.translated():
            return bool(self.client.exists(self.keys.paused))

    def paused(self) -> str | None:
        """Return why new calls are stopped, None where they are not."""
        with self.translated():
            return cast("str | None", self.client.get(self.keys.paused))

    def _members(self, name: str) -> list[str]:
        return cast("list[str]", self.client.zrange(name, 0, -1))

    def _hashes(self, names: Iterable[str]) -> list[dict[str, str]]:
        pipeline = self.client.pipeline(transaction=False)
        for name in names:
            pipeline.hgetall(name)
        return cast("list[dict[str, str]]", pipeline.execute())


def _call(record: dict[str, str]) -> Call:
    def moment(name: str) -> float | None:
        return float(record[name]) if record.get(name) else None

    return Call(
        job_id=record["job_id"],
        case_id=record["case_id"],
        mediation_id=record["mediation_id"],
        person_id=record["person_id"],
        call_status=record["call_status"],
        verdict=cast("Verdict | None", record.get("verdict")),
        retry_count=int(record["retry_count"]),
        poll_no=int(record["poll_no"]),
        started_at=float(record["started_at"]),
        watched_at=float(record["watched_at"]),
        deadline=float(record["deadline"]),
        due=float(record["due"]),
        executing_since=moment("executing_since"),
        last_polled_at=moment("last_polled_at"),
        finished_at=moment("finished_at"),
        also=tuple(map(pair_of, record.get("also", "").split())),
    )
