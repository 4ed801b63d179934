"""Tracks and vertices of chosen events on every backend: those of `keep=True`, of accepted events only."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from hltfarm.loadgen.source import open_source
from hltfarm.proto.errors import ConfigError
from hltfarm.workers.columns import LOOSE, REPLY_TRACKS
from hltfarm.workers.menu import Menu
from hltfarm.workers.reconstructor import Reconstructor
from tests.reference.backends import BACKENDS

MENU = Menu.parse(
    json.dumps({"version": 1, "paths": [{"name": "HLT_V", "stream": "s", "prescale": 1, "require": {"vertices": {"min": 8}}}]})
)
SAMPLE = open_source(Path(__file__).resolve().parents[2] / "loadgen" / "data" / "demo.hlt")


@pytest.mark.parametrize("backend", BACKENDS)
def test_columns_of_events_that_are_asked_for_and_accepted(backend: str) -> None:
    events = [SAMPLE[i] for i in range(len(SAMPLE))]
    asked = [i != 1 for i in range(len(events))]
    with Reconstructor(SAMPLE.detector(), MENU, backend=backend, threads=2, events_per_task=2, max_events=4) as reconstructor:
        everything = reconstructor.run(events, keep=True)
        some = reconstructor.run(events, columns=asked)
        with pytest.raises(ConfigError, match="entries"):
            reconstructor.run(events, columns=asked[1:])
        assert reconstructor.run(events).reply(0) is None
    assert some.results.tobytes() == everything.results.tobytes()
    accepted = [bool(accept) for accept in some.results["accept"]]
    assert {True, False} == set(accepted)
    for i, (want, accept) in enumerate(zip(asked, accepted, strict=True)):
        with pytest.raises(ConfigError, match="kept"):
            some.hits(i)
        if not (want and accept):
            assert some.reply(i) is None
            with pytest.raises(ConfigError, match="not kept"):
                some.tracks(i)
            continue
        reply, loose = some.reply(i), everything.tracks(i)["quality"] >= LOOSE
        assert reply is not None
        for name, column in everything.tracks(i).items():
            assert some.tracks(i)[name].tobytes() == column.tobytes(), name
            if name in REPLY_TRACKS:
                assert (reply["tracks"][name] == column[loose]).all(), name
        assert reply["tracks"].keys() == set(REPLY_TRACKS)
        for name, column in everything.vertices(i).items():
            assert some.vertices(i)[name].tobytes() == column.tobytes() == reply["vertices"][name].tobytes(), name
