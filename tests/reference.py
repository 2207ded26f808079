"""Render the OpenAPI document as the page docs/http-reference.md: plain Markdown, nothing that a browser would load."""

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

Node = Mapping[str, Any]
HEAD = (
    "# HTTP reference\n\n"
    "Every path of the gateway, its parameters, bodies and answers. Generated from [openapi.json](openapi.json),\n"
    "which the gateway serves as well; [over HTTP](http.md) explains how the parts work together.\n"
)
OPEN = "none"
PROBLEM = "application/problem+json"


def page_of(document: Node) -> str:
    """Return the page of an OpenAPI document."""
    lines = [HEAD]
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            lines += _operation(f"{method.upper()} {path}", operation)
    lines += _problems(document)
    lines.append("## Schemas\n")
    for name, schema in sorted(document["components"]["schemas"].items()):
        lines += _schema(name, schema)
    return "\n".join(lines).rstrip() + "\n"


def _operation(title: str, operation: Node) -> Iterator[str]:
    credential = "`Authorization: Bearer …`" if operation.get("security") else OPEN
    yield f"## {title}\n"
    yield " ".join(f"{operation['summary']}. {operation.get('description', '')}".split()) + "\n"
    yield f"Credential: {credential}.\n"
    parameters = [
        (f"`{one['name']}`", one["in"], "yes" if one.get("required") else "no", _type(one["schema"]), _about(one))
        for one in operation.get("parameters", ())
    ]
    if parameters:
        yield _table(("parameter", "in", "required", "type", "meaning"), parameters)
    if "requestBody" in operation:
        (kind, content), *_ = operation["requestBody"]["content"].items()
        yield f"Body: {kind}, {_type(content['schema'])}.\n"
    answers = sorted(operation["responses"].items())
    good = [_answer(*one) for one in answers if not _is_problem(one[1])]
    yield _table(("status", "meaning", "body", "headers"), good)
    yield f"[Problems](#problems): {', '.join(status for status, answer in answers if _is_problem(answer))}.\n"


def _problems(document: Node) -> Iterator[str]:
    """Return the section on problems: the same statuses mean the same everywhere."""
    operations = [operation for methods in document["paths"].values() for operation in methods.values()]
    found = {
        status: answer["description"]
        for operation in operations
        for status, answer in operation["responses"].items()
        if _is_problem(answer)
    }
    yield "## Problems\n"
    yield f"Each is a [ProblemDocument](#problemdocument) as `{PROBLEM}`; its `type` leads to a page of the gateway.\n"
    yield _table(("status", "kinds"), [(status, _cell(text)) for status, text in sorted(found.items())])


def _is_problem(answer: Node) -> bool:
    return PROBLEM in answer.get("content", {})


def _answer(status: str, response: Node) -> tuple[str, ...]:
    bodies = [
        _type(content["schema"]) if kind == "application/json" else f"`{kind}`"
        for kind, content in response.get("content", {}).items()
    ]
    headers = [f"`{name}`: {header['description']}" for name, header in response.get("headers", {}).items()]
    return status, _cell(response["description"]), ", ".join(bodies), "; ".join(headers)


def _schema(name: str, schema: Node) -> Iterator[str]:
    yield f"### {name}\n"
    yield f"{schema.get('description', '')}\n"
    required = schema.get("required", ())
    yield _table(
        ("field", "required", "type", "meaning"),
        [
            (f"`{field}`", "yes" if field in required else "no", _type(one), _about(one))
            for field, one in schema["properties"].items()
        ],
    )
    for example in schema.get("examples", ()):
        yield f"```json\n{json.dumps(example, ensure_ascii=False)}\n```\n"


def _type(schema: Node) -> str:
    """Return a schema in words; a schema of its own as a link to its section."""
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        return f"[{name}](#{name.lower()})"
    if "anyOf" in schema:
        return " or ".join(dict.fromkeys(_type(one) for one in schema["anyOf"])) + _bounds(schema)
    if "const" in schema:
        return f"`{json.dumps(schema['const'])}`"
    if "enum" in schema:
        return ", ".join(f"`{one}`" for one in schema["enum"])
    kind = str(schema.get("type", "any"))
    if kind == "array":
        return f"list of {_type(schema['items'])}{_bounds(schema)}"
    return kind + _bounds(schema)


def _bounds(schema: Node) -> str:
    """Return the limits of a value."""
    least = next((schema[name] for name in ("minimum", "minLength", "minItems") if name in schema), None)
    most = next((schema[name] for name in ("maximum", "maxLength", "maxItems") if name in schema), None)
    unit = " characters" if {"minLength", "maxLength"} & schema.keys() else ""
    parts = []
    if least is not None and most is not None:
        parts.append(f"{least} to {most}{unit}")
    elif most is not None:
        parts.append(f"at most {most}{unit}")
    elif least is not None:
        parts.append(f"at least {least}{unit}")
    if "pattern" in schema:
        parts.append(f"`{schema['pattern']}`".replace("|", "\\|"))
    if schema.get("default") not in (None, ""):
        parts.append(f"default {json.dumps(schema['default'])}")
    return f" ({', '.join(parts)})" if parts else ""


def _about(one: Node) -> str:
    return _cell(str(one.get("description", "")))


def _cell(text: str) -> str:
    return text.replace("\n", " ").replace("|", "\\|")


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"
