"""deploy/compose.yml on a real Docker engine: up, load through the published port, containers killed and stopped under load, down.

In the order of this file, on one farm, as an operator would try it. `make test-containers`; the figures are printed.
"""

from __future__ import annotations

import json
import re
import subprocess
import time
import tomllib
from collections.abc import Iterator
from typing import Any

import pytest

from tests.containers.composed import GRACE_S, IMAGES, ROOT, Composed, missing, output

VERSION = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
REASON = missing(VERSION)
pytestmark = [pytest.mark.skipif(bool(REASON), reason=REASON), pytest.mark.timeout(1200)]


@pytest.fixture(scope="module")
def farm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Composed]:
    farm = Composed(tmp_path_factory.mktemp("containers"))
    began = time.monotonic()
    try:
        farm.compose("up", "-d", "--no-build", "--scale", "worker-cpu=2", "control", "ingest", "worker-cpu")
        farm.wait_ready()
        with farm.load("first", events=1, rate=1) as result:
            result()
        print(f"\n{time.monotonic() - began:.1f} s from `up` to the end of a load of one event")
        farm.wait("two workers", lambda: farm.status()["workers_ready"] == 2)
        yield farm
    finally:
        farm.remove()


def closed(report: Any, events: int) -> None:
    """Every event was answered once, by a worker."""
    assert (report["closed"], report["offered"], report["unanswered"], report["duplicates"]) == (True, events, 0, 0)
    assert report["decisions"]["error"] == 0
    assert sum(report["decisions"].values()) == events
    assert report["irreproducible"] == 0


def books(farm: Composed) -> Any:
    """The ledger of the run, once nothing is in flight; without errors."""
    ledger = farm.wait("an empty farm", lambda: (s := farm.status())["ledger"]["in_flight"] == 0 and s["ledger"])
    assert (ledger["mismatch"], ledger["error"]) == (0, 0)
    assert ledger["received"] == ledger["accepted"] + ledger["rejected"]
    print(f"ledger: {ledger}")
    return ledger


SEEN = """
import importlib.util, shutil
print([name for name in ("torch", "pip") if importlib.util.find_spec(name)], [name for name in ("g++", "cc", "npm") if shutil.which(name)])
"""


def test_images_have_what_they_need_and_no_more() -> None:
    for image in IMAGES:
        name = f"hltfarm/{image}:{VERSION}"
        config = json.loads(output("docker", "image", "inspect", name))[0]["Config"]
        assert config["User"] == "10001:10001"
        assert config["Entrypoint"] == ["hltfarm"]
        assert ("Healthcheck" in config) == (image != "loadgen")
        assert config["Labels"]["org.opencontainers.image.version"] == VERSION
        assert output("docker", "run", "--rm", "--network=none", "--entrypoint", "python3", name, "-c", SEEN) == "[] []\n"


def test_containers_have_no_rights_that_they_do_not_need(farm: Composed) -> None:
    for container in farm.containers():
        host = farm.inspect(container)["HostConfig"]
        assert host["ReadonlyRootfs"]
        assert host["CapDrop"] == ["ALL"]
        assert host["SecurityOpt"] == ["no-new-privileges:true"]
        assert not host["Privileged"]
        ports = [binding["HostIp"] for bindings in (host["PortBindings"] or {}).values() for binding in bindings]
        assert set(ports) <= {"127.0.0.1"}


def test_health_checks_find_them_well(farm: Composed) -> None:
    for container in farm.containers():
        farm.wait(f"health of {container}", lambda c=container: farm.inspect(c)["State"]["Health"]["Status"] == "healthy")


def test_a_worker_killed_under_load(farm: Composed) -> None:
    victim = farm.containers("worker-cpu")[0]
    before = books(farm)["received"]
    with farm.load("worker-killed", events=1500, rate=150) as result:
        farm.under_load()
        output("docker", "kill", victim)
        farm.wait("the loss to be seen", lambda: farm.status()["workers_ready"] == 1)
        output("docker", "start", victim)
        closed(result(), 1500)
    assert books(farm)["received"] == before + 1500
    farm.wait("two workers", lambda: farm.status()["workers_ready"] == 2)
    workers = {worker["name"]: worker for worker in farm.get("/v1/workers")["workers"]}
    assert workers[victim[:12]]["restarts"] == 1  # the same name and the same pid, 1, and another process all the same


def test_workers_stopped_under_load_finish_what_is_in_flight(farm: Composed) -> None:
    """One after the other: the second is the last one and stays until the ingest is empty. Nothing is decided twice, nothing fails."""
    workers, before = farm.containers("worker-cpu"), books(farm)
    with farm.load("workers-stopped", events=1500, rate=150) as result:
        farm.under_load()
        for worker in workers:
            output("docker", "stop", "--time", str(int(GRACE_S)), worker)
            assert farm.inspect(worker)["State"]["ExitCode"] == 0
        assert farm.status()["ledger"]["in_flight"] == 0
        assert "is the last one: it stays" in farm.logs(farm.containers("ingest")[0])
        for worker in workers:
            output("docker", "start", worker)
        report = result()
    closed(report, 1500)
    assert report["resends"] == 0
    after = books(farm)
    assert (after["received"] - before["received"], after["duplicates"] - before["duplicates"]) == (1500, 0)


def test_prometheus_scrapes_the_farm(farm: Composed) -> None:
    image = re.search(r"image: (prom/prometheus:\S+)", (ROOT / "deploy" / "compose.yml").read_text())
    assert image is not None
    if subprocess.run(["docker", "image", "inspect", image[1]], capture_output=True, check=False).returncode:
        pytest.skip(f"no image {image[1]}")
    farm.compose("up", "-d", "--no-build", "--no-recreate", "--scale", "worker-cpu=2", "prometheus")

    def value(query: str) -> float | None:
        answer = farm.get(f"/api/v1/query?query={query}", farm.prometheus)
        found = answer["data"]["result"] if answer else []
        return float(found[0]["value"][1]) if found else None

    farm.wait("a scrape", lambda: value("up%7Bjob%3D%22hltfarm%22%7D") == 1)
    received = farm.status()["totals"]["received"]
    farm.wait("the counters of the farm", lambda: value("sum(hlt_events_received_total)") == received)
    assert value("hlt_accounting_mismatch_events") == 0
    rules = farm.get("/api/v1/rules", farm.prometheus)["data"]["groups"]
    assert sum(len(group["rules"]) for group in rules) > 20
    print(f"{sum(len(group['rules']) for group in rules)} rules, {received} events received")


def test_an_ingest_killed_under_load(farm: Composed) -> None:
    """Its clients send again what they had no decision for; the ring that it left is not in the way."""
    (ingest,) = farm.containers("ingest")
    with farm.load("ingest-killed", events=1500, rate=150) as result:
        farm.under_load()
        output("docker", "kill", ingest)
        output("docker", "start", ingest)
        closed(result(), 1500)
    ledger = books(farm)
    assert ledger["received"] >= 1  # of the process that is there now
    assert farm.get("/v1/runs")["runs"][0]["outcome"] == "running"


def test_down_under_load_drains(farm: Composed) -> None:
    """What is in flight is decided, the books close; every process ends by itself."""
    (ingest,) = farm.containers("ingest")
    with farm.load("down", events=100_000, rate=150):
        farm.under_load()
        began = time.monotonic()
        farm.compose("stop")
        took = time.monotonic() - began
    print(f"stop took {took:.1f} s; what was said:")
    for container in farm.containers():
        print("\n".join(f"{container}: {line[:200]}" for line in farm.logs(container).splitlines()[-4:]))
    assert took < GRACE_S
    for container in farm.containers():
        state = farm.inspect(container)["State"]
        assert (state["ExitCode"], state["OOMKilled"]) == (0, False), farm.logs(container)[-2000:]
    (end,) = re.findall(r"run 1 ended: .*", farm.logs(ingest))[-1:]
    print(end)
    assert "error=0, in_flight=0" in end


def test_nothing_is_left_behind(farm: Composed) -> None:
    farm.compose("down", "--volumes")
    label = f"label=com.docker.compose.project={farm.project}"
    for kind in ("container ls -a", "volume ls", "network ls"):
        assert output("docker", *kind.split(), "-q", "--filter", label) == ""
