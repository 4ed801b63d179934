"""Transitions as the run registry keeps them. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime

from hltfarm.service.control.transitions import Transition
from hltfarm.service.registry import Registry, TransitionRecord


def records_of(transitions: Iterable[Transition], offset: float) -> list[TransitionRecord]:
    """Records of transitions; `offset`: from their clock to unix seconds."""

    def time(seconds: float) -> datetime:
        return datetime.fromtimestamp(seconds + offset, UTC)

    return [
        TransitionRecord(
            id=item.id,
            run=item.run,
            command=item.command,
            progress=str(item.progress),
            began=time(item.began),
            ended=None if item.ended is None else time(item.ended),
            error=item.error,
        )
        for item in transitions
    ]


def enter(record: TransitionRecord, registry: Registry) -> None:
    """Write one of them, new or changed."""
    registry.journal.transition(record)
