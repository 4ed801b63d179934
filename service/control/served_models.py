"""Models over HTTP: those that take part in the decision (paths of the KServe v2 protocol), and those that a run can be configured with.

What takes part is what the workers say they loaded, never what was asked for.
"""

from __future__ import annotations

from fastapi import APIRouter, HTTPException, Response
from pydantic import BaseModel, Field

from hltfarm.proto.messages import ModelInfo
from hltfarm.service.control.context import Context, ContextDep
from hltfarm.service.control.model_uploads import UploadedModel
from hltfarm.service.control.runs import NOT_FOUND
from hltfarm.workers.models import manifest
from hltfarm.workers.models.registry import shipped

router = APIRouter(tags=["models"])


class ModelList(BaseModel):
    """Models that take part in the decision of the present run."""

    models: list[str]


class Tensor(BaseModel):
    """A tensor of KServe metadata; -1 is the number of tracks (or events) of a batch."""

    name: str
    datatype: str = "FP32"
    shape: list[int] = [-1]


class ModelMetadata(BaseModel):
    """KServe v2 model metadata, with what decides: hash, engine, working points and their thresholds."""

    name: str
    versions: list[str]
    platform: str = Field(description="hltfarm_<kind>")
    inputs: list[Tensor] = Field(description="features, in the order of the model's columns")
    outputs: list[Tensor]
    hash: str
    target: str = Field(description="track or event")
    engine: str
    working_point: str | None = Field(description="that selects tracks; null for a classifier of events: the menu cuts on its score")
    thresholds: dict[str, float] | None = Field(description="of that working point; what scores as much or more is selected")
    working_points: dict[str, dict[str, float]]

    @classmethod
    def of(cls, info: ModelInfo) -> ModelMetadata:
        """From the message."""
        return cls(
            name=info.name,
            versions=[str(info.version)],
            platform=f"hltfarm_{info.kind}",
            inputs=[Tensor(name=feature) for feature in info.features],
            outputs=[Tensor(name="score")],
            hash=info.hash,
            target=info.target,
            engine=info.engine,
            working_point=info.working_point or None,
            thresholds=info.working_points.get(info.working_point),
            working_points=info.working_points,
        )


class ModelReady(BaseModel):
    """KServe v2 readiness of a model: a worker that holds credit has it loaded."""

    name: str
    ready: bool


class ShippedModel(BaseModel):
    """A model that is part of the distribution."""

    name: str
    version: int
    hash: str
    kind: str
    target: str = Field(description="track: for `model` of a configure command; event: for `event_model`")
    description: str
    features: list[str]
    working_points: dict[str, dict[str, float]]
    default_working_point: str


class AvailableModels(BaseModel):
    """Models that a run can be configured with by name: part of the distribution, and uploaded (these by hash, too)."""

    models: list[ShippedModel]
    uploaded: list[UploadedModel]


async def _present(context: Context) -> tuple[ModelInfo, ...]:
    view = await context.farm.look(max_age_s=0.1)
    return () if view.snapshot is None else view.snapshot.models


async def _found(context: Context, name: str, version: str | None) -> ModelInfo:
    present = await _present(context)
    for info in present:
        if info.name == name and version in (None, str(info.version)):
            return info
    wanted = repr(name) if version is None else f"{name!r} version {version}"
    loaded = ", ".join(f"{info.name!r} version {info.version}" for info in present) or "none"
    raise HTTPException(404, f"model {wanted} takes no part in the present run; loaded: {loaded}")


@router.get("/v2/models")
async def models(context: ContextDep) -> ModelList:
    """Models that take part in the decision of the present run, as its workers loaded them."""
    return ModelList(models=[info.name for info in await _present(context)])


@router.get("/v2/models/{name}", responses=NOT_FOUND)
@router.get("/v2/models/{name}/versions/{version}", responses=NOT_FOUND)
async def model(context: ContextDep, name: str, version: str | None = None) -> ModelMetadata:
    """Metadata of a model of the present run."""
    return ModelMetadata.of(await _found(context, name, version))


@router.get("/v2/models/{name}/ready", responses=NOT_FOUND | {503: {"model": ModelReady}})
@router.get("/v2/models/{name}/versions/{version}/ready", responses=NOT_FOUND | {503: {"model": ModelReady}})
async def model_ready(context: ContextDep, response: Response, name: str, version: str | None = None) -> ModelReady:
    """Whether a worker that holds credit (or is busy) has the model loaded."""
    info = await _found(context, name, version)
    snapshot = context.farm.view.snapshot
    workers = [] if snapshot is None else [worker for worker in snapshot.workers if worker.up and worker.ready]
    ready = any(worker.credit_events > 0 or worker.in_flight > 0 for worker in workers)
    if not ready:
        response.status_code = 503
    return ModelReady(name=info.name, ready=ready)


@router.get("/v1/models")
async def configurable(context: ContextDep) -> AvailableModels:
    """Shipped and uploaded models; a run can also be given the folder of a model package on the workers' machines."""
    found = []
    for directory in shipped().values():
        described = manifest.read(directory)
        found.append(
            ShippedModel(
                name=described.name,
                version=described.version,
                hash=described.hash,
                kind=described.kind,
                target=described.target,
                description=described.description,
                features=list(described.features),
                working_points={point: dict(thresholds) for point, thresholds in described.working_points.items()},
                default_working_point=described.default_working_point,
            )
        )
    records = await context.farm.registry(lambda registry: registry.models.all())
    return AvailableModels(models=found, uploaded=[UploadedModel.of(record) for record in records])
