"""What does the menu accept, and what is in the events?"""

from __future__ import annotations

from deploy.grafana.boards.terms import FARM, of, rate, share
from deploy.grafana.dashboard import PATH, Dashboard, Section, line
from deploy.grafana.panels import DECISIONS, Query, bars, limit, named, series, stat, table

CHOSEN = 'path=~"$path"'
MENU = 'decision=~"accept|reject"'
DECIDED = rate("hlt_events_decided_total", MENU)

PATHS = Dashboard(
    uid="hltfarm-paths",
    title="Paths and rates",
    text="What does the menu accept, where does it go, and what is in the events?",
    choices=[PATH],
    sections=[
        Section(
            "Menu",
            [
                line(
                    4,
                    stat(
                        "Menu in force",
                        "Hash of the menu that decides; hltfarm ctl menu list has its name.",
                        Query(of("hlt_config_info", 'menu!=""'), "{{menu}}"),
                        mode="name",
                        none="no menu",
                    ),
                    stat(
                        "Paths",
                        "Paths that have decided events since the ingests started.",
                        Query(f"count({of('hlt_path_events_total')})", "paths"),
                    ),
                    stat(
                        "Accepted now",
                        "Share of the events that the menu accepts.",
                        Query(share(rate("hlt_events_decided_total", 'decision="accept"'), DECIDED), "accepted"),
                        unit="percentunit",
                        spark=True,
                        none="no events",
                    ),
                    stat(
                        "Accepts by prescales removed",
                        "Accepts a second that prescales removed, over all paths.",
                        Query(rate("hlt_path_prescaled_total"), "removed"),
                        unit="cps",
                        spark=True,
                    ),
                ),
                line(
                    8,
                    series(
                        "Decisions",
                        "Events decided a second.",
                        Query(rate("hlt_events_decided_total", by="decision"), "{{decision}}"),
                        unit="cps",
                        stack=True,
                        overrides=DECISIONS,
                    ),
                    series(
                        "Accepted share of the events",
                        "Over five minutes, with the band of hltfarm.limits.yml in which it should be.",
                        Query(of("instance:hlt_accept_ratio:rate5m"), "accepted"),
                        Query("hlt:accept_ratio:low", "low"),
                        Query("hlt:accept_ratio:high", "high"),
                        unit="percentunit",
                        log=True,
                        low=None,
                        overrides=[limit("low"), limit("high")],
                    ),
                ),
            ],
        ),
        Section(
            "Paths",
            [
                line(
                    10,
                    series(
                        "Rate of each path",
                        "Accepts a second, after the prescale. An event can be accepted by several paths.",
                        Query(rate("hlt_path_accepts_total", CHOSEN, by="path"), "{{path}}"),
                        unit="cps",
                        legend=("mean", "max", "lastNotNull"),
                    ),
                    series(
                        "Accepted share, by path",
                        "What part of the events that the path decided it accepts, over five minutes.",
                        Query(of("instance_path:hlt_path_accept_ratio:rate5m", CHOSEN), "{{path}}"),
                        unit="percentunit",
                        legend=("mean", "max", "lastNotNull"),
                    ),
                ),
                line(
                    9,
                    table(
                        "Paths since the ingests started",
                        "Events that the path decided, its accepts, what its prescale removed, and the share that it accepts now.",
                        {
                            "decided": Query(f"sum by (path) ({of('hlt_path_events_total', CHOSEN)})"),
                            "accepted": Query(f"sum by (path) ({of('hlt_path_accepts_total', CHOSEN)})"),
                            "prescaled": Query(f"sum by (path) ({of('hlt_path_prescaled_total', CHOSEN)})"),
                            "share now": Query(f"sum by (path) ({of('instance_path:hlt_path_accept_ratio:rate5m', CHOSEN)})"),
                        },
                        by="path",
                        overrides=[named("share now", unit="percentunit", decimals=2)],
                        sort="accepted",
                    ),
                    series(
                        "Removed by prescales, by path",
                        "Accepts a second that the prescale of the path removed.",
                        Query(rate("hlt_path_prescaled_total", CHOSEN, by="path"), "{{path}}"),
                        unit="cps",
                        legend=("mean", "max", "lastNotNull"),
                    ),
                ),
            ],
        ),
        Section(
            "Data",
            [
                line(
                    8,
                    series(
                        "Bytes in and out",
                        "Payload received, and payload of the events of each output stream, a second.",
                        Query(rate("hlt_ingest_bytes_total"), "received"),
                        Query(rate("hlt_stream_bytes_total", by="stream"), "stream {{stream}}"),
                        unit="Bps",
                        log=True,
                        low=None,
                    ),
                    series(
                        "Size of an event",
                        "Mean payload of the events received.",
                        Query(share(rate("hlt_ingest_bytes_total"), rate("hlt_events_received_total")), "received"),
                        unit="bytes",
                    ),
                ),
            ],
        ),
        Section(
            "What the events hold",
            [
                line(
                    9,
                    series(
                        "Objects in an event",
                        "Mean numbers over the decided events. A jump without a change of beam or menu: look at the detector.",
                        Query(share(rate("hlt_objects_total", by="kind"), DECIDED, "on () group_left ()"), "{{kind}}"),
                        log=True,
                        low=None,
                        legend=("mean", "max", "lastNotNull"),
                    ),
                    series(
                        "Events with a condition",
                        "Share of the events with doubtful data (FED_..., WORD_..., DUPLICATE_PIXEL), or more than fits (..._OVERFLOW).",
                        Query(share(rate("hlt_event_flags_total", by="flag"), DECIDED, "on () group_left ()"), "{{flag}}"),
                        unit="percentunit",
                        legend=("mean", "max", "lastNotNull"),
                    ),
                    bars(
                        "Events with a condition since the ingests started",
                        "How many events had each condition; flags are told in docs/wire-format.md.",
                        Query(f"sort_desc(sum by (flag) (hlt_event_flags_total{{{FARM}}}))", "{{flag}}"),
                    ),
                ),
            ],
        ),
    ],
)
