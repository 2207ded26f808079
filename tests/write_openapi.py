"""Regenerate docs/openapi.json and its reference page: `python -m tests.write_openapi`."""

import json
from typing import Any, cast

from fastapi import FastAPI

from docs.http_reference import DOCUMENT, PAGE, page_of
from gateway.routes import add_routes

if __name__ == "__main__":
    app = FastAPI()
    add_routes(app, cast("Any", None))
    document = app.openapi()
    DOCUMENT.write_text(json.dumps(document, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
    PAGE.write_text(page_of(document), encoding="utf-8")
