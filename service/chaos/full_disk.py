"""A disk that is full: that of the error stream while events have to go there, or that of the output."""

from __future__ import annotations

from hltfarm.service.chaos.plan import Injection
from hltfarm.service.chaos.scene import ChaosError, Scene
from hltfarm.workers.faults import Act

#: In what the farm says of it.
SAID = {"errors": "error stream", "output": "output cannot be written"}


def full_disk(scene: Scene, injection: Injection) -> None:
    """No room for events that have to be written: they stay in flight, and are written and answered when there is room again."""
    disk = scene.farm.disks[injection.manner]
    scene.in_flight()
    scene.hit()
    disk.fill(scene.farm.ingest_pids())
    try:
        if injection.manner == "errors":
            scene.struck(scene.poison(Act.FAIL, range(injection.target, injection.target + injection.count)))
        scene.until(lambda: _noticed(scene, injection), f"the full disk ({injection.manner}) was not noticed")
        scene.last(injection.seconds)
        if injection.manner == "errors" and scene.victims & set(scene.farm.bundled(scene.run)):
            raise ChaosError("the disk that should be full took a bundle")
    finally:
        disk.free()
    scene.until(lambda: not _noticed(scene, injection), "the farm did not notice that there is room again")
    if injection.manner == "errors":
        scene.until(lambda: scene.victims <= set(scene.farm.bundled(scene.run)), "events that waited for room are not in the error stream")


def _noticed(scene: Scene, injection: Injection) -> bool:
    return any(SAID[injection.manner] in problem for problem in scene.farm.api.status()["problems"])
