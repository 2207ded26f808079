"""The routes: who may ask what, and which part of callwatch answers."""

import asyncio
import functools
import math
import re
import secrets
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from starlette.exceptions import HTTPException

from gateway.body import read_object
from gateway.door import Door, Entrance, text_of
from gateway.feed import Feed
from gateway.identity import LONGEST_TOKEN, MAX_CASES, WATCH, Caller, KeyRing, Tokens, identify
from gateway.limits import Limit
from gateway.metrics import Metrics
from gateway.problems import CONTENT_TYPE, RETRY_SAME, Problem, fault, invalid, malformed, page
from gateway.showing import CaseView, Position, Setting, etag, notices, position, recent
from gateway.stream import EventStream, Line, Reader
from gateway.triggers import Triggers, read_key, read_order
from worker.core.interfaces import StoreUnavailable
from worker.core.messages import MAX_ID_LENGTH
from worker.runtime.producer import NotPublished
from worker.store import RedisStore

LONGEST_WAIT = 30  # seconds of Prefer: wait
WAITS_AT_ONCE = 500  # requests that wait for a result; others are answered at once
LOOK = 0.25  # seconds between two looks at a result that is waited for
LONGEST_STEP = 10.0  # seconds for what Redis does for one request
AT_ONCE = 5_000  # triggers that are on their way to the queue
LONGEST_QUEUE = 50_000  # triggers that wait for a worker
STREAMS, STREAMS_OF_ONE = 12_000, 20
EVENTS_SHOWN, MOST_EVENTS = 200, 1_000
Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class Limits:
    """How often one caller may do what."""

    triggers: Limit
    reads: Limit
    looks: Limit
    openings: Limit

    @classmethod
    def of(cls, rate: float) -> "Limits":
        """Return the limits of a deployment; `rate` is that of one API key."""
        tokens = (10.0, 5.0) if rate else (0.0, 0.0)
        return cls(
            Limit("triggers", rate), Limit("reads", rate), Limit("looks", tokens[0]), Limit("openings", tokens[1])
        )


@dataclass(eq=False)
class Gateway:
    """All that the routes stand on. `queue_length` tells how many triggers wait."""

    store: RedisStore
    triggers: Triggers
    feed: Feed
    keys: KeyRing
    tokens: Tokens
    setting: Setting
    entrance: Entrance
    metrics: Metrics
    threads: ThreadPoolExecutor
    limits: Limits
    metrics_token: str | None = None
    open_metrics: bool = False
    queue_length: Callable[[], int] = lambda: 0
    under_way: int = 0
    waiting: int = 0
    streams_of: Counter[str] = field(default_factory=Counter)
    _queue: tuple[float, int] = (-math.inf, 0)

    async def run(self, call: Callable[..., Result], *args: Any) -> Result:
        """Carry out a step on Redis in a thread; Problem where Redis does not answer in time."""
        loop = asyncio.get_running_loop()
        try:
            return await asyncio.wait_for(
                loop.run_in_executor(self.threads, functools.partial(call, *args)), LONGEST_STEP
            )
        except (StoreUnavailable, NotPublished, TimeoutError):
            raise Problem("store-unavailable", members=RETRY_SAME) from None

    def caller(self, request: Request) -> Caller:
        """Return who asks; Problem where nobody is known by that credential."""
        caller = identify(request.headers.getlist("authorization"), self.keys, self.tokens, now=time.time())
        request.scope["state"]["client"] = caller.name
        return caller

    async def queue_is_full(self) -> bool:
        """Tell whether too many triggers wait; asked once a second."""
        at, length = self._queue
        if time.monotonic() - at > 1:
            self._queue = time.monotonic(), length
            length = await self.run(self.queue_length)
            self._queue = time.monotonic(), length
        return length >= LONGEST_QUEUE


def answer(document: Any, *, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """Return JSON."""
    return Response(text_of(document), status, headers, "application/json")


def check_case(case_id: str, name: str) -> str:
    """Return a case's id; Problem where it can be none."""
    if not case_id.strip() or len(case_id) > MAX_ID_LENGTH:
        raise malformed(name, f"a text of {len(case_id)} characters", f"1 to {MAX_ID_LENGTH} characters")
    return case_id


# -- triggers ----------------------------------------------------------------------------------------------------------


async def post_trigger(gateway: Gateway, request: Request) -> Response:
    """Take a trigger (S42)."""
    caller = gateway.caller(request)
    caller.require("trigger")
    key = read_key(request.headers.getlist("idempotency-key"))
    gateway.limits.triggers.take(caller.subject, time.monotonic())
    order = read_order(read_object(request.headers.get("content-type", ""), await request.body()))
    if gateway.feed.closing:
        raise Problem("shutting-down", members=RETRY_SAME)
    if gateway.under_way >= AT_ONCE or await gateway.queue_is_full():
        raise Problem("queue-full", headers={"Retry-After": "10"}, members=RETRY_SAME)
    gateway.under_way += 1
    try:
        state = await gateway.run(gateway.triggers.submit, caller.name, key, order)
    finally:
        gateway.under_way -= 1
    headers = {"Location": f"{gateway.entrance.prefix}/v1/triggers/{state['id']}", "Retry-After": "2"}
    wait = _preferred_wait(request.headers.getlist("prefer"))
    if wait and gateway.waiting < WAITS_AT_ONCE:
        state = await _await_end(gateway, caller.name, state, wait)
        if state["state"] in ("finished", "waiting", "expired"):
            del headers["Retry-After"]
            return answer(state, headers={**headers, "Preference-Applied": f"wait={wait}"})
    return answer(state, status=202, headers=headers)


def _preferred_wait(headers: list[str]) -> int:
    found = re.search(r"(?:^|[,;\s])wait=(\d{1,4})(?=$|[,;\s])", ",".join(headers), re.IGNORECASE)
    return min(LONGEST_WAIT, int(found[1])) if found else 0


async def _await_end(gateway: Gateway, client: str, state: dict[str, Any], wait: int) -> dict[str, Any]:
    """Look until a trigger has ended, its time is over, or the gateway ends."""
    end = time.monotonic() + wait
    gateway.waiting += 1
    try:
        while state["state"] in ("queued", "claimed", "sending"):
            left = end - time.monotonic()
            if left <= 0 or gateway.feed.closing:
                break
            await asyncio.sleep(min(LOOK, left))
            try:
                state = await gateway.run(gateway.triggers.find, client, state["id"])
            except Problem:  # it is enqueued: that is what is answered
                break
    finally:
        gateway.waiting -= 1
    return state


async def get_trigger(gateway: Gateway, request: Request, trigger_id: str) -> Response:
    """Tell how a trigger stands."""
    caller = gateway.caller(request)
    caller.require("trigger")
    gateway.limits.reads.take(caller.subject, time.monotonic())
    state = await gateway.run(gateway.triggers.find, caller.name, trigger_id)
    unfinished = state["state"] in ("queued", "claimed", "sending")
    return answer(state, headers={"Retry-After": "2"} if unfinished else None)


# -- cases -------------------------------------------------------------------------------------------------------------


def _reader(gateway: Gateway, request: Request, case_id: str) -> None:
    caller = gateway.caller(request)
    caller.require_case(check_case(case_id, "case"))
    limit = gateway.limits.looks if WATCH in caller.scopes else gateway.limits.reads
    limit.take(caller.subject, time.monotonic())


async def get_case(gateway: Gateway, request: Request, case_id: str) -> Response:
    """Return a snapshot of a case."""
    _reader(gateway, request, case_id)
    since = recent(gateway.feed.now())
    surroundings, (state,) = await gateway.run(gateway.store.read_cases, [(case_id, since)])
    view = CaseView.of(state)
    document = {**gateway.setting.head(surroundings), "cases": [view.document(notices(state.events, view)[-50:])]}
    tag = etag(document)
    if tag in [one.strip() for one in request.headers.get("if-none-match", "").split(",")]:
        return Response(status_code=304, headers={"ETag": tag})
    return answer(document, headers={"ETag": tag})


async def get_history(gateway: Gateway, request: Request, case_id: str, after: str | None, limit: int) -> Response:
    """Return events of a case, the oldest first (S36)."""
    _reader(gateway, request, case_id)
    since = read_position("after", after)
    events = await gateway.run(gateway.store.history, case_id)
    if since is not None:
        events = [event for event in events if "id" in event and position(event["id"]) > since]
    shown = events[:limit]
    following = shown[-1].get("id") if len(shown) < len(events) else None
    return answer({"case_id": case_id, "events": shown, "next": following})


def read_position(name: str, text: str | None) -> Position | None:
    """Return the position in the stream that a text names, None where there is none; Problem where it names none."""
    if text is None:
        return None
    try:
        return position(text)
    except ValueError:
        raise malformed(name, f"a text of {len(text)} characters", "an event's id, like 1795312064123-0") from None


# -- the stream --------------------------------------------------------------------------------------------------------


async def get_stream(gateway: Gateway, request: Request, cases: list[str], last: str | None) -> Response:
    """Open a stream of cases (S32, S34)."""
    caller = gateway.caller(request)
    accepted = request.headers.get("accept", "*/*")
    if not any(kind in accepted for kind in ("text/event-stream", "*/*", "text/*")):
        raise Problem("event-stream-only")
    wanted = tuple(dict.fromkeys(check_case(case_id, "case") for case_id in cases)) or tuple(sorted(caller.cases or ()))
    if not 1 <= len(wanted) <= MAX_CASES:
        raise malformed("case", f"given {len(wanted)} times", f"1 to {MAX_CASES} cases")
    for case_id in wanted:
        caller.require_case(case_id)
    of_token = WATCH in caller.scopes
    (gateway.limits.openings if of_token else gateway.limits.reads).take(caller.subject, time.monotonic())
    after = read_position("last-event-id", request.headers.get("last-event-id") or last or None)
    if len(gateway.feed.hub) >= STREAMS or (of_token and gateway.streams_of[caller.subject] >= STREAMS_OF_ONE):
        raise Problem("too-many-streams", headers={"Retry-After": "30"})
    if request.method == "HEAD":
        return EventStream(_make_reader(request, wanted, after), {}, lambda: None)
    return await _open(gateway, caller, _make_reader(request, wanted, after))


def _make_reader(request: Request, cases: tuple[str, ...], after: Position | None) -> Reader:
    event, line = asyncio.Event(), request.scope["state"].get("line")
    reader = Reader(cases=cases, wake=event.set, after=after, event=event, line=line)
    if isinstance(line, Line):
        line.on_lost = reader.lost
    return reader


async def _open(gateway: Gateway, caller: Caller, reader: Reader) -> Response:
    gateway.streams_of[caller.subject] += 1

    def done() -> None:
        gateway.streams_of[caller.subject] -= 1
        if not gateway.streams_of[caller.subject]:
            del gateway.streams_of[caller.subject]

    try:
        leave = await asyncio.wait_for(gateway.feed.follow(reader, expires=caller.expires), LONGEST_STEP)
    except (StoreUnavailable, TimeoutError):
        done()
        raise Problem("store-unavailable") from None
    except BaseException:
        done()
        raise

    def end() -> None:
        leave()
        done()

    return EventStream(reader, {}, end)


# -- tokens ------------------------------------------------------------------------------------------------------------


async def post_token(gateway: Gateway, request: Request) -> Response:
    """Mint a token for a page."""
    caller = gateway.caller(request)
    caller.require("mint")
    gateway.limits.reads.take(caller.subject, time.monotonic())
    document = read_object(request.headers.get("content-type", ""), await request.body())
    cases, subject, lives = document.get("cases"), document.get("sub", ""), document.get("expires_in", LONGEST_TOKEN)
    errors = [fault(name[:64], "unknown", "cases, sub or expires_in") for name in document if name not in TOKEN_FIELDS]
    listed = cases if isinstance(cases, list) else []
    sound = all(isinstance(one, str) and one.strip() and len(one) <= MAX_ID_LENGTH for one in listed)
    if not sound or not 1 <= len(listed) <= MAX_CASES:
        errors.append(
            fault("cases", _kind(cases), f"a list of 1 to {MAX_CASES} ids of 1 to {MAX_ID_LENGTH} characters")
        )
    if not isinstance(subject, str) or len(subject) > MAX_ID_LENGTH:
        errors.append(fault("sub", _kind(subject), f"a text of at most {MAX_ID_LENGTH} characters"))
    if not isinstance(lives, int) or isinstance(lives, bool) or not 1 <= lives <= LONGEST_TOKEN:
        errors.append(fault("expires_in", _kind(lives), f"seconds, 1 to {LONGEST_TOKEN}"))
    if errors:
        raise invalid(errors)
    subject = subject or secrets.token_urlsafe(9)
    token, expires = gateway.tokens.mint(
        caller.name, list(dict.fromkeys(listed)), subject, now=time.time(), lives=lives
    )
    return answer({"token": token, "expires_at": expires}, status=201)


TOKEN_FIELDS = ("cases", "sub", "expires_in")


def _kind(value: object) -> str:
    if value is None:
        return "missing"
    if isinstance(value, list):
        return f"a list of {len(value)}"
    return f"of type {type(value).__name__}, or out of range"


# -- the application ---------------------------------------------------------------------------------------------------


def get_metrics(gateway: Gateway, request: Request) -> Response:
    """Return the metrics, for whoever knows their token, or for all where only this machine can ask."""
    given = request.headers.get("authorization", "").encode(errors="replace")
    if gateway.metrics_token is None:
        if not gateway.open_metrics:
            raise Problem("unauthenticated", "CALLWATCH_METRICS_TOKEN is not set: nobody may read the metrics.")
    elif not secrets.compare_digest(given, f"Bearer {gateway.metrics_token}".encode()):
        raise Problem("unauthenticated")
    return Response(gateway.metrics.page(), media_type="text/plain; version=0.0.4; charset=utf-8")


def get_problem(name: str) -> Response:
    """Return the page about a kind of problem."""
    try:
        return Response(page(name), media_type="text/html; charset=utf-8")
    except KeyError:
        raise Problem("not-found") from None


def build(gateway: Gateway, routes: Callable[[FastAPI, Gateway], None]) -> Door:
    """Return the application."""

    @asynccontextmanager
    async def life(_app: FastAPI) -> Any:
        gateway.feed.start()
        yield
        await gateway.feed.stop()
        gateway.threads.shutdown(wait=False, cancel_futures=True)

    app = FastAPI(lifespan=life, docs_url=None, redoc_url=None, openapi_url=None, redirect_slashes=False)
    routes(app, gateway)

    def respond(request: Request, problem: Problem) -> Response:
        body = problem.body(prefix=gateway.entrance.prefix, instance=request.scope["state"]["instance"])
        return Response(body, problem.status, problem.headers, CONTENT_TYPE)

    @app.exception_handler(Problem)
    async def _problem(request: Request, problem: Problem) -> Response:
        return respond(request, problem)

    @app.exception_handler(RequestValidationError)
    async def _arguments(request: Request, error: RequestValidationError) -> Response:
        """Replace the library's own answer, which repeats what was sent."""
        names = dict.fromkeys(str(one["loc"][-1]) for one in error.errors())
        return respond(
            request, invalid([fault(name, "not as the OpenAPI document has it", "see there") for name in names])
        )

    @app.exception_handler(HTTPException)
    async def _http(request: Request, error: HTTPException) -> Response:
        if error.status_code == 405:  # noqa: PLR2004
            return respond(request, Problem("method-not-allowed", headers=error.headers))
        return respond(request, Problem("not-found" if error.status_code == 404 else "malformed"))  # noqa: PLR2004

    @app.exception_handler(Exception)
    async def _fault(request: Request, _error: Exception) -> Response:
        return respond(request, Problem("internal", members=RETRY_SAME))

    return Door(app, gateway.entrance, gateway.metrics)
