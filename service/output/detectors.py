"""Detectors as output files name them, loaded once."""

from __future__ import annotations

import logging

from hltfarm.loadgen.detector_block import pack_detector
from hltfarm.proto.detector import load_detector, phase1
from hltfarm.proto.errors import ConditionsError

log = logging.getLogger(__name__)


class DetectorBlocks:
    """Name and digest of a detector, and its packed description if it is not the built-in one, by what a run calls it."""

    def __init__(self) -> None:
        self._known: dict[str, tuple[dict[str, str] | None, bytes]] = {}

    def of(self, spec: str) -> tuple[dict[str, str] | None, bytes]:
        """(None, empty) for one that this machine cannot read; that is logged once."""
        known = self._known.get(spec)
        if known is None:
            try:
                detector = load_detector(spec)
            except ConditionsError as error:
                log.error("output files do not name their detector: %s", error)
                known = (None, b"")
            else:
                built_in = detector.digest() == phase1().digest()
                known = ({"name": detector.name, "digest": detector.digest()}, b"" if built_in else pack_detector(detector))
            self._known[spec] = known
        return known
