"""A data source that keeps what the farm decides: events of a sample to an ingest, decisions, tracks and vertices into a file.

    python docs/examples/client_to_file.py ttbar.hlt --ingest tcp://127.0.0.1:7400 --out decided.parquet

The suffix tells the format: .root, .parquet or .arrow. Needs hltfarm[data].
"""

from __future__ import annotations

import argparse

from hltfarm.loadgen.source import open_source
from hltfarm.proto.events import RawEvent
from hltfarm.service.client import Client
from hltfarm.service.export import EventSink


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description="send the events of a sample, keep decisions, tracks and vertices")
    parser.add_argument("sample")
    parser.add_argument("--ingest", default="tcp://127.0.0.1:7400")
    parser.add_argument("--out", default="decided.parquet")
    arguments = parser.parse_args()

    decided = accepted = 0
    with Client(arguments.ingest, "client-to-file") as client, EventSink(arguments.out, metadata={"made_by": "client_to_file"}) as sink:
        client.wait_open(timeout=60)
        sample = open_source(arguments.sample)
        for event in (sample[i] for i in range(len(sample))):
            client.send(RawEvent(event.id._replace(run=client.run), event.payload), timeout=60, want_columns=True)
            for decision in client.poll(0):
                sink.append(decision)
                decided, accepted = decided + 1, accepted + decision.accepted
        for decision in client.flush(timeout=60):
            sink.append(decision)
            decided, accepted = decided + 1, accepted + decision.accepted
    print(f"{decided} decisions, {accepted} accepted; tracks and vertices of those in {arguments.out}")


if __name__ == "__main__":
    main()
