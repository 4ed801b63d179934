"""Sends pixels.bin as it is, for an ingest that was started with --payload-format 128=my_format:to_fed_table.

python send_as_is.py pixels.bin tcp://127.0.0.1:7400
"""

from __future__ import annotations

import sys

import numpy as np

from hltfarm.proto.events import EventId, RawEvent
from hltfarm.service.client import Client


def main(source: str, url: str) -> None:
    """Cut the file into events, and stream them."""
    data, at, number = np.fromfile(source, np.uint8), 0, 0
    with Client(url, "as-is", payload_format=128) as client:
        client.wait_open(10)
        while at < len(data):
            end = at + 4 + 8 * int(data[at : at + 4].view("<u4")[0])
            client.send(RawEvent(EventId(run=client.run, lumi=1, event=number, bx=0), data[at:end]))
            at, number = end, number + 1
        decisions = sorted(client.flush(60), key=lambda d: d.id.event)
    for decision in decisions:
        print(f"event {decision.id.event} {decision.outcome.name.lower()} tracks {decision.result['tracks']} digest {decision.digest:016x}")


if __name__ == "__main__":
    main(*sys.argv[1:])
