"""The work of `hltfarm export`: sample and output files into one file, or one a lumisection, in constant memory."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hltfarm.loadgen.sample import Sample
from hltfarm.proto.detector import Detector
from hltfarm.proto.errors import ConfigError, SampleError
from hltfarm.service.export.events import FITS, decider_of
from hltfarm.service.export.root_file import RootLayout
from hltfarm.service.export.schema import HAS_TABLES, PAYLOAD, EventSchema, event_schema
from hltfarm.service.export.source import Cut, Holds, fingerprints, rows, survey
from hltfarm.service.export.table_file import TableFile
from hltfarm.service.export.truth import ARRAYS

DEFAULT_TRUTH = ("particles", "collisions")


@dataclass(frozen=True)
class Order:
    """What is asked for. `suffix`: for one file a lumisection in the folder `out`; None: `out` is a file. Empty tables: what is there."""

    sources: tuple[Path, ...]
    out: Path
    suffix: str | None = None
    cut: Cut = field(default_factory=Cut)
    tables: tuple[str, ...] = ()
    columns: tuple[str, ...] = ()
    raw: bool = False
    layout: RootLayout = RootLayout.RNTUPLE


@dataclass
class Exported:
    """What was written."""

    events: int = 0
    files: list[Path] = field(default_factory=list)

    @property
    def bytes(self) -> int:
        return sum(path.stat().st_size for path in self.files)


def export(order: Order, progress: Callable[[int, int], None] = lambda done, total: None) -> Exported:
    """Read, choose, write. `progress` is told how many events of how many are done.

    Raises SampleError for sources that cannot be read, ConfigError for tables or columns that are not there, OSError if the disk refuses.
    """
    files = survey(order.sources, order.cut)
    tables = _tables(order, files)
    streams = tuple(dict.fromkeys(holds.stream for holds in files))
    schema = event_schema(
        decision=files[0].decision,
        paths=[str(name) for holds in files for name in holds.metadata.get("paths", ())],
        tables=tables,
        streams=any(streams),
    )
    if order.columns:
        schema = schema.chosen(order.columns)
        # has_tables looks at those of the reconstruction, also where no column of theirs is wanted
        tables = tuple(table for table in tables if table in schema.tables or (HAS_TABLES in schema.names and table in FITS))
    work = _Work(order, files, tables, streams, schema, progress)
    if order.suffix is None:
        return work.write(order.out, files, None)
    order.out.mkdir(parents=True, exist_ok=True)
    for run, lumi in sorted({pair for holds in files for pair in holds.lumis}):
        there = [holds for holds in files if (run, lumi) in holds.lumis]
        work.write(order.out / f"run{run:06d}_ls{lumi:04d}{order.suffix}", there, (run, lumi))
    return work.result


class _Work:
    def __init__(
        self,
        order: Order,
        files: Sequence[Holds],
        tables: tuple[str, ...],
        streams: tuple[str, ...],
        schema: EventSchema,
        progress: Callable[[int, int], None],
    ) -> None:
        self.result = Exported()
        self._order, self._tables, self._streams, self._schema, self._progress = order, tables, streams, schema, progress
        self._total = sum(holds.events for holds in files)
        self._prints: dict[Path, list[dict[str, Any]]] = {}

    def write(self, path: Path, files: Sequence[Holds], lumi: tuple[int, int] | None) -> Exported:
        """One file of the events of these files."""
        with TableFile(path, self._schema, self._metadata(files), layout=self._order.layout) as out:
            for holds in files:
                for row in rows(holds, self._order.cut, self._tables, self._streams.index(holds.stream), lumi):
                    out.append(row)
                    self.result.events += 1
                    self._progress(self.result.events, self._total)
        self.result.files.append(path)
        return self.result

    def _fingerprint(self, path: Path) -> list[dict[str, Any]]:
        """Of a file: read once, not anew for each of its lumisections."""
        if path not in self._prints:
            self._prints[path] = fingerprints([path])
        return self._prints[path]

    def _metadata(self, files: Sequence[Holds]) -> dict[str, Any]:
        deciders: list[dict[str, Any]] = []
        detectors: dict[str, dict[str, Any]] = {}
        made: list[dict[str, Any]] = []
        for holds in files:
            if holds.decision is not None and decider_of(dict(holds.metadata)) not in deciders:
                deciders.append(decider_of(dict(holds.metadata)))
            named = holds.metadata.get("detector")
            if isinstance(named, dict) and str(named) not in detectors:
                try:
                    detectors[str(named)] = detector_text(Sample(holds.path).detector())
                except SampleError:  # of another version: its name and digest say which
                    detectors[str(named)] = dict(named)
            origin = {key: value for key, value in holds.metadata.items() if isinstance(value, str | int | float) and key != "menu"}
            if holds.decision is None and origin not in made:
                made.append(origin)
        return {
            "made_by": "export",
            "sources": [entry for holds in files for entry in self._fingerprint(holds.path)],
            **({"deciders": deciders} if deciders else {}),
            **({"detectors": list(detectors.values())} if detectors else {}),
            **({"streams": list(self._streams)} if any(self._streams) else {}),
            **({"samples": made} if made else {}),
        }


def detector_text(detector: Detector) -> dict[str, Any]:
    """Name and digest of a detector, and its beam spot (cm): reconstructed positions are relative to it, those of the truth are not."""
    spot = detector.beam_spot
    return {
        "name": detector.name,
        "digest": detector.digest(),
        "beam_spot_cm": [spot.x, spot.y, spot.z],
    }


def _tables(order: Order, files: Sequence[Holds]) -> tuple[str, ...]:
    """Tables to write: those asked for, or those that are there. Raises ConfigError for one that no file has."""
    fits, truth = any(holds.tables for holds in files), all(holds.truth for holds in files)
    there = (*(FITS if fits else ()), *(DEFAULT_TRUTH if truth else ()))
    for table in order.tables:
        if table == "hits":
            raise ConfigError("hits are not in .hlt files; `hltfarm reco --table hits` makes them")
        if (table in FITS and not fits) or (table in ARRAYS and not truth):
            raise ConfigError(f"the table {table!r} is not in the files; there are {', '.join(there) or 'none'}")
    chosen = tuple(table for table in order.tables or there if table != PAYLOAD)
    return (*chosen, PAYLOAD) if order.raw or PAYLOAD in order.tables else chosen
