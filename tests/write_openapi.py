"""Write docs/openapi.json and its page, docs/http-reference.md, anew: `python -m tests.write_openapi`."""

import json
from pathlib import Path
from typing import Any, cast

from fastapi import FastAPI

from gateway.routes import add_routes
from tests.reference import page_of

DOCS = Path(__file__).parents[1] / "docs"
COPY, PAGE = DOCS / "openapi.json", DOCS / "http-reference.md"

if __name__ == "__main__":
    app = FastAPI()
    add_routes(app, cast("Any", None))
    document = app.openapi()
    COPY.write_text(json.dumps(document, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
    PAGE.write_text(page_of(document), encoding="utf-8")
