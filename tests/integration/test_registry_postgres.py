"""The registry on a real PostgreSQL: its contract, and a server that goes away during a run and comes back."""

from __future__ import annotations

import asyncio
import os
import pwd
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from hltfarm.service.registry import DatabaseError, Outcome, Registry
from hltfarm.service.registry import database as database_module
from hltfarm.service.registry.recorder import Recorder
from tests.unit import registry_contract
from tests.unit.registry_contract import ASKED, LEDGER, Open


def programs() -> Path | None:
    """Folder with PostgreSQL's initdb and pg_ctl."""
    found = shutil.which("initdb")
    folders = [Path(found).resolve().parent] if found else sorted(Path("/usr/lib/postgresql").glob("*/bin"))
    return next((folder for folder in reversed(folders) if (folder / "pg_ctl").exists()), None)


class Server:
    """A PostgreSQL of its own, on a free port. Root cannot run one: then it belongs to the user postgres."""

    def __init__(self, folder: Path, bin_: Path) -> None:
        self._bin, self._data = bin_, folder / "data"
        self._user = "postgres" if os.getuid() == 0 else None
        if self._user is not None:
            entry = pwd.getpwnam(self._user)
            os.chown(folder, entry.pw_uid, entry.pw_gid)
        with socket.create_server(("127.0.0.1", 0)) as listening:
            self.port = listening.getsockname()[1]
        self._call("initdb", "-D", str(self._data), "-U", "farm", "--auth=trust", "--no-sync")
        options = f"-p {self.port} -k {folder} -c listen_addresses=127.0.0.1 -c fsync=off"
        self._start = ("pg_ctl", "-D", str(self._data), "-w", "-l", str(folder / "log"), "-o", options, "start")
        self.start()

    def _call(self, program: str, *arguments: str) -> None:
        subprocess.run([str(self._bin / program), *arguments], check=True, capture_output=True, timeout=120, user=self._user, cwd="/")

    def start(self) -> None:
        self._call(*self._start)

    def stop(self) -> None:
        self._call("pg_ctl", "-D", str(self._data), "-m", "immediate", "-w", "stop")

    def url(self, database: str) -> str:
        return f"postgresql://farm@127.0.0.1:{self.port}/{database}"

    def create(self, database: str) -> str:
        self._call("createdb", "-h", "127.0.0.1", "-p", str(self.port), "-U", "farm", database)
        return self.url(database)


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    pytest.importorskip("psycopg", reason="the extra 'postgres' is not installed")
    bin_ = programs()
    if bin_ is None:
        pytest.skip("no PostgreSQL here: neither initdb on the path nor /usr/lib/postgresql/*/bin")
    with tempfile.TemporaryDirectory(prefix="pg-") as name:
        running = Server(Path(name), bin_)
        yield running
        running.stop()


@pytest.fixture
def database(server: Server, request: pytest.FixtureRequest) -> str:
    return server.create(f"t{abs(hash(request.node.nodeid))}")


@pytest.fixture
def open_(database: str) -> Iterator[Open]:
    opened: list[Registry] = []

    def open_one(farm: str = "") -> Registry:
        opened.append(Registry(database, lambda: 1000.0, farm))
        return opened[-1]

    yield open_one
    for registry in opened:
        registry.close()


@pytest.mark.parametrize("check", registry_contract.CHECKS, ids=lambda check: check.__name__.removeprefix("check_"))
def test_contract(check: object, open_: Open) -> None:
    check(open_)  # type: ignore[operator]


def test_what_happens_while_the_server_is_gone_is_written_when_it_is_back(server: Server, open_: Open) -> None:
    registry = open_()
    run = registry.runs.allocate(ASKED, "hash").run

    async def main() -> None:
        recorder = Recorder(registry, retry_s=0.05)
        await asyncio.to_thread(server.stop)
        recorder.write("the start", lambda registry: registry.runs.begin(run, 10.0))
        recorder.write("the end", lambda registry: registry.runs.finish(run, Outcome.STOPPED, LEDGER, 20.0))
        with pytest.raises(DatabaseError):
            await recorder.read(lambda registry: registry.runs.get(run))
        assert (recorder.pending, recorder.lost) == (2, 0)
        assert recorder.problem is not None
        assert "2 entries wait" in recorder.problem
        await asyncio.to_thread(server.start)
        async with asyncio.timeout(30):
            while recorder.pending:
                await asyncio.sleep(0.05)
        record = await recorder.read(lambda registry: registry.runs.get(run))
        assert record is not None
        assert (record.outcome, record.ledger, recorder.problem, recorder.lost) == (Outcome.STOPPED, LEDGER, None, 0)
        await recorder.close()

    asyncio.run(main())


def test_a_table_that_somebody_has_locked_is_a_failure_and_no_wait_without_end(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    psycopg = pytest.importorskip("psycopg")

    monkeypatch.setattr(database_module, "LOCK_MS", 100)
    registry = Registry(server.create("locked"), lambda: 1.0)
    try:
        with psycopg.connect(server.url("locked")) as other:
            other.execute("LOCK TABLE runs IN ACCESS EXCLUSIVE MODE")
            with pytest.raises(DatabaseError, match="lock timeout"):
                registry.runs.allocate(ASKED, "hash")
            other.rollback()
        assert registry.runs.allocate(ASKED, "hash").run == 1
    finally:
        registry.close()
