"""What decides, as the ingests tell it. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from hltfarm.proto.messages import Programme, RunConfig, Snapshot
from hltfarm.service.control.link import FarmView
from hltfarm.service.control.merge import leaving
from hltfarm.service.registry import Activation
from hltfarm.service.runcontrol import OPEN


def in_run(view: FarmView, run: int) -> list[tuple[str, Snapshot]]:
    """Ingests that have the open run and do not leave it, with what they say."""
    parts = [(ingest.endpoint, ingest.snapshot) for ingest in view.ingests if ingest.snapshot is not None]
    return [(endpoint, part) for endpoint, part in parts if part.run == run and part.state in OPEN and not leaving(part)]


def before(view: FarmView) -> RunConfig | None:
    """What decided before the latest programme of the run, None if nothing else did."""
    programmes = view.snapshot.programmes if view.snapshot is not None else ()
    if not programmes:
        return None
    latest = programmes[-1].config
    return next((programme.config for programme in reversed(programmes[:-1]) if programme.config != latest), None)


def needed(view: FarmView) -> Sequence[RunConfig]:
    """Every configuration that an ingest of the farm decides with, prepares or casts a shadow with."""
    found: list[RunConfig] = []
    for ingest in view.ingests:
        if (snapshot := ingest.snapshot) is None or snapshot.run is None:
            continue
        found += [programme.config for programme in snapshot.programmes]
        found += [part.config for part in (snapshot.pending, snapshot.shadow) if part is not None]
    return [config for i, config in enumerate(found) if config not in found[:i]]


def still_needed(view: FarmView, run: int | None, earlier: Sequence[RunConfig]) -> Sequence[RunConfig]:
    """As `needed`, with what was so at `earlier` looks, as long as an ingest is away or has to be brought into the open run again."""
    present = needed(view)
    snapshots = [ingest.snapshot for ingest in view.ingests]
    if all(snapshot is not None and run in (None, snapshot.run) for snapshot in snapshots):
        return present
    return [*present, *(config for config in earlier if config not in present)]


def current(snapshot: Snapshot) -> Programme | None:
    """The programme of the present lumisection; the first one before any event."""
    begun = [programme for programme in snapshot.programmes if programme.first_lumi <= snapshot.lumi]
    return begun[-1] if begun else next(iter(snapshot.programmes), None)


class ActivationBook:
    """What decided a run, beyond the few programmes that ingests keep. `known`: of a run that is adopted, from the registry."""

    def __init__(self, known: Iterable[Activation] = ()) -> None:
        self._entries = list(known)

    def observe(self, programmes: Sequence[Programme]) -> None:
        """Take in the programmes of a snapshot, in order of their first lumisections; those that nobody has built are left out.

        The oldest one of a snapshot may have had its first lumisection replaced by 0: it stands for all that came before it.
        """
        present: list[Activation] = []
        for i, programme in enumerate(programmes):
            if not programme.menu_hash:
                continue
            limit = programmes[i + 1].first_lumi if i + 1 < len(programmes) else None
            known = next((entry for entry in reversed(self._entries) if _same(entry, programme, limit)), None)
            counted = Activation(
                first_lumi=programme.first_lumi,
                menu=programme.config.menu,
                menu_hash=programme.menu_hash,
                models=programme.models,
                accepted=programme.accepted,
                rejected=programme.rejected,
            )
            if known is not None:
                self._entries.remove(known)
                first = max(known.first_lumi, counted.first_lumi)
                accepted, rejected = max(known.accepted, counted.accepted), max(known.rejected, counted.rejected)
                counted = replace(counted, first_lumi=first, accepted=accepted, rejected=rejected)
            present.append(counted)
        # What is not there any more decided something, or was replaced before it began.
        gone = [entry for entry in self._entries if entry.accepted or entry.rejected]
        self._entries = sorted([*gone, *present], key=lambda entry: entry.first_lumi)

    @property
    def entries(self) -> list[Activation]:
        """In order of their first lumisections."""
        return list(self._entries)


def _same(entry: Activation, programme: Programme, limit: int | None) -> bool:
    """Whether an entry is of this programme; `limit`: first lumisection of the next one."""
    if (entry.menu, entry.menu_hash, entry.models) != (programme.config.menu, programme.menu_hash, programme.models):
        return False
    if programme.first_lumi:
        return entry.first_lumi == programme.first_lumi
    return limit is None or entry.first_lumi < limit
