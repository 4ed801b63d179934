"""Every fault once, under load, in real farms: the books have to close, and nothing may be left.

One farm serves most of the module, since starting one takes longer than a round; each round is a run of its own.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from hltfarm.loadgen.source import read_events
from hltfarm.service.chaos import round as rounds
from hltfarm.service.chaos.batches import poison
from hltfarm.service.chaos.farm import Farm, FarmSettings, chaos_farm
from hltfarm.service.chaos.plan import Fault, Injection, Timing, injections
from hltfarm.service.chaos.round import LoadSettings, RoundResult, run_round, warm_up
from hltfarm.service.chaos.scene import Scene
from hltfarm.service.cli import run
from hltfarm.service.cli.demo import demo_menu

#: Shorter than in `hltfarm chaos`; still far longer than this machine takes for a batch.
TIMING = Timing(worker_timeout_s=2.0, batch_timeout_s=4.0, hang_s=4.2, silence_s=1.5)
SECONDS = 3.0


def load(demo_sample: Path) -> LoadSettings:
    return LoadSettings(source="demo.hlt", payloads=read_events(demo_sample), rate_hz=50.0, duration_s=SECONDS, connections=2)


@pytest.fixture(scope="module")
def serve_farm(tmp_path_factory: pytest.TempPathFactory, demo_sample: Path) -> Iterator[Farm]:
    """`hltfarm serve` with two ingests behind proxies, two workers, and a small disk for the error stream."""
    left: list[str] = []
    settings = FarmSettings(
        folder=tmp_path_factory.mktemp("serve"), ingests=2, menu=demo_menu(), timing=TIMING, proxied=True, small_disk=True
    )
    with chaos_farm(settings, False, left) as farm:
        warm_up(farm, load(demo_sample))
        yield farm
    assert left == []


def seed_of(fault: Fault, manner: str) -> int:
    """A seed with which the (only) fault of a round is made in this manner."""
    return next(seed for seed in range(1000) if [item.manner for item in injections(fault, seed, SECONDS, TIMING)] == [manner])


def check(result: RoundResult) -> None:
    assert result.problems == [], result.farm_said
    assert len(result.struck) == 1
    assert result.struck[0].in_flight > 0
    assert result.decided == result.offered > 0
    assert result.statuses > 0
    assert result.ledger is not None
    assert result.ledger["mismatch"] == 0


@pytest.mark.parametrize(
    ("fault", "manner"),
    [
        (Fault.KILL, ""),
        (Fault.STOP, ""),
        (Fault.HANG, ""),
        (Fault.OOM, ""),
        (Fault.SLOW, ""),
        (Fault.CORRUPT, "frames"),
        (Fault.CORRUPT, "payloads"),
        (Fault.CORRUPT, "bytes"),
        (Fault.DISK_FULL, "errors"),
        (Fault.DISK_FULL, "output"),
        (Fault.PARTITION, "stall"),
        (Fault.PARTITION, "drop"),
        (Fault.POISON, "fail"),
        (Fault.POISON, "die"),
        (Fault.SWAP, "menu"),
        (Fault.SWAP, "model"),
        (Fault.KILL_INGEST, ""),
    ],
)
def test_a_fault_in_a_farm(serve_farm: Farm, demo_sample: Path, fault: Fault, manner: str) -> None:
    result = run_round(serve_farm, (fault,), seed_of(fault, manner), load(demo_sample))
    check(result)
    if fault is Fault.KILL_INGEST:
        assert result.resends > 0
    if (fault, manner) == (Fault.DISK_FULL, "output"):
        assert [said for said in result.farm_said if "the output cannot be written" in said]
    if fault is Fault.POISON or manner == "errors":
        assert result.ledger is not None
        assert result.ledger["error"] > 0


def test_two_faults_at_the_same_moment(serve_farm: Farm, demo_sample: Path) -> None:
    result = run_round(serve_farm, (Fault.KILL, Fault.PARTITION), seed_of(Fault.PARTITION, "drop"), load(demo_sample))
    assert result.problems == [], result.farm_said
    assert [(struck.fault, struck.manner) for struck in sorted(result.struck, key=lambda hit: hit.fault)] == [
        ("kill", ""),
        ("partition", "drop"),
    ]
    assert abs(result.struck[0].at_s - result.struck[1].at_s) < 1.0
    assert result.decided == result.offered


@pytest.mark.slow
def test_an_ingest_and_the_control_plane_are_killed_together(tmp_path: Path, demo_sample: Path) -> None:
    left: list[str] = []
    settings = FarmSettings(folder=tmp_path, menu=demo_menu(), timing=replace(TIMING, hang_s=30.0), ingests=2)
    with chaos_farm(settings, True, left) as farm:
        warm_up(farm, load(demo_sample))
        result = run_round(farm, (Fault.KILL_INGEST, Fault.KILL_CONTROL), 1, load(demo_sample))
    assert result.problems == [], result.farm_said
    assert sorted(struck.fault for struck in result.struck) == ["kill-control", "kill-ingest"]
    assert result.resends > 0
    assert left == []


@pytest.mark.slow
def test_faults_in_a_farm_of_single_roles(tmp_path: Path, demo_sample: Path) -> None:
    """One ingest, two workers and a control plane as processes of their own."""
    left: list[str] = []
    patient = replace(TIMING, hang_s=30.0)  # nobody starts a worker again that takes a slow machine's batch for one that hangs
    with chaos_farm(FarmSettings(folder=tmp_path, menu=demo_menu(), timing=patient), True, left) as farm:
        warm_up(farm, load(demo_sample))
        for fault, manner in ((Fault.KILL_CONTROL, ""), (Fault.PARTITION_WORKERS, "stall"), (Fault.PARTITION_WORKERS, "drop")):
            check(run_round(farm, (fault,), seed_of(fault, manner), load(demo_sample)))
    assert left == []


def test_a_bundle_that_is_lost_is_noticed(serve_farm: Farm, demo_sample: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The books of a real round do not close if one event of the error stream is taken away."""

    def steal(scene: Scene, injection: Injection) -> None:
        poison(scene, injection)
        number = scene.farm.api.status()["run"]
        for bundle in (scene.farm.settings.data / "errors").rglob(f"run{number:06d}/[!.]*/bundle.json"):
            shutil.rmtree(bundle.parent)

    monkeypatch.setitem(rounds.INJECTORS, Fault.POISON, steal)
    result = run_round(serve_farm, (Fault.POISON,), seed_of(Fault.POISON, "fail"), load(demo_sample))
    assert [problem for problem in result.problems if "are in the error stream are not" in problem], result.problems


def test_an_output_file_that_is_lost_is_noticed(serve_farm: Farm, demo_sample: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The books of a real round do not close if a file of accepted events is taken away."""
    kept = Farm.kept

    def steal(farm: Farm, run: int) -> dict[str, list[int]]:
        max((farm.settings.data / "output").rglob(f"run{run:06d}*.hlt"), key=lambda path: path.stat().st_size).unlink()
        return kept(farm, run)

    monkeypatch.setattr(Farm, "kept", steal)
    result = run_round(serve_farm, (Fault.OOM,), seed_of(Fault.OOM, ""), load(demo_sample))
    assert len(result.problems) == 1, result.problems
    assert "are in no output file" in result.problems[0]


@pytest.mark.slow
def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "chaos.json"
    code = run(["chaos", "oom", "--duration", "2.5", "--rate", "30", "--seed", "5", "--json", str(out), "--keep", str(tmp_path / "kept")])
    document = json.loads(out.read_text())
    assert code == 0, document
    assert document["closed"] is True
    (only,) = document["rounds"]
    assert (only["fault"], only["seed"], only["ledger"]["mismatch"], only["problems"]) == ("oom", 5, 0, [])
    assert (tmp_path / "kept" / "oom" / "serve.log").exists()
    assert "closed" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["earthquake"], "fault 'earthquake'"),
        (["kill", "--duration", "1"], "--duration"),
        (["kill", "--workers", "1"], "--workers"),
        (["kill", "--source", "/no/such.hlt"], "/no/such.hlt"),
        (["kill", "--json", "/no/such/folder/x.json"], "/no/such/folder"),
        ([], "Missing argument"),
    ],
)
def test_bad_options_end_with_one_line(arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["chaos", *arguments]) == 2
    errors = capsys.readouterr().err
    assert errors.count("\n") == 1
    assert said in errors
