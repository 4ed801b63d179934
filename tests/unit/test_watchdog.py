"""The watchdog, fed with looks at a farm."""

from __future__ import annotations

import pytest

from hltfarm.proto.messages import WorkerStatus
from hltfarm.service.control.link import FarmView, IngestView, view_of
from hltfarm.service.control.models import ProcessModel
from hltfarm.service.supervisor.watchdog import Watchdog, WatchdogSettings, Wedged
from tests.unit.farm_fake import snapshot

ENDPOINTS = {"ingest-0": "ipc:///a", "ingest-1": "ipc:///b"}
SETTINGS = WatchdogSettings(given_up_s=10.0, unknown_s=120.0, silent_s=30.0)


def process(name: str, pid: int | None, role: str = "worker") -> ProcessModel:
    return ProcessModel(name=name, role=role, phase="running", pid=pid, restarts=0, last_exit=None)


INGESTS = [process("ingest-0", 1, "ingest"), process("ingest-1", 2, "ingest")]


def worker(up: bool, pid: int = 7) -> WorkerStatus:
    return WorkerStatus(
        name="w0", backend="cpu", device="cpu", up=up, ready=up, credit_events=0, in_flight=0, processed=0, pid=pid, host="here"
    )


def view(*workers: list[WorkerStatus] | None) -> FarmView:
    """One ingest for each list; None: it does not answer."""
    views = [IngestView(url, None if w is None else snapshot(workers=w)) for url, w in zip(ENDPOINTS.values(), workers, strict=True)]
    return view_of(views)


def test_a_worker_that_was_given_up_and_lives_is_killed_after_a_while() -> None:
    watchdog = Watchdog(ENDPOINTS, SETTINGS)
    seen = view([worker(up=False)], [worker(up=False)])
    processes = [*INGESTS, process("w0", 7)]
    assert watchdog.observe(seen, processes, 100.0) == []
    assert watchdog.observe(seen, processes, 109.9) == []
    (wedged,) = watchdog.observe(seen, processes, 110.0)
    assert wedged == Wedged("w0", 7, "its ingest gave it up and it does not end for 10 s")
    assert watchdog.observe(seen, processes, 111.0) == [], "it has been told"
    assert watchdog.observe(seen, processes, 120.0) == [wedged], "SIGKILL waits for the end of a system call"


@pytest.mark.parametrize(
    "between",
    [
        view([worker(up=True)], [worker(up=False)]),  # it woke up and joined again
        view([worker(up=False)], None),  # nobody knows what the other ingest thinks of it
        view([worker(up=False, pid=6)], [worker(up=False, pid=6)]),  # that was its predecessor
    ],
)
def test_any_sign_of_the_contrary_starts_the_time_again(between: FarmView) -> None:
    watchdog = Watchdog(ENDPOINTS, SETTINGS)
    seen = view([worker(up=False)], [worker(up=False)])
    processes = [process("w0", 7)]
    watchdog.observe(seen, processes, 0.0)
    assert watchdog.observe(between, processes, 9.0) == []
    assert watchdog.observe(seen, processes, 11.0) == []
    assert [wedged.pid for wedged in watchdog.observe(seen, processes, 21.0)] == [7]


def test_a_new_process_has_all_its_time() -> None:
    watchdog = Watchdog(ENDPOINTS, SETTINGS)
    nobody = view([], [])
    watchdog.observe(nobody, [process("w0", 7)], 0.0)
    assert watchdog.observe(nobody, [process("w0", None)], 100.0) == [], "it waits for its restart"
    assert watchdog.observe(nobody, [process("w0", 8)], 130.0) == []
    assert watchdog.observe(nobody, [process("w0", 8)], 249.0) == []
    assert [(w.pid, w.why) for w in watchdog.observe(nobody, [process("w0", 8)], 250.0)] == [(8, "no ingest knows it for 120 s")]


def test_an_ingest_that_does_not_answer_is_killed_and_its_workers_are_left_alone() -> None:
    watchdog = Watchdog(ENDPOINTS, SETTINGS)
    processes = [*INGESTS, process("w0", 7)]
    half = view([worker(up=False)], None)
    assert watchdog.observe(half, processes, 0.0) == []
    assert [(w.name, w.pid) for w in watchdog.observe(half, processes, 30.0)] == [("ingest-1", 2)]
