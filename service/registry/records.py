"""What the registry gives back: plain records. Times are UTC."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any

from hltfarm.proto.messages import LedgerCounts, ModelInfo, RunConfig

LARGEST_RUN = 2**32 - 1  # the wire format gives a run number 32 bits


class Outcome(StrEnum):
    """What became of a run."""

    CONFIGURED = "configured"  # number given out, not (yet) started
    RUNNING = "running"
    STOPPED = "stopped"  # ended by a stop, ledger closed
    RESET = "reset"  # ended by a reset
    INTERRUPTED = "interrupted"  # its ingest or its control went away


@dataclass(frozen=True, slots=True, kw_only=True)
class RunRecord:
    """One run. `ledger` is the last one known, None before the run ended (or if nobody saw its end).

    `farm`: name of the farm whose run it was. `config`: what was asked for; `models`: what the workers loaded, None until one of them
    said so. `ending`: what was asked to end it, None while nobody did; `incomplete`: an ingest lost what it had counted. Both are for a
    control that was restarted meanwhile.
    """

    farm: str
    config: RunConfig
    menu_hash: str
    models: tuple[ModelInfo, ...] | None
    outcome: Outcome
    created: datetime
    started: datetime | None
    stopped: datetime | None
    ledger: LedgerCounts | None
    ending: Outcome | None = None
    incomplete: bool = False


@dataclass(slots=True, kw_only=True)
class RunCounts:
    """Everything that was counted in a run: kind (such as `paths`) -> name -> value.

    `marks`: counters of each ingest, since it started, when this was written; a control that restarts goes on counting from there.
    `counted`: when it was written, None for counts that were never written.
    """

    values: dict[str, dict[str, int]] = field(default_factory=dict)
    marks: dict[str, dict[str, dict[str, int]]] = field(default_factory=dict)
    counted: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Activation:
    """A menu with models that decided events of a run from a lumisection on."""

    first_lumi: int
    menu: str
    menu_hash: str
    models: tuple[ModelInfo, ...]
    accepted: int
    rejected: int


@dataclass(frozen=True, slots=True, kw_only=True)
class MenuRecord:
    """A menu of the store. `hash` is of what it decides, `text` the YAML as it was given; `who` gave it last."""

    name: str
    hash: str
    text: str
    created: datetime
    changed: datetime
    who: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelRecord:
    """An uploaded model. `folder`: its package, absolute."""

    name: str
    version: int
    hash: str
    kind: str
    target: str
    folder: str
    size_bytes: int
    created: datetime
    who: str


@dataclass(frozen=True, slots=True, kw_only=True)
class TransitionRecord:
    """A command that took time. `progress`: pending, done or failed."""

    id: str
    run: int | None
    command: str
    progress: str
    began: datetime
    ended: datetime | None
    error: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditEntry:
    """A command that changes something: who gave it from which address, and what came of it.

    `status`: of the HTTP answer; `outcome`: done, accepted (see the transition), refused or failed; `detail`: why it was not done.
    """

    id: int = 0  # given by the registry
    time: datetime
    who: str
    address: str
    command: str
    arguments: dict[str, Any]
    status: int
    outcome: str
    detail: str | None
    transition: str | None
