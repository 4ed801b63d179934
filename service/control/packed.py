"""Answers that are large: compressed where the client takes that, encoded without a detour over models."""

from __future__ import annotations

import asyncio
import gzip
from typing import Any

import msgspec
from starlette.datastructures import Headers
from starlette.responses import Response

WORTH_BYTES = 2048  # a smaller body is sent as it is
LEVEL = 4  # half the time of zlib's own 6, a few percent larger


def accepts_gzip(headers: Headers) -> bool:
    """Whether a client takes a compressed answer."""
    offers = [offer.replace(" ", "").lower() for offer in headers.get("accept-encoding", "").split(",")]
    return any(offer == "gzip" or (offer.startswith("gzip;q=") and offer[7:].strip("0.") != "") for offer in offers)


async def json_answer(content: Any, asked: Headers) -> Response:
    """Anything that msgspec can encode, as JSON; what is not finite is null."""
    return await packed_answer(await asyncio.to_thread(msgspec.json.encode, content), "application/json", asked)


async def packed_answer(body: bytes, media_type: str, asked: Headers) -> Response:
    """A body, compressed if that pays and is taken."""
    headers = {"Vary": "Accept-Encoding"}
    if len(body) >= WORTH_BYTES and accepts_gzip(asked):
        body = await asyncio.to_thread(gzip.compress, body, LEVEL, mtime=0)
        headers["Content-Encoding"] = "gzip"
    return Response(body, headers=headers, media_type=media_type)
