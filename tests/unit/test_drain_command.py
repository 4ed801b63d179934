"""Ingests that are told to leave, from the side of who tells them."""

from __future__ import annotations

import threading
from pathlib import Path

import msgspec
import pytest
import zmq

from hltfarm.proto.errors import ConfigError
from hltfarm.proto.messages import Command, CommandReply, RunState
from hltfarm.service import drain as module
from hltfarm.service.drain import DrainError, drain
from tests.unit.farm_fake import snapshot


def leaves(socket: zmq.Socket[bytes], ops: list[str]) -> None:
    """An ingest that is told twice, and has closed its books then."""
    for state in (RunState.DRAINING, RunState.CONFIGURED):
        sender, frame = socket.recv_multipart()
        command = msgspec.json.decode(frame, type=Command)
        ops.append(command.op)
        reply = CommandReply(id=command.id, snapshot=snapshot(state=state, info={"leaving": 1}))
        socket.send_multipart([sender, msgspec.json.encode(reply)])


def test_one_that_does_not_answer_keeps_the_others_from_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "ANSWER_S", 3.0)
    dead, alive, ops, said = f"ipc://{tmp_path}/dead", f"ipc://{tmp_path}/alive", list[str](), list[str]()
    with zmq.Context() as context, context.socket(zmq.ROUTER) as socket:
        socket.setsockopt(zmq.RCVTIMEO, 20_000)
        socket.bind(alive)
        ingest = threading.Thread(target=leaves, args=(socket, ops), daemon=True)
        ingest.start()
        with pytest.raises(DrainError, match="dead did not answer"):
            drain([dead, alive], 20.0, say=said.append)
        ingest.join(20)
    assert ops == ["leave", "leave"]
    assert said[-1].startswith(f"{alive}: run 7 is closed here"), said


def test_what_is_no_endpoint_is_a_config_error() -> None:
    with pytest.raises(ConfigError, match="--ingest"):
        drain(["127.0.0.1:7402"], 1.0)
