"""Processes that are killed or stopped."""

from __future__ import annotations

import os
import signal

from hltfarm.service.chaos.plan import Injection
from hltfarm.service.chaos.scene import Scene


def kill_worker(scene: Scene, injection: Injection) -> None:
    """SIGKILL to a worker: its events go to others, and it is started again."""
    name, pid = scene.worker(injection)
    scene.in_flight()
    scene.hit()
    scene.farm.kill(pid)
    scene.again(name, pid)


def stop_worker(scene: Scene, injection: Injection) -> None:
    """SIGSTOP to a worker for longer than the ingest waits, then SIGCONT: what it then says of its events is stale."""
    _name, pid = scene.worker(injection)
    scene.in_flight()
    scene.hit()
    os.kill(pid, signal.SIGSTOP)
    try:
        scene.last(injection.seconds)
    finally:
        _continue(pid)


def _continue(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGCONT)
    except ProcessLookupError:
        return  # the supervisor ended what did not answer


def kill_ingest(scene: Scene, injection: Injection) -> None:
    """SIGKILL to one of several ingests: its clients send again what they have no decision for. What it had counted is gone."""
    pids = scene.farm.ingest_pids()
    pid = pids[injection.target % len(pids)]
    scene.in_flight()
    scene.hit()
    scene.farm.kill(pid)
    # decided by it, or with it and answered without the client having read it yet
    scene.lost_counts = scene.load.answered + scene.load.waiting

    def back() -> bool:
        present = scene.farm.ingest_pids()
        return len(present) == len(pids) and pid not in present

    scene.until(back, "the ingest was not started again")
    scene.farm.look()


def kill_control(scene: Scene, injection: Injection) -> None:
    """SIGKILL to the control plane, which comes back after a while: data taking does not depend on it."""
    scene.in_flight()
    scene.hit()
    scene.farm.restart_control(injection.seconds)
    scene.farm.look()
    scene.until(lambda: not scene.farm.api.not_ready(), "the control plane did not find its farm again")
