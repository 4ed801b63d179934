"""Output files of a real ingest with real worker processes: what is accepted is on disk before it is decided, whatever the disk does."""

from __future__ import annotations

import errno
import json
import os
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zmq
from crc32c import crc32c

from hltfarm.loadgen.sample import Sample
from hltfarm.proto.errors import ConfigError, StateError
from hltfarm.proto.events import EventId, RawEvent
from hltfarm.proto.messages import RunConfig, RunState
from hltfarm.service.client import Client, Decision
from hltfarm.service.ingest.server import IngestServer
from hltfarm.service.output.settings import Fsync, OutputSettings
from hltfarm.service.supervisor.specs import HLTFARM
from tests.integration.ingest_farm import DEADLINE_S, RUN, Farm, event, payload, stream

MakeFarm = Callable[..., Farm]


def settings(folder: Path, **changes: Any) -> OutputSettings:
    return OutputSettings(**({"folder": folder, "reserve_bytes": 0, "retry_s": 0.02, "grace_s": 0.1} | changes))


def files(folder: Path) -> dict[str, tuple[Sample, dict[str, Any]]]:
    """Every output file by name, checked byte by byte and against its sidecar."""
    found = {}
    for path in sorted(folder.glob("run*/*/*.hlt")):
        sample = Sample(path)
        sample.verify()
        text = json.loads(path.with_suffix(".json").read_text())
        data = path.read_bytes()
        assert (text["file"], text["bytes"], text["crc32c"]) == (path.name, len(data), f"{crc32c(data):08x}")
        assert text["events"] == len(sample)
        assert text["payload_bytes"] == sum(raw.payload.nbytes for raw in sample)
        found[path.name] = (sample, text)
    assert not list(folder.rglob("*.part")) + list(folder.rglob("*.partial"))
    return found


def numbers(folder: Path) -> list[int]:
    return sorted(raw.id.event for sample, _ in files(folder).values() for raw in sample)


def in_lumi(number: int, lumi: int) -> RawEvent:
    return RawEvent(EventId(RUN, lumi, number, 3), payload(number))


def send(client: Client, events: list[RawEvent]) -> list[Decision]:
    decisions: list[Decision] = []
    for raw in events:
        client.send(raw, timeout=DEADLINE_S)
        decisions += client.poll(0)
    return decisions + client.flush(DEADLINE_S)


@pytest.mark.parametrize("fsync", list(Fsync))
def test_accepted_events_are_in_the_file_with_decision_and_columns(make_farm: MakeFarm, tmp_path: Path, fsync: Fsync) -> None:
    farm = make_farm(output=settings(tmp_path, fsync=fsync))
    farm.run(workers=2, models={"w0": "m", "w1": "m"})
    with farm.client() as client:
        client.wait_open(DEADLINE_S)
        decisions = stream(client, range(200))
        assert not any(decision.columns for decision in decisions.values()), "nobody asked for them"
        farm.command("stop")
        snapshot = farm.wait(lambda s: s.state is RunState.CONFIGURED, client)
    ((name, (sample, text)),) = files(tmp_path).items()
    assert name == "run000007_ls0001_physics.hlt"
    assert sorted(raw.id.event for raw in sample) == sorted(n for n, d in decisions.items() if d.accepted) == list(range(1, 200, 2))
    for i, raw in enumerate(sample):
        assert raw.id == EventId(RUN, 1, raw.id.event, 3)
        assert np.array_equal(raw.payload, payload(raw.id.event))
        decision, tables = sample.decision(i), sample.columns(i)
        assert decision is not None
        assert decision["digest"][0] == decisions[raw.id.event].digest == raw.id.event
        assert f"{decision['menu'][0]:x}" == text["menu"] == "c0ffee"
        assert tables is not None
        assert tables["tracks"]["pt"].tolist() == [0.0, 1.0, 2.0]
    assert text["paths"] == {"odd": 100}
    assert text["lumisection"] == {"received": 200, "accepted": 100, "rejected": 100, "error": 0}
    assert [model["name"] for model in text["models"]] == ["m"]
    assert (text["synced"], text["recovered"]) == (fsync is not Fsync.NONE, False)
    (status,) = snapshot.outputs
    assert (status.closed_files, status.closed_bytes, status.waiting_events, status.open_files) == (1, text["bytes"], 0, 0)
    assert (status.fsyncs > 0) == (fsync is not Fsync.NONE)


def test_a_client_that_asks_gets_columns_and_the_file_can_do_without(make_farm: MakeFarm, tmp_path: Path) -> None:
    farm = make_farm(output=settings(tmp_path, columns=False))
    farm.run()
    with farm.client() as client:
        client.wait_open(DEADLINE_S)
        client.send(event(1), want_columns=True, timeout=DEADLINE_S)
        client.send(event(3), timeout=DEADLINE_S)
        by_event = {decision.id.event: decision for decision in client.flush(DEADLINE_S)}
        farm.command("stop")
        farm.wait(lambda s: s.state is RunState.CONFIGURED, client)
    assert by_event[1].columns is not None
    assert by_event[3].columns is None
    ((sample, text),) = files(tmp_path).values()
    assert not text["columns"]
    assert [sample.columns(i) for i in range(2)] == [None, None]


def test_lumisections_are_closed_late_events_open_a_part_and_the_sums_are_the_ledger(make_farm: MakeFarm, tmp_path: Path) -> None:
    farm = make_farm(output=settings(tmp_path))
    farm.run()
    with farm.client() as client:
        client.wait_open(DEADLINE_S)
        send(client, [in_lumi(n, 1) for n in range(20)] + [in_lumi(n, 2) for n in range(20, 50)])
        summary = tmp_path / "run000007/run000007_ls0001.json"
        farm.wait(lambda _: summary.exists(), client)
        first = json.loads(summary.read_text())
        assert (first["received"], first["accepted"], [f["events"] for f in first["files"]]) == (20, 10, [10])
        send(client, [in_lumi(n, 1) for n in range(50, 56)])
        farm.wait(lambda s: s.outputs[0].closed_files == 2, client)
        farm.command("stop")
        snapshot = farm.wait(lambda s: s.state is RunState.CONFIGURED, client)
    assert {name: len(sample) for name, (sample, _) in files(tmp_path).items()} == {
        "run000007_ls0001_physics.hlt": 10,
        "run000007_ls0001_physics.part2.hlt": 3,
        "run000007_ls0002_physics.hlt": 15,
    }
    summaries = [json.loads(path.read_text()) for path in sorted(tmp_path.glob("run*/*.json"))]
    for entry in ("received", "accepted", "rejected", "error"):
        assert sum(text[entry] for text in summaries) == getattr(snapshot.ledger, entry)
    assert [[f["events"] for f in text["files"]] for text in summaries] == [[10, 3], [15]]


class ProcessFarm(Farm):
    """A farm whose ingest is a process, which can be killed."""

    def start_ingest(self) -> None:
        options = ["--clients", self.settings.clients_url, "--workers", self.settings.workers_url, "--control", self.settings.control_url]
        options += ["--ring", str(self.settings.ring), "--slots", "64", "--errors", str(self.settings.error_dir)]
        options += self.settings.output.arguments(self.settings.output.folder, None)
        self.ingest = subprocess.Popen([*HLTFARM, "ingest", *options], stderr=subprocess.DEVNULL)
        self._control = self._context.socket(zmq.DEALER)
        self._control.connect(self.settings.control_url)

    def kill_ingest(self) -> None:
        self.ingest.kill()
        self.ingest.wait(DEADLINE_S)
        self._control.close(linger=0)

    def stop_ingest(self) -> None:
        self.ingest.terminate()
        assert self.ingest.wait(DEADLINE_S) == 0
        self._control.close(linger=0)


def test_a_killed_ingest_loses_nothing_and_its_files_are_completed(tmp_path: Path) -> None:
    """kill -9 in the middle: every event that was decided is in the files, and the client has the others."""
    output = tmp_path / "output"
    farm = ProcessFarm(tmp_path, output=settings(output))
    try:
        farm.run(delay_s=0.01)
        with farm.client() as client:
            client.wait_open(DEADLINE_S)
            decisions: list[Decision] = []
            number = 0
            while len(decisions) < 100:
                client.send(event(number), timeout=DEADLINE_S)
                decisions += client.poll(0)
                number += 1
            farm.kill_ingest()
            assert len(list(output.rglob("*.hlt.part"))) == 1
            farm.start_ingest()
            farm.command("configure", config=RunConfig(run=RUN, menu="{}"))
            farm.command("start")
            decisions += send(client, [event(n) for n in range(number, number + 50)])
            farm.command("stop")
            farm.wait(lambda s: s.state is RunState.CONFIGURED, client)
    finally:
        farm.close()
    assert {decision.id.event for decision in decisions} == set(range(number + 50))
    assert set(numbers(output)) == set(range(1, number + 50, 2)), "nothing lost; twice is allowed"
    texts = [text for _, text in files(output).values()]
    assert [text["recovered"] for text in texts] == [True, False]
    assert texts[0]["lumisection"] is None
    assert texts[0]["events"] >= 40, "what was decided before the kill"


def test_a_full_disk_holds_events_back_until_there_is_room(make_farm: MakeFarm, tmp_path: Path) -> None:
    farm = make_farm(output=settings(tmp_path, reserve_bytes=1 << 60))
    farm.run()
    with farm.client() as client:
        client.wait_open(DEADLINE_S)
        for number in range(20):
            client.send(event(number), timeout=DEADLINE_S)
        farm.wait(lambda s: s.outputs[0].waiting_events == 10 and s.ledger.rejected == 10, client)
        snapshot = farm.wait(lambda s: any("cannot be written" in problem for problem in s.problems), client)  # the writer has tried
        assert snapshot.state is RunState.RUNNING_DEGRADED
        farm.wait(lambda s: s.backpressure_seconds["output"] > 0, client)
        farm.command("stop")
        snapshot = farm.snapshot()
        assert (snapshot.state, snapshot.ledger.in_flight) == (RunState.DRAINING, 10)
        with pytest.raises(StateError):
            farm.command("start")
        farm.command("reset")
        snapshot = farm.wait(lambda s: not s.totals.in_flight, client)
        assert (snapshot.totals.accepted, snapshot.totals.error, snapshot.failures["RESET"]) == (0, 10, 10)
        farm.wait(lambda _: (tmp_path / "run000007/run000007_ls0001.json").exists(), client)  # the writer's last job
    assert files(tmp_path) == {}


def test_with_room_again_everything_goes_on(make_farm: MakeFarm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The disk is full in the middle of a run, and a stop comes: nothing is lost, and nothing is there twice."""
    room = [1 << 40]
    pwritev = os.pwritev

    def limited(descriptor: int, pieces: list[bytes], offset: int) -> int:
        data = b"".join(bytes(piece) for piece in pieces)[: room[0]]
        if not data:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        room[0] -= len(data)
        return pwritev(descriptor, [data], offset)

    monkeypatch.setattr(os, "pwritev", limited)
    farm = make_farm(output=settings(tmp_path))
    farm.run()
    with farm.client() as client:
        client.wait_open(DEADLINE_S)
        assert len(stream(client, range(20))) == 20
        room[0] = 5000
        sent = 20
        while not any("cannot be written" in problem for problem in farm.snapshot().problems):
            client.send(event(sent), timeout=DEADLINE_S)
            sent += 1
            client.poll(0)
        farm.command("stop")
        snapshot = farm.wait(lambda s: s.ledger.in_flight == s.outputs[0].waiting_events > 0, client)
        assert snapshot.state is RunState.DRAINING
        room[0] = 1 << 40
        farm.wait(lambda s: s.state is RunState.CONFIGURED, client)
        client.flush(DEADLINE_S)
        assert client.unacknowledged == 0
        snapshot = farm.snapshot()
    assert (snapshot.ledger.received, snapshot.ledger.error, snapshot.outputs[0].waiting_events) == (sent, 0, 0)
    assert numbers(tmp_path) == list(range(1, sent, 2))


def test_a_folder_belongs_to_one_ingest(make_farm: MakeFarm, tmp_path: Path) -> None:
    farm = make_farm(output=settings(tmp_path))
    urls = {f"{role}_url": f"ipc://{tmp_path}/{role}" for role in ("clients", "workers", "control")}
    other = replace(farm.settings, ring=farm.settings.ring.with_suffix(".2"), **urls)
    with pytest.raises(ConfigError, match="belongs to an ingest that is running"):
        IngestServer(other)
    assert farm.snapshot().outputs[0].folder == str(tmp_path)
