"""The store of models over HTTP: packages that were uploaded."""

from __future__ import annotations

import tempfile
from datetime import datetime
from typing import Annotated, Any

from fastapi import APIRouter, Path, Request, Response
from pydantic import BaseModel, Field

from hltfarm.service.control.context import ContextDep
from hltfarm.service.control.models import REFERENCE
from hltfarm.service.control.runs import NOT_FOUND, PROBLEMS
from hltfarm.service.registry import ModelRecord

router = APIRouter(prefix="/v1/models", tags=["models"])

Reference = Annotated[str, Path(pattern=REFERENCE, description="hash, name (the latest version) or NAME@VERSION")]
_BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "description": "a zip of the files of a model package",
        "content": {"application/zip": {"schema": {"type": "string", "format": "binary"}}},
    }
}
_IN_MEMORY_BYTES = 4 << 20
_REFUSED: dict[int | str, dict[str, Any]] = {
    409: {**PROBLEMS[409], "description": "This control has no store of models."},
    422: PROBLEMS[422],
}
_IN_USE: dict[int | str, dict[str, Any]] = {
    409: {**PROBLEMS[409], "description": "It is in use, the name stands for several, or there is no store."}
}


class UploadedModel(BaseModel):
    """An uploaded model."""

    name: str
    version: int
    hash: str
    kind: str
    target: str = Field(description="track: for `model`; event: for `event_model`")
    folder: str = Field(description="on the workers' machines")
    size_bytes: int
    created: datetime
    who: str

    @classmethod
    def of(cls, record: ModelRecord) -> UploadedModel:
        """From the registry's record."""
        return cls(
            name=record.name,
            version=record.version,
            hash=record.hash,
            kind=record.kind,
            target=record.target,
            folder=record.folder,
            size_bytes=record.size_bytes,
            created=record.created,
            who=record.who,
        )


_STORED: dict[int | str, dict[str, Any]] = _REFUSED | {200: {"model": UploadedModel, "description": "Known already."}}


@router.post("", status_code=201, openapi_extra=_BODY, responses=_STORED)
async def upload(context: ContextDep, request: Request, response: Response) -> UploadedModel:
    """Check a model package and keep it. 201 if it is new, 200 if it is there: a hash never changes what it stands for."""
    library = context.library
    _ = library.store  # before the bytes come
    with tempfile.SpooledTemporaryFile(_IN_MEMORY_BYTES) as body:
        async for chunk in request.stream():
            body.write(chunk)
        body.seek(0)
        record, new = await library.add_model(body, request.state.who)
    if not new:
        response.status_code = 200
    response.headers["Location"] = f"/v1/models/{record.hash}"
    return UploadedModel.of(record)


@router.get("/{reference}", responses=NOT_FOUND)
async def model(context: ContextDep, reference: Reference) -> UploadedModel:
    """One uploaded model."""
    return UploadedModel.of(await context.library.model(reference))


@router.delete("/{reference}", status_code=204, responses=NOT_FOUND | _IN_USE)
async def remove(context: ContextDep, reference: Reference) -> None:
    """Take an uploaded model away, its files too."""
    await context.library.remove_model(reference)
