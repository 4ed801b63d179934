"""The ingest over real sockets, with real worker processes that run a fake reconstruction."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import numpy as np
import psutil
import pytest
import zmq
from crc32c import crc32c

from hltfarm.proto import wire
from hltfarm.proto.errors import LimitError, StateError, WireCode, WireError
from hltfarm.proto.events import EventId, RawEvent
from hltfarm.proto.limits import Limits
from hltfarm.proto.messages import Command, CommandReply, RunConfig, RunState, Snapshot
from hltfarm.proto.wire import Outcome, Reason
from hltfarm.service.client import Client, ConnectionLostError, Decision
from hltfarm.service.ingest.server import IngestServer
from hltfarm.service.ingest.settings import IngestSettings

WORKER = Path(__file__).with_name("fake_worker.py")
RUN = 7
DEADLINE_S = 20.0


def payload(tag: int, words: int = 64) -> np.ndarray:
    """FED table with one FED; the last word is the tag."""
    table = np.array([1, 40, 8 * words] + [0] * (2 * words - 1) + [tag], dtype="<u4")
    return table.view(np.uint8)


def event(number: int, run: int = RUN) -> RawEvent:
    return RawEvent(EventId(run, 1, number, 3), payload(number))


class Farm:
    """An ingest in a thread, worker processes, a control socket."""

    def __init__(self, folder: Path, **changes: object) -> None:
        settings = {
            "clients_url": f"ipc://{folder}/clients",
            "workers_url": f"ipc://{folder}/workers",
            "control_url": f"ipc://{folder}/control",
            "ring": Path(f"/dev/shm/hltfarm-{folder.name}-{os.getpid()}"),
            "slots": 64,
            "limits": Limits(max_payload_bytes=1 << 16),
            "error_dir": folder / "errors",
            "worker_heartbeat_s": 0.1,
            "worker_timeout_s": 1.0,
            "client_timeout_s": 5.0,
            "stop_timeout_s": 1.0,
            "confirm_timeout_s": 0.5,
            "forget_worker_s": 60.0,
        } | changes
        self.settings = IngestSettings(**settings)  # type: ignore[arg-type]
        self.folder = folder
        self.workers: dict[str, subprocess.Popen[bytes]] = {}
        self._context = zmq.Context()
        self._ended = threading.Event()
        self.start_ingest()

    def start_ingest(self) -> None:
        self.server = IngestServer(self.settings)
        self._ended.clear()
        self._thread = threading.Thread(target=self._serve, name="ingest")
        self._thread.start()
        self._control = self._context.socket(zmq.DEALER)
        self._control.connect(self.server.control_url)

    def _serve(self) -> None:
        while not self._ended.is_set():
            self.server.turn()

    def stop_ingest(self) -> None:
        self._ended.set()
        self._thread.join(DEADLINE_S)
        assert not self._thread.is_alive()
        self._control.close(linger=0)
        self.server.close()

    def command(self, op: str, **arguments: object) -> Snapshot:
        self._control.send(msgspec.json.encode(Command(id=op, op=op, **arguments)))  # type: ignore[arg-type]
        assert self._control.poll(DEADLINE_S * 1000), f"no answer to {op}"
        reply = msgspec.json.decode(self._control.recv(), type=CommandReply)
        assert reply.id == op
        if reply.error is not None:
            raise StateError(reply.error, reply.legal)
        assert reply.snapshot is not None
        assert reply.snapshot.ledger.mismatch == 0
        assert reply.snapshot.totals.mismatch == 0
        return reply.snapshot

    def snapshot(self) -> Snapshot:
        return self.command("snapshot")

    def wait(self, condition: Callable[[Snapshot], bool], client: Client | None = None) -> Snapshot:
        """Ask until the condition holds; a client that is given keeps up its session meanwhile."""
        end = time.monotonic() + DEADLINE_S
        while not condition(snapshot := self.snapshot()):
            assert time.monotonic() < end, snapshot
            if client is not None:
                client.poll(0)
            time.sleep(0.01)
        return snapshot

    def worker(self, name: str, max_events: int = 8) -> subprocess.Popen[bytes]:
        process = subprocess.Popen(
            [sys.executable, str(WORKER), self.settings.workers_url, name, str(max_events)], stderr=subprocess.DEVNULL
        )
        self.workers[name] = process
        return process

    def run(self, workers: int = 1, **plan: object) -> Snapshot:
        """Configure, start, wait for the workers."""
        for number in range(workers):
            self.worker(f"w{number}")
        self.command("configure", config=RunConfig(run=RUN, menu=json.dumps(plan)))
        self.command("start")
        return self.wait(lambda s: sum(w.ready for w in s.workers) == workers)

    def client(self, **options: object) -> Client:
        return Client(self.settings.clients_url, "test", **({"heartbeat_s": 0.1, "timeout_s": 1.0} | options))  # type: ignore[arg-type]

    def reaper(self, name: str) -> int:
        """What a supervisor does when a worker ends: tells the ingest."""
        code = self.workers[name].wait(DEADLINE_S)
        self.command("worker_lost", worker=name)
        return code

    def close(self) -> None:
        for process in self.workers.values():
            process.kill()
        for process in self.workers.values():
            process.wait(DEADLINE_S)
        self.stop_ingest()
        self._context.term()
        assert not self.settings.ring.exists()


@pytest.fixture
def make_farm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Farm]]:
    farms: list[Farm] = []
    threads = set(threading.enumerate())
    descriptors = len(os.listdir("/proc/self/fd"))

    def make(**changes: object) -> Farm:
        farms.append(Farm(tmp_path_factory.mktemp("farm"), **changes))
        return farms[-1]

    yield make
    for farm in farms:
        farm.close()
    assert set(threading.enumerate()) <= threads
    assert len(os.listdir("/proc/self/fd")) <= descriptors
    assert not psutil.Process().children(recursive=True)


@pytest.fixture
def farm(make_farm: Callable[..., Farm]) -> Farm:
    return make_farm()


def stream(client: Client, numbers: range, run: int = RUN) -> dict[int, Decision]:
    decisions: list[Decision] = []
    for number in numbers:
        client.send(event(number, run), timeout=DEADLINE_S)
        decisions += client.poll(0)
    decisions += client.flush(DEADLINE_S)
    assert len({decision.id.event for decision in decisions}) == len(decisions), "each event is decided once"
    return {decision.id.event: decision for decision in decisions}


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
    assert (snapshot.slots_free, snapshot.queue_events, snapshot.menu_hash, snapshot.problems) == (64, 0, "hash", [])


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
    farm.run(workers=3, kill=[50], delay_s=0.002)
    with farm.client() as client:
        client.wait_open(DEADLINE_S)
        decisions = stream(client, range(200))
    assert len(decisions) == 200
    failed = [number for number, decision in decisions.items() if decision.outcome is Outcome.ERROR]
    assert failed == [50]
    assert (decisions[50].reason, decisions[50].attempts, decisions[50].accepted) == (Reason.WORKER_LOST, 2, True)
    snapshot = farm.snapshot()
    assert (snapshot.ledger.received, snapshot.ledger.error) == (200, 1)
    assert snapshot.failures["WORKER_LOST"] == 1
    assert snapshot.stream_events["error"] == 1
    assert sum(worker.up for worker in snapshot.workers) == 1, "the poison killed two, no more"
    (bundle,) = (farm.folder / "errors" / f"run{RUN:06d}").iterdir()
    record = json.loads((bundle / "bundle.json").read_text())
    assert record["reason"] == "WORKER_LOST"
    assert record["config"]["menu"] == json.dumps({"kill": [50], "delay_s": 0.002})
    (entry,) = record["events"]
    assert (entry["event"], entry["attempts"], len(entry["workers"])) == (50, 2, 2)
    frames = (bundle / record["events_file"]).read_bytes()
    size = wire.HEADER_BYTES[wire.FrameType.EVENT]
    assert frames[size:] == payload(50).tobytes()
    header = wire.decode_header(frames[:size])
    wire.check_body(header, frames[size:], Limits())


def test_a_batch_that_raises_is_tried_event_by_event_in_the_same_worker(farm: Farm) -> None:
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


# -- bad frames ------------------------------------------------------------------------------------------------------------


def sealed(head: bytes) -> bytes:
    return head + crc32c(head).to_bytes(4, "little")


def good_event(number: int = 1, run: int = RUN, **options: int) -> list[bytes]:
    data = payload(number).tobytes()
    return [wire.encode_event(EventId(run, 1, number), data, cookie=99, **options), data]


def malformed() -> list[bytes]:
    data = np.array([1, 40, 12, 0, 0, 0], dtype="<u4").tobytes()
    return [wire.encode_event(EventId(RUN, 1, 1), data), data]


def oversize() -> list[bytes]:
    data = bytes((1 << 16) + 4)
    return [wire.encode_event(EventId(RUN, 1, 1), data), data]


def with_header(change: Callable[[bytes], bytes]) -> list[bytes]:
    head, data = good_event()
    return [sealed(change(head[:-4])), data]


HEAD, DATA = good_event()
BAD = {
    "no frames": ([b""], WireCode.TRUNCATED, False),
    "short header": ([HEAD[:20], DATA], WireCode.TRUNCATED, False),
    "long header": ([HEAD + b"\0", DATA], WireCode.TRUNCATED, False),
    "no body": ([HEAD], WireCode.TRUNCATED, True),
    "three frames": ([HEAD, DATA, b"more"], WireCode.TRUNCATED, True),
    "short body": ([HEAD, DATA[:-4]], WireCode.TRUNCATED, True),
    "magic": (with_header(lambda h: b"FTLH" + h[4:]), WireCode.BAD_MAGIC, False),
    "version": (with_header(lambda h: h[:4] + b"\7" + h[5:]), WireCode.UNKNOWN_VERSION, False),
    "type": (with_header(lambda h: h[:5] + b"\x2a" + h[6:]), WireCode.UNKNOWN_TYPE, False),
    "type of the other direction": (list(wire.encode_credit(wire.Credit(1, 1, 0, 9, 9, 1, 1))), WireCode.UNKNOWN_TYPE, False),
    "header checksum": ([HEAD[:-1] + bytes([HEAD[-1] ^ 1]), DATA], WireCode.BAD_CRC, False),
    "body checksum": ([HEAD, bytes([DATA[0] ^ 1]) + DATA[1:]], WireCode.BAD_CRC, True),
    "oversize": (oversize(), WireCode.OVERSIZE, True),
    "long name": (list(wire.encode_hello("x" * 256)), WireCode.OVERSIZE, False),
    "payload format": (good_event(payload_format=9), WireCode.UNKNOWN_PAYLOAD, True),
    "FED table": (malformed(), WireCode.MALFORMED_PAYLOAD, True),
    "run": (good_event(run=RUN + 1), WireCode.WRONG_RUN, True),
}


class Stranger:
    """A client written from the page, without the library."""

    def __init__(self, url: str) -> None:
        self._context = zmq.Context()
        self._socket = self._context.socket(zmq.DEALER)
        self._socket.setsockopt(zmq.LINGER, 0)
        self._socket.connect(url)
        self._session = 0

    def send(self, frames: list[bytes]) -> None:
        self._socket.send_multipart(frames)

    def receive(self, kind: type) -> tuple[wire.Header, bytes]:
        """The next message of a type; others (credits) are skipped."""
        while True:
            assert self._socket.poll(DEADLINE_S * 1000), f"no {kind.__name__}"
            head, body = self._socket.recv_multipart()
            header = wire.decode_header(head)
            wire.check_body(header, body, Limits())
            if isinstance(header, kind):
                return header, body

    def greet(self) -> wire.Credit:
        """Say hello and wait for credit to send."""
        self.send(list(wire.encode_hello("stranger")))
        while True:
            credit, _ = self.receive(wire.Credit)
            assert isinstance(credit, wire.Credit)
            if credit.granted_events and credit.session > self._session:  # not a late one of the session before
                self._session = credit.session
                return credit

    def close(self) -> None:
        self._socket.close()
        self._context.term()


@pytest.fixture
def running(farm: Farm) -> Iterator[tuple[Farm, Stranger]]:
    farm.run(workers=1)
    stranger = Stranger(farm.settings.clients_url)
    yield farm, stranger
    stranger.close()


def test_each_bad_frame_gets_its_error_and_counts(running: tuple[Farm, Stranger]) -> None:
    farm, stranger = running
    stranger.greet()
    for name, (frames, code, names_event) in BAD.items():
        before = farm.snapshot()
        stranger.send(frames)
        error, text = stranger.receive(wire.Error)
        assert isinstance(error, wire.Error)
        assert error.code == code, name
        assert text, name
        assert bool(error.flags & wire.ErrorFlags.HAS_EVENT) == names_event, name
        after = farm.snapshot()
        expected = before.frames_refused | {code.name: before.frames_refused[code.name] + 1}
        assert after.frames_refused == expected, name
        assert after.ledger.received == 0, name
        stranger.greet()
    stranger.send(good_event(1))
    decisions, body = stranger.receive(wire.Decisions)
    assert isinstance(decisions, wire.Decisions)
    (record,) = wire.decode_decisions(decisions, body)
    assert (record["event"], record["cookie"], record["outcome"]) == (1, 99, Outcome.ACCEPT)


def test_events_without_session_or_credit_or_run_are_refused(running: tuple[Farm, Stranger]) -> None:
    farm, stranger = running
    stranger.send(good_event())
    assert stranger.receive(wire.Error)[0].code == WireCode.NO_HELLO
    stranger.send(list(wire.encode_hello("x", session=12345)))
    assert stranger.receive(wire.Error)[0].code == WireCode.NO_HELLO
    credit = stranger.greet()
    farm.command("pause")
    while credit.granted_events:
        credit, _ = stranger.receive(wire.Credit)  # withdrawn
    stranger.send(list(wire.encode_hello("x", session=credit.session, serial=credit.serial)))
    stranger.receive(wire.Credit)
    stranger.send(good_event())
    assert stranger.receive(wire.Error)[0].code == WireCode.NO_CREDIT
    farm.command("stop")
    farm.wait(lambda s: s.state is RunState.CONFIGURED)
    stranger.send(good_event())
    error, _ = stranger.receive(wire.Error)
    assert (error.code, error.event, error.cookie) == (WireCode.NOT_RUNNING, 1, 99)
    refused = farm.snapshot().frames_refused
    assert (refused["NO_HELLO"], refused["NO_CREDIT"], refused["NOT_RUNNING"]) == (2, 1, 1)


def test_a_frame_beyond_the_hard_limit_ends_the_connection_not_the_ingest(running: tuple[Farm, Stranger]) -> None:
    farm, stranger = running
    stranger.greet()
    stranger.send([b"x" * (farm.settings.limits.socket_bytes + 1), b""])
    other = Stranger(farm.settings.clients_url)
    try:
        other.greet()
    finally:
        other.close()


def test_the_client_says_in_time_what_it_cannot_send(farm: Farm) -> None:
    farm.run(workers=1)
    with farm.client(limits=Limits(max_payload_bytes=1 << 16)) as client:
        client.wait_open(DEADLINE_S)
        with pytest.raises(LimitError, match="payload"):
            client.send(RawEvent(EventId(RUN, 1, 1), np.zeros((1 << 16) + 4, dtype=np.uint8)))
        client.send(RawEvent(EventId(RUN, 1, 1), np.zeros(3, dtype=np.uint8)), timeout=DEADLINE_S)
        client.flush(DEADLINE_S)
        assert [(r.id.event, r.code) for r in client.refused] == [(1, WireCode.MALFORMED_PAYLOAD)]


def test_a_client_without_an_ingest_says_so(tmp_path: Path) -> None:
    with Client(f"ipc://{tmp_path}/nobody", heartbeat_s=0.05, timeout_s=0.2) as client:
        with pytest.raises(ConnectionLostError, match="no answer"):
            client.wait_open(0.4)
        with pytest.raises(TimeoutError):
            client.send(event(1), timeout=0.1)


def test_an_ingest_of_another_version_is_an_error(tmp_path: Path) -> None:
    with zmq.Context() as context, context.socket(zmq.ROUTER) as router:
        router.setsockopt(zmq.LINGER, 0)
        router.bind(f"ipc://{tmp_path}/other")
        with Client(f"ipc://{tmp_path}/other") as client:
            identity, *_ = router.recv_multipart()
            router.send_multipart([identity, *wire.encode_error(WireCode.UNKNOWN_VERSION, "version 1; this side speaks 2")])
            with pytest.raises(WireError, match="speaks 2"):
                client.poll(5.0)
