"""What `hltfarm ctl` prints of models."""

from __future__ import annotations

from hltfarm.service.cli.ctl.session import models_text


def test_models_are_told_apart_by_their_working_points() -> None:
    selector = {"name": "track-mlp", "version": 1, "hash": "9fdb", "working_point": "0.98"}
    classifier = {"name": "event-mlp", "version": 2, "hash": "adce", "working_point": None}
    assert models_text([selector, classifier]) == "track-mlp 1 (9fdb, working point 0.98), event-mlp 2 (adce)"
    assert models_text([]) == "none"
