"""The registry: runs, menus, models, transitions and who did what, in a database behind a SQLAlchemy URL."""

from hltfarm.service.registry.database import DatabaseError
from hltfarm.service.registry.records import (
    LARGEST_RUN,
    Activation,
    AuditEntry,
    MenuRecord,
    ModelRecord,
    Outcome,
    RunCounts,
    RunRecord,
    TransitionRecord,
)
from hltfarm.service.registry.registry import Registry

__all__ = [
    "LARGEST_RUN",
    "Activation",
    "AuditEntry",
    "DatabaseError",
    "MenuRecord",
    "ModelRecord",
    "Outcome",
    "Registry",
    "RunCounts",
    "RunRecord",
    "TransitionRecord",
]
