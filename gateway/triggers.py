"""Triggers over HTTP: the Idempotency-Key determines the task id, so the ledger prevents duplicates (S17, S42)."""

import difflib
import hashlib
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import redis

from api_client import Reason
from config.redaction import mask_person, redact
from gateway.problems import Problem, fault, invalid, malformed
from worker.core.messages import BadTrigger, TriggerRequest, TriggerResult, read_trigger
from worker.core.model import Pair
from worker.runtime.producer import Producer
from worker.store import RedisStore
from worker.store.requests import Request, TriggerState

TriggerDocument = dict[str, Any]
"""The state of a trigger, as returned to clients."""

KEY_LENGTH = 255  # characters of an Idempotency-Key
KEY_WANTED = f"1 to {KEY_LENGTH} printable ASCII characters, in double quotes or bare"
EXPIRES_IN = 3_600  # seconds, the default
LONGEST_EXPIRY = 30 * 86_400  # seconds: longer than any break in the calling hours
ID = re.compile(r"h-[0-9a-f]{40}")
FIELDS = (*TriggerRequest.model_fields, "expires_in")
BY_OUTCOME = {  # which key a retry may carry
    "started": "none",
    "skipped": "none",
    "deferred": "none",
    "unknown": "none",
    "refused": "new",
    "failed": "new",
    "disabled": "new",
    "invalid": "new",
}
REUSED = fault("Idempotency-Key", "already used with other arguments", "a new key for each load of a case")
EXPIRED: Reason = "expired"
META = "celery-task-meta-"
NAME_SHOWN = 64  # characters of an unknown field's name quoted in a problem


@dataclass(frozen=True, slots=True)
class Order:
    """The content of a POST; `expires_in` in seconds."""

    request: TriggerRequest
    expires_in: float


def read_key(headers: list[str]) -> str:
    """Parse the Idempotency-Key, a structured-field string or a bare value; Problem if missing or malformed."""
    if not headers:
        raise Problem("idempotency-key-missing", errors=[fault("Idempotency-Key", "missing", KEY_WANTED)])
    if len(headers) > 1:
        raise malformed("Idempotency-Key", "given more than once", KEY_WANTED)
    text = headers[0].strip()
    quoted = re.fullmatch(r'"((?:[^"\\]|\\["\\])*)"', text)
    key = re.sub(r"\\(.)", r"\1", quoted[1]) if quoted else text
    if not key:
        raise malformed("Idempotency-Key", "an empty text", KEY_WANTED)
    if len(key) > KEY_LENGTH:
        raise malformed("Idempotency-Key", f"a text of {len(key)} characters", KEY_WANTED)
    if not (key.isascii() and key.isprintable()) or (not quoted and '"' in key):
        raise malformed("Idempotency-Key", "a text that is not printable ASCII, or has an unclosed quote", KEY_WANTED)
    return key


def task_id_of(client: str, key: str) -> str:
    """Return the task id for a client's key."""
    return "h-" + hashlib.sha256(f"{client}\0{key}".encode()).hexdigest()[:40]


def fingerprint_of(client: str, request: TriggerRequest) -> str:
    """Return a hash of the arguments, to detect a reused key."""
    text = json.dumps([client, request.model_dump()], sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()


def read_order(document: Mapping[str, Any]) -> Order:
    """Parse a body; Problem for wrong arguments, with the fields and kinds but no values."""
    errors = [_unknown(name) for name in document if name not in FIELDS]
    expires_in = document.get("expires_in", EXPIRES_IN)
    number = isinstance(expires_in, int | float) and not isinstance(expires_in, bool)
    if not number or not 1 <= expires_in <= LONGEST_EXPIRY:
        kind = "a number out of range" if number else f"of type {type(expires_in).__name__}"
        errors.append(fault("expires_in", kind, f"seconds, 1 to {LONGEST_EXPIRY}"))
    try:
        request = read_trigger({name: document.get(name) for name in TriggerRequest.model_fields})
    except BadTrigger as bad:
        raise invalid([*(fault(*one) for one in bad.faults), *errors], missing=bad.missing) from None
    if errors:
        raise invalid(errors)
    return Order(request, float(expires_in))


def _unknown(name: str) -> dict[str, str]:
    nearest = difflib.get_close_matches(name, FIELDS, n=1)
    return fault(redact(name)[:NAME_SHOWN], "unknown", nearest[0] if nearest else f"one of {', '.join(FIELDS)}")


@dataclass(frozen=True, slots=True)
class Asked:
    """An order under the Idempotency-Key of a client."""

    client: str
    key: str
    order: Order

    @property
    def task_id(self) -> str:
        """The task id for the key."""
        return task_id_of(self.client, self.key)

    def request(self, at: float) -> Request:
        """Return the record to store for a request received at a time (epoch seconds)."""
        wanted = self.order.request
        fingerprint = fingerprint_of(self.client, wanted)
        return Request(self.client, fingerprint, wanted.case_id, wanted.mediation_id, at, at + self.order.expires_in)


@dataclass(frozen=True, slots=True)
class Triggers:
    """Operations on triggers, called from threads; each method raises StoreUnavailable or NotPublished."""

    store: RedisStore
    producer: Producer
    results: redis.Redis
    now: Callable[[], float]

    def submit(self, batch: Sequence[Asked]) -> list[TriggerDocument | Problem | None]:
        """Enqueue triggers, each once, in one round trip to the store and one to the broker.

        Returns one outcome per trigger: its state; None if a worker has handled it or it has expired (call `find`); a
        Problem if its key was used for other arguments. The fingerprints are stored first, so a retry with the same key
        is safe after any failure.
        """
        at = self.now()
        requests = [(asked.task_id, asked.request(at)) for asked in batch]
        to_publish: dict[str, tuple[TriggerRequest, float]] = {}
        outcomes: list[TriggerDocument | Problem | None] = []
        for asked, (task_id, wanted), (first, handled) in zip(
            batch, requests, self.store.remember(requests), strict=True
        ):
            left = first.expires - at
            if first.fingerprint != wanted.fingerprint:
                outcomes.append(Problem("idempotency-key-reused", errors=[REUSED]))
            elif handled or left < 1:
                outcomes.append(None)
            else:
                to_publish[task_id] = (asked.order.request, left)
                outcomes.append(
                    {
                        "id": task_id,
                        "state": "queued",
                        "case_id": wanted.case_id,
                        "mediation_id": wanted.mediation_id,
                    }
                )
        if to_publish:
            self.producer.publish_all((request, task_id, left) for task_id, (request, left) in to_publish.items())
        return outcomes

    def find(self, client: str, task_id: str) -> TriggerDocument:
        """Return the state of a client's trigger; Problem for an unknown id."""
        request = self.store.request(task_id) if ID.fullmatch(task_id) else None
        if request is None or request.client != client:
            raise Problem("no-such-trigger")
        return self.describe(task_id, request)

    def describe(self, task_id: str, request: Request) -> TriggerDocument:
        """Return the state of a stored trigger."""
        state = self.store.trigger_state(task_id, Pair(request.case_id, request.mediation_id))
        with self.store.translated():
            meta = cast("str | None", self.results.get(META + task_id))
        return {
            "id": task_id,
            "case_id": request.case_id,
            "mediation_id": request.mediation_id,
            **describe(request, state, json.loads(meta) if meta else None),
        }


def describe(request: Request, state: TriggerState, meta: Mapping[str, Any] | None) -> TriggerDocument:
    """Return a trigger's state, its result, and which key a retry may use. Pure."""
    if state.phase in ("claimed", "sending"):
        return {"state": state.phase, "result": None, "retry": {"key": "same"}}
    result = _result(state, meta)
    if state.phase == "waiting" or (result is not None and result["outcome"] == "deferred"):
        until = state.until if state.until is not None else (result or {}).get("deferred_until")
        return {"state": "waiting", "deferred_until": until, "result": _masked(result), "retry": {"key": "none"}}
    if result is not None:
        return {"state": "finished", "result": _masked(result), "retry": _retry(result)}
    if state.now >= request.expires or (meta or {}).get("status") == "REVOKED":
        return {"state": "expired", "reason": EXPIRED, "result": None, "retry": {"key": "new"}}
    return {"state": "queued", "result": None, "retry": {"key": "same"}}


def _result(state: TriggerState, meta: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """Return the result of a trigger, from the store if present; a failed task counts as unknown."""
    stored = (meta or {}).get("result")
    if state.result is not None:
        return state.result
    if isinstance(stored, dict) and stored.get("outcome") in BY_OUTCOME:
        return dict(stored)
    if meta is not None and meta.get("status") == "FAILURE":
        return TriggerResult.of("unknown", "", "", reason="internal").data
    return None


def _retry(result: Mapping[str, Any]) -> dict[str, Any]:
    rounds = [one["start_time"] for one in result.get("refused", ()) if one.get("start_time") is not None]
    retry: dict[str, Any] = {"key": BY_OUTCOME.get(str(result["outcome"]), "none")}
    return retry | {"after": rounds[0]} if rounds and retry["key"] == "new" else retry


def _masked(result: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """Return a result with masked person ids (S37)."""
    if result is None:
        return None
    message = str(result.get("message") or "")
    people = [str(one.get("person_id") or "") for name in ("jobs", "refused") for one in result.get(name, ())]
    for person in filter(None, people):
        message = message.replace(person, mask_person(person))
    masked = {
        name: [
            {**one, "person_id": mask_person(str(one["person_id"])) if one.get("person_id") else ""}
            for one in result.get(name, ())
        ]
        for name in ("jobs", "refused")
    }
    for one in masked["refused"]:
        one["message"] = redact(str(one.get("message") or ""))
    return {**result, **masked, "message": redact(message, keep=(str(result.get("case_id")),))}
