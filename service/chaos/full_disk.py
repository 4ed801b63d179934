"""A disk that is full while events have to go to the error stream."""

from __future__ import annotations

from hltfarm.service.chaos.batches import AHEAD
from hltfarm.service.chaos.plan import Injection
from hltfarm.service.chaos.scene import ChaosError, Scene
from hltfarm.workers.faults import Act

SAID = "error stream"  # in what the farm says of it


def full_disk(scene: Scene, injection: Injection) -> None:
    """No room for some events that fail: they stay in flight, and are written and answered when there is room again."""
    disk = scene.farm.disk
    assert disk is not None, "the farm of this fault has a small disk"
    run = int(scene.farm.api.status()["run"])
    scene.in_flight()
    scene.hit()
    disk.fill(scene.farm.ingest_pids())
    try:
        events = tuple(scene.load.coming(injection.target + place, AHEAD) for place in range(injection.count))
        order = scene.order(act=Act.FAIL, events=events)
        scene.poison.update(events)
        scene.struck(order)
        scene.until(lambda: any(SAID in problem for problem in scene.farm.api.status()["problems"]), "the full disk was not noticed")
        if set(events) & set(scene.farm.bundled(run)):
            raise ChaosError("the disk that should be full took a bundle")
        scene.last(injection.seconds)
    finally:
        disk.free()
    scene.until(lambda: set(events) <= set(scene.farm.bundled(run)), "events that waited for room are not in the error stream")
