"""A file of events in one of the formats, chosen by its suffix: complete under its name, or not there at all."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from importlib.metadata import version
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self

from hltfarm.proto.errors import ConfigError, LayoutError
from hltfarm.service.export.arrow_file import ArrowFile, ParquetFile
from hltfarm.service.export.block import Block, Collector, EventRow
from hltfarm.service.export.extra import load
from hltfarm.service.export.root_file import RootFile, RootLayout
from hltfarm.service.export.schema import EventSchema
from hltfarm.service.output.sidecar import sync_folder

SUFFIXES = (".root", ".parquet", ".arrow")
PART = ".part"  #: what the name of a file that is not complete ends in
BLOCK_BYTES = 32 << 20  #: of the columns of a row group, record batch or cluster, before compression
BLOCK_EVENTS = 8192
FORMAT = 1  #: version of the metadata


class _Writer(Protocol):
    def write(self, block: Block) -> None: ...

    def close(self) -> None: ...

    def abandon(self) -> None: ...


def check_suffix(option: str, path: Path, also: tuple[str, ...] = ()) -> None:
    """Raise ConfigError for a name whose suffix is no format, BackendError if the modules for it are missing."""
    if path.suffix not in (*also, *SUFFIXES):
        raise ConfigError(f"{option} {path}: the suffix tells the format; use {', '.join((*also, *SUFFIXES))}")
    if path.suffix in SUFFIXES:
        load("uproot" if path.suffix == ".root" else "pyarrow", f"{option} {path}")


class TableFile:
    """Events into a file, in blocks; a context manager. Memory is that of a block.

    Until it is closed without an error the file is `<name>.part`; a file of that name that was there before stays until then.
    """

    def __init__(
        self, path: str | Path, schema: EventSchema, metadata: Mapping[str, Any] | None = None, *, layout: RootLayout = RootLayout.RNTUPLE
    ) -> None:
        """metadata: JSON-able; the columns and the version are added. Raises ConfigError for another suffix, BackendError without the extra
        `data`, OSError if the file cannot be made."""
        self.path = Path(path)
        self.events = 0
        self.complete = False  #: whether it is there under its name
        check_suffix("file", self.path)
        self._part = self.path.with_name(self.path.name + PART)
        self._collector = Collector(schema)
        text = {"format": FORMAT, "version": version("hltfarm"), **(metadata or {}), "columns": schema.described()}
        self._closed = False
        try:
            with self._named():
                self._writer = self._open(schema, text, layout)
        except BaseException:
            self._part.unlink(missing_ok=True)
            raise

    def append(self, row: EventRow) -> None:
        """Add an event; its arrays must not change before the next block is written. Raises LayoutError if it does not fit the schema,
        OSError if the disk refuses: the file is given up then, as a block is missing in it."""
        if self._closed:
            raise LayoutError(f"{self.path}: the file is closed or given up; it takes no more events")
        self._collector.append(row)
        self.events += 1
        if self._collector.size >= BLOCK_BYTES or len(self._collector) >= BLOCK_EVENTS:
            try:
                with self._named():
                    self._writer.write(self._collector.take())
            except BaseException:
                self.abort()
                raise

    def close(self) -> None:
        """Write what is left, force it to the medium, and give the file its name. Without events there is a file with columns alone."""
        if self._closed:
            return
        try:
            with self._named():
                if len(self._collector) or not self.events:
                    self._writer.write(self._collector.take())
                self._writer.close()
                _sync(self._part)
                os.replace(self._part, self.path)
        except BaseException:
            self.abort()
            raise
        self._closed = self.complete = True
        sync_folder(self.path.parent)

    def abort(self) -> None:
        """Give up: remove what was written."""
        if not self._closed:
            self._closed = True
            with suppress(Exception):  # the disk may refuse the end of a file that nobody wants any more
                self._writer.abandon()
            self._part.unlink(missing_ok=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if kind is None:
            self.close()
        else:
            self.abort()

    @contextmanager
    def _named(self) -> Iterator[None]:
        """Errors of the disk name the file."""
        try:
            yield
        except OSError as error:
            if error.filename is not None:
                raise
            raise OSError(error.errno, error.strerror or str(error), str(self.path)) from error

    def _open(self, schema: EventSchema, metadata: Mapping[str, Any], layout: RootLayout) -> _Writer:
        if self.path.suffix == ".root":
            return RootFile(self._part, schema, metadata, layout)
        return (ParquetFile if self.path.suffix == ".parquet" else ArrowFile)(self._part, schema, metadata)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
