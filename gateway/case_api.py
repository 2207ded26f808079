"""`/v1/cases` and `/v1/stream`: return the state of cases, and stream its changes (S32, S34, S36)."""

import asyncio
import time

from fastapi import Request
from fastapi.responses import Response

from gateway.identity import MAX_CASES, WATCH, Caller
from gateway.live_view import NOTICES_SHOWN, CaseView, Position, etag, notices, position, recent
from gateway.problems import Problem, fault, malformed
from gateway.service import LONGEST_STEP, Gateway, answer, check_case
from gateway.stream import EventStream, Line, Reader
from worker.core.interfaces import StoreUnavailable

STREAMS, STREAMS_OF_ONE = 12_000, 20
EVENTS_SHOWN, MOST_EVENTS = 200, 1_000
MEDIA_TYPE = "text/event-stream"


def _reader(gateway: Gateway, request: Request, case_id: str) -> None:
    caller = gateway.caller(request)
    caller.require_case(check_case(case_id, "case"))
    limit = gateway.limits.looks if WATCH in caller.scopes else gateway.limits.reads
    limit.take(caller.subject, time.monotonic())


async def get_case(gateway: Gateway, request: Request, case_id: str) -> Response:
    """Return a snapshot of a case."""
    _reader(gateway, request, case_id)
    since = recent(gateway.feed.now())
    system, (state,) = await gateway.run(gateway.store.read_cases, [(case_id, since)])
    view = CaseView.of(state)
    case = view.document(notices(state.events, view)[-NOTICES_SHOWN:])
    document = {**gateway.setting.head(system), "cases": [case]}
    tag = etag(document)
    if tag in [one.strip() for one in request.headers.get("if-none-match", "").split(",")]:
        return Response(status_code=304, headers={"ETag": tag})
    return answer(document, headers={"ETag": tag})


async def get_history(gateway: Gateway, request: Request, case_id: str, after: str | None, limit: int) -> Response:
    """Return a page of a case's events, oldest first (S36)."""
    _reader(gateway, request, case_id)
    since = read_position("after", after)
    events = await gateway.run(gateway.store.history, case_id)
    if since is not None:
        events = [event for event in events if "id" in event and position(event["id"]) > since]
    shown = events[:limit]
    following = shown[-1].get("id") if len(shown) < len(events) else None
    return answer({"case_id": case_id, "events": shown, "next": following})


def read_position(name: str, text: str | None) -> Position | None:
    """Parse a position in the live stream; None for None, Problem for a malformed text."""
    if text is None:
        return None
    try:
        return position(text)
    except ValueError:
        raise malformed(name, f"a text of {len(text)} characters", "an event's id, like 1795312064123-0") from None


async def get_stream(gateway: Gateway, request: Request) -> Response:
    """Open an event stream for one or more cases (S32, S34)."""
    caller = gateway.caller(request)
    accepted = request.headers.get("accept", "*/*")
    if not any(kind in accepted for kind in (MEDIA_TYPE, "*/*", "text/*")):
        raise Problem("event-stream-only", errors=[fault("Accept", "another media type", MEDIA_TYPE)])
    cases, last = request.query_params.getlist("case"), request.query_params.get("last_event_id")
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
    reader = _make_reader(request, wanted, after)
    if request.method == "HEAD":
        return EventStream(reader, {}, lambda: None)
    return await _open(gateway, caller, reader)


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
        async with asyncio.timeout(LONGEST_STEP):
            leave = await gateway.feed.follow(reader, expires=caller.expires)
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
