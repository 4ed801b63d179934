"""Times of the registry: unix seconds in the tables, UTC in the records."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import overload


@overload
def utc(seconds: float) -> datetime: ...
@overload
def utc(seconds: None) -> None: ...
def utc(seconds: float | None) -> datetime | None:
    """A time of a table."""
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC)
