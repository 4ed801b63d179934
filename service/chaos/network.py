"""Links that stall or break, by proxies between the two sides."""

from __future__ import annotations

from collections.abc import Sequence

from hltfarm.service.chaos.plan import Injection
from hltfarm.service.chaos.proxy import Proxy
from hltfarm.service.chaos.scene import Scene


def partition_clients(scene: Scene, injection: Injection) -> None:
    """Clients and ingests do not reach each other for a while: clients come back and send again what has no decision."""
    _partition(scene, injection, scene.farm.proxies)


def partition_workers(scene: Scene, injection: Injection) -> None:
    """Workers and ingest do not reach each other for a while: the workers are lost, and found again."""
    _partition(scene, injection, scene.farm.worker_proxies)


def _partition(scene: Scene, injection: Injection, proxies: Sequence[Proxy]) -> None:
    scene.in_flight()
    scene.hit()
    for proxy in proxies:
        proxy.stall() if injection.manner == "stall" else proxy.drop()
    try:
        scene.last(injection.seconds)
    finally:
        for proxy in proxies:
            proxy.heal()
