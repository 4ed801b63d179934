"""Events of the error stream as a sample file that `hltfarm reco` reads, with the menu that was to decide them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from hltfarm.loadgen.sample import SampleWriter
from hltfarm.proto.detector import phase1
from hltfarm.proto.errors import SampleError
from hltfarm.proto.events import RawEvent
from hltfarm.proto.messages import RunConfig

EVENTS = "events.hlt"
MENU = "menu.yaml"


def write_sample(folder: Path, events: Sequence[RawEvent], config: RunConfig) -> str:
    """Write `events.hlt` and `menu.yaml` into the folder; an `EventWriter`. Raises OSError if the disk refuses.

    A detector other than the built-in one is named, not embedded: its tables have megabytes, and the ingest has other things to do.
    """
    detector = phase1() if config.detector == "phase1" else None
    about = {"origin": "error stream", "run": config.run, "detector_spec": config.detector}
    try:
        with SampleWriter(folder / EVENTS, about, detector=detector) as writer:
            for event in events:
                writer.add(event)
    except SampleError as error:
        raise OSError(str(error)) from error
    (folder / MENU).write_text(config.menu or _default_menu())
    return EVENTS


def _default_menu() -> str:
    """The built-in menu, which another version of hltfarm may not have."""
    from hltfarm.workers.menu.menu import DEFAULT_MENU  # not at the top: it takes a quarter of a second, and most runs have no bundle

    return DEFAULT_MENU
