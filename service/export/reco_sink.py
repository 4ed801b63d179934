"""Results of `hltfarm reco` into a file, chunk by chunk."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np

from hltfarm.loadgen.source import EventSource
from hltfarm.proto.errors import ConfigError
from hltfarm.proto.messages import menu_id, models_id
from hltfarm.proto.results import OUTPUT_DECISION, RESULT
from hltfarm.service.export.block import EventRow, payload_table
from hltfarm.service.export.events import FITS
from hltfarm.service.export.job import detector_text
from hltfarm.service.export.root_file import RootLayout
from hltfarm.service.export.schema import HAS_TABLES, PAYLOAD, RECONSTRUCTED, event_schema
from hltfarm.service.export.source import fingerprints, truth_tables
from hltfarm.service.export.table_file import TableFile
from hltfarm.service.export.truth import ARRAYS
from hltfarm.workers.configuration import Configuration
from hltfarm.workers.dnn.selector import Selector
from hltfarm.workers.menu import Menu
from hltfarm.workers.reconstructor import BatchResult
from hltfarm.workers.run_models import loaded


class RecoFile:
    """A file of reconstructed events: every fitted candidate, as in the .npz file. Called with chunks; a context manager, as TableFile."""

    def __init__(
        self,
        path: Path,
        source: EventSource,
        source_path: Path,
        menu: Menu,
        config: Configuration,
        selector: Selector,
        *,
        tables: Sequence[str] = (),
        columns: Sequence[str] = (),
        layout: RootLayout = RootLayout.RNTUPLE,
    ) -> None:
        """Raises ConfigError for tables or columns that are not there, SampleError for truth that is not, OSError as TableFile."""
        self._source = source
        self._paths = tuple(path.name for path in menu.paths)
        schema = event_schema(decision=OUTPUT_DECISION, paths=self._paths, tables=tuple(tables) or FITS)
        schema = schema.chosen(columns) if columns else schema
        self._tables = tuple(schema.tables)
        if HAS_TABLES in schema.names:  # it looks at those of the reconstruction, also where no column of theirs is wanted
            self._tables = tuple(dict.fromkeys((*self._tables, *(table for table in tables or FITS if table in RECONSTRUCTED))))
        self._truth = tuple(table for table in self._tables if table in ARRAYS)
        if self._truth and len(source):
            truth_tables(source.truth(0), self._truth, source.name)
        models = loaded(selector)
        self._menu, self._models = menu_id(menu.hash), models_id(models)
        metadata: dict[str, Any] = {
            "made_by": "reco",
            "sources": fingerprints([source_path]),
            "detectors": [detector_text(source.detector())],
            "deciders": [
                {
                    "menu": menu.hash,
                    "paths": list(self._paths),
                    "path_streams": [path.stream for path in menu.paths],
                    "models": [
                        {key: getattr(model, key) for key in ("target", "name", "version", "hash", "engine", "working_point")}
                        for model in models
                    ],
                    "config": {"reconstruction": config.name},
                }
            ],
        }
        self._file = TableFile(path, schema, metadata, layout=layout)

    def __call__(self, places: Sequence[int], result: BatchResult) -> None:
        """Append a chunk: places of its events in the source."""
        decisions = np.zeros(len(places), OUTPUT_DECISION)
        decisions["menu"], decisions["models"] = self._menu, self._models
        for name in RESULT.names or ():
            decisions[name] = result.results[name]
        for k, place in enumerate(places):
            self._file.append(EventRow(self._source[place].id, decisions[k : k + 1], self._paths, tables=self._event(k, place, result)))

    def _event(self, k: int, place: int, result: BatchResult) -> dict[str, Any]:
        tables: dict[str, Any] = {}
        if "tracks" in self._tables:
            tracks = result.tracks(k)
            tables["tracks"] = {**tracks, "hits": tracks["hits"].astype(np.int32)}
        if "vertices" in self._tables:
            tables["vertices"] = result.vertices(k)
        if "hits" in self._tables:
            tables["hits"] = result.hits(k)
        if self._truth:
            tables |= truth_tables(self._source.truth(place), self._truth, f"{self._source.name}: event number {place}")
        return tables | payload_table(self._source[place].payload) if PAYLOAD in self._tables else tables

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._file.__exit__(kind, error, trace)


def npz_only(tables: Sequence[str] | None, columns: Sequence[str] | None) -> None:
    """Raise ConfigError if a choice was made that the .npz file does not know."""
    if tables or columns:
        raise ConfigError("--table and --columns are for .root, .parquet and .arrow files; an .npz file holds what it always does")
