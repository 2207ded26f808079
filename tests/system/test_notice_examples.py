"""Run the examples of docs/notices.md that verify a signature, in Node, Java and Go."""

import json
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.pages import PAGES, blocks
from tests.programs import run_example
from worker.core.notice import Notice, signed_headers

BODY = Notice.of("1-0", {"at": 1.0, "kind": "ended", "case_id": "C-1", "mediation_id": "20", "label": "失败"}).body()
Headers = dict[str, str]
Program = Callable[[str, list[tuple[Headers, str]]], str]


def node(source: str, checks: list[tuple[Headers, str]]) -> str:
    calls = [f"isGenuine('s', {json.dumps(headers)}, Buffer.from({json.dumps(body)}))" for headers, body in checks]
    return f"{source}\nconsole.log([{', '.join(calls)}].join(' '))"


def java(source: str, checks: list[tuple[Headers, str]]) -> str:
    def call(headers: Headers, body: str) -> str:
        pairs = ", ".join(json.dumps(part) for pair in headers.items() for part in pair)
        return f'NoticeSignature.isGenuine("s", Map.of({pairs}), {json.dumps(body)}.getBytes("UTF-8"))'

    calls = ' + " " + '.join(call(*one) for one in checks)
    main = f"public static void main(String[] none) throws Exception {{ System.out.println({calls}); }}"
    imports, _, rest = source.partition("public class")
    return f"{imports}class Check {{ {main} }}\nclass{rest}"


def go(source: str, checks: list[tuple[Headers, str]]) -> str:
    def call(headers: Headers, body: str) -> str:
        pairs = ", ".join(f"{json.dumps(name.title())}: {{{json.dumps(value)}}}" for name, value in headers.items())
        return f'isGenuine("s", http.Header{{{pairs}}}, []byte({json.dumps(body, ensure_ascii=False)}))'

    calls = ", ".join(call(*one) for one in checks)
    main = f"func main() {{ fmt.Println({calls}) }}"
    return source.replace("package notices", "package main").replace("import (", 'import (\n\t"fmt"') + main


@pytest.mark.parametrize(("language", "program"), [("js", node), ("java", java), ("go", go)])
def test_example_accepts_genuine_notices_only(language: str, program: Program, tmp_path: Path) -> None:
    """A changed body, an old time, another id and another signature are refused."""
    body = BODY.decode()
    genuine = signed_headers("1-0", BODY, secret="s", now=time.time())
    checks = [
        (genuine, body),
        (genuine, body + " "),
        (signed_headers("1-0", BODY, secret="s", now=time.time() - 400), body),
        (genuine | {"webhook-id": "2-0"}, body),
        (genuine | {"webhook-signature": "v1,AAAA"}, body),
        (genuine | {"webhook-signature": f"v1,AAAA {genuine['webhook-signature']}"}, body),
    ]
    (source,) = blocks(PAGES["docs/notices.md"], language)
    ran = run_example(language, program(source, checks), tmp_path)
    assert ran.stdout.split() == ["true", "false", "false", "false", "false", "true"], ran.stderr
