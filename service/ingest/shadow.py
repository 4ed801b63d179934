"""Shadow: a programme that decides a share of the events beside the active one, without effect, and the differences. Pure."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from hltfarm.proto.messages import ModelInfo, RunConfig, Shadow
from hltfarm.proto.worker_link import PathInfo, ShadowOutcome
from hltfarm.service.ingest.stats import by_bit

_SALT = np.uint64(0x5AD0_57AD_05AD_0571)  # apart from the prescales, which hash run and event too


def sampled(runs: NDArray[np.uint32], events: NDArray[np.uint64], fraction: float) -> NDArray[np.bool_]:
    """Which events a shadow sees: a hash of run and event below the fraction, the same in every farm (finaliser of splitmix64)."""
    with np.errstate(over="ignore"):
        x = events ^ (runs.astype(np.uint64) << np.uint64(32)) ^ _SALT
        for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
            x = (x ^ (x >> np.uint64(shift))) * np.uint64(factor)
        x ^= x >> np.uint64(31)
    return (x >> np.uint64(11)).astype(np.float64) < fraction * 2.0**53


class ShadowBook:
    """Counts of one shadow. `generation`: its programme's number."""

    def __init__(self, generation: int, config: RunConfig, fraction: float) -> None:
        self.generation = generation
        self.config = config
        self.fraction = fraction
        self.failed = 0
        self._matrix = np.zeros((2, 2), dtype=np.int64)  # [active rejects, accepts] x [shadow rejects, accepts]
        self._paths: dict[str, NDArray[np.int64]] = {}  # both, active only, shadow only

    def add(self, answers: NDArray[np.void], active: Sequence[PathInfo], shadow: Sequence[PathInfo]) -> None:
        """Count ANSWER records of one active programme; those that were not asked are left out."""
        asked = answers[answers["shadow"] != ShadowOutcome.NOT_ASKED]
        processed = asked[asked["shadow"] != ShadowOutcome.FAILED]
        self.failed += len(asked) - len(processed)
        if not len(processed):
            return
        accepts = (processed["result"]["accept"] != 0).astype(np.int64)
        np.add.at(self._matrix, (accepts, (processed["shadow"] == ShadowOutcome.ACCEPT).astype(np.int64)), 1)
        bits, other = processed["result"]["path_bits"], processed["shadow_bits"]
        ours, theirs = ({path.name: place for place, path in enumerate(paths)} for paths in (active, shadow))
        in_ours, in_theirs = by_bit(bits), by_bit(other)
        for name in {**ours, **theirs}:
            a, s = ours.get(name), theirs.get(name)
            count = self._paths.setdefault(name, np.zeros(3, dtype=np.int64))
            both = 0
            if a is not None and s is not None:
                both = int(np.count_nonzero((bits >> np.uint64(a)) & (other >> np.uint64(s)) & np.uint64(1)))
            count += (both, (0 if a is None else in_ours[a]) - both, (0 if s is None else in_theirs[s]) - both)

    def told(self, menu_hash: str, models: tuple[ModelInfo, ...], waits_for: Sequence[str], error: str | None) -> Shadow:
        """For a snapshot."""
        m = self._matrix
        return Shadow(
            config=self.config,
            fraction=self.fraction,
            menu_hash=menu_hash,
            models=models,
            waits_for=tuple(waits_for),
            error=error,
            events=int(m.sum()),
            matrix=(int(m[1, 1]), int(m[1, 0]), int(m[0, 1]), int(m[0, 0])),
            paths={name: (int(count[0]), int(count[1]), int(count[2])) for name, count in self._paths.items()},
            failed=self.failed,
        )
