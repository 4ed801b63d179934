"""`hltfarm registry backup`: a copy that opens, and what cannot be copied."""

from __future__ import annotations

from pathlib import Path

import pytest

from hltfarm.service import cli
from hltfarm.service.registry import Registry
from hltfarm.service.registry.database import sqlite_url
from tests.unit.registry_contract import ASKED


@pytest.mark.parametrize("folder", ["data", "data#2", "a%41b", "really?"])
def test_a_copy_opens(folder: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    registry = Registry(sqlite_url(tmp_path / folder / "runs.db"), lambda: 0.0)
    registry.runs.allocate(ASKED, "hash")
    assert cli.run(["registry", "backup", str(tmp_path / "copy.db"), "--database", str(tmp_path / folder)]) == 0
    registry.close()
    assert f"{tmp_path}/copy.db: copy of {tmp_path}/{folder}/runs.db" in capsys.readouterr().out
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(["copy.db", folder])
    copied = Registry(f"sqlite:///{tmp_path}/copy.db", lambda: 0.0)
    assert [record.config.run for record in copied.runs.page(10)] == [1]
    copied.close()


@pytest.mark.parametrize(
    ("file", "database", "said"),
    [
        ("copy.db", "absent", "there is no such file"),
        ("no/copy.db", "data", "there is no folder"),
        ("data", "data", "is a folder"),
        ("data/runs.db", "data", "is the registry itself"),
        ("copy.db", "postgresql://ann:sesame@host/runs", "use the tools of its database"),
    ],
)
def test_what_cannot_be_copied_ends_with_one_line(
    file: str, database: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Registry(f"sqlite:///{tmp_path}/data/runs.db", lambda: 0.0).close()
    assert cli.run(["registry", "backup", file, "--database", database]) == 2
    error = capsys.readouterr().err
    assert (error.count("\n"), "sesame" in error) == (1, False)
    assert said in error
