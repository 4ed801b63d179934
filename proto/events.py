"""A raw event as every part of the farm sees it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray


class EventId(NamedTuple):
    """Identity of an event. `run`, `lumi`, `bx` fit 32 bits, `event` 64 bits."""

    run: int
    lumi: int
    event: int
    bx: int = 0


@dataclass(frozen=True, slots=True)
class RawEvent:
    """One event: its identity and its payload in the FED-table format (docs/wire-format.md).

    `payload` is a uint8 array of a length divisible by 4; it may be a view of memory that somebody else owns
    (a slot, a mapped file), valid only as long as the owner says so.
    """

    id: EventId
    payload: NDArray[np.uint8]
