"""Answers to the control plane's questions about the events that an ingest keeps. Pure."""

from __future__ import annotations

from hltfarm.proto.messages import ACCEPTED, FAILED, Command, CommandReply, KeptEvent
from hltfarm.service.ingest.recent import RecentEvents

MOST = 512  # events of one answer


def answer(recent: RecentEvents, command: Command) -> tuple[CommandReply, list[bytes]]:
    """The reply to a command of EVENT_OPS, and the frames behind it."""
    if command.limit < 0 or command.kind not in ("", ACCEPTED, FAILED):
        return CommandReply(id=command.id, error=f"{command.op}: kind {command.kind[:20]!r}, limit {command.limit} are not possible"), []
    limit = min(command.limit, MOST)
    if command.op == "events":
        return CommandReply(id=command.id, events=tuple(recent.listed(command.kind, limit))), []
    if command.op == "failures":
        return CommandReply(id=command.id, events=tuple(recent.failures(limit))), []
    kept = recent.find(command.event_id)
    if kept is None:
        return CommandReply(id=command.id), []
    programme = kept.programme
    event = KeptEvent(
        info=kept.info,
        config=programme.config,
        menu_hash=programme.menu_hash,
        models=programme.models,
        conditions=programme.conditions,
    )
    return CommandReply(id=command.id, event=event), [kept.payload]
