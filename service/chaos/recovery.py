"""How long a fault was felt, from samples of what was due and what was decided. Pure; times are seconds since the start of the load."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

#: Rates are averages over so many seconds: long enough for a few events, short enough to see a pause.
WINDOW_S = 0.5
#: Decisions flow again when they come at this part of the rate that is offered.
SHARE = 0.9
#: A pause is felt when so many seconds' worth of events wait more than before.
FELT_S = 0.3


class Sample(NamedTuple):
    """Events that fell due and events that were decided, up to a moment."""

    at_s: float
    due: int
    decided: int

    @property
    def waiting(self) -> int:
        """Events that are due and not decided."""
        return self.due - self.decided


def recovery(samples: Sequence[Sample], injected_s: float, until_s: float, rate_hz: float) -> float | None:
    """Seconds from the injection until decisions flow at the offered rate again; 0 if they never ceased to, None if they did not in time.

    until_s: end of what the fault can be blamed for, such as the next one. A pause begins when FELT_S seconds' worth of events wait beyond
    the most that waited before the injection, and ends when SHARE of the rate is decided again.
    """
    before = [sample.waiting for sample in samples if injected_s - 2.0 <= sample.at_s <= injected_s]
    limit = max(before, default=0) + FELT_S * rate_hz
    after = [sample for sample in samples if injected_s <= sample.at_s <= until_s]
    begin = next((place for place, sample in enumerate(after) if sample.waiting > limit), None)
    if begin is None:
        return 0.0
    for sample in after[begin:]:
        past = next((old for old in reversed(samples) if old.at_s <= sample.at_s - WINDOW_S), None)
        if past is None:
            continue
        if sample.decided - past.decided >= SHARE * rate_hz * (sample.at_s - past.at_s) or sample.waiting <= limit - FELT_S * rate_hz:
            return sample.at_s - injected_s
    return None
