"""An ingest with CURVE: who may come in, who may not and is told so, and a key that is taken away."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import zmq

from hltfarm.proto import wire
from hltfarm.proto.errors import AccessError, ConfigError
from hltfarm.proto.messages import RunConfig, RunState
from hltfarm.proto.output_wire import Mode
from hltfarm.service.client import Client, ConnectionLostError
from hltfarm.service.consumer import Consumer
from hltfarm.service.control.link import FarmLink, RefusedError
from hltfarm.service.drain import DrainError, drain
from hltfarm.service.ingest.server import IngestServer
from hltfarm.service.ingest.settings import IngestSettings
from hltfarm.service.output.settings import OutputSettings
from hltfarm.service.security.keys import ClientCurve, KeyPair, ServerCurve, load_secret, new_keys
from tests.integration.ingest_farm import DEADLINE_S, Farm, event, stream

NAMES = ("farm", "reader", "shifter", "monitor", "second", "stranger")


@pytest.fixture
def pairs(tmp_path: Path) -> dict[str, KeyPair]:
    return {name: load_secret(new_keys(name, tmp_path / "keys")[1]) for name in NAMES}


@pytest.fixture
def allow(tmp_path: Path, pairs: dict[str, KeyPair]) -> Path:
    folder = tmp_path / "allow"
    for room, name in (("clients", "reader"), ("control", "shifter"), ("consumers", "monitor"), ("consumers", "second")):
        (folder / room).mkdir(parents=True, exist_ok=True)
        (folder / room / f"{name}.key").write_bytes((tmp_path / "keys" / f"{name}.key").read_bytes())
    return folder


@pytest.fixture
def guarded(tmp_path: Path, pairs: dict[str, KeyPair], allow: Path) -> Iterator[Farm]:
    """Clients over tcp with CURVE; the tests' own control socket is an ipc one, which has none."""
    farm = Farm(tmp_path, clients_url="tcp://127.0.0.1:*", curve=ServerCurve(pairs["farm"], allow))
    try:
        yield farm
    finally:
        farm.close()


def client(farm: Farm, curve: ClientCurve | None, **options: float) -> Client:
    return Client(farm.server.clients_url, "test", **({"heartbeat_s": 0.1, "timeout_s": 1.0} | options), curve=curve)  # type: ignore[arg-type]


def polled(one: Client, done: Callable[[], bool]) -> None:
    """Let a client do its work until something holds."""
    end = time.monotonic() + DEADLINE_S
    while not done():
        assert time.monotonic() < end
        one.poll(0.05)


def test_an_allowed_client_streams(guarded: Farm, pairs: dict[str, KeyPair]) -> None:
    guarded.run(workers=1)
    with client(guarded, ClientCurve(pairs["farm"].public, pairs["reader"])) as reader:
        reader.wait_open(DEADLINE_S)
        assert len(stream(reader, range(50))) == 50
    assert guarded.snapshot().frames_refused["NOT_ALLOWED"] == 0


@pytest.mark.parametrize("name", ["stranger", "shifter", "monitor"])
def test_a_key_that_is_not_in_the_room_is_refused_counted_and_told(
    guarded: Farm, pairs: dict[str, KeyPair], name: str, caplog: pytest.LogCaptureFixture
) -> None:
    with client(guarded, ClientCurve(pairs["farm"].public, pairs[name])) as other, pytest.raises(AccessError) as caught:
        other.wait_open(DEADLINE_S)
    assert f"refuses the key {pairs[name].public.decode()}" in str(caught.value)
    assert guarded.snapshot().frames_refused["NOT_ALLOWED"] == 1
    assert guarded.snapshot().clients == 0
    assert f"key {pairs[name].public.decode()} is not in" in caplog.text
    assert pairs[name].secret.decode() not in caplog.text


def test_a_client_without_keys_is_told_what_it_needs(guarded: Farm) -> None:
    with client(guarded, None) as plain, pytest.raises(AccessError, match="asks for keys"):
        plain.wait_open(DEADLINE_S)


def test_a_client_with_keys_is_told_that_nobody_asks(tmp_path: Path, pairs: dict[str, KeyPair]) -> None:
    farm = Farm(tmp_path, clients_url="tcp://127.0.0.1:*")
    try:
        with (
            client(farm, ClientCurve(pairs["farm"].public, pairs["reader"])) as careful,
            pytest.raises(AccessError, match="does not speak CURVE"),
        ):
            careful.wait_open(DEADLINE_S)
    finally:
        farm.close()


def test_a_wrong_key_of_the_ingest_is_suspected(guarded: Farm, pairs: dict[str, KeyPair]) -> None:
    """The other side cannot say why: only that the handshake failed is known."""
    with (
        client(guarded, ClientCurve(pairs["stranger"].public, pairs["reader"])) as misled,
        pytest.raises(ConnectionLostError, match="is the public key of the ingest the right one"),
    ):
        misled.wait_open(1.0)
    assert guarded.snapshot().clients == 0


def test_a_key_that_is_taken_away_ends_the_session_and_one_that_is_added_begins_one(
    guarded: Farm, pairs: dict[str, KeyPair], allow: Path
) -> None:
    guarded.run(workers=1)
    curve = ClientCurve(pairs["farm"].public, pairs["reader"])
    file = allow / "clients" / "reader.key"
    kept = file.read_bytes()
    with client(guarded, curve) as reader:
        reader.wait_open(DEADLINE_S)
        assert len(stream(reader, range(10))) == 10
        file.unlink()
        with pytest.raises(AccessError):
            polled(reader, lambda: False)
    assert guarded.wait(lambda s: s.clients == 0).ledger.accepted + guarded.snapshot().ledger.rejected == 10
    file.write_bytes(kept)
    end = time.monotonic() + DEADLINE_S
    while True:
        try:
            with client(guarded, curve) as again:
                again.wait_open(DEADLINE_S)
                assert len(stream(again, range(10, 20))) == 10
            break
        except AccessError:
            assert time.monotonic() < end, "the list is read again within a second"


def test_a_session_that_is_open_dies_with_its_key_whatever_it_says(guarded: Farm, pairs: dict[str, KeyPair], allow: Path) -> None:
    """The connection stays, but every greeting over it is refused."""
    with zmq.Context() as context, context.socket(zmq.DEALER) as socket:
        socket.setsockopt(zmq.LINGER, 0)
        ClientCurve(pairs["farm"].public, pairs["reader"]).apply(socket)
        socket.connect(guarded.server.clients_url)

        def greet() -> wire.Header:
            socket.send_multipart(wire.encode_hello("stubborn"))
            assert socket.poll(DEADLINE_S * 1000)
            return wire.decode_header(socket.recv_multipart()[0])

        assert isinstance(greet(), wire.Credit)
        assert guarded.snapshot().clients == 1
        (allow / "clients" / "reader.key").unlink()
        guarded.wait(lambda s: s.clients == 0)
        while isinstance(answer := greet(), wire.Credit):
            pass
        assert isinstance(answer, wire.Error)
        assert answer.code == 13
        assert guarded.snapshot().clients == 0


def test_consumers_of_the_output_have_keys_of_their_own(tmp_path: Path, pairs: dict[str, KeyPair], allow: Path) -> None:
    output = OutputSettings(url="tcp://127.0.0.1:*", consumer_timeout_s=5.0)
    farm = Farm(tmp_path, output=output, curve=ServerCurve(pairs["farm"], allow))  # the clients' endpoint is an ipc one

    def consumer(name: str, key: str = "") -> Consumer:
        curve = ClientCurve(pairs["farm"].public, pairs[key or name])
        return Consumer(farm.server.output_url, name, mode=Mode.LOSSLESS, heartbeat_s=0.05, timeout_s=DEADLINE_S, curve=curve)

    try:
        farm.run(workers=1)
        for other in ("stranger", "reader"):  # who sends events does not read those of others
            with consumer(other) as refused, pytest.raises(AccessError, match="refuses the key"):
                refused.poll(DEADLINE_S)
        assert farm.snapshot().frames_refused["NOT_ALLOWED"] == 2
        with consumer("monitor") as reader, farm.client() as sender:
            while not reader.connected:
                assert reader.poll(0.05) == []
            with consumer("monitor", key="second") as thief, pytest.raises(ConfigError, match="'monitor' belongs to another key"):
                thief.poll(DEADLINE_S)
            assert [one.name for one in farm.snapshot().outputs[0].consumers] == ["monitor"]
            sender.wait_open(DEADLINE_S)
            sender.send(event(1), timeout=DEADLINE_S)
            (got,) = reader.poll(DEADLINE_S)
            assert got.id.event == 1
            (allow / "consumers" / "monitor.key").unlink()
            with pytest.raises(ConfigError, match="key of this consumer is not allowed"):
                reader.poll(DEADLINE_S)
            (status,) = farm.snapshot().outputs[0].consumers
            assert (status.present, status.waiting) == (False, 1), "what it had not confirmed waits for it, or for an operator"
            with consumer("monitor", key="second") as heir:  # the name's key is gone from the list: it was exchanged
                (got,) = heir.poll(DEADLINE_S)
                assert got.id.event == 1
                heir.close(leave=False)
            snapshot = farm.command("detach", consumer="monitor")
            assert (snapshot.ledger.accepted, snapshot.ledger.in_flight) == (1, 0)
    finally:
        farm.close()


def test_control_planes_have_keys_of_their_own(
    tmp_path: Path, pairs: dict[str, KeyPair], allow: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    farm = Farm(tmp_path)  # for its thread; the server under test is a second one
    settings = IngestSettings(
        clients_url=f"ipc://{tmp_path}/c2",
        workers_url=f"ipc://{tmp_path}/w2",
        control_url="tcp://127.0.0.1:*",
        ring=Path(f"/dev/shm/hltfarm-{tmp_path.name}-{os.getpid()}-2"),
        slots=4,
        limits=farm.settings.limits,
        error_dir=tmp_path / "errors2",
        curve=ServerCurve(pairs["farm"], allow),
    )
    farm.stop_ingest()
    farm.settings = settings
    farm.start_ingest()
    try:

        async def state(name: str | None, timeout_s: float) -> tuple[RunState, str | None]:
            curve = None if name is None else ClientCurve(pairs["farm"].public, pairs[name])
            link = FarmLink([farm.server.control_url], timeout_s, curve)
            try:
                view = await link.look()
                return view.state, view.ingests[0].error
            finally:
                await link.close()

        async def told() -> None:
            link = FarmLink([farm.server.control_url], DEADLINE_S, ClientCurve(pairs["farm"].public, pairs["shifter"]))
            try:
                await link.command("configure", RunConfig(run=1))
            finally:
                await link.close()

        assert asyncio.run(state("shifter", DEADLINE_S))[0] is RunState.HALTED
        for name in ("reader", "stranger", None):
            found, error = asyncio.run(state(name, 0.3))
            assert found is RunState.ERROR
            assert error is not None
            assert ("allow-list" in error) == (name is not None)
        said: list[str] = []
        monkeypatch.setattr("hltfarm.service.drain.ANSWER_S", 0.3)
        with pytest.raises(DrainError, match="did not answer"):
            drain([farm.server.control_url], 1.0, ClientCurve(pairs["farm"].public, pairs["reader"]), said.append)
        monkeypatch.setattr("hltfarm.service.drain.ANSWER_S", DEADLINE_S)
        drain([farm.server.control_url], DEADLINE_S, ClientCurve(pairs["farm"].public, pairs["shifter"]), said.append)
        assert said[-1].endswith("it had no run")
        with pytest.raises(RefusedError, match="leaves the farm"):
            asyncio.run(told())
    finally:
        farm.close()


def test_an_unusable_allow_list_keeps_the_ingest_from_starting(tmp_path: Path, pairs: dict[str, KeyPair]) -> None:
    ring = Path(f"/dev/shm/hltfarm-{tmp_path.name}-{os.getpid()}-3")
    settings = IngestSettings(
        clients_url="tcp://127.0.0.1:*", ring=ring, error_dir=tmp_path / "errors", curve=ServerCurve(pairs["farm"], tmp_path / "none")
    )
    with pytest.raises(ConfigError, match="allow-list"):
        IngestServer(settings)
    assert not ring.exists()


def test_a_broken_list_leaves_the_last_in_force(
    guarded: Farm, pairs: dict[str, KeyPair], allow: Path, caplog: pytest.LogCaptureFixture
) -> None:
    allow.rename(allow.with_name("moved"))
    end = time.monotonic() + DEADLINE_S
    while "remains in force" not in caplog.text:
        assert time.monotonic() < end
        guarded.snapshot()
        time.sleep(0.01)
    with client(guarded, ClientCurve(pairs["farm"].public, pairs["reader"])) as reader:
        polled(reader, lambda: reader.connected)
