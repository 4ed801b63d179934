"""Decisions of a client and events of a consumer as rows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from hltfarm.proto.messages import menu_id
from hltfarm.proto.results import OUTPUT_DECISION, RESULT
from hltfarm.service.client import Decision
from hltfarm.service.consumer import StreamEvent
from hltfarm.service.export.block import EventRow, payload_table
from hltfarm.service.export.schema import PAYLOAD, EventSchema, event_schema

Event: TypeAlias = StreamEvent | Decision

FITS = ("tracks", "vertices")  #: tables that a farm keeps and sends
_FROM_DESCRIPTION = ("menu", "models", "paths", "path_streams", "config")


def schema_of(events: Sequence[Event], *, tables: Sequence[str] = FITS, raw: bool = False, paths: Sequence[str] = ()) -> EventSchema:
    """The columns of events, with the paths of all their menus. paths: their names, which decisions of a client do not tell."""
    names = [*paths, *(name for event in events if isinstance(event, StreamEvent) for name in event.description["paths"])]
    decision = next((event.decision.dtype for event in events if isinstance(event, StreamEvent)), OUTPUT_DECISION)
    return event_schema(decision=decision, paths=names, tables=(*tables, *((PAYLOAD,) if raw else ())))


def row_of(event: Event, *, raw: bool = False, paths: tuple[str, ...] = ()) -> EventRow:
    """One event. Raises WireError for columns that are damaged."""
    if isinstance(event, Decision):
        return EventRow(event.id, _record(event), paths, tables=event.columns)
    tables: dict[str, Any] = {**(event.tables() or {}), **(payload_table(event.payload) if raw else {})}
    return EventRow(event.id, event.decision, tuple(event.description["paths"]), tables=tables)


def decider_of(description: dict[str, Any]) -> dict[str, Any]:
    """What decided, of the metadata of an output file or the description of a stream."""
    return {key: description[key] for key in _FROM_DESCRIPTION if key in description}


def deciders_of(events: Sequence[Event]) -> list[dict[str, Any]]:
    """What decided these events, each once."""
    found: list[dict[str, Any]] = []
    for event in events:
        if isinstance(event, StreamEvent) and decider_of(event.description) not in found:
            found.append(decider_of(event.description))
    return found


def _record(event: Decision) -> NDArray[np.void]:
    record = np.zeros(1, OUTPUT_DECISION)
    record["menu"], record["models"] = menu_id(event.menu), event.models
    for name in RESULT.names or ():
        record[name] = event.result[name]
    return record
