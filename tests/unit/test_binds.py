"""Which addresses need tokens or keys."""

from __future__ import annotations

from pathlib import Path

import pytest

from hltfarm.proto.errors import ConfigError
from hltfarm.service import cli
from hltfarm.service.security.binds import check_endpoint, check_http, local_endpoint, loopback


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.9.1", "::1", "[::1]", "localhost", "lo"])
def test_loopback(host: str) -> None:
    assert loopback(host)


@pytest.mark.parametrize("host", ["0.0.0.0", "*", "::", "[::]", "", "10.0.0.7", "farm.example.org", "127.0.0.1.example.org", "localhost.x"])
def test_not_loopback(host: str) -> None:
    assert not loopback(host)


def test_endpoints() -> None:
    assert all(map(local_endpoint, ("ipc:///tmp/x", "inproc://x", "tcp://127.0.0.1:7400", "tcp://[::1]:7400", "tcp://lo:*")))
    assert not any(
        map(local_endpoint, ("tcp://*:7400", "tcp://eth0:7400", "tcp://0.0.0.0:1", "tcp://[::]:1", "udp://127.0.0.1:1", "tcp://"))
    )


def test_the_rule() -> None:
    check_http("127.0.0.1:8080", tokens=False, insecure=False)
    check_http("0.0.0.0:8080", tokens=True, insecure=False)
    check_http("0.0.0.0:8080", tokens=False, insecure=True)
    check_endpoint("--clients", "tcp://127.0.0.1:7400", curve=False, insecure=False)
    check_endpoint("--clients", "tcp://*:7400", curve=True, insecure=False)
    check_endpoint("--clients", "tcp://*:7400", curve=False, insecure=True)
    with pytest.raises(ConfigError, match="--tokens FILE"):
        check_http("0.0.0.0:8080", tokens=False, insecure=False)
    with pytest.raises(ConfigError, match=r"--control tcp://.*--curve-key"):
        check_endpoint("--control", "tcp://*:7402", curve=False, insecure=False)


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["serve", "--http", "0.0.0.0:0"], "--http 0.0.0.0:0: others than this machine"),
        (["serve", "--ingest", "tcp://*:7400"], "--ingest tcp://*:7400: anybody"),
        (["control", "--http", "[::]:8080"], "--http [::]:8080: others than this machine"),
        (["ingest", "--clients", "tcp://0.0.0.0:7400"], "--clients tcp://0.0.0.0:7400: anybody"),
        (["ingest", "--control", "tcp://*:7402"], "--control tcp://*:7402: anybody"),
        (["ingest", "--workers", "tcp://*:7401"], "--workers tcp://*:7401: workers share the memory"),
    ],
)
def test_commands_keep_it(arguments: list[str], reason: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run([*arguments, *(["--data", str(tmp_path)] if arguments[0] == "serve" else [])]) == 2
    assert reason in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
