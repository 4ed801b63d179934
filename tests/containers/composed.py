"""A farm of deploy/compose.yml on a Docker engine, for the tests: its commands, its containers, a load through its published port."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hltfarm.service.farm_process import free_ports

ROOT = Path(__file__).resolve().parent.parent.parent
COMPOSE_FILE = ROOT / "deploy" / "compose.yml"
IMAGES = ("control", "ingest", "worker-cpu", "loadgen")
READY_S = 240.0  # of a busy machine
GRACE_S = 60.0  # stop_grace_period
SAMPLE = "demo"


def output(*command: str, **options: Any) -> str:
    """What a command prints on stdout; its stderr is in the error if it fails."""
    done = subprocess.run(command, capture_output=True, text=True, check=False, **options)
    assert done.returncode == 0, f"{' '.join(command)}: {done.stderr[-2000:]}"
    return done.stdout


def missing(version: str) -> str:
    """Why there can be no farm of containers here; empty if there can be."""
    if os.environ.get("HLTFARM_TEST_CONTAINERS") != "1":
        return "containers are started by `make test-containers` alone (HLTFARM_TEST_CONTAINERS=1)"
    if shutil.which("docker") is None:
        return "no docker on this machine"
    if not compose_command():
        return "neither `docker compose` nor docker-compose on this machine"
    for image in IMAGES:
        name = f"hltfarm/{image}:{version}"
        if subprocess.run(["docker", "image", "inspect", name], capture_output=True, check=False).returncode:
            return f"no image {name}, or no Docker engine; build the images with `make images`"
    return ""


def compose_command() -> list[str]:
    """`docker compose`, or the older docker-compose; empty if there is neither."""
    if subprocess.run(["docker", "compose", "version"], capture_output=True, check=False).returncode == 0:
        return ["docker", "compose"]
    return ["docker-compose"] if shutil.which("docker-compose") else []


class Composed:
    """A project of its own, with ports of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.project = f"hltfarm-test-{os.getpid()}"
        http, clients, prometheus = free_ports(3)
        self.http, self.clients, self.prometheus = (
            f"http://127.0.0.1:{http}",
            f"tcp://127.0.0.1:{clients}",
            f"http://127.0.0.1:{prometheus}",
        )
        ports = {"HTTP": http, "CLIENTS": clients}
        self._environment = {
            **os.environ,
            **{f"HLTFARM_{name}_PORT": str(port) for name, port in ports.items()},
            "PROMETHEUS_PORT": str(prometheus),
            "HLTFARM_WORKER_THREADS": "1",
        }

    def compose(self, *arguments: str) -> str:
        profiles = ("--profile", "cpu", "--profile", "monitoring")
        command = (*compose_command(), "-p", self.project, "-f", str(COMPOSE_FILE), *profiles, *arguments)
        return output(*command, env=self._environment)

    def containers(self, service: str = "") -> list[str]:
        """Ids of the project's containers, those that have ended too."""
        filters = [f"label=com.docker.compose.project={self.project}"]
        filters += [f"label=com.docker.compose.service={service}"] if service else []
        return output("docker", "ps", "-aq", *(word for text in filters for word in ("--filter", text))).split()

    def inspect(self, container: str) -> Any:
        return json.loads(output("docker", "inspect", container))[0]

    def logs(self, container: str) -> str:
        done = subprocess.run(["docker", "logs", container], capture_output=True, text=True, check=True)
        return done.stdout + done.stderr

    def get(self, path: str, base: str = "") -> Any:
        """An answer of the API as JSON, None where there is none yet."""
        try:
            with urllib.request.urlopen((base or self.http) + path, timeout=10) as answer:
                return json.load(answer)
        except (OSError, urllib.error.HTTPError):
            return None

    def wait(self, what: str, condition: Callable[[], Any], timeout_s: float = READY_S) -> Any:
        end = time.monotonic() + timeout_s
        while not (found := condition()):
            assert time.monotonic() < end, f"{what} did not come about; {self.get('/v1/status')}"
            time.sleep(0.2)
        return found

    def status(self) -> Any:
        """Of a farm whose ingest answers."""

        def told() -> Any:
            found = self.get("/v1/status")
            return found if found and found["totals"] else None

        return self.wait("a status with the books", told)

    def wait_ready(self) -> None:
        self.wait("a farm that is ready", lambda: self.get("/v2/health/ready"))

    @contextmanager
    def load(self, name: str, events: int, rate: float) -> Iterator[Callable[[], Any]]:
        """Offer events through the published port; gives a function that waits for the end and returns the report."""
        report = self.folder / f"{name}.json"
        arguments = ["--ingest", self.clients, "--source", SAMPLE, "--events", str(events), "--rate", str(rate)]
        arguments += ["--wait", "120", "--patience", "240", "--report", str(report)]
        command = [sys.executable, "-P", "-c", "from hltfarm.service.cli import main; main()", "load", *arguments]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:

            def result() -> Any:
                said, _ = process.communicate(timeout=600)
                assert process.returncode == 0, said
                return json.loads(report.read_text())

            try:
                yield result
            finally:
                process.kill()

    def under_load(self, more: int = 30) -> None:
        """Wait until so many events more have been received than now, and some are in flight."""
        before = self.status()["totals"]["received"]

        def flowing() -> bool:
            totals = self.status()["totals"]
            return bool(totals["received"] >= before + more and totals["in_flight"])

        self.wait(f"{more} events more", flowing)

    def remove(self) -> None:
        self.compose("down", "--volumes", "--remove-orphans", "--timeout", "5")
