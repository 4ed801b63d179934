"""Who one is over HTTP, and the tokens read anew."""

from __future__ import annotations

from typing import cast

from fastapi import APIRouter, HTTPException, Request
from pydantic import BaseModel, Field

from hltfarm.service.security.tokens import Role, TokensFile

router = APIRouter(prefix="/v1/access", tags=["access"])


class AccessModel(BaseModel):
    """The caller, as the farm sees him."""

    who: str = Field(description="name of the token; anonymous where none is asked for")
    role: str = Field(description="viewer, operator or admin")
    tokens: bool = Field(description="whether tokens are asked for")
    problem: str | None = Field(description="why the tokens file could not be read anew; those of before count")


class Reloaded(BaseModel):
    """The tokens that count now."""

    tokens: int


def _file(request: Request) -> TokensFile | None:
    return cast(TokensFile | None, request.app.state.tokens_file)


@router.get("")
async def access(request: Request) -> AccessModel:
    """Name and role of the caller."""
    file, role = _file(request), cast(Role, request.state.role)
    return AccessModel(who=request.state.who, role=role.label, tokens=file is not None, problem=None if file is None else file.problem)


@router.post("/reload", responses={404: {"description": "This farm has no tokens file."}, 422: {"description": "The file cannot be used."}})
async def reload(request: Request) -> Reloaded:
    """Read the tokens file now. It is also read whenever it changes; this tells whether it could be."""
    file = _file(request)
    if file is None:
        raise HTTPException(404, "this farm was started without --tokens")
    return Reloaded(tokens=len(file.reload()))
