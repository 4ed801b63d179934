"""The page at `/docs`: the HTTP interface to read and to try, without anything from another server.

FastAPI's own page takes its scripts from a public one; a control room may have no way there, and should run nobody's scripts. Swagger UI
comes with the distribution `fastapi-offline`, of which only the files are used.
"""

from __future__ import annotations

from functools import cache
from importlib.util import find_spec
from pathlib import Path

from fastapi import APIRouter
from starlette.responses import FileResponse, HTMLResponse, Response

from hltfarm.service.control.problems import problem

#: Swagger UI draws with styles in its elements and with pictures in its style sheet; scripts come from here, and no other host is asked.
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
FILES = {"swagger-ui-bundle.js": "text/javascript", "swagger-ui.css": "text/css"}
KEPT = {"Cache-Control": "max-age=3600"}
START = """\
SwaggerUIBundle({
  url: "/openapi.json",
  dom_id: "#page",
  deepLinking: true,
  displayRequestDuration: true,
  validatorUrl: null,
  presets: [SwaggerUIBundle.presets.apis],
  layout: "BaseLayout",
});
"""
PAGE = """\
<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<link rel="stylesheet" href="/docs/swagger-ui.css">
<link rel="icon" href="data:,">
</head>
<body>
<div id="page"></div>
<script src="/docs/swagger-ui-bundle.js"></script>
<script src="/docs/start.js"></script>
</body>
</html>
"""

router = APIRouter(include_in_schema=False)


@router.get("/docs")
async def page() -> Response:
    """The page; everything on it comes from the next function and from `/openapi.json`."""
    return HTMLResponse(PAGE.format(title="hltfarm: HTTP interface"), headers={"Content-Security-Policy": POLICY})


@router.get("/docs/{file}")
async def part(file: str) -> Response:
    """A file of the page; 404 for any other."""
    if file == "start.js":
        return Response(START, headers=KEPT, media_type="text/javascript")
    if file in FILES:
        return FileResponse(static() / file, headers=KEPT, media_type=FILES[file])
    return problem(404, "NotFound", f"the page has no file {file!r}")


@cache
def static() -> Path:
    """Folder of the files of Swagger UI."""
    spec = find_spec("fastapi_offline")  # found, not imported: its code is of no use here
    assert spec is not None
    assert spec.submodule_search_locations
    return Path(spec.submodule_search_locations[0]) / "static"
