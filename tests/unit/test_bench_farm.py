"""`hltfarm bench farm`: where the knee is, whose CPU time it is, and what is refused."""

from __future__ import annotations

import io
import os
import subprocess
import sys

import pytest
from rich.console import Console

from hltfarm.proto.errors import ConfigError
from hltfarm.service.bench.cpu import CpuMeter, cpu_seconds, farm_processes
from hltfarm.service.bench.farm import Curve
from hltfarm.service.bench.points import Point, Setting, keeps_up, knee, rising
from hltfarm.service.bench.report import print_curve, to_json
from hltfarm.service.cli.bench_farm import positive, transports

LEDGER = {"received": 10, "accepted": 4, "rejected": 6, "error": 0, "duplicates": 0}


def point(offered: float | None, kept: bool = True, **changes: object) -> Point:
    given = {
        "offered_hz": offered,
        "reached_hz": offered or 1000.0,
        "gb_per_s": 0.5,
        "latency_ms": {"p50": 1.0, "p90": 2.0, "p99": 3.0, "max": 4.0},
        "cores": {"ingest": 1.0, "worker": 2.0, "clients": 0.5, "control": 0.0},
        "ledger": LEDGER,
        "mismatch": 0,
        "backlog_peak": 0,
        "seconds": 1.0,
        "share": 0.8,
        "kept": kept,
    } | changes
    return Point(**given)  # type: ignore[arg-type]


def test_the_knee_is_below_the_first_rate_that_was_not_kept() -> None:
    points = [point(None, kept=False), point(900, kept=False), point(500), point(800), point(1000)]
    found = knee(points)
    assert found is not None
    assert found.offered_hz == 800
    assert knee([point(None), point(500, kept=False), point(600)]) is None


def test_what_keeping_up_means() -> None:
    assert keeps_up(1000, 990, 19.0, 20.0)
    assert not keeps_up(1000, 990, 21.0, 20.0)
    assert not keeps_up(1000, 900, 19.0, 20.0)
    assert not keeps_up(1000, 0, None, 20.0)
    assert rising(2000, [1.1, 0.5]) == [1000.0, 2200.0]


def test_cpu_time_goes_to_its_role() -> None:
    meter = CpuMeter(os.getpid())
    meter.start()
    before = cpu_seconds(os.getpid())
    busy = "import sys, time\nwhile time.process_time() < 0.3: pass\nprint('burnt', flush=True)\nsys.stdin.read()"
    command = [sys.executable, "-c", busy, "worker"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "burnt\n"
        roles = farm_processes(os.getpid())
        used = meter.used()
    assert (roles[os.getpid()], roles[child.pid]) == ("control", "worker")
    assert used["worker"] >= 0.28
    assert 0 <= used["control"] <= cpu_seconds(os.getpid()) - before + 0.05
    with pytest.raises(FileNotFoundError):
        cpu_seconds(child.pid)


def test_the_report_says_what_is_wrong() -> None:
    bad = point(900, kept=False, mismatch=2, problems=["1 event never sent"])
    curve = Curve(Setting(2, "tcp", 0.5), [point(None, kept=False), point(500), bad])
    document = to_json([curve], "s.hlt", None, {})
    assert (document["closed"], document["mismatch"]) == (False, 2)
    assert document["curves"][0]["knee"]["offered_hz"] == 500
    assert document["curves"][0]["saturation_hz"] == 1000
    out = io.StringIO()
    print_curve(curve, Console(file=out, width=200))
    assert "2 ingests, tcp, deadline 0.5 ms" in out.getvalue()
    assert "1 event never sent; mismatch 2" in out.getvalue()
    assert "keeps up with 500 events/s" in out.getvalue()


def test_lists_of_options() -> None:
    assert positive("--few", "0.5,2") == [0.5, 2.0]
    assert transports("tcp, ipc") == ["tcp", "ipc"]
    for text in ("", "0", "-1", "x", "nan", "1e9"):
        with pytest.raises(ConfigError, match="--few"):
            positive("--few", text)
    with pytest.raises(ConfigError, match="--transport 'udp'"):
        transports("udp")
