"""The ingest over real sockets, with real worker processes that run a fake reconstruction."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Callable

import pytest

from hltfarm.proto import wire
from hltfarm.proto.errors import StateError
from hltfarm.proto.events import EventId
from hltfarm.proto.limits import Limits
from hltfarm.proto.messages import RunConfig, RunState
from hltfarm.proto.wire import Outcome, Reason
from hltfarm.service.client import Decision
from tests.integration.ingest_farm import DEADLINE_S, RUN, Farm, event, payload, stream


def test_every_event_is_decided_and_every_number_agrees(farm: Farm) -> None:
    farm.run(workers=2)
    with farm.client() as client:
        client.wait_open(DEADLINE_S)
        decisions = stream(client, range(1000))
    assert len(decisions) == 1000
    for number, decision in decisions.items():
        assert decision.id == EventId(RUN, 1, number, 3)
        assert decision.outcome == (Outcome.ACCEPT if number % 2 else Outcome.REJECT)
        assert (decision.digest, decision.path_bits, decision.attempts) == (number, number % 2, 1)
        assert 0 < decision.server_latency < decision.latency
    snapshot = farm.wait(lambda s: s.clients == 0)
    assert (snapshot.ledger.received, snapshot.ledger.accepted, snapshot.ledger.rejected) == (1000, 500, 500)
    assert snapshot.ledger == snapshot.totals
    assert snapshot.state is RunState.RUNNING
    assert snapshot.path_accepts == {"odd": 500}
    assert snapshot.stream_events == {"physics": 500, "error": 0}
    assert snapshot.stream_bytes["physics"] == 500 * len(payload(0))
    assert snapshot.ingest_bytes == 1000 * len(payload(0))
    assert sum(snapshot.event_latency.counts) == 1000
    assert snapshot.batch_events.sum == 1000
    assert sum(snapshot.stage_duration["unpack"].counts) == sum(snapshot.batch_events.counts)
    assert sum(worker.processed for worker in snapshot.workers) == 1000
    assert sum(snapshot.frames_refused.values()) == 0
    assert (snapshot.slots_free, snapshot.queue_events, snapshot.menu_hash, snapshot.problems) == (64, 0, "c0ffee", [])


def test_events_of_a_killed_worker_go_to_another(farm: Farm) -> None:
    farm.run(workers=2, delay_s=0.01)
    with farm.client() as client:
        client.wait_open(DEADLINE_S)
        decisions: list[Decision] = []
        for number in range(600):
            client.send(event(number), timeout=DEADLINE_S)
            decisions += client.poll(0)
            if number == 200:
                farm.workers["w0"].kill()
                assert farm.reaper("w0") == -signal.SIGKILL
        decisions += client.flush(DEADLINE_S)
    assert sorted(decision.id.event for decision in decisions) == list(range(600))
    assert {decision.outcome for decision in decisions} == {Outcome.ACCEPT, Outcome.REJECT}
    assert {decision.attempts for decision in decisions} == {1, 2}
    snapshot = farm.snapshot()
    assert (snapshot.ledger.received, snapshot.ledger.error) == (600, 0)
    assert snapshot.state is RunState.RUNNING_DEGRADED
    assert "w0" in snapshot.problems[0]
    farm.worker("w0")
    snapshot = farm.wait(lambda s: s.state is RunState.RUNNING)
    assert {worker.name: worker.restarts for worker in snapshot.workers} == {"w0": 1, "w1": 0}


def test_a_killed_worker_is_noticed_without_a_supervisor(farm: Farm) -> None:
    farm.run(workers=2, delay_s=0.02)
    with farm.client() as client:
        client.wait_open(DEADLINE_S)
        for number in range(40):
            client.send(event(number), timeout=DEADLINE_S)
        farm.workers["w1"].kill()
        assert len(client.flush(DEADLINE_S)) == 40
    assert farm.wait(lambda s: s.state is RunState.RUNNING_DEGRADED).ledger.error == 0


def test_a_stopped_process_is_lost_and_its_late_answers_change_nothing(farm: Farm) -> None:
    farm.run(workers=2, delay_s=0.05)
    with farm.client() as client:
        client.wait_open(DEADLINE_S)
        for number in range(32):
            client.send(event(number), timeout=DEADLINE_S)
        farm.workers["w1"].send_signal(signal.SIGSTOP)
        assert len(client.flush(DEADLINE_S)) == 32
        farm.wait(lambda s: not all(worker.up for worker in s.workers))
        farm.workers["w1"].send_signal(signal.SIGCONT)
        snapshot = farm.wait(lambda s: all(worker.ready for worker in s.workers))
        assert snapshot.ledger.received == snapshot.ledger.accepted + snapshot.ledger.rejected == 32
        assert len(stream(client, range(100, 140))) == 40


def test_a_poisonous_event_ends_in_the_error_stream_and_takes_nobody_along(farm: Farm) -> None:
    farm.run(workers=4, kill=[50], delay_s=0.002)
    with farm.client() as client:
        client.wait_open(DEADLINE_S)
        decisions = stream(client, range(200))
    assert len(decisions) == 200
    failed = [number for number, decision in decisions.items() if decision.outcome is Outcome.ERROR]
    assert failed == [50]
    assert (decisions[50].reason, decisions[50].accepted) == (Reason.WORKER_LOST, True)
    snapshot = farm.snapshot()
    assert (snapshot.ledger.received, snapshot.ledger.error) == (200, 1)
    assert snapshot.failures["WORKER_LOST"] == 1
    assert snapshot.stream_events["error"] == 1
    lost = sum(not worker.up for worker in snapshot.workers)
    assert decisions[50].attempts == lost in (2, 3), "in company, alone, and on another worker if one was there"
    (bundle,) = (farm.folder / "errors" / f"run{RUN:06d}").iterdir()
    record = json.loads((bundle / "bundle.json").read_text())
    assert record["reason"] == "WORKER_LOST"
    assert record["config"]["menu"] == json.dumps({"kill": [50], "delay_s": 0.002})
    (entry,) = record["events"]
    assert (entry["event"], entry["attempts"], len(entry["failures"])) == (50, lost, lost)
    assert len({failure["worker"] for failure in entry["failures"]}) == lost
    assert all(failure["where"]["backend"] == "cpu" and failure["error"] for failure in entry["failures"])
    assert (record["menu_hash"], record["first_lumi"]) == ("c0ffee", 0)
    frames = (bundle / record["events_file"]).read_bytes()
    size = wire.FRAMING.header_bytes[wire.FrameType.EVENT]
    assert frames[size:] == payload(50).tobytes()
    header = wire.decode_header(frames[:size])
    wire.check_body(header, frames[size:], Limits())


def test_a_batch_that_raises_is_halved_until_the_event_is_alone(farm: Farm) -> None:
    farm.run(workers=1, **{"raise": [5]})
    with farm.client() as client:
        client.wait_open(DEADLINE_S)
        decisions = stream(client, range(20))
    assert [n for n, d in decisions.items() if d.outcome is Outcome.ERROR] == [5]
    assert decisions[5].reason is Reason.WORKER_FAILED
    snapshot = farm.snapshot()
    assert snapshot.state is RunState.RUNNING
    assert snapshot.failures["WORKER_FAILED"] == 1


def test_a_hung_batch_is_ended_by_its_time_limit(make_farm: Callable[..., Farm]) -> None:
    farm = make_farm(batch_timeout_s=0.5)
    farm.run(workers=3, hang=[3])
    with farm.client() as client:
        client.wait_open(DEADLINE_S)
        for number in range(8):
            client.send(event(number), timeout=DEADLINE_S)
        decisions = {d.id.event: d for d in client.flush(DEADLINE_S)}
    assert decisions[3].outcome is Outcome.ERROR
    assert farm.snapshot().ledger.error == 1


def test_a_client_that_comes_back_sends_again_and_nothing_counts_twice(farm: Farm) -> None:
    farm.run(workers=1, delay_s=0.05)
    first = farm.client()
    first.wait_open(DEADLINE_S)
    for number in range(4):
        first.send(event(number), timeout=DEADLINE_S)
    farm.wait(lambda s: s.ledger.received == 4)
    first._connect()  # the connection is gone with everything under way
    decisions = {d.id.event for d in first.flush(DEADLINE_S)}
    assert decisions == set(range(4))
    assert first.resent == 4
    snapshot = farm.snapshot()
    assert (snapshot.ledger.received, snapshot.ledger.duplicates) == (4, 4)
    first.close()
    with farm.client() as second:  # another process with the same events, all decided by now
        second.wait_open(DEADLINE_S)
        again = stream(second, range(4))
    assert {n: d.outcome for n, d in again.items()} == {n: Outcome(2 - n % 2) for n in range(4)}
    assert farm.snapshot().ledger.received == 4


def test_a_client_survives_a_new_ingest(farm: Farm) -> None:
    farm.run(workers=1, delay_s=0.2)
    with farm.client() as client:
        client.wait_open(DEADLINE_S)
        for number in range(4):
            client.send(event(number), timeout=DEADLINE_S)
        farm.wait(lambda s: s.ledger.received == 4)
        farm.stop_ingest()
        farm.start_ingest()
        farm.command("configure", config=RunConfig(run=RUN))
        farm.command("start")
        assert {d.id.event for d in client.flush(DEADLINE_S)} == set(range(4))
        assert client.reconnects >= 1
    assert farm.snapshot().ledger.received == 4


def test_two_clients_share(farm: Farm) -> None:
    farm.run(workers=1, delay_s=0.005)
    with farm.client() as a, farm.client() as b:
        for client in (a, b):
            client.wait_open(DEADLINE_S)
        sent = {a: 0, b: 0}
        end = time.monotonic() + DEADLINE_S
        while min(sent.values()) < 150 and time.monotonic() < end:
            for offset, client in ((0, a), (10_000, b)):
                while sent[client] < 10_000 and client.try_send(event(offset + sent[client])):
                    sent[client] += 1
                client.poll(0.001)
        a.flush(DEADLINE_S)
        b.flush(DEADLINE_S)
    assert min(sent.values()) >= 150
    assert max(sent.values()) < 2 * min(sent.values())


def test_pause_drain_stop_and_the_next_run(farm: Farm) -> None:
    farm.run(workers=1)
    with farm.client() as client:
        client.wait_open(DEADLINE_S)
        stream(client, range(20))
        farm.command("pause")
        sent = 20
        while client.try_send(event(sent)) or client.credit[0]:  # a licence may be under way still
            sent += 1
            client.poll(0.01)
        with pytest.raises(TimeoutError, match="no credit"):
            client.send(event(sent + 1), timeout=0.3)
        farm.command("resume")
        client.wait_open(DEADLINE_S)
        client.flush(DEADLINE_S)
        farm.command("drain")
        snapshot = farm.wait(lambda s: s.ledger.in_flight == 0 and s.info["reserved_events"] == 0, client)
        assert (snapshot.state, snapshot.run) == (RunState.DRAINING, RUN)
        farm.command("stop")
        farm.wait(lambda s: s.state is RunState.CONFIGURED, client)
        farm.command("configure", config=RunConfig(run=RUN + 1))
        farm.command("start")
        client.poll(0.1)
        client.wait_open(DEADLINE_S)
        assert client.run == RUN + 1
        assert len(stream(client, range(10), RUN + 1)) == 10
    snapshot = farm.snapshot()
    assert snapshot.ledger.received == 10
    assert snapshot.totals.received > snapshot.ledger.received


def test_stop_forces_what_cannot_be_decided_and_tells_the_client(farm: Farm) -> None:
    farm.run(workers=1, hang=[2])
    with farm.client() as client:
        client.wait_open(DEADLINE_S)
        for number in range(1, 4):
            client.send(event(number), timeout=DEADLINE_S)
        farm.wait(lambda s: s.ledger.received == 3)
        farm.command("stop")
        decisions = {d.id.event: d for d in client.flush(DEADLINE_S)}
    assert decisions[2].outcome is Outcome.ERROR
    assert decisions[2].reason is Reason.STOPPED
    snapshot = farm.wait(lambda s: s.state is RunState.CONFIGURED)
    assert snapshot.ledger.in_flight == 0


def test_reset_ends_everything_with_closed_books(farm: Farm) -> None:
    farm.run(workers=1, hang=[1])
    with farm.client() as client:
        client.wait_open(DEADLINE_S)
        client.send(event(1), timeout=DEADLINE_S)
        farm.wait(lambda s: s.ledger.received == 1)
        assert farm.command("reset").state is RunState.HALTED
        (decision,) = client.flush(DEADLINE_S)
    assert decision.reason is Reason.RESET
    assert farm.snapshot().totals.error == 1


def test_illegal_commands_name_the_legal_ones(farm: Farm) -> None:
    with pytest.raises(StateError) as caught:
        farm.command("start")
    assert caught.value.legal == ("configure", "reset")
    for op in ("configure", "launch", "worker_lost"):
        with pytest.raises(StateError):
            farm.command(op)


def test_a_wrong_configuration_is_an_error_and_a_broken_worker_is_not(farm: Farm) -> None:
    farm.worker("w0")
    farm.command("configure", config=RunConfig(run=1, menu=json.dumps({"break": "no device"})))
    snapshot = farm.wait(lambda s: any("no device" in problem for problem in s.problems))
    assert snapshot.state is RunState.CONFIGURED
    farm.command("configure", config=RunConfig(run=1, menu=json.dumps({"refuse": "bad path"})))
    snapshot = farm.wait(lambda s: s.state is RunState.ERROR)
    assert any("bad path" in problem for problem in snapshot.problems)
    farm.command("reset")
    farm.command("configure", config=RunConfig(run=2))
    farm.command("start")
    assert farm.wait(lambda s: s.workers[0].ready).state in (RunState.RUNNING, RunState.RUNNING_DEGRADED)


def test_a_worker_that_is_asked_to_go_finishes_its_work(farm: Farm) -> None:
    farm.run(workers=2, delay_s=0.02)
    with farm.client() as client:
        client.wait_open(DEADLINE_S)
        decisions: list[Decision] = []
        for number in range(200):
            client.send(event(number), timeout=DEADLINE_S)
            decisions += client.poll(0)
            if number == 60:
                farm.workers["w0"].terminate()
        decisions += client.flush(DEADLINE_S)
    assert farm.workers["w0"].wait(DEADLINE_S) == 0
    assert {d.attempts for d in decisions} == {1}
    snapshot = farm.wait(lambda s: len(s.workers) == 1)
    assert (snapshot.ledger.received, snapshot.ledger.error) == (200, 0)


def test_a_full_disk_keeps_events_in_flight_until_there_is_room(farm: Farm, monkeypatch: pytest.MonkeyPatch) -> None:
    stream_ = farm.server._flow._errors
    good = stream_._writer

    def refuse(*arguments: object) -> str:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(stream_, "_writer", refuse)
    farm.run(workers=1, **{"raise": [1]})
    with farm.client() as client:
        client.wait_open(DEADLINE_S)
        client.send(event(1), timeout=DEADLINE_S)
        snapshot = farm.wait(lambda s: any("No space left" in problem for problem in s.problems))
        assert (snapshot.ledger.in_flight, snapshot.state) == (1, RunState.RUNNING_DEGRADED)
        monkeypatch.setattr(stream_, "_writer", good)
        (decision,) = client.flush(DEADLINE_S)
    assert decision.outcome is Outcome.ERROR
