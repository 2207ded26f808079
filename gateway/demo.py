"""Serve `/demo`: an invented case, with a back end that triggers calls at a simulated upstream.

The page exists only in a demonstration on loopback. A trigger is sent only after the upstream has accepted the script
of the case, which only the simulator does: no button of this page can place a real call.
"""

import functools
import http.client
import json
import re
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from fastapi import FastAPI, Request
from fastapi.responses import Response

from gateway.assets import FOLDER, Asset
from gateway.body import read_object
from gateway.door import text_of
from gateway.problems import Problem, malformed
from gateway.triggers import Asked, Order, Triggers
from worker.core.messages import TriggerRequest

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
    "require-trusted-types-for 'script'; trusted-types 'none'"
)
FILES = {"": "text/html", "demo.js": "text/javascript", "demo.css": "text/css"}
CASE = re.compile(r"C-4\d{3}")
MEDIATION = 4001
EXPIRES_IN = 300.0  # seconds
TOKEN_LIVES = 900  # seconds
TIMEOUT = 5.0  # seconds to wait for the simulator
PEOPLE = (
    ("张三", "申请人"),
    ("李四", "被申请人"),
    ("王五", "被申请人"),
    ("赵六", "被申请人"),
    ("孙七", "证人"),
    ("周八", "证人"),
)


def talk(first_word: float, end: float) -> list[list[object]]:
    """Return the statuses of a call that succeeds, each with its age in seconds."""
    return [["Scheduling", 0], ["Executing", first_word], ["Succeeded", end]]


SCENES: dict[str, list[dict[str, Any]]] = {
    "talk": [{"life": talk(4, 60)}, {"life": talk(9, 75)}],
    "failed": [{"life": [["Scheduling", 0], ["Failed", 6]]}, {"life": talk(4, 45)}],
    "refused": [{"life": talk(4, 45)}, {"error_code": 1001}],
    "lost": [{"life": talk(12, 60)}],
    "away": [{"life": talk(4 + number, 75 + number)} for number in range(6)],
}
OUTAGE = {"seconds": 15}
DIAL_DELAY = 0.05  # seconds between parties: the first party's call starts first


def parties_of(case_id: str, scene: str) -> list[dict[str, str]]:
    """Return the parties of an invented case, as its back end stores them."""
    return [
        {"person_id": f"P-{case_id[2:]}-4401{number}", "name": name, "role": role}
        for number, (name, role) in enumerate(PEOPLE[: len(SCENES[scene])])
    ]


@dataclass(frozen=True, slots=True)
class Simulator:
    """A client of the simulator's control paths."""

    url: str
    token: str | None

    def post(self, path: str, document: dict[str, Any]) -> dict[str, Any]:
        """Send a command; OSError if the simulator does not answer or refuses it."""
        parts = urlsplit(self.url)
        connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=TIMEOUT)
        headers = {"Content-Type": "application/json"}
        if self.token:
            headers["Authorization"] = f"Bearer {self.token}"
        try:
            connection.request("POST", f"/_sim/{path}", json.dumps(document), headers)
            answer = connection.getresponse()
            reply = json.loads(answer.read()) if answer.status == http.client.OK else None
        except (http.client.HTTPException, ValueError):
            reply = None
        finally:
            connection.close()
        if not isinstance(reply, dict):
            raise OSError("no simulator")
        return reply


@dataclass(frozen=True, slots=True)
class BackEnd:
    """The back end of the demonstration: each load of a case submits a trigger (S1)."""

    simulator: Simulator
    triggers: Triggers

    def load(self, case_id: str, scene: str) -> dict[str, Any]:
        """Load a case, trigger its calls unless some are active already (S4), and return its parties."""
        people = parties_of(case_id, scene)
        parties = [{"person_id": one["person_id"], **party} for one, party in zip(people, SCENES[scene], strict=True)]
        taken = self.simulator.post("script", {"case_id": case_id, "parties": parties, "dial_delay": DIAL_DELAY})
        if taken.get("case_id") != case_id:
            raise OSError("no simulator")
        if scene == "lost":
            self._lose_the_answer(case_id)
        request = TriggerRequest(case_id=case_id, mediation_id=str(MEDIATION))
        asked = Asked("demo", f"{case_id}/{secrets.token_hex(8)}", Order(request, EXPIRES_IN))
        self.triggers.submit([asked])
        return {"case_id": case_id, "scene": scene, "parties": people, "trigger": asked.task_id}

    def _lose_the_answer(self, case_id: str) -> None:
        """Let the dial request succeed but lose its response, and fail the first queries of the look-up."""
        fault = {"case_id": case_id, "count": 1, "kind": "reset", "endpoint": "call-v2", "processed": True}
        self.simulator.post("faults", fault)
        for endpoint in ("status", "conversation-log"):
            silent = {"case_id": case_id, "count": 3, "kind": "status", "status": 503, "endpoint": endpoint}
            self.simulator.post("faults", silent)

    def cut_upstream(self) -> dict[str, Any]:
        """Start an outage: the upstream refuses connections for 15 seconds."""
        return self.simulator.post("outage", OUTAGE)


def add_demo(app: FastAPI, back_end: BackEnd, mint: Callable[[str], str], run: Callable[..., Any]) -> None:
    """Add the page and its back end; `mint` returns a token for a case, `run` calls a function in a thread."""
    folder = FOLDER / "demo"
    files = {name: Asset.of((folder / (name or "demo.html")).read_bytes(), kind) for name, kind in FILES.items()}

    async def get_file(request: Request, name: str = "") -> Response:
        if name not in files:
            raise Problem("not-found")
        return files[name].response(request, {"Content-Security-Policy": POLICY})

    async def post_load(request: Request) -> Response:
        document = await _read(request)
        case_id, scene = document.get("case_id"), document.get("scene")
        if scene not in SCENES or not isinstance(case_id, str) or not CASE.fullmatch(case_id):
            raise malformed("body", "another case or scene", f"case_id like C-4001, scene one of {', '.join(SCENES)}")
        return await _answer(run, functools.partial(back_end.load, case_id, scene))

    async def post_outage(request: Request) -> Response:
        await _read(request)
        return await _answer(run, back_end.cut_upstream)

    async def get_token(case: str) -> Response:
        if not CASE.fullmatch(case):
            raise Problem("other-case")
        return Response(mint(case), media_type="text/plain; charset=utf-8")

    for path, method, act in (
        ("/demo", "GET", get_file),
        ("/demo/token", "GET", get_token),
        ("/demo/load", "POST", post_load),
        ("/demo/outage", "POST", post_outage),
        ("/demo/{name}", "GET", get_file),
    ):
        app.add_api_route(path, act, methods=[method], include_in_schema=False, response_class=Response)


async def _read(request: Request) -> dict[str, Any]:
    """Return a JSON body; Problem for requests of other origins, which cannot send JSON without a preflight."""
    if request.headers.get("sec-fetch-site", "same-origin") not in ("same-origin", "none"):
        raise Problem("insufficient-scope")
    return read_object(request.headers.get("content-type", ""), await request.body())


async def _answer(run: Callable[..., Any], step: Callable[[], dict[str, Any]]) -> Response:
    try:
        return Response(text_of(await run(step)), media_type="application/json")
    except OSError:
        return Response(
            text_of({"error": "the simulated upstream does not answer"}), 502, media_type="application/json"
        )
