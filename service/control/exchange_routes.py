"""Menus and models of an open run over HTTP: exchanged, taken back, and shadows beside them."""

from __future__ import annotations

from math import sqrt
from typing import Annotated

from fastapi import APIRouter, HTTPException, Response
from pydantic import BaseModel, Field

from hltfarm.proto.messages import Pending, Programme, Shadow
from hltfarm.service.control.context import ContextDep, RoleDep
from hltfarm.service.control.models import LoadedModel, ProgrammeRequest, TransitionModel
from hltfarm.service.control.programmes import current
from hltfarm.service.control.runs import NOT_FOUND, PROBLEMS, accepted

router = APIRouter(prefix="/v1", tags=["menus and models of a run"])

Lumisection = Annotated[int | None, Field(ge=1, lt=1 << 32, description="first one that it decides, not begun yet; default: the next one")]


Partial = Annotated[bool, Field(description="go on without ingests that do not answer; they follow when they are back")]


class ActivateRequest(ProgrammeRequest):
    """What is to decide from a lumisection of the open run on; what is left out stays as it is."""

    lumisection: Lumisection = None
    partial: Partial = False


class RollbackRequest(BaseModel):
    """From when what decided before is to decide again."""

    lumisection: Lumisection = None
    partial: Partial = False


class ShadowRequest(ProgrammeRequest):
    """What is to decide a share of the events beside what is active; what is left out is as it is there."""

    fraction: float = Field(
        default=0.1, gt=0, le=1, allow_inf_nan=False, description="share of the events, chosen by a hash of their number"
    )


class ProgrammeModel(BaseModel):
    """Menu and models that decide events of the run from a lumisection on."""

    first_lumi: int = Field(description="0: from the beginning, or for whatever came before the others")
    menu_hash: str = Field(description="empty before a worker has built it")
    menu: str = Field(description="YAML text; empty: the built-in menu")
    models: list[LoadedModel]
    accepted: int
    rejected: int
    current: bool = Field(description="whether it decides the present lumisection")

    @classmethod
    def of(cls, programme: Programme, present: Programme | None) -> ProgrammeModel:
        """From the message."""
        return cls(
            first_lumi=programme.first_lumi,
            menu_hash=programme.menu_hash,
            menu=programme.config.menu,
            models=[LoadedModel.of(info) for info in programme.models],
            accepted=programme.accepted,
            rejected=programme.rejected,
            current=programme is present,
        )


class PendingModel(BaseModel):
    """What is being prepared."""

    menu: str
    model: str
    event_model: str
    waits_for: list[str] = Field(description="workers that have not built it yet")
    error: str | None

    @classmethod
    def of(cls, pending: Pending) -> PendingModel:
        """From the message."""
        config = pending.config
        return cls(
            menu=config.menu, model=config.model, event_model=config.event_model, waits_for=list(pending.waits_for), error=pending.error
        )


class Programmes(BaseModel):
    """What decides the present run: the latest programmes in order of lumisections. The registry has all of them (`/v1/runs/{n}`)."""

    run: int | None
    lumisection: int = Field(description="highest that has begun; 0 before the first event")
    programmes: list[ProgrammeModel]
    pending: PendingModel | None
    shadow: bool = Field(description="whether a shadow decides beside them: `/v1/shadow`")


class Share(BaseModel):
    """A fraction of events with its 68.27 % interval (Wilson), and what rate it makes now."""

    fraction: float
    low: float
    high: float
    rate_hz: float = Field(description="fraction times the present rate of events; low and high likewise")
    rate_low_hz: float
    rate_high_hz: float

    @classmethod
    def of(cls, count: int, events: int, hz: float) -> Share:
        """Of a count of events, at a rate."""
        value, (low, high) = count / events if events else 0.0, wilson(count, events)
        return cls(fraction=value, low=low, high=high, rate_hz=value * hz, rate_low_hz=low * hz, rate_high_hz=high * hz)


class Difference(BaseModel):
    """Events that both accept, that one of the two accepts, that neither does."""

    both: int
    active_only: int
    shadow_only: int
    neither: int


class PathDifference(BaseModel):
    """Accepts of a path, after its prescale."""

    both: int
    active_only: int
    shadow_only: int


class ShadowModel(BaseModel):
    """What a shadow would have decided, of the events that it saw, beside what was decided."""

    menu_hash: str = Field(description="empty before a worker has built it")
    menu: str
    models: list[LoadedModel]
    events_fraction: float
    waits_for: list[str]
    error: str | None = Field(description="why a worker cannot build it")
    events: int
    failed: int = Field(description="events that the shadow could not process; in no other number")
    matrix: Difference
    paths: dict[str, PathDifference]
    active: Share
    shadow: Share

    @classmethod
    def of(cls, shadow: Shadow, hz: float) -> ShadowModel:
        """From the message; `hz`: events per second that the farm decides now."""
        both, active_only, shadow_only, neither = shadow.matrix
        return cls(
            menu_hash=shadow.menu_hash,
            menu=shadow.config.menu,
            models=[LoadedModel.of(info) for info in shadow.models],
            events_fraction=shadow.fraction,
            waits_for=list(shadow.waits_for),
            error=shadow.error,
            events=shadow.events,
            failed=shadow.failed,
            matrix=Difference(both=both, active_only=active_only, shadow_only=shadow_only, neither=neither),
            paths={name: PathDifference(both=a, active_only=b, shadow_only=c) for name, (a, b, c) in shadow.paths.items()},
            active=Share.of(both + active_only, shadow.events, hz),
            shadow=Share.of(both + shadow_only, shadow.events, hz),
        )


def wilson(count: int, events: int) -> tuple[float, float]:
    """68.27 % score interval of count / events (E. B. Wilson, J. Am. Stat. Assoc. 22 (1927) 209); 0 to 1 without events."""
    if not events:
        return 0.0, 1.0
    centre = (count + 0.5) / (events + 1)
    half = sqrt(count * (events - count) / events + 0.25) / (events + 1)
    return (0.0 if not count else centre - half), (1.0 if count == events else centre + half)


@router.post("/control/activate", status_code=202, responses=PROBLEMS)
async def activate(context: ContextDep, role: RoleDep, response: Response, request: ActivateRequest | None = None) -> TransitionModel:
    """Let other menus or models decide from a lumisection of the open run on.

    All workers build it first; if one cannot, nothing changes and the transition says why. It is done when the lumisection is settled
    (`lumisection`), which may begin later.
    """
    asked = request or ActivateRequest()
    _, present = await context.exchange.present()
    config = await context.library.config(asked, present, role)
    transition = await context.exchange.activate(config, asked.lumisection, instead=present, partial=asked.partial)
    return accepted(context, response, transition)


@router.post("/control/rollback", status_code=202, responses=PROBLEMS)
async def rollback(context: ContextDep, response: Response, request: RollbackRequest | None = None) -> TransitionModel:
    """Back to the menu and models that decided before the latest ones, by the same way."""
    asked = request or RollbackRequest()
    return accepted(context, response, await context.exchange.rollback(asked.lumisection, partial=asked.partial))


@router.get("/programmes")
async def programmes(context: ContextDep) -> Programmes:
    """What decides the present run, from which lumisection on, and how many events each decided."""
    snapshot = (await context.farm.look(max_age_s=0.1)).snapshot
    if snapshot is None:
        return Programmes(run=None, lumisection=0, programmes=[], pending=None, shadow=False)
    present = current(snapshot)
    return Programmes(
        run=snapshot.run,
        lumisection=snapshot.lumi,
        programmes=[ProgrammeModel.of(programme, present) for programme in snapshot.programmes],
        pending=None if snapshot.pending is None else PendingModel.of(snapshot.pending),
        shadow=snapshot.shadow is not None,
    )


def _shadow(context: ContextDep) -> ShadowModel:
    snapshot = context.farm.view.snapshot
    if snapshot is None or snapshot.shadow is None:
        raise HTTPException(404, "there is no shadow; PUT /v1/shadow starts one")
    return ShadowModel.of(snapshot.shadow, context.farm.rates.decided_hz)


@router.put("/shadow", responses=PROBLEMS)
async def cast(context: ContextDep, role: RoleDep, request: ShadowRequest) -> ShadowModel:
    """Let another menu or other models decide a share of the events, without effect; it takes the place of another shadow."""
    _, present = await context.exchange.present()
    await context.exchange.cast(await context.library.config(request, present, role), request.fraction)
    return _shadow(context)


@router.get("/shadow", responses=NOT_FOUND)
async def shadow(context: ContextDep) -> ShadowModel:
    """How the shadow's decisions differ from those that were taken."""
    await context.farm.look(max_age_s=0.1)
    return _shadow(context)


@router.delete("/shadow", responses=NOT_FOUND | PROBLEMS)
async def end_shadow(context: ContextDep) -> ShadowModel:
    """End the shadow; the answer is the last one with its numbers."""
    await context.farm.look()
    last = _shadow(context)
    await context.exchange.end_shadow()
    return last
