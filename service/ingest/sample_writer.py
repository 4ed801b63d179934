"""Events of the error stream as a sample file that `hltfarm reco` reads."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from hltfarm.loadgen.sample import SampleWriter
from hltfarm.proto.errors import SampleError
from hltfarm.proto.events import RawEvent
from hltfarm.proto.messages import RunConfig


def write_sample(folder: Path, events: Sequence[RawEvent], config: RunConfig) -> str:
    """Write `events.hlt` into the folder; an `EventWriter`. The detector is named, not embedded. Raises OSError if the disk refuses."""
    name = "events.hlt"
    try:
        with SampleWriter(folder / name, {"origin": "error stream", "run": config.run, "detector_spec": config.detector}) as writer:
            for event in events:
                writer.add(event)
    except SampleError as error:
        raise OSError(str(error)) from error
    return name
