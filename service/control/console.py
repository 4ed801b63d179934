"""The web console: static files that the control plane serves at `/`, with what a browser has to know about them.

The files are built from `service/console` into `service/console/static`, and looked at anew with every request. A path of the API is
never one of theirs. They are for everybody, also without a token: they hold nothing of the farm, and what they ask the API for needs one.
"""

from __future__ import annotations

import asyncio
import gzip
import hashlib
import os
import re
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path

from starlette.datastructures import Headers
from starlette.responses import Response
from starlette.routing import BaseRoute, Match, NoMatchFound
from starlette.types import Receive, Scope, Send

from hltfarm.service.control.packed import accepts_gzip
from hltfarm.service.control.roles import has_row

STATIC = Path(__file__).resolve().parent.parent / "console" / "static"
INDEX = "index.html"
#: A page may load, run, style and ask what this farm serves, and nothing else; nothing inline.
POLICY = "default-src 'self'; object-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
#: By ending; what has no row is not served. Fixed here: what the machine's tables say may keep a browser from running a script.
TYPES = {
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".json": "application/json",
    ".webmanifest": "application/manifest+json",
    ".map": "application/json",
    ".svg": "image/svg+xml",
    ".png": "image/png",
    ".ico": "image/x-icon",
    ".woff2": "font/woff2",
    ".txt": "text/plain; charset=utf-8",
}
PACKED = frozenset({".html", ".js", ".css", ".json", ".webmanifest", ".map", ".svg", ".txt"})
KEPT = "public, max-age=31536000, immutable"  #: of files with a hash of what they hold in their name
ASKED = "no-cache"  #: of the others: a browser asks whether its copy is still good
_HASHED = re.compile(r"^assets/.*[-.][A-Za-z0-9_-]{8,}\.[a-z0-9]+$")
_SEGMENT = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]*\Z")
NOT_BUILT = """<!doctype html>
<html lang="en"><meta charset="utf-8"><title>hltfarm</title>
<h1>The console is not here</h1>
<p>This hltfarm runs, but the files of its web console were not built. In a clone of its sources, with Node.js and npm:</p>
<pre>make console</pre>
<p>and load this page again. Wheels and containers have the files. The HTTP API needs none of them: <a href="/docs">what it offers</a>,
and <code>hltfarm ctl watch</code> shows the farm in a terminal.</p>
"""


@dataclass(frozen=True, slots=True)
class Page:
    """A file as it is sent. `packed`: compressed, None where that does not pay."""

    stamp: tuple[int, int]
    media_type: str
    cache: str
    etag: str
    body: bytes
    packed: bytes | None


class Console(BaseRoute):
    """The files below a folder as a route. It takes what it has, and GET and HEAD alone; everything else is for the routes beside it."""

    def __init__(self, folder: Path = STATIC) -> None:
        self._folder = folder.resolve()
        self._pages: dict[str, Page] = {}

    def has(self, method: str, path: str) -> bool:
        """Whether a request is for the console: the folder has such a file, or the path is `/`, for which there is always an answer."""
        return method in ("GET", "HEAD") and not has_row(method, path) and (path == "/" or self._file(path) is not None)

    def _file(self, path: str) -> Path | None:
        parts = path.removeprefix("/").split("/") if path != "/" else [INDEX]
        if not all(_SEGMENT.match(part) for part in parts) or os.path.splitext(parts[-1])[1] not in TYPES:
            return None
        file = self._folder.joinpath(*parts)
        try:
            return file if file.is_file() and file.resolve().is_relative_to(self._folder) else None
        except OSError:  # a name too long for any file
            return None

    def page(self, path: str) -> Page | None:
        """The file of a path, from memory unless it was changed; None if there is none (any more)."""
        file = self._file(path)
        try:
            if file is None:
                return None
            status = file.stat()
            stamp = (status.st_mtime_ns, status.st_size)
            known = self._pages.get(path)
            if known is None or known.stamp != stamp:
                known = self._pages[path] = _read(file, stamp, file.relative_to(self._folder).as_posix())
            return known
        except OSError:  # it is being built anew
            return None

    # ---------------------------------------------------------------- as a route

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        """Starlette's question."""
        mine = scope["type"] == "http" and self.has(scope["method"], scope["path"])
        return (Match.FULL if mine else Match.NONE), {}

    def url_path_for(self, name: str, /, **path_params: object) -> NoMatchFound:  # type: ignore[override]
        """No names are given to files."""
        raise NoMatchFound(name, path_params)

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer: the file, that the browser's copy is still good, or a page that says how to get the files."""
        page = await asyncio.to_thread(self.page, scope["path"])
        await _answer(page, Headers(scope=scope))(scope, receive, send)


def _read(file: Path, stamp: tuple[int, int], name: str) -> Page:
    body, ending = file.read_bytes(), file.suffix
    packed = gzip.compress(body, 6, mtime=0) if ending in PACKED else body
    return Page(
        stamp=stamp,
        media_type=TYPES[ending],
        cache=KEPT if _HASHED.match(name) else ASKED,
        etag=f'"{hashlib.blake2b(body, digest_size=12).hexdigest()}"',
        body=body,
        packed=packed if len(packed) < 0.9 * len(body) else None,
    )


def _answer(page: Page | None, asked: Headers) -> Response:
    if page is None:
        return Response(NOT_BUILT, HTTPStatus.NOT_FOUND, {"Content-Security-Policy": POLICY}, TYPES[".html"])
    headers = {"ETag": page.etag, "Cache-Control": page.cache, "Content-Security-Policy": POLICY}
    if page.packed is not None:
        headers["Vary"] = "Accept-Encoding"
    known = {tag.strip().removeprefix("W/") for tag in asked.get("if-none-match", "").split(",")}
    if page.etag in known or "*" in known:
        return Response(None, HTTPStatus.NOT_MODIFIED, headers)
    if page.packed is not None and accepts_gzip(asked):
        return Response(page.packed, HTTPStatus.OK, headers | {"Content-Encoding": "gzip"}, page.media_type)
    return Response(page.body, HTTPStatus.OK, headers, page.media_type)
