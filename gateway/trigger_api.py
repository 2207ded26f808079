"""`/v1/triggers`: accept triggers of back ends, and return their state (S42)."""

import asyncio
import re
import time

from fastapi import Request
from fastapi.responses import Response

from gateway.body import read_object
from gateway.problems import RETRY_SAME, Problem
from gateway.service import LONGEST_STEP, Gateway, answer
from gateway.triggers import Asked, TriggerDocument, read_key, read_order
from worker.core.interfaces import StoreUnavailable
from worker.runtime.producer import NotPublished

LONGEST_WAIT = 30  # seconds of Prefer: wait
WAITS_AT_ONCE = 500  # concurrent requests with Prefer: wait; further ones are answered immediately
LOOK = 0.25  # seconds between two checks of an awaited result
AT_ONCE = 5_000  # triggers being submitted concurrently
UNFINISHED = ("queued", "claimed", "sending")


async def post_trigger(gateway: Gateway, request: Request) -> Response:
    """Enqueue a trigger; Problem if it is refused or Redis does not answer (S42)."""
    caller = gateway.caller(request)
    caller.require("trigger")
    key = read_key(request.headers.getlist("idempotency-key"))
    gateway.limits.triggers.take(caller.subject, time.monotonic())
    order = read_order(read_object(request.headers.get("content-type", ""), await request.body()))
    if gateway.feed.closing:
        raise Problem("shutting-down", members=RETRY_SAME)
    if gateway.under_way >= AT_ONCE or await gateway.queue_is_full():
        raise Problem("queue-full", headers={"Retry-After": "10"}, members=RETRY_SAME)
    state = await _submit(gateway, Asked(caller.name, key, order))
    headers = {"Location": f"{gateway.entrance.prefix}/v1/triggers/{state['id']}", "Retry-After": "2"}
    wait = _preferred_wait(request.headers.getlist("prefer"))
    if wait and gateway.waiting < WAITS_AT_ONCE:
        begin = time.monotonic()
        state = await _await_end(gateway, caller.name, state, wait)
        request.scope["state"]["waited"] = time.monotonic() - begin
        if state["state"] not in UNFINISHED:
            del headers["Retry-After"]
            return answer(state, headers={**headers, "Preference-Applied": f"wait={wait}"})
    return answer(state, status=202, headers=headers)


async def _submit(gateway: Gateway, asked: Asked) -> TriggerDocument:
    """Submit a trigger; Problem if Redis does not answer in time: the client may retry with the same key."""
    gateway.under_way += 1
    try:
        async with asyncio.timeout(LONGEST_STEP):
            state = await gateway.intake.take(asked)
    except (StoreUnavailable, NotPublished, TimeoutError):
        raise Problem("store-unavailable", members=RETRY_SAME) from None
    finally:
        gateway.under_way -= 1
    if state is not None:
        return state
    return await gateway.run(gateway.triggers.find, asked.client, asked.task_id)


def _preferred_wait(headers: list[str]) -> int:
    found = re.search(r"(?:^|[,;\s])wait=(\d{1,4})(?=$|[,;\s])", ",".join(headers), re.IGNORECASE)
    return min(LONGEST_WAIT, int(found[1])) if found else 0


async def _await_end(gateway: Gateway, client: str, state: TriggerDocument, wait: int) -> TriggerDocument:
    """Check a trigger until it has ended, the wait is over, or the gateway stops."""
    end = time.monotonic() + wait
    gateway.waiting += 1
    try:
        while state["state"] in UNFINISHED:
            left = end - time.monotonic()
            if left <= 0 or gateway.feed.closing:
                break
            await asyncio.sleep(min(LOOK, left))
            try:
                state = await gateway.run(gateway.triggers.find, client, state["id"])
            except Problem:  # the trigger is enqueued: answer with that state
                break
    finally:
        gateway.waiting -= 1
    return state


async def get_trigger(gateway: Gateway, request: Request, trigger_id: str) -> Response:
    """Return the state of a trigger; Problem for an unknown id."""
    caller = gateway.caller(request)
    caller.require("trigger")
    gateway.limits.reads.take(caller.subject, time.monotonic())
    state = await gateway.run(gateway.triggers.find, caller.name, trigger_id)
    return answer(state, headers={"Retry-After": "2"} if state["state"] in UNFINISHED else None)
