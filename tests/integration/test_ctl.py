"""`hltfarm ctl` against the HTTP server of a farm without events: every command, its exit code, and what it prints."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from hltfarm.service import cli
from hltfarm.service.api import FarmApi
from hltfarm.service.cli.ctl import shared_first
from hltfarm.service.control.app import create_app
from hltfarm.service.control.server import ControlServer, listen, url_of
from hltfarm.service.control.settings import ControlSettings
from tests.unit.farm_fake import ENDPOINT, FakeLink
from tests.unit.test_model_store import package

MENU = "version: 1\nname: collisions\npaths:\n  - {name: HLT_All}\n"


class Served:
    """The API of a fake farm, on a port of its own, in a thread."""

    def __init__(self, folder: Path) -> None:
        self.link = FakeLink()
        settings = ControlSettings(ingests=(ENDPOINT,), poll_s=0.05, models=folder / "models", database=f"sqlite:///{folder}/runs.db")
        self._listening = listen("127.0.0.1:0")
        self.url = url_of(self._listening)
        self._server = ControlServer(create_app(settings, self.link))
        self._thread = threading.Thread(target=self._serve, name="http")
        self._thread.start()

    def _serve(self) -> None:
        asyncio.run(self._server.serve(sockets=[self._listening]))

    def close(self) -> None:
        self._server.should_exit = True
        self._thread.join(20)
        assert not self._thread.is_alive()
        self._listening.close()


@pytest.fixture
def farm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Served]:
    served = Served(tmp_path)
    monkeypatch.setenv("HLTFARM_URL", served.url)
    monkeypatch.setattr("hltfarm.service.api.POLL_S", 0.02)
    yield served
    served.close()


class Ctl:
    """Runs `hltfarm ctl` in this process."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys = capsys

    def __call__(self, *arguments: str | Path, code: int = 0) -> str:
        """Output of a command that ends with `code`: of stdout, or of stderr if it fails."""
        found = cli.run(["ctl", *map(str, arguments)])
        said = self._capsys.readouterr()
        assert found == code, said
        assert "Traceback" not in said.err
        return said.out if code == 0 else said.err

    def json(self, *arguments: str | Path) -> Any:
        return json.loads(self(*arguments, "--json"))


@pytest.fixture
def ctl(capsys: pytest.CaptureFixture[str]) -> Ctl:
    return Ctl(capsys)


@pytest.mark.usefixtures("farm")
def test_a_run_from_the_command_line(farm: Served, ctl: Ctl, tmp_path: Path) -> None:
    (tmp_path / "menu.yaml").write_text(MENU)
    assert ctl("status").splitlines()[0] == "Halted, no run, not ready"
    refused = ctl("start", code=1)
    assert refused.count("\n") == 1
    assert refused.endswith("in state Halted; now possible: configure, reset\n")
    assert ctl("configure", "--menu", tmp_path / "menu.yaml", "--run", "5").startswith("configure of run 5: done after ")
    assert ctl("start") == "Running, run 5\n"
    farm.link.received, farm.link.in_flight = 10, 3
    pending = ctl.json("drain", "--no-wait")
    assert (pending["command"], pending["progress"]) == ("drain", "pending")
    assert "now possible: stop, reset" in ctl("drain", code=1)
    assert "stop: still pending after 0.1 s" in ctl("stop", "--timeout", "0.1", code=1)
    assert "received 10 = accepted 0 + rejected 7 + error 0 + in_flight 3\n" in ctl("status")
    farm.link.finish_events()
    transition = pending["id"]
    with FarmApi(farm.url) as api:
        assert api.follow(api.ask("GET", f"/v1/transitions/{transition}"), 10)["progress"] == "done"
    lines = ctl("runs").splitlines()
    assert lines[0].split()[:4] == ["RUN", "OUTCOME", "STARTED", "ENDED"]
    assert lines[1].split()[:2] == ["5", "stopped"]
    assert "ledger: accepted 0, duplicates 0, error 0, in_flight 0, received 10, rejected 10" in ctl("runs", "5")
    assert "run 6 is not in the registry" in ctl("runs", "6", code=1)
    commands = [line.split()[5:7] for line in ctl("audit").splitlines()[1:]]
    assert commands[-1] == ["POST", "/v1/control/start"]
    assert ["POST", "/v1/control/stop"] in commands


@pytest.mark.usefixtures("farm")
def test_menus_from_the_command_line(ctl: Ctl, tmp_path: Path) -> None:
    menu, other, bad = tmp_path / "menu.yaml", tmp_path / "other.yaml", tmp_path / "bad.yaml"
    menu.write_text(MENU)
    other.write_text(MENU.replace("{name: HLT_All}", "{name: HLT_All, prescale: 3}").replace("collisions", "tight"))
    bad.write_text("version: 1\npaths:\n  - {name: HLT_A, require: {trakcs: {min: 1}}}\n  - {name: HLT_B, prescale: -1}\n")
    assert ctl("menu", "validate", menu).startswith("valid: menu collisions, hash ")
    assert ctl("menu", "list").splitlines()[1:] == []
    for file in (menu, other):
        assert ctl("menu", "upload", file).startswith("stored menu ")
    assert [line.split()[0] for line in ctl("menu", "list").splitlines()] == ["NAME", "collisions", "tight"]
    assert ctl("menu", "show", "collisions") == MENU
    told = ctl("menu", "diff", "collisions", "tight")
    assert "~ HLT_All: prescale: 1 -> 3\n" in told
    assert "+  - {name: HLT_All, prescale: 3}\n" in told
    faults = ctl("menu", "upload", bad, code=2).splitlines()
    assert [line.partition(": ")[0] for line in faults] == ["menu:3", "menu:4", "hltfarm"]
    assert faults[-1] == "hltfarm: error: the menu cannot be used: 2 faults, see above"
    assert "cannot be read" in ctl("menu", "upload", tmp_path / "absent.yaml", code=2)
    assert "give --menu or --menu-ref" in ctl("configure", "--menu", menu, "--menu-ref", "tight", code=2)
    ctl("configure", "--menu-ref", "tight")
    assert "in use by run 1" in ctl("menu", "delete", "tight", code=1)
    assert ctl("menu", "delete", "collisions") == "collisions: deleted\n"
    assert "neither a name nor a hash" in ctl("menu", "show", "collisions", code=1)


@pytest.mark.usefixtures("farm")
def test_models_from_the_command_line(farm: Served, ctl: Ctl, tmp_path: Path) -> None:
    folder = package(tmp_path)
    assert ctl("models", "upload", folder).startswith("stored model mine version 1, hash ")
    assert {line.split()[0] for line in ctl("models", "list").splitlines()} >= {"NAME", "track-mlp", "mine"}
    model = ctl.json("models", "show", "mine")
    ctl("configure", "--model", "mine", "--event-model", "none")
    assert farm.link.sent[-1][1] is not None
    assert farm.link.sent[-1][1].model == model["folder"]
    ctl("reset")
    assert ctl("models", "delete", model["hash"]) == f"{model['hash']}: deleted\n"
    assert "neither the folder of a model package nor a zip" in ctl("models", "upload", tmp_path / "absent", code=2)
    (tmp_path / "no.zip").write_text("no zip")
    assert "no zip of a model package" in ctl("models", "upload", tmp_path / "no.zip", code=2)
    assert "name a model" in ctl("models", "activate", code=2)


def test_menus_and_models_of_an_open_run_from_the_command_line(farm: Served, ctl: Ctl, tmp_path: Path) -> None:
    menu, other = tmp_path / "menu.yaml", tmp_path / "other.yaml"
    menu.write_text(MENU)
    other.write_text(MENU.replace("{name: HLT_All}", "{name: HLT_All, prescale: 3}").replace("collisions", "tight"))
    hashes = [ctl.json("menu", "upload", file)["hash"] for file in (menu, other)]
    assert "in an open run; the farm is Halted" in ctl("menu", "activate", "tight", code=1)
    ctl("configure", "--menu", menu)
    ctl("start")
    assert "nothing to go back to" in ctl("menu", "rollback", code=1)
    farm.link.programmes.lumi = 4
    assert ctl("menu", "activate", "tight").startswith("activate of run 1: done, from lumisection 5 on after ")
    assert "already" in ctl("menu", "activate", "tight", code=2)
    assert "'absent'" in ctl("menu", "activate", "absent", code=2)
    assert "lumisection 4 has begun" in ctl("menu", "rollback", "--lumisection", "4", code=2)
    farm.link.decide(4, [True, False])
    farm.link.decide(5, [True, True, False])
    ctl("models", "activate", "none", "--event-model", "none", "--lumisection", "9", "--partial")
    assert ctl.json("menu", "rollback", "--lumisection", "12")["lumisection"] == 12
    rows = [line.split() for line in ctl("programmes").splitlines()]
    assert rows[0] == ["lumisection", "5"]
    assert [(row[0], row[1], *row[-3:]) for row in rows[2:]] == [
        ("0", hashes[0], "1", "1", "-"),
        ("5", hashes[1], "2", "1", "now"),
        ("9", hashes[1], "0", "0", "-"),
        ("12", hashes[1], "0", "0", "-"),
    ]
    farm.link.unable[MENU] = "no such column"
    assert "nothing has changed: worker w0: no such column" in ctl("menu", "activate", "collisions", code=1)
    farm.link.builds = False
    assert "still pending after 0.1 s" in ctl("models", "activate", "none", "--event-model", "", "--timeout", "0.1", code=1)
    assert "on its way" in ctl("menu", "rollback", code=1)


def test_a_shadow_from_the_command_line(farm: Served, ctl: Ctl, tmp_path: Path) -> None:
    menu = tmp_path / "menu.yaml"
    menu.write_text(MENU)
    for command in (("show",), ("stop",)):
        assert "there is no shadow" in ctl("shadow", *command, code=1)
    assert "in an open run" in ctl("shadow", "start", "--menu", menu, code=1)
    ctl("configure")
    ctl("start")
    told = ctl("shadow", "start", "--menu", menu, "--fraction", "0.25").splitlines()
    assert told[0].endswith("models none: 25 % of the events")
    assert farm.link.programmes.shadow is not None
    assert farm.link.programmes.shadow.fraction == 0.25
    assert ctl("shadow", "show").splitlines()[1:4] == [
        "0 events seen, 0 that the shadow could not process",
        "                SHADOW ACCEPTS  SHADOW REJECTS",
        "active accepts  0               0",
    ]
    assert ctl.json("shadow", "stop")["events_fraction"] == 0.25
    assert farm.link.programmes.shadow is None
    assert "greater than 0" in ctl("shadow", "start", "--fraction", "0", code=2)


@pytest.mark.usefixtures("farm")
def test_watching_without_a_terminal(ctl: Ctl) -> None:
    lines = ctl("watch", "--count", "2", "--interval", "0.1").splitlines()
    assert len(lines) == 2
    assert all(" Halted run - in 0.0/s decided 0.0/s" in line for line in lines)
    looks = [json.loads(line) for line in ctl("watch", "--count", "2", "--interval", "0.1", "--json").splitlines()]
    assert [look["state"] for look in looks] == ["Halted", "Halted"]


@pytest.mark.usefixtures("farm")
def test_workers_from_the_command_line(ctl: Ctl) -> None:
    lines = ctl("workers", "list").splitlines()
    assert [line.split()[:2] for line in lines] == [["NAME", "STATE"], ["w0", "ready"], ["w1", "lost"]]
    assert "'nobody'" in ctl("workers", "release", "nobody", code=1)


def test_exit_codes_for_what_does_not_answer_and_for_bad_options(ctl: Ctl) -> None:
    for url in ("http://127.0.0.1:1", "nonsense", "http://[", "ftp://127.0.0.1"):
        said = ctl("status", "--url", url, code=3)
        assert (said.count("\n"), said.startswith("hltfarm: error: no farm answers: ")) == (1, True)
    assert "No such option" in ctl("status", "--colour", code=2)
    assert "No such command" in ctl("begin", code=2)
    assert "Usage: hltfarm ctl menu" in ctl("menu", code=2)


@pytest.mark.parametrize(
    ("given", "ordered"),
    [
        (["menu", "list", "--json"], ["--json", "menu", "list"]),
        (["status", "--url", "u", "--token=t", "x"], ["--url", "u", "--token=t", "status", "x"]),
        (["status", "--", "--json"], ["status", "--", "--json"]),
        (["status", "--url"], ["--url", "status"]),
    ],
)
def test_shared_options_may_stand_anywhere(given: list[str], ordered: list[str]) -> None:
    assert shared_first(given) == ordered
