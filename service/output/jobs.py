"""What the files' writer is told, in this order, and what it tells."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from hltfarm.proto.messages import LedgerCounts
from hltfarm.service.output.events import Deciders, OutputEvent
from hltfarm.service.output.hlt_file import Place


@dataclass(frozen=True, slots=True)
class Prepare:
    """Events of this detector will come: reading it takes time, which the first of them should not wait for."""

    detector: str


@dataclass(frozen=True, slots=True)
class Append:
    """Events for file number `file`, which begins with the first of them."""

    file: int
    place: Place
    deciders: Deciders
    events: tuple[OutputEvent, ...]


@dataclass(frozen=True, slots=True)
class Close:
    """File number `file` gets nothing more. `counts`: of its lumisection."""

    file: int
    counts: LedgerCounts


@dataclass(frozen=True, slots=True)
class Summarise:
    """A lumisection is closed; its files were before."""

    run: int
    lumi: int
    counts: LedgerCounts


Job: TypeAlias = Prepare | Append | Close | Summarise


@dataclass(frozen=True, slots=True)
class Written:
    """One file has these events, as safe as the fsync policy says. An event is named once for every file it is in."""

    numbers: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class NotWritten:
    """These events were given up before they were written to one file (`FileWriter.abandon`)."""

    numbers: tuple[int, ...]


Report: TypeAlias = Written | NotWritten
