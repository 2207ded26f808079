"""Name all keys and describe their values. Every key has a time to live or a bound."""

from dataclasses import dataclass
from urllib.parse import quote, unquote

from worker.core.model import Pair

EVENTS_KEPT = 10_000  # entries of the live stream: enough for an observer that was away for minutes
OUTBOX_KEPT = 50_000  # notices that wait in one channel, about 25 MB: hours of a receiver's outage
DEAD_KEPT = 10_000  # dead letters
OF_ONE_CASE = 1_000  # entries of one case in each outbox and among the dead letters (S38)
LEASED = 10_000_000_000  # added to the end of a lease, so that leases sort behind every due time in `due`
DIALLED_KEPT = 31 * 86_400  # seconds for which a task id does not dial again after its result has expired
AUDIT_KEPT = 1_000  # entries about operators' actions
HISTORY_KEPT = 1_000  # entries of one case: far more than 2 hours of a dozen calls write


@dataclass(frozen=True, slots=True)
class Keys:
    """Build key names under one prefix; ids of cases and mediations are quoted, so that each pair has one name."""

    prefix: str

    def lock(self, pair: Pair) -> str:
        """String: the owner's token (S4)."""
        return f"{self.prefix}:lock:{member(pair)}"

    def ledger(self, pair: Pair) -> str:
        """Hash: the state of the pair's last trigger (S18)."""
        return f"{self.prefix}:ledger:{member(pair)}"

    def live(self, pair: Pair) -> str:
        """Set: the watched jobs of the pair (S5)."""
        return f"{self.prefix}:live:{member(pair)}"

    def job(self, job_id: str) -> str:
        """Hash: the record of a call (S11)."""
        return f"{self.prefix}:job:{job_id}"

    def task(self, task_id: str) -> str:
        """String: the stored result of a handled trigger, JSON (S17)."""
        return f"{self.prefix}:task:{task_id}"

    def request(self, task_id: str) -> str:
        """String: a back end's HTTP request under a task id, JSON (S42)."""
        return f"{self.prefix}:request:{task_id}"

    def history(self, case_id: str) -> str:
        """List: the events of a case, newest last, bounded (S36)."""
        return f"{self.prefix}:history:{quote(case_id, safe='')}"

    def jobs(self, case_id: str) -> str:
        """Set: the jobs of a case whose records are kept."""
        return f"{self.prefix}:jobs:{quote(case_id, safe='')}"

    def mediations(self, case_id: str) -> str:
        """Set: the recently triggered pairs of a case (S14 compares them)."""
        return f"{self.prefix}:mediations:{quote(case_id, safe='')}"

    @property
    def due(self) -> str:
        """Sorted set: every watched job, by the due time of its next poll, or by `LEASED` plus the end of its lease.

        Bounded by the watched calls.
        """
        return f"{self.prefix}:due"

    @property
    def finished(self) -> str:
        """Sorted set: finished jobs by the time of their verdict, trimmed to the history's age."""
        return f"{self.prefix}:finished"

    @property
    def pairs(self) -> str:
        """Sorted set: pairs that are not done, by the time of their next attention by a sweep. Bounded by the pairs."""
        return f"{self.prefix}:pairs"

    @property
    def done(self) -> str:
        """Sorted set: done pairs by the time of their release, trimmed to the history's age."""
        return f"{self.prefix}:done"

    @property
    def dialled(self) -> str:
        """Sorted set: task ids of sent requests by time, trimmed to 31 days (S18)."""
        return f"{self.prefix}:dialled"

    @property
    def events(self) -> str:
        """Stream: every change, for observers, bounded."""
        return f"{self.prefix}:events"

    def outbox(self, channel: str) -> str:
        """Stream: outbox entries of a channel, bounded; a full outbox moves one to the dead letters (S38)."""
        return f"{self.prefix}:outbox:{channel}"

    def outbox_cases(self, channel: str) -> str:
        """Hash: number of outbox entries per case in a channel. Bounded by the entries."""
        return f"{self.prefix}:waiting:{channel}"

    def notifier(self, channel: str) -> str:
        """String: the token of the worker that delivers over a channel."""
        return f"{self.prefix}:notifier:{channel}"

    @property
    def dead(self) -> str:
        """List: notices that were given up, JSON, newest first, bounded."""
        return f"{self.prefix}:dead"

    @property
    def dead_cases(self) -> str:
        """Hash: number of dead letters per case. Bounded by the letters."""
        return f"{self.prefix}:buried"

    @property
    def notices(self) -> str:
        """Hash: numbers of delivered, given-up and pushed-out notices per channel."""
        return f"{self.prefix}:notices"

    def bucket(self, name: str) -> str:
        """Hash: time of a limit's next token, and time until which its tokens are promised (epoch seconds)."""
        return f"{self.prefix}:bucket:{name}"

    @property
    def paused(self) -> str:
        """String: present while new calls are stopped; by, reason and time of the stop, JSON (S16)."""
        return f"{self.prefix}:paused"

    @property
    def audit(self) -> str:
        """List: each stop and release of new calls with by, time and reason, JSON, newest first, bounded (S16)."""
        return f"{self.prefix}:audit"

    @property
    def sweeper(self) -> str:
        """String: the holder of the sweep's leader lock (S28)."""
        return f"{self.prefix}:sweeper"

    @property
    def swept(self) -> str:
        """String: time of the last acquired leader lock of the sweep, in epoch seconds, and its owner (S28)."""
        return f"{self.prefix}:swept"

    @property
    def primary(self) -> str:
        """Hash: replication id of the server, number and time of the promotions of a replica (S41)."""
        return f"{self.prefix}:primary"

    @property
    def outage(self) -> str:
        """Hash: start of the upstream outage; absent while upstream answers (S29)."""
        return f"{self.prefix}:outage"

    @property
    def good(self) -> str:
        """String: time of the last successful status query, in epoch seconds (S29)."""
        return f"{self.prefix}:good"

    @property
    def failing(self) -> str:
        """Sorted set: calls whose queries have failed since that success, by time (S29)."""
        return f"{self.prefix}:failing"

    def failed(self, kind: str) -> str:
        """Hash: the latest failed requests of a kind, `query` or `dial`: since, at, number, reason; lives a day."""
        return f"{self.prefix}:failed:{kind}"

    @property
    def counters(self) -> str:
        """Hash: counters and histograms; bounded by the fields that the scripts count under."""
        return f"{self.prefix}:counters"

    @property
    def cached_counts(self) -> str:
        """String: cached counts of calls and pairs and the lateness of polls, JSON; for observers (S37)."""
        return f"{self.prefix}:counts"

    @property
    def writable(self) -> str:
        """String: written by an unhealthy worker, to learn whether Redis takes writes (S41)."""
        return f"{self.prefix}:writable"

    @property
    def counting(self) -> str:
        """String: present while the cached counts are fresh; lives 5 s."""
        return f"{self.prefix}:counting"

    @property
    def probe(self) -> str:
        """String: present for a part of an interval after a probe during an outage (S29)."""
        return f"{self.prefix}:probe"


def member(pair: Pair) -> str:
    """Return a pair as one text with both ids quoted."""
    return f"{quote(pair.case_id, safe='')}:{quote(pair.mediation_id, safe='')}"


def pair_of(text: str) -> Pair:
    """Return the pair of a text written by `member`."""
    case_id, mediation_id = text.split(":")
    return Pair(unquote(case_id), unquote(mediation_id))
