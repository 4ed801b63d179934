"""Configurations of the reconstruction: what does not fit is refused with a reason."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from hltfarm.loadgen.source import open_source
from hltfarm.proto.detector import phase1
from hltfarm.proto.detector.description import Layer
from hltfarm.proto.errors import ConfigError
from hltfarm.workers.arena import host_allocate
from hltfarm.workers.configuration import DEFAULT, MAX_PHI_CUT, configuration, fill_tables, params, with_models
from hltfarm.workers.dnn.selector import Selector
from hltfarm.workers.menu import DEFAULT_MENU, Menu
from hltfarm.workers.reconstructor import Reconstructor


def with_first_pair(**changes):
    pairs = (replace(DEFAULT.cells.pairs[0], **changes), *DEFAULT.cells.pairs[1:])
    return replace(DEFAULT, cells=replace(DEFAULT.cells, pairs=pairs))


def test_unknown_name():
    with pytest.raises(ConfigError, match=r"'run2' is unknown; known are default, patatrack-phase1"):
        configuration("run2")


def test_a_working_point_needs_a_selector():
    for config, model in ((DEFAULT, "none"), (configuration("patatrack-phase1"), None)):
        with pytest.raises(ConfigError, match=r"working point '0\.99' has no effect without a selector; name one as model"):
            with_models(config, model, "0.99")
    assert with_models(DEFAULT, None, "0.98").selection.working_point == "0.98"
    assert with_models(with_models(DEFAULT, None, "0.98"), "none").selection.working_point is None


def test_unknown_layer():
    with pytest.raises(ConfigError, match="needs layer TIB1, detector phase1 has BPIX1"):
        fill_tables(with_first_pair(outer="TIB1"), phase1(), host_allocate)


@pytest.mark.parametrize("cut", [-1, MAX_PHI_CUT + 1])
def test_window_of_azimuth(cut):
    with pytest.raises(ConfigError, match=f"phi_cut {cut} of BPIX1 to BPIX2"):
        fill_tables(with_first_pair(phi_cut=cut), phase1(), host_allocate)


def test_track_length():
    with pytest.raises(ConfigError, match="tracks of 3 to 9 hits"):
        params(replace(DEFAULT, tracks=replace(DEFAULT.tracks, max_track_hits=9)), phase1(), Selector())


def test_a_layer_without_modules_changes_nothing(repository):
    """The empty layer's hits end where they begin, in every event of a batch."""
    sample = open_source(repository / "loadgen" / "data" / "demo.hlt")
    events = [sample[i] for i in range(4)]
    detector = phase1()
    extended = replace(detector, layers=(*detector.layers, Layer("empty", detector.n_modules, 0, False)))
    rows = []
    for d in (detector, extended):
        with Reconstructor(d, Menu.parse(DEFAULT_MENU), backend="cpu", threads=1, events_per_task=4) as reconstructor:
            rows.append(reconstructor.run(events).results)
    np.testing.assert_array_equal(rows[0], rows[1])
