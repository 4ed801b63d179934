"""Workers of `hltfarm serve` over its API, with real processes: added, drained, restarted, quarantined, deleted; and one that is wedged."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.integration.test_serve import folder, serving, until

__all__ = ["folder"]


@pytest.fixture
def farm(folder: Path) -> Iterator[str]:
    """The URL of the API of a farm with one worker that is ready."""
    with serving(folder, "--batch-timeout-s", "30") as (_process, url):
        until(f"{url}/v2/health/ready", lambda answer: bool(answer["ready"]))
        yield url


def order(method: str, url: str, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
    """Send a command and wait for the end of its transition."""
    answer = httpx.request(method, f"{url}{path}", json=body, trust_env=False)
    assert answer.status_code == 202, answer.text
    assert answer.headers["location"] == f"/v1/transitions/{answer.json()['id']}"
    return dict(until(f"{url}{answer.headers['location']}", lambda transition: transition["progress"] != "pending"))


def worker(url: str, name: str) -> dict[str, Any]:
    return dict(httpx.get(f"{url}/v1/workers/{name}", trust_env=False).json())


def refused(method: str, url: str, path: str, body: dict[str, Any] | None = None) -> tuple[int, str]:
    answer = httpx.request(method, f"{url}{path}", json=body, trust_env=False)
    assert answer.headers["content-type"] == "application/problem+json"
    return answer.status_code, answer.json()["detail"]


def test_a_worker_is_added_drained_released_restarted_and_deleted(farm: str) -> None:
    added = order("POST", farm, "/v1/workers", {"name": "extra", "backend": "cpu", "threads": 1})
    assert (added["progress"], added["command"], added["worker"]) == ("done", "worker_add", "extra")
    assert refused("POST", farm, "/v1/workers", {"name": "extra"}) == (
        409,
        "there is a process 'extra' already; choose another name, or delete it first",
    )
    assert refused("POST", farm, "/v1/workers", {"name": "-x"})[0] == 422
    assert refused("POST", farm, "/v1/workers", {"backend": "cpu", "device": 0})[0] == 422
    until(f"{farm}/v1/workers/extra", lambda body: bool(body["ready"]))

    assert order("POST", farm, "/v1/workers/extra/drain")["progress"] == "done"
    drained = worker(farm, "extra")
    assert (drained["process"]["phase"], drained["process"]["pid"], drained["joined"]) == ("drained", None, False)
    assert drained["process"]["last_exit"] == "exit code 0"
    assert refused("POST", farm, "/v1/workers/extra/drain") == (409, "worker 'extra' cannot be drained: it is drained")
    released = httpx.post(f"{farm}/v1/workers/extra/release", trust_env=False)
    assert released.status_code == 200
    before = until(f"{farm}/v1/workers/extra", lambda body: bool(body["ready"]))["process"]["pid"]
    assert order("POST", farm, "/v1/workers/extra/restart")["progress"] == "done"
    again = worker(farm, "extra")
    assert again["process"]["pid"] not in (None, before)
    assert again["process"]["last_exit"] == "exit code 0", "it was drained and not killed"
    assert order("POST", farm, "/v1/workers/extra/restart?now=true")["progress"] == "done"
    assert worker(farm, "extra")["process"]["last_exit"] == "signal SIGKILL"

    assert order("DELETE", farm, "/v1/workers/extra")["progress"] == "done"
    assert refused("GET", farm, "/v1/workers/extra")[0] == 404
    for method, path in (("POST", "drain"), ("POST", "restart"), ("POST", "quarantine"), ("POST", "release"), ("DELETE", "")):
        assert refused(method, farm, f"/v1/workers/extra/{path}".rstrip("/"))[0] == 404


def test_quarantine_with_a_reason_and_a_worker_that_cannot_start(farm: str) -> None:
    assert order("POST", farm, "/v1/workers/worker-0/quarantine", {"reason": "fan is loud"})["progress"] == "done"
    held = worker(farm, "worker-0")
    assert (held["quarantined"], held["process"]["phase"]) == ("fan is loud", "quarantined")
    assert "hlt_workers_quarantined 1.0" in httpx.get(f"{farm}/metrics", trust_env=False).text
    assert refused("POST", farm, "/v1/workers/worker-0/restart")[1].endswith("it is quarantined (fan is loud)")
    assert httpx.post(f"{farm}/v1/workers/worker-0/release", trust_env=False).status_code == 200
    until(f"{farm}/v1/workers/worker-0", lambda body: bool(body["ready"]))


def test_a_stopped_worker_is_killed_and_its_successor_works(farm: str) -> None:
    pid = worker(farm, "worker-0")["process"]["pid"]
    os.kill(pid, signal.SIGSTOP)
    body = until(f"{farm}/v1/workers/worker-0", lambda body: body["restarts"] == 1 and body["ready"])
    assert body["process"]["last_exit"] == "signal SIGKILL"
    assert body["process"]["pid"] != pid
