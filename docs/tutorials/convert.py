"""Somebody else's raw data into events of hltfarm: to a sample file, or straight to a farm.

python convert.py pixels.bin my-detector.yaml mine.hlt
python convert.py pixels.bin my-detector.yaml tcp://127.0.0.1:7400

pixels.bin stands for your format: for each event u32 n, then n times u16 module, row, column, adc. Replace `events` by what reads yours.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator

import numpy as np

from hltfarm.loadgen.sample import SampleWriter
from hltfarm.proto.detector import Detector, load_detector
from hltfarm.proto.events import EventId, RawEvent
from hltfarm.proto.raw import pack_event
from hltfarm.service.client import Client

PIXEL = np.dtype([("module", "<u2"), ("row", "<u2"), ("col", "<u2"), ("adc", "<u2")])


def events(path: str, detector: Detector, run: int) -> Iterator[RawEvent]:
    """The events of a file of the form above, numbered from 0."""
    data = np.fromfile(path, np.uint8)
    at = number = 0
    while at < len(data):
        n = int(data[at : at + 4].view("<u4")[0])
        pixels = data[at + 4 : at + 4 + n * PIXEL.itemsize].view(PIXEL)
        payload = pack_event(detector, pixels["module"], pixels["row"], pixels["col"], pixels["adc"], event_number=number)
        yield RawEvent(EventId(run=run, lumi=1, event=number, bx=0), payload)
        at, number = at + 4 + n * PIXEL.itemsize, number + 1


def main(source: str, detector_file: str, target: str) -> None:
    """Write a sample, or stream, as the target says."""
    detector = load_detector(detector_file)
    if "://" not in target:
        with SampleWriter(target, {"origin": source}, detector=detector) as writer:
            for event in events(source, detector, run=1):
                writer.add(event)
        return
    with Client(target, "convert") as client:
        client.wait_open(10)
        decisions = []
        for event in events(source, detector, run=client.run):
            client.send(event)  # waits for credit
            decisions += client.poll(0)
        decisions += client.flush(60)
    for decision in sorted(decisions, key=lambda d: d.id.event):
        print(f"event {decision.id.event} {decision.outcome.name.lower()} tracks {decision.result['tracks']} digest {decision.digest:016x}")


if __name__ == "__main__":
    main(*sys.argv[1:])
