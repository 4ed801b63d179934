"""Where do accepted events go, and is there room for them?"""

from __future__ import annotations

from deploy.grafana.boards.terms import FARM, of, rate
from deploy.grafana.dashboard import INGEST, Dashboard, Section, line
from deploy.grafana.panels import (
    ANY_IS_BAD,
    BOOLEAN,
    GREEN,
    RED,
    YELLOW,
    YES_NO,
    Query,
    Steps,
    above,
    limit,
    series,
    stat,
    timeline,
)

CHOSEN = 'ingest=~"$ingest"'
MANY = ("mean", "max", "lastNotNull")
FREE = f"{of('hlt_disk_free_bytes', CHOSEN)} / ({of('hlt_disk_size_bytes', CHOSEN)} > 0)"
LOW_IS_BAD = Steps(RED, ((0.1, YELLOW), (0.2, GREEN)))

OUTPUTS = Dashboard(
    uid="hltfarm-outputs",
    title="Outputs and disks",
    text="Where do accepted events go, and is there room for them?",
    choices=[INGEST],
    sections=[
        Section(
            "Now",
            [
                line(
                    4,
                    stat(
                        "Accepted events",
                        "Events of all streams but the error stream, a second.",
                        Query(rate("hlt_stream_events_total", 'stream!="error"'), "events"),
                        unit="cps",
                        spark=True,
                    ),
                    stat(
                        "Wait for the output",
                        "Accepted events that wait for a file or a consumer. They are in flight: when many wait, the sources do.",
                        Query(f"sum({of('hlt_output_waiting_events', CHOSEN)})", "waiting"),
                        spark=True,
                    ),
                    stat(
                        "Files closed",
                        "Output files that are complete, since the ingests started.",
                        Query(f"sum({of('hlt_output_files_total', CHOSEN)})", "files"),
                    ),
                    stat(
                        "Least room",
                        "Free part of the fullest disk that an ingest writes to.",
                        Query(f"min({FREE})", "free"),
                        unit="percentunit",
                        steps=LOW_IS_BAD,
                    ),
                    stat(
                        "Consumers",
                        "Consumers of the output stream that are there.",
                        Query(f"sum({of('hlt_consumer_up', CHOSEN)})", "consumers"),
                        none="none",
                    ),
                    stat(
                        "Found after a crash",
                        "Events in files that a dead ingest had left open.",
                        Query(f"sum({of('hlt_output_recovered_events_total', CHOSEN)})", "events"),
                    ),
                ),
            ],
        ),
        Section(
            "Streams",
            [
                line(
                    8,
                    series(
                        "Events, by stream",
                        "Events a second of each output stream; an event can be in several.",
                        Query(rate("hlt_stream_events_total", by="stream"), "{{stream}}"),
                        unit="cps",
                        legend=MANY,
                    ),
                    series(
                        "Bytes, by stream",
                        "Payload a second of the events of each stream.",
                        Query(rate("hlt_stream_bytes_total", by="stream"), "{{stream}}"),
                        unit="Bps",
                        legend=MANY,
                    ),
                ),
            ],
        ),
        Section(
            "Files",
            [
                line(
                    8,
                    series(
                        "Written",
                        "Bytes a second in files that were closed, and bytes of old files that --output-keep removed.",
                        Query(rate("hlt_output_bytes_total", CHOSEN, by="ingest"), "closed, {{ingest}}"),
                        Query(rate("hlt_output_removed_bytes_total", CHOSEN, by="ingest"), "removed, {{ingest}}"),
                        unit="Bps",
                    ),
                    series(
                        "Files",
                        "Files that are being written, and files closed a minute.",
                        Query(f"sum({of('hlt_output_open_files', CHOSEN)})", "open"),
                        Query(f"{rate('hlt_output_files_total', CHOSEN)} * 60", "closed a minute"),
                    ),
                    series(
                        "Forced to the medium",
                        "fsyncs a second. Many with a slow disk: see --fsync.",
                        Query(rate("hlt_output_fsyncs_total", CHOSEN, by="ingest"), "{{ingest}}"),
                        unit="ops",
                    ),
                ),
                line(
                    8,
                    series(
                        "Events that wait, by ingest",
                        "Accepted events that wait for a file or a consumer.",
                        Query(of("hlt_output_waiting_events", CHOSEN), "{{ingest}}"),
                    ),
                    series(
                        "Free part of disks",
                        "Of the file systems of the error stream and of the output files. HltDiskNearlyFull fires below the limit.",
                        Query(FREE, "{{folder}}, {{ingest}}"),
                        Query("hlt:disk_free_ratio:limit", "limit"),
                        unit="percentunit",
                        high=1,
                        overrides=[limit("limit")],
                    ),
                    series(
                        "Room on disks",
                        "Bytes that are free where an ingest writes, and as the writer of the output files saw it last.",
                        Query(of("hlt_disk_free_bytes", CHOSEN), "{{folder}}, {{ingest}}"),
                        Query(f"{of('hlt_output_free_bytes', CHOSEN)} >= 0", "seen by the writer, {{ingest}}"),
                        unit="bytes",
                        legend=("lastNotNull",),
                    ),
                ),
            ],
        ),
        Section(
            "Consumers",
            [
                line(
                    8,
                    timeline(
                        "Consumers present",
                        "Consumers of the output stream over time; lossless ones that are away are waited for.",
                        Query(of("hlt_consumer_up", CHOSEN), "{{consumer}}, {{ingest}}"),
                        mappings=YES_NO,
                        steps=BOOLEAN,
                    ),
                    series(
                        "Sent and missed",
                        "Events a second that each consumer got, and that a monitor had no credit for.",
                        Query(rate("hlt_consumer_events_total", CHOSEN, by="consumer"), "{{consumer}}: sent"),
                        Query(rate("hlt_consumer_missed_events_total", CHOSEN, by="consumer"), "{{consumer}}: missed"),
                        unit="cps",
                    ),
                    series(
                        "Kept for consumers",
                        "Events that are kept in flight until the consumer has confirmed them.",
                        Query(f"sum by (consumer) ({of('hlt_consumer_waiting_events', CHOSEN)})", "{{consumer}}"),
                    ),
                ),
            ],
        ),
        Section(
            "Replies with columns",
            [
                line(
                    7,
                    series(
                        "Tracks and vertices to the sources",
                        "Decisions a second with the columns that the source asked for, and without them though it did.",
                        Query(rate("hlt_columns_sent_total"), "with columns"),
                        Query(rate("hlt_columns_left_out_total"), "without"),
                        unit="cps",
                    ),
                    stat(
                        "Decisions without their columns",
                        "Decisions of the last hour that went without columns that were asked for: too large, or the source had no room.",
                        Query(f"sum(increase({of('hlt_columns_left_out_total')}[1h]))", "decisions"),
                        decimals=0,
                        steps=ANY_IS_BAD,
                    ),
                    stat(
                        "Error stream waits",
                        "Events that the error stream could not write: the disk is full or refuses.",
                        Query(f"sum(hlt_error_stream_waiting_events{{{FARM}}})", "events"),
                        steps=above(1, 10),
                    ),
                ),
            ],
        ),
    ],
)
