"""The control paths under /_sim: scripts, faults, outages, speed, calls and the request log."""

import json
import time
from collections.abc import Callable
from typing import Any, TypeVar

from aiohttp import web
from aiohttp.typedefs import Handler
from pydantic import Field, ValidationError

from simulator.faults import KINDS, Fault
from simulator.life import LIVES
from simulator.script import Input, Script, Seconds, problem
from simulator.state import SIM, Simulation
from simulator.upstream import authorised

Act = Callable[[Simulation, web.Request, Any], dict[str, Any]]
_Model = TypeVar("_Model", bound=Input)


class Outage(Input):
    """The number of seconds for which the port is closed."""

    seconds: Seconds


class Adjustment(Input):
    """Settings to change while running; None leaves a setting unchanged."""

    speed: float | None = Field(default=None, gt=0, le=1_000_000, allow_inf_nan=False)
    dial_delay: Seconds | None = None


class End(Input):
    """A call to end now."""

    job_id: str
    status: str = Field(default="Succeeded", min_length=1)


class BadInputError(ValueError):
    """Invalid input; the text is one line that names the field."""


def _take(model: type[_Model], body: Any) -> _Model:
    try:
        return model.model_validate(body)
    except ValidationError as error:
        raise BadInputError(problem(error)) from None


def _summary(sim: Simulation, _request: web.Request, _body: Any) -> dict[str, Any]:
    return {
        "speed": sim.book.clock.speed,
        "dial_delay": sim.dial_delay,
        "calls": len(sim.book.by_job),
        "requests": sim.log.count,
        "scripts": list(sim.scripts),
        "faults": sim.faults.listed(),
        "lives": list(LIVES),
        "fault_kinds": list(KINDS),
        "paths": {f"{method} {path}": _fields(method, path) for method, path in _ACTS},
    }


def _fields(method: str, path: str) -> list[str]:
    return list(_BODIES[path].model_fields) if method == "POST" and path in _BODIES else []


def _script(sim: Simulation, _request: web.Request, body: Any) -> dict[str, Any]:
    script = _take(Script, body)
    sim.scripts[script.case_id] = script
    return {"case_id": script.case_id}


def _add_fault(sim: Simulation, _request: web.Request, body: Any) -> dict[str, Any]:
    return {"id": sim.faults.add(_take(Fault, body))}


def _list_faults(sim: Simulation, _request: web.Request, _body: Any) -> dict[str, Any]:
    return {"faults": sim.faults.listed()}


def _clear_faults(sim: Simulation, request: web.Request, _body: Any) -> dict[str, Any]:
    number = request.query.get("id")
    if number is None:
        sim.faults.clear()
    elif not number.isdecimal() or not sim.faults.remove(int(number)):
        raise BadInputError(f"id: no fault {number!r} is active")
    return {"faults": sim.faults.listed()}


def _outage(sim: Simulation, _request: web.Request, body: Any) -> dict[str, Any]:
    seconds = _take(Outage, body).seconds
    sim.outages.put_nowait(seconds)
    return {"seconds": seconds}


def _adjust(sim: Simulation, _request: web.Request, body: Any) -> dict[str, Any]:
    wanted = _take(Adjustment, body)
    if wanted.speed is not None:
        sim.book.clock.set_speed(wanted.speed, time.time())
    if wanted.dial_delay is not None:
        sim.dial_delay = wanted.dial_delay
    return {"speed": sim.book.clock.speed, "dial_delay": sim.dial_delay}


def _calls(sim: Simulation, request: web.Request, _body: Any) -> dict[str, Any]:
    now = time.time()
    wanted = request.query.get("case_id")
    calls = sim.book.by_job.values() if wanted is None else sim.book.by_case.get(wanted, [])
    listed = [
        {
            "job_id": call.job_id,
            "case_id": call.case_id,
            "mediation_id": call.mediation_id,
            "person_id": call.person_id,
            "created_at": call.created_at,
            "call_status": sim.book.status(call, now),
            "age": sim.book.age(call, now),
            "request": call.request,
        }
        for call in calls
    ]
    return {"calls": listed}


def _end(sim: Simulation, _request: web.Request, body: Any) -> dict[str, Any]:
    wanted = _take(End, body)
    call = sim.book.by_job.get(wanted.job_id)
    if call is None:
        raise BadInputError(f"job_id: no call {wanted.job_id!r} was made")
    sim.book.end(call, wanted.status, time.time())
    return {"job_id": wanted.job_id, "call_status": wanted.status}


def _requests(sim: Simulation, _request: web.Request, _body: Any) -> dict[str, Any]:
    return {"requests": sim.log.entries()}


def _reset(sim: Simulation, _request: web.Request, _body: Any) -> dict[str, Any]:
    sim.reset()
    return {}


_ACTS: dict[tuple[str, str], Act] = {
    ("GET", "/_sim"): _summary,
    ("POST", "/_sim/script"): _script,
    ("POST", "/_sim/faults"): _add_fault,
    ("GET", "/_sim/faults"): _list_faults,
    ("DELETE", "/_sim/faults"): _clear_faults,
    ("POST", "/_sim/outage"): _outage,
    ("POST", "/_sim/settings"): _adjust,
    ("GET", "/_sim/calls"): _calls,
    ("POST", "/_sim/end"): _end,
    ("GET", "/_sim/requests"): _requests,
    ("POST", "/_sim/reset"): _reset,
}
_BODIES: dict[str, type[Input]] = {
    "/_sim/script": Script,
    "/_sim/faults": Fault,
    "/_sim/outage": Outage,
    "/_sim/settings": Adjustment,
    "/_sim/end": End,
}


def add_routes(app: web.Application) -> None:
    """Add the control paths to the application."""
    for (method, path), act in _ACTS.items():
        app.router.add_route(method, path, _handler(act))
    app.router.add_route("*", "/_sim{rest:(/.*)?}", _handler(_unknown))


def _handler(act: Act) -> Handler:
    async def handler(request: web.Request) -> web.Response:
        sim = request.app[SIM]
        if not authorised(request, sim.config.token):
            return _json({"error": "Authorization: the bearer token is missing or wrong"}, 401)
        try:
            return _json(act(sim, request, await _body(request)))
        except BadInputError as error:
            return _json({"error": str(error)}, 400)

    return handler


async def _body(request: web.Request) -> Any:
    if request.method != "POST" or request.path not in _BODIES:
        return None
    try:
        body = json.loads(await request.read())
    except ValueError:
        raise BadInputError("body: is no JSON") from None
    if not isinstance(body, dict):
        raise BadInputError("body: must be a JSON object")
    return body


def _unknown(_sim: Simulation, request: web.Request, _body: Any) -> dict[str, Any]:
    paths = ", ".join(f"{method} {path}" for method, path in _ACTS)
    raise BadInputError(f"path: {request.method} {request.path} is none of {paths}")


def _json(data: dict[str, Any], status: int = 200) -> web.Response:
    return web.Response(
        status=status,
        body=json.dumps(data, ensure_ascii=False).encode() + b"\n",
        content_type="application/json",
        charset="utf-8",
    )
