"""The scrape endpoint."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest

from hltfarm.service.control.context import ContextDep

router = APIRouter(tags=["metrics"])

FRESH_S = 0.25  # scrapes closer together than this share a snapshot


@router.get("/metrics", response_class=Response, responses={200: {"content": {"text/plain": {}}, "description": "Prometheus text format."}})
async def metrics(context: ContextDep, request: Request) -> Response:
    """All metrics, from a snapshot taken for this scrape."""
    await context.farm.look(max_age_s=FRESH_S)
    registry: CollectorRegistry = request.app.state.metrics
    return Response(generate_latest(registry), media_type=CONTENT_TYPE_LATEST)
