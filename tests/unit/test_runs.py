"""The run registry: configurations and models come back as they went in."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from hltfarm.proto.errors import ConfigError
from hltfarm.proto.messages import RunConfig
from hltfarm.service.runs import RunRegistry
from tests.unit.farm_fake import CLASSIFIER, SELECTOR

ASKED = RunConfig(run=0, detector="d", menu="m", model="/models/x", working_point="0.99", engine="aot", event_model="none")


@pytest.fixture
def registry() -> Iterator[RunRegistry]:
    opened = RunRegistry("sqlite://", lambda: 1000.0)
    yield opened
    opened.close()


def test_a_configuration_comes_back_with_its_number(registry: RunRegistry) -> None:
    given = registry.allocate(ASKED, "hash")
    assert given == RunConfig(run=1, detector="d", menu="m", model="/models/x", working_point="0.99", engine="aot", event_model="none")
    record = registry.get(1)
    assert record is not None
    assert (record.config, record.menu_hash, record.models) == (given, "hash", None)
    with pytest.raises(ConfigError, match="the last was 1"):
        registry.allocate(given, "hash")


@pytest.mark.parametrize("models", [(), (SELECTOR,), (SELECTOR, CLASSIFIER)])
def test_models_that_decided_come_back(registry: RunRegistry, models: tuple[object, ...]) -> None:
    registry.allocate(ASKED, "hash")
    registry.decided_by(1, models)  # type: ignore[arg-type]
    record = registry.get(1)
    assert record is not None
    assert record.models == models


def test_a_database_of_another_version_is_refused_with_one_line(tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "runs.db") as connection:
        connection.execute("CREATE TABLE runs (number BIGINT PRIMARY KEY, detector TEXT, menu TEXT)")
    connection.close()
    with pytest.raises(ConfigError, match=r"is of another version \(it has no menu_hash, model, .*\); move it away"):
        RunRegistry(f"sqlite:///{tmp_path}/runs.db", lambda: 0.0)
