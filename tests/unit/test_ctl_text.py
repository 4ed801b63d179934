"""What `hltfarm ctl` prints of models."""

from __future__ import annotations

from hltfarm.service.cli.ctl.session import models_text
from hltfarm.service.cli.ctl.shadow import shadow_text


def test_models_are_told_apart_by_their_working_points() -> None:
    selector = {"name": "track-mlp", "version": 1, "hash": "9fdb", "working_point": "0.98"}
    classifier = {"name": "event-mlp", "version": 2, "hash": "adce", "working_point": None}
    assert models_text([selector, classifier]) == "track-mlp 1 (9fdb, working point 0.98), event-mlp 2 (adce)"
    assert models_text([]) == "none"


def test_a_shadow_that_no_worker_has_built_is_not_called_one_without_models() -> None:
    matrix = dict.fromkeys(("both", "active_only", "shadow_only", "neither"), 0)
    shadow = {"menu_hash": "", "models": [], "events_fraction": 0.1, "waits_for": ["worker-0"], "error": None, "matrix": matrix}
    lines = shadow_text(shadow | {"events": 0, "failed": 0, "paths": {}}).splitlines()
    assert lines[:2] == ["not built yet: 10 % of the events", "being built by worker-0"]
