"""The sign of life of a role, and `hltfarm health` that reads it."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from hltfarm.proto.errors import ConfigError
from hltfarm.proto.status_file import EVERY_S, FRESH_S, StatusFile, UnhealthyError, check
from hltfarm.service.cli import run


def test_it_is_rewritten_once_a_second_and_gets_old(tmp_path: Path) -> None:
    now, looks = [100.0], list[float]()
    path = tmp_path / "status.json"
    file = StatusFile(path, "ingest", lambda: now[0])

    def look() -> tuple[bool, str]:
        looks.append(now[0])
        return len(looks) > 1, f"look {len(looks)}"

    for step in (0.0, 0.5, EVERY_S):
        now[0] = 100.0 + step
        file.tell(look)
    assert looks == [100.0, 100.0 + EVERY_S]
    assert check(path, "ingest", True, now[0] + FRESH_S).text == "look 2"
    with pytest.raises(UnhealthyError, match="stands still since 16 s"):
        check(path, "ingest", False, now[0] + FRESH_S + 1)
    with pytest.raises(UnhealthyError, match="of the role ingest, not of worker"):
        check(path, "worker", False, now[0])
    with pytest.raises(UnhealthyError, match="stands still"):
        check(path, "ingest", False, now[0] - 100)  # of a machine that was up longer
    file.remove()
    with pytest.raises(UnhealthyError, match="has not started"):
        check(path, "ingest", False, now[0])


def test_a_file_that_cannot_be_written_is_said_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    now = [0.0]
    file = StatusFile(tmp_path / "not there" / "status.json", "worker", lambda: now[0])
    for second in range(3):
        now[0] = second * 2.0
        file.tell(lambda: (True, ""))
    assert len(caplog.records) == 1


def test_a_file_that_cannot_be_removed_keeps_no_role_from_its_end(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for path in (tmp_path, tmp_path / "status.json" / "no folder"):
        (tmp_path / "status.json").touch()
        StatusFile(path, "worker").remove()
    assert [record.levelname for record in caplog.records] == ["WARNING"] * 2


def test_exit_codes(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HLTFARM_STATUS", raising=False)
    path = tmp_path / "status.json"
    StatusFile(path, "ingest").tell(lambda: (False, "Halted, 0 workers"))
    assert run(["health", "ingest", "--status", str(path)]) == 0
    assert capsys.readouterr().out.endswith("Halted, 0 workers\n")
    assert run(["health", "ingest", "--ready", "--status", str(path)]) == 1
    assert "not ready: Halted, 0 workers" in capsys.readouterr().err
    assert run(["health", "ingest"]) == 2
    path.write_text("{}")
    assert run(["health", "ingest", "--status", str(path)]) == 2
    for content in (b"{}", b'{"role":"ingest\xff"}'):
        path.write_bytes(content)
        with pytest.raises(ConfigError, match="no status file"):
            check(path, "ingest", False, time.monotonic())
    assert run(["health", "control", "--http", "http://127.0.0.1:9"]) == 1
