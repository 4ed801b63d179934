"""Batches that go wrong inside a worker, on orders that it reads before each (`workers/faults.py`)."""

from __future__ import annotations

from hltfarm.service.chaos.plan import Injection
from hltfarm.service.chaos.scene import Scene
from hltfarm.workers.faults import Act


def hang(scene: Scene, injection: Injection) -> None:
    """A batch that does not return: the worker is given up, its events go to others, and it ends to be started again."""
    name, pid = scene.worker(injection)
    order = scene.order(act=Act.HANG, worker=name)
    scene.struck(order)
    scene.hit()
    scene.again(name, pid)
    scene.withdraw(order)


def out_of_memory(scene: Scene, injection: Injection) -> None:
    """Batches whose memory the system refuses: their events are tried again."""
    name, _pid = scene.worker(injection)
    order = scene.order(act=Act.OOM, worker=name, batches=injection.count)
    scene.struck(order)
    scene.hit()
    scene.struck(order, injection.count)
    scene.withdraw(order)


def slow(scene: Scene, injection: Injection) -> None:
    """A worker that takes twenty times as long: the others have to do most of its work."""
    name, _pid = scene.worker(injection)
    order = scene.order(act=Act.SLOW, worker=name, factor=20.0)
    scene.struck(order)
    scene.hit()
    scene.last(injection.seconds)
    scene.withdraw(order)


def poison(scene: Scene, injection: Injection) -> None:
    """An event that makes every batch with it fail, hang, or kill its worker: it alone ends in the error stream."""
    order = scene.poison(Act(injection.manner), [injection.target])
    scene.struck(order)
    scene.hit()

    def bundled() -> bool:
        scene.farm.release_quarantined()  # it takes some workers along
        return scene.victims <= set(scene.farm.bundled(scene.run))

    scene.until(bundled, f"event {order.events[0]}, which is poison, is not in the error stream")
    scene.farm.look()
