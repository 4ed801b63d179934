"""Events of a client or a consumer into a file, as they come."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from hltfarm.proto.errors import ConfigError
from hltfarm.service.client import Decision
from hltfarm.service.export.events import FITS, Event, decider_of, row_of, schema_of
from hltfarm.service.export.root_file import RootLayout
from hltfarm.service.export.table_file import TableFile, check_suffix

#: Files that are open at a time. Around an exchange, events of the menu before and of the next one come in turns.
OPEN = 2


class EventSink:
    """Appends events, and writes a row group (record batch, cluster) of at most 32 MiB or 8192 events when it is full; a context manager.

    The first event says which columns there are. Where another menu or model decides, a further file begins: `events.part2.parquet`.
    Decisions of a client are in one file; `menu` says which of them the names `paths` are for.
    A file appears under its name when it is complete; an error inside the `with` removes the one that is not.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        tables: Sequence[str] = FITS,
        columns: Sequence[str] = (),
        raw: bool = False,
        paths: Sequence[str] = (),
        metadata: Mapping[str, Any] | None = None,
        layout: RootLayout = RootLayout.RNTUPLE,
    ) -> None:
        """columns: patterns of the columns to write, all if empty. paths: names of the menu's paths, for decisions of a client.

        Raises ConfigError for a suffix that is no format, BackendError without the extra `data`.
        """
        self.path = Path(path)
        check_suffix("file", self.path)
        self.files: list[Path] = []  #: complete ones
        self._tables, self._columns, self._raw, self._paths = tuple(tables), tuple(columns), raw, tuple(paths)
        self._metadata, self._layout = dict(metadata or {}), layout
        self._open: list[tuple[dict[str, Any] | None, TableFile]] = []  # description of what decided, and the file of its events
        self._begun = 0

    def append(self, event: Event) -> None:
        """Add an event. Raises OSError if the disk refuses, LayoutError for tables that are not as expected, ConfigError for a pattern that
        matches no column."""
        description = None if isinstance(event, Decision) else event.description
        file = next((file for known, file in self._open if known == description), None)
        if file is None:
            file = self._next(event, description)
        file.append(row_of(event, raw=self._raw, paths=self._paths))

    def close(self) -> None:
        """Complete the files. Without any event there is none."""
        try:
            while self._open:
                self._complete()
        except BaseException:
            self.abort()
            raise

    def abort(self) -> None:
        """Remove the files that are not complete."""
        while self._open:
            self._open.pop(0)[1].abort()

    def _complete(self) -> None:
        _, file = self._open.pop(0)
        file.close()
        if file.complete:  # and not given up when the disk refused a block of it
            self.files.append(file.path)

    def _next(self, event: Event, description: dict[str, Any] | None) -> TableFile:
        if len(self._open) == OPEN:
            self._complete()
        if self._raw and isinstance(event, Decision):
            raise ConfigError("decisions of a client carry no raw data; leave raw out")
        schema = schema_of([event], tables=self._tables, raw=self._raw, paths=self._paths)
        schema = schema.chosen(self._columns) if self._columns else schema
        number = self._begun + 1
        path = self.path if number == 1 else self.path.with_name(f"{self.path.stem}.part{number}{self.path.suffix}")
        about = {**self._metadata, **({} if description is None else {"deciders": [decider_of(description)]})}
        file = TableFile(path, schema, about, layout=self._layout)
        self._begun = number
        self._open.append((description, file))
        return file

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if kind is None:
            self.close()
        else:
            self.abort()
