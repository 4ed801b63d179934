"""Programmes of a run as a machine: which is activated, and what workers have to hold."""

from __future__ import annotations

import numpy as np
import pytest

from hltfarm.proto.errors import ConfigError, StateError
from hltfarm.proto.messages import RunConfig
from hltfarm.service.ingest.programmes import LAST_LUMI, MOST_ACTIVE, Programmes


def config(menu: str) -> RunConfig:
    return RunConfig(run=1, menu=menu)


def in_run() -> Programmes:
    programmes = Programmes()
    programmes.configure(config("first"))
    return programmes


def test_who_names_a_configuration_activates_no_other() -> None:
    """Somebody else has prepared his meanwhile."""
    programmes = in_run()
    theirs = programmes.prepare(config("theirs"))
    with pytest.raises(StateError, match="no programme is prepared"):
        programmes.activate(0, (), config("mine"))
    assert programmes.pending is theirs
    assert programmes.activate(0, (), config("theirs")) is theirs
    third = programmes.prepare(config("third"))
    assert programmes.activate(7, ("w0",), config("theirs")).first_lumi == 7, "moved, what is prepared stays"
    assert programmes.pending is third


def test_no_programme_begins_after_the_last_lumisection() -> None:
    """One event of a confused client is enough to get there."""
    programmes = in_run()
    programmes.admit(LAST_LUMI)
    entry = programmes.prepare(config("second"))
    with pytest.raises(ConfigError, match="no lumisection 4294967296 can come, the present one is 4294967295"):
        programmes.activate(0, ())
    assert (programmes.pending, len(programmes.active)) == (entry, 1)


def test_workers_hold_what_an_event_in_flight_names_and_no_longer() -> None:
    programmes = in_run()
    first = programmes.active[0]
    late = programmes.admit(1)
    for number in range(MOST_ACTIVE):
        programmes.prepare(config(f"menu {number}"))
        programmes.activate(0, ())
        programmes.admit(programmes.lumi + 1)
    assert late == first.generation
    assert first not in programmes.active
    assert programmes.wanted[0] is programmes.deciding[0] is first
    assert programmes.retired() == []
    programmes.decided(np.array([late], np.uint32), None)
    assert first not in programmes.wanted
    assert programmes.deciding == programmes.active
    assert programmes.retired() == [late]
