"""The names of all keys of ours, and what each holds. Every key has a time to live or a bound."""

from dataclasses import dataclass
from urllib.parse import quote, unquote

from worker.core.model import Pair

EVENTS_KEPT = 10_000  # entries of the live stream: enough for a looker-on that was away for minutes
OUTBOX_KEPT = 50_000  # notices that wait in one channel, about 25 MB: hours of a receiver that is away
DEAD_KEPT = 10_000  # dead letters
OF_ONE_CASE = 1_000  # letters of one case in each of these (S38)
LEASED = 10_000_000_000  # added to the end of a lease, so that in `due` leases stand behind every due time
DIALLED_KEPT = 31 * 86_400  # seconds in which a message that is delivered again dials no more
AUDIT_KEPT = 1_000  # entries about what persons did
HISTORY_KEPT = 1_000  # entries of one case: far above what 2 hours of a dozen calls write


@dataclass(frozen=True, slots=True)
class Keys:
    """Builds key names under one prefix; ids of cases and mediations are quoted, so that a pair reads one way only."""

    prefix: str

    def lock(self, pair: Pair) -> str:
        """String: the owner's token (S4)."""
        return f"{self.prefix}:lock:{member(pair)}"

    def ledger(self, pair: Pair) -> str:
        """Hash: how the pair's last trigger stands (S18)."""
        return f"{self.prefix}:ledger:{member(pair)}"

    def live(self, pair: Pair) -> str:
        """Set: the jobs of the pair that are being watched (S5)."""
        return f"{self.prefix}:live:{member(pair)}"

    def job(self, job_id: str) -> str:
        """Hash: the record of a call (S11)."""
        return f"{self.prefix}:job:{job_id}"

    def task(self, task_id: str) -> str:
        """String: the recorded result of a handled trigger, JSON (S17)."""
        return f"{self.prefix}:task:{task_id}"

    def request(self, task_id: str) -> str:
        """String: what a back end asked for over HTTP under a task id, JSON (S42)."""
        return f"{self.prefix}:request:{task_id}"

    def history(self, case_id: str) -> str:
        """List: the events of a case, newest last, bounded (S36)."""
        return f"{self.prefix}:history:{quote(case_id, safe='')}"

    def jobs(self, case_id: str) -> str:
        """Set: the jobs of a case whose records are kept."""
        return f"{self.prefix}:jobs:{quote(case_id, safe='')}"

    def mediations(self, case_id: str) -> str:
        """Set: the pairs of a case that were triggered of late (S14 compares them)."""
        return f"{self.prefix}:mediations:{quote(case_id, safe='')}"

    @property
    def due(self) -> str:
        """Sorted set: every watched job, by the due time of its next poll, or by `LEASED` and the end of its lease.

        Bounded by the watched calls.
        """
        return f"{self.prefix}:due"

    @property
    def finished(self) -> str:
        """Sorted set: finished jobs by the time of their verdict, trimmed to the history's age."""
        return f"{self.prefix}:finished"

    @property
    def pairs(self) -> str:
        """Sorted set: pairs that are not done by the time at which a sweep attends to them. Bounded by the pairs."""
        return f"{self.prefix}:pairs"

    @property
    def done(self) -> str:
        """Sorted set: pairs that are done by the time at which they were let go, trimmed to the history's age."""
        return f"{self.prefix}:done"

    @property
    def dialled(self) -> str:
        """Sorted set: task ids of requests that left, by time, trimmed to 31 days (S18)."""
        return f"{self.prefix}:dialled"

    @property
    def events(self) -> str:
        """Stream: every change, for lookers-on, bounded."""
        return f"{self.prefix}:events"

    def outbox(self, channel: str) -> str:
        """Stream: what has still to be told over a channel, bounded; a full one gives up a letter (S38)."""
        return f"{self.prefix}:outbox:{channel}"

    def outbox_cases(self, channel: str) -> str:
        """Hash: how many letters of each case wait in a channel's outbox. Bounded by the letters."""
        return f"{self.prefix}:waiting:{channel}"

    def notifier(self, channel: str) -> str:
        """String: the token of the worker that delivers over a channel at the moment."""
        return f"{self.prefix}:notifier:{channel}"

    @property
    def dead(self) -> str:
        """List: notices that were given up, JSON, newest first, bounded."""
        return f"{self.prefix}:dead"

    @property
    def dead_cases(self) -> str:
        """Hash: how many dead letters of each case are kept. Bounded by the letters."""
        return f"{self.prefix}:buried"

    @property
    def notices(self) -> str:
        """Hash: how many notices were delivered, given up and pushed out, for each channel."""
        return f"{self.prefix}:notices"

    def bucket(self, name: str) -> str:
        """Hash: when the next token of a limit is there, and until when its tokens are promised (epoch seconds)."""
        return f"{self.prefix}:bucket:{name}"

    @property
    def paused(self) -> str:
        """String: present while new calls are stopped; who stopped them, why and when, JSON (S16)."""
        return f"{self.prefix}:paused"

    @property
    def audit(self) -> str:
        """List: who stopped or allowed new calls, when and why, JSON, newest first, bounded (S16)."""
        return f"{self.prefix}:audit"

    @property
    def sweeper(self) -> str:
        """String: who sweeps at the moment (S28)."""
        return f"{self.prefix}:sweeper"

    @property
    def swept(self) -> str:
        """String: when a turn to sweep was last taken, in epoch seconds, and by whom (S28)."""
        return f"{self.prefix}:swept"

    @property
    def outage(self) -> str:
        """Hash: since when the upstream has been away; absent while it answers (S29)."""
        return f"{self.prefix}:outage"

    @property
    def good(self) -> str:
        """String: when a status query was last answered well, in epoch seconds (S29)."""
        return f"{self.prefix}:good"

    @property
    def failing(self) -> str:
        """Sorted set: calls whose queries failed since then, by time (S29)."""
        return f"{self.prefix}:failing"

    @property
    def counters(self) -> str:
        """Hash: how often what has happened, and histograms; bounded by the names that the steps count under."""
        return f"{self.prefix}:counters"

    @property
    def tally(self) -> str:
        """String: how many calls and pairs stand where, and how late polls are, JSON; for observers (S37)."""
        return f"{self.prefix}:tally"

    @property
    def tallying(self) -> str:
        """String: present while the tally is young; lives 5 s."""
        return f"{self.prefix}:tallying"

    @property
    def probe(self) -> str:
        """String: present for a part of an interval after a probe was taken during an outage (S29)."""
        return f"{self.prefix}:probe"


def member(pair: Pair) -> str:
    """Return a pair as one text, the two ids quoted."""
    return f"{quote(pair.case_id, safe='')}:{quote(pair.mediation_id, safe='')}"


def pair_of(text: str) -> Pair:
    """Return the pair that `member` wrote."""
    case_id, mediation_id = text.split(":")
    return Pair(unquote(case_id), unquote(mediation_id))
