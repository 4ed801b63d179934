"""Events as a worker's engine knows them, and the records of its answers."""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

#: One DESCRIPTOR record as a tuple, and the number of the ingest that gave it:
#: ticket, event, slot, size, run, lumi, bx, flags, generation, shadow, ingest
Descriptor: TypeAlias = tuple[int, int, int, int, int, int, int, int, int, int, int]
SIZE, RUN, GENERATION, SHADOW, INGEST = 3, 4, 8, 9, 10


def of_ingest(ingest: int, batch: list[Descriptor]) -> list[Descriptor]:
    """The events of one ingest."""
    return [item for item in batch if item[INGEST] == ingest]


def records_of(batch: list[Descriptor], dtype: np.dtype[np.void]) -> NDArray[np.void]:
    """A record for each event of a batch, with ticket and slot."""
    records = np.zeros(len(batch), dtype=dtype)
    records["ticket"] = [item[0] for item in batch]
    records["slot"] = [item[2] for item in batch]
    return records


def share(records: NDArray[np.void], parts: tuple[bytes, ...]) -> tuple[NDArray[np.void], tuple[bytes, ...]]:
    """The answers of one ingest with the frames of columns that they name, numbered anew."""
    named = np.flatnonzero(records["part"])
    own = tuple(parts[number - 1] for number in records["part"][named].tolist())
    records["part"][named] = np.arange(1, len(own) + 1)
    return records, own
