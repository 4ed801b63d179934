"""Another menu or model while events flow, and a worker that is killed meanwhile."""

from __future__ import annotations

import itertools
import time

from hltfarm.service.chaos.plan import Injection
from hltfarm.service.chaos.scene import ChaosError, Scene

#: Menus and models that take turns.
MENUS = tuple(
    f"""version: 1
name: chaos-{ht}
streams: {{physics: a part of the events, monitoring: some of everything}}
paths:
  - {{name: HLT_Chaos, stream: physics, require: {{vertex_ht: {{min: {ht}}}}}}}
  - {{name: HLT_PassThrough, stream: monitoring, prescale: 20}}
"""
    for ht in (100, 250)
)
MODELS = ("none", "track-mlp")
_turns = itertools.count()


def swap(scene: Scene, injection: Injection) -> None:
    """From the next lumisection on another menu or model decides; a worker is killed while all of them build it."""
    name, pid = scene.worker(injection)
    turn = next(_turns)
    body = {"menu": MENUS[turn % len(MENUS)]} if injection.manner == "menu" else {"model": MODELS[turn % len(MODELS)]}
    scene.in_flight()
    scene.hit()
    transition = scene.farm.api.begin("activate", **body)
    time.sleep(injection.seconds)  # some kills meet a worker that builds, some one that has built
    scene.farm.kill(pid)
    scene.again(name, pid)
    scene.until(lambda: scene.farm.api.transition(transition)["progress"] != "pending", f"the {injection.manner} was not exchanged")
    end = scene.farm.api.transition(transition)
    if end["progress"] != "done":
        raise ChaosError(f"the {injection.manner} was not exchanged: {end['error']}")
