"""Generate docs/openapi.json: `python -m tests.write_openapi`."""

import json
from pathlib import Path
from typing import Any, cast

from fastapi import FastAPI

from gateway.routes import add_routes

PLACE = Path(__file__).parents[1] / "docs" / "openapi.json"

if __name__ == "__main__":
    app = FastAPI()
    add_routes(app, cast("Any", None))
    PLACE.write_text(json.dumps(app.openapi(), ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
