"""Where the ingests of a farm listen, and which GPU a worker sees."""

from __future__ import annotations

import importlib.util
import os

import pytest

from hltfarm.proto.errors import BackendError, ConfigError
from hltfarm.service.cli.serve import backend_name, device_numbers, worker_count
from hltfarm.service.endpoints import client_endpoints
from hltfarm.workers.devices import VISIBLE, choose_device


def test_further_ingests_are_at_the_next_ports() -> None:
    assert client_endpoints("tcp://127.0.0.1:7400", 3) == ("tcp://127.0.0.1:7400", "tcp://127.0.0.1:7401", "tcp://127.0.0.1:7402")
    assert client_endpoints("ipc:///run/farm", 2) == ("ipc:///run/farm", "ipc:///run/farm-1")
    assert client_endpoints("tcp://*:*", 1) == ("tcp://*:*",), "one ingest may take any endpoint"


@pytest.mark.parametrize(
    "first", ["tcp://127.0.0.1:*", "tcp://127.0.0.1:0", "tcp://127.0.0.1:65535", "127.0.0.1:7400", "inproc://x", "ipc://"]
)
def test_endpoints_that_cannot_be_counted_up(first: str) -> None:
    with pytest.raises(ConfigError, match="consecutive ports"):
        client_endpoints(first, 2)


@pytest.mark.parametrize(("before", "index", "after"), [(None, 2, "2"), ("4,7", 1, "7"), ("GPU-a, GPU-b", 0, "GPU-a")])
def test_a_device_is_counted_among_those_that_may_be_seen(
    before: str | None, index: int, after: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(VISIBLE, raising=False)
    if before is not None:
        monkeypatch.setenv(VISIBLE, before)
    choose_device(index)
    assert os.environ[VISIBLE] == after
    monkeypatch.setenv(VISIBLE, after)  # so that the fixture puts back what was there before


def test_a_device_that_may_not_be_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VISIBLE, "0,1")
    with pytest.raises(ConfigError, match="device 2: CUDA_VISIBLE_DEVICES=0,1 lets this process see 2"):
        choose_device(2)


def test_each_device_has_a_worker() -> None:
    assert device_numbers("0, 2") == (0, 2)
    assert device_numbers(None) == ()
    assert [
        worker_count(None, (), "cpu"),
        worker_count(3, (), "cpu"),
        worker_count(None, (0, 2), "cuda"),
        worker_count(2, (0, 2), "auto"),
    ] == [
        1,
        3,
        2,
        2,
    ]
    for text in ("0,0", "x", "", "-1"):
        with pytest.raises(ConfigError, match="--devices"):
            device_numbers(text)
    with pytest.raises(ConfigError, match="leave --workers out"):
        worker_count(1, (0, 2), "cuda")
    with pytest.raises(ConfigError, match="names GPUs"):
        worker_count(None, (0,), "cpu")


@pytest.mark.skipif(importlib.util.find_spec("cupy") is not None, reason="CuPy is installed")
def test_who_names_devices_wants_cuda() -> None:
    assert backend_name("auto") == "auto"
    with pytest.raises(BackendError, match="needs CuPy"):
        backend_name("auto", (7,))
