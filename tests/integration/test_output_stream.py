"""The output stream: consumers over ZeroMQ at a real ingest with real worker processes."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import zmq

from hltfarm.loadgen.sample import Sample
from hltfarm.proto import output_wire as wire
from hltfarm.proto.errors import ConfigError, StateError, WireCode
from hltfarm.proto.events import EventId, RawEvent
from hltfarm.proto.messages import RunState, Snapshot
from hltfarm.proto.output_wire import Mode
from hltfarm.service import cli
from hltfarm.service.client import Decision
from hltfarm.service.consumer import Consumer, StreamEvent
from hltfarm.service.output.settings import OutputSettings
from hltfarm.service.output.stream_door import StreamDoor
from hltfarm.service.output.subscribers import WINDOW, Subscribers
from hltfarm.service.tap import run_tap
from tests.integration.ingest_farm import DEADLINE_S, RUN, Farm, event, payload, stream

MakeFarm = Callable[..., Farm]


@pytest.fixture
def farm(make_farm: MakeFarm, tmp_path: Path) -> Farm:
    farm = make_farm(output=OutputSettings(url=f"ipc://{tmp_path}/out", consumer_timeout_s=1.0))
    farm.run(models={"w0": "m"})
    return farm


def consumer(farm: Farm, name: str, **options: object) -> Consumer:
    return Consumer(farm.server.output_url, name, **({"heartbeat_s": 0.1, "timeout_s": 1.0} | options))  # type: ignore[arg-type]


def joined(farm: Farm, *consumers: Consumer) -> Snapshot:
    """Wait until all have subscribed and given credit."""
    for one in consumers:
        while not one.connected:
            assert one.poll(0.05) == []
    return farm.wait(lambda s: sum(c.present for c in s.outputs[0].consumers) == len(consumers))


def until(one: Consumer, count: int) -> list[StreamEvent]:
    events: list[StreamEvent] = []
    for _ in range(200):
        events += one.poll(0.1)
        one.confirm()
        if len(events) >= count:
            return events
    raise AssertionError(f"{len(events)} of {count} events")


def test_a_stranger_who_talks_and_does_not_read_costs_a_bounded_number_of_messages(tmp_path: Path) -> None:
    talked = 10_000
    with zmq.Context() as context, zmq.Context() as others, context.socket(zmq.ROUTER) as socket, others.socket(zmq.DEALER) as deaf:
        door = StreamDoor(socket, Subscribers(10.0), {})
        socket.bind(f"ipc://{tmp_path}/door")
        deaf.setsockopt(zmq.LINGER, 0)
        deaf.setsockopt(zmq.RCVHWM, 1)
        deaf.connect(f"ipc://{tmp_path}/door")
        for _ in range(talked):
            while not deaf.poll(0, zmq.POLLOUT):
                door.receive(0.0)
            deaf.send_multipart([b"nonsense", b""])
        while door.refused < talked:
            assert socket.poll(DEADLINE_S * 1000)
            door.receive(0.0)
        answers = 0
        while deaf.poll(500):
            assert isinstance(wire.decode_header(deaf.recv_multipart()[0]), wire.Error)
            answers += 1
    assert 0 < answers < talked / 2, "what is not read is not kept"


def test_a_monitor_gets_what_is_accepted_with_all_that_belongs_to_it(farm: Farm) -> None:
    with farm.client() as client, consumer(farm, "dqm", streams=("physics",)) as dqm, consumer(farm, "none", streams=("other",)) as none:
        client.wait_open(DEADLINE_S)
        joined(farm, dqm, none)
        decisions = stream(client, range(20))
        events = until(dqm, 10)
        assert sorted(e.id.event for e in events) == list(range(1, 20, 2))
        for one in events:
            assert np.array_equal(one.payload, payload(one.id.event))
            assert int(one.decision["digest"][0]) == decisions[one.id.event].digest
            assert one.paths == ["odd"]
            assert [model["name"] for model in one.description["models"]] == ["m"]
            tables = one.tables()
            assert tables is not None
            assert tables["tracks"]["pt"].tolist() == [0.0, 1.0, 2.0]
        assert none.poll(0.05) == []
        assert (dqm.missed, dqm.reconnects) == (0, 0)
        (status,) = farm.snapshot().outputs
        assert (status.sent_events, status.waiting_events) == (10, 0)


def test_a_monitor_without_credit_misses_events_and_is_told(farm: Farm) -> None:
    with farm.client() as client, consumer(farm, "slow", credit=2) as slow:
        client.wait_open(DEADLINE_S)
        joined(farm, slow)
        stream(client, range(40))  # 20 accepted; nobody holds the farm up
        events = until(slow, 2)
        while slow.missed < 18:
            slow.poll(0.05)
        assert [e.missed for e in events] == [0, 0]
        stream(client, range(100, 102))
        (one,) = until(slow, 1)
        assert (one.id.event, slow.missed) == (101, 18)
        assert farm.snapshot().outputs[0].consumers[0].missed == 18


def test_decisions_do_not_wait_for_a_monitor_that_reads_nothing(farm: Farm) -> None:
    """It gives credit without end and lets megabytes stand: what has no room it misses, and clients do not notice."""
    number = 400
    with farm.client() as client, zmq.Context() as context, context.socket(zmq.DEALER) as socket:
        for option, value in ((zmq.LINGER, 0), (zmq.RCVHWM, 1), (zmq.RCVBUF, 4096)):
            socket.setsockopt(option, value)
        socket.connect(farm.server.output_url)
        client.wait_open(DEADLINE_S)
        body = wire.encode_names("stuck", ())
        socket.send_multipart((wire.encode(wire.Subscribe(Mode.MONITOR), body), body))
        assert socket.poll(DEADLINE_S * 1000)
        status = wire.decode_header(socket.recv_multipart()[0])
        assert isinstance(status, wire.Status)
        decisions: list[Decision] = []
        for tag in range(number):
            if tag % 20 == 0:
                socket.send_multipart((wire.encode(wire.Credit(status.session, 1 << 40, 0)), b""))
            client.send(RawEvent(EventId(RUN, 1, tag, 3), payload(tag, words=7000)), timeout=DEADLINE_S)
            decisions += client.poll(0)
        decisions += client.flush(DEADLINE_S)
        assert len(decisions) == number
        snapshot = farm.snapshot()
        assert (snapshot.outputs[0].waiting_events, snapshot.ledger.in_flight) == (0, 0)
        (stuck,) = snapshot.outputs[0].consumers
        assert stuck.present
        assert stuck.sent + stuck.missed == number // 2
        assert stuck.missed >= number // 2 - WINDOW > 0


def test_a_name_belongs_to_one_consumer_and_a_detached_one_does_not_come_back_by_itself(farm: Farm) -> None:
    with consumer(farm, "dqm") as first:
        joined(farm, first)
        with consumer(farm, "dqm") as second:
            with pytest.raises(ConfigError, match="another consumer has subscribed as 'dqm'"):
                first.poll(DEADLINE_S)
            joined(farm, second)
            farm.command("detach", consumer="dqm")
            with pytest.raises(ConfigError, match="an operator has detached the consumer 'dqm'"):
                second.poll(DEADLINE_S)


def test_a_lossless_consumer_that_comes_back_gets_what_it_had_not_confirmed(farm: Farm) -> None:
    with farm.client() as client:
        client.wait_open(DEADLINE_S)
        first = consumer(farm, "archive", mode=Mode.LOSSLESS, credit=4)
        joined(farm, first)
        for number in range(30):
            client.send(event(number), timeout=DEADLINE_S)
        seen: list[StreamEvent] = []
        while len(seen) < 4:
            seen += first.poll(0.1)
        assert farm.wait(lambda s: s.ledger.rejected == 15, client).ledger.in_flight == 15, "nothing is confirmed"
        first.close(leave=False)
        snapshot = farm.wait(lambda s: not s.outputs[0].consumers[0].present, client)
        assert snapshot.state is RunState.RUNNING_DEGRADED
        assert any("consumer archive of the output is gone" in problem for problem in snapshot.problems)
        farm.command("stop")
        assert farm.snapshot().state is RunState.DRAINING
        with consumer(farm, "archive", mode=Mode.LOSSLESS, credit=4) as second:
            events = until(second, 15)
            farm.wait(lambda s: s.state is RunState.CONFIGURED, client)
        assert sorted(e.id.event for e in events) == list(range(1, 30, 2))
        assert {e.id.event for e in events if e.resent} == {e.id.event for e in seen}
        client.flush(DEADLINE_S)
        assert client.unacknowledged == 0
        assert farm.snapshot().ledger.accepted == 15


def test_a_consumer_that_does_not_come_back_is_detached(farm: Farm) -> None:
    with farm.client() as client:
        client.wait_open(DEADLINE_S)
        gone = consumer(farm, "gone", mode=Mode.LOSSLESS)
        joined(farm, gone)
        gone.close(leave=False)
        for number in range(10):
            client.send(event(number), timeout=DEADLINE_S)
        farm.wait(lambda s: s.outputs[0].waiting_events == 5 and not s.outputs[0].consumers[0].present, client)
        with pytest.raises(StateError, match="no consumer 'nobody' of the output; there are gone"):
            farm.command("detach", consumer="nobody")
        snapshot = farm.command("detach", consumer="gone")
        assert (snapshot.ledger.in_flight, snapshot.ledger.accepted, snapshot.outputs[0].consumers) == (0, 5, ())
        client.flush(DEADLINE_S)
        assert client.unacknowledged == 0


def test_reset_waits_for_nobody(farm: Farm) -> None:
    with farm.client() as client:
        client.wait_open(DEADLINE_S)
        stuck = consumer(farm, "stuck", mode=Mode.LOSSLESS)
        joined(farm, stuck)
        for number in range(10):
            client.send(event(number), timeout=DEADLINE_S)
        farm.wait(lambda s: s.outputs[0].waiting_events == 5, client)
        farm.command("reset")
        snapshot = farm.wait(lambda s: not s.totals.in_flight, client)
        assert (snapshot.totals.accepted, snapshot.totals.rejected) == (5, 5)
        (status,) = snapshot.outputs[0].consumers
        assert (status.sent, status.waiting) == (5, 0)
        stuck.close()


def test_tap_writes_a_file_that_reads_back(farm: Farm, tmp_path: Path) -> None:
    with farm.client() as client, consumer(farm, "tap", mode=Mode.LOSSLESS) as tap:
        client.wait_open(DEADLINE_S)
        joined(farm, tap)
        for number in range(20):
            client.send(event(number), timeout=DEADLINE_S)
        result = run_tap(tap, tmp_path / "tap.hlt", count=10)
        assert len(client.flush(DEADLINE_S)) == 20
    assert (result.events, result.missed, result.files) == (10, 0, [tmp_path / "tap.hlt"])
    sample = Sample(tmp_path / "tap.hlt")
    sample.verify()
    assert sorted(raw.id.event for raw in sample) == list(range(1, 20, 2))
    assert sample.columns(0) is not None
    assert sample.detector().name == "phase1"


def test_tap_of_the_command_line(farm: Farm, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def feed() -> None:
        with farm.client() as client:
            client.wait_open(DEADLINE_S)
            farm.wait(lambda s: any(one.name == "archive" for one in s.outputs[0].consumers), client)
            for number in range(20):
                client.send(event(number), timeout=DEADLINE_S)
            assert len(client.flush(DEADLINE_S)) == 20

    with ThreadPoolExecutor(1) as pool:
        fed = pool.submit(feed)
        options = ["--stream", "physics", "--count", "10", "--lossless", "--name", "archive", "--out", str(tmp_path / "a.hlt")]
        assert cli.run(["tap", "--url", farm.server.output_url, *options]) == 0
        fed.result(DEADLINE_S)
    assert f"10 events, 0.0 MB of raw data; 0 missed, in {tmp_path / 'a.hlt'}" in capsys.readouterr().out
    assert sorted(raw.id.event for raw in Sample(tmp_path / "a.hlt")) == list(range(1, 20, 2))
    assert farm.wait(lambda s: not s.outputs[0].consumers).ledger.accepted == 10, "it left in order: nobody waits for it"
    assert cli.run(["tap", "--url", farm.server.output_url, "--lossless"]) != 0
    assert "--lossless needs --name" in capsys.readouterr().err


def test_tap_says_that_no_ingest_answered(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    nobody = f"ipc://{tmp_path}/nobody"
    assert cli.run(["tap", "--url", nobody, "--seconds", "0.1"]) == 1
    assert f"no answer from an ingest at {nobody}" in capsys.readouterr().err


def test_what_is_no_frame_is_refused_and_told(farm: Farm) -> None:
    with zmq.Context() as context, context.socket(zmq.DEALER) as socket:
        socket.setsockopt(zmq.LINGER, 0)
        socket.connect(farm.server.output_url)

        def answer(*frames: bytes) -> tuple[wire.Header, bytes]:
            socket.send_multipart(frames)
            assert socket.poll(DEADLINE_S * 1000)
            head, body = socket.recv_multipart()
            return wire.decode_header(head), body

        good = wire.encode(wire.Subscribe(Mode.MONITOR), b"x")
        for code, *frames in (
            (WireCode.TRUNCATED, b"short", b""),
            (WireCode.TRUNCATED, good),
            (WireCode.BAD_MAGIC, b"HLTF" + good[4:], b"x"),
            (WireCode.BAD_CRC, good, b"y"),
            (WireCode.MALFORMED_PAYLOAD, wire.encode(wire.Subscribe(9), b"x"), b"x"),
            (WireCode.MALFORMED_PAYLOAD, wire.encode(wire.Subscribe(1), b"x\n\ny"), b"x\n\ny"),
            (WireCode.UNKNOWN_TYPE, wire.encode(wire.Status(1, 0, 0, 0)), b""),
        ):
            header, body = answer(*frames)  # type: ignore[arg-type]
            assert isinstance(header, wire.Error)
            assert (header.code, bool(body)) == (code, True)
        header, _ = answer(wire.encode(wire.Credit(77, 5, 0)), b"")
        assert isinstance(header, wire.Bye)
        assert header.session == 77


def test_the_client_endpoint_is_no_output(farm: Farm) -> None:
    with Consumer(farm.settings.clients_url, "lost") as lost, pytest.raises(ConfigError, match="no output of an ingest"):
        lost.poll(DEADLINE_S)
