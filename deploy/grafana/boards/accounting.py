"""Is every event accounted for, and what became of those that failed?"""

from __future__ import annotations

from deploy.grafana.boards.terms import of, rate, share
from deploy.grafana.dashboard import Dashboard, Section, line
from deploy.grafana.panels import ANY_IS_BAD, DECISIONS, GREEN, RED, Query, Steps, above, bars, limit, named, series, stat, table

DECIDED = f"sum({of('hlt_events_decided_total')})"
REASONS = f"sum by (reason) (increase({of('hlt_events_failed_total')}[1h]))"
MANY = ("mean", "max", "lastNotNull")
LATE = "NOT_RUNNING|WRONG_RUN|NO_CREDIT|NO_HELLO"

ACCOUNTING = Dashboard(
    uid="hltfarm-accounting",
    title="Accounting",
    text="received = accepted + rejected + error + in flight: is every event accounted for, and what became of those that failed?",
    sections=[
        Section(
            "Books",
            [
                line(
                    4,
                    stat(
                        "Received", "Events in the ledgers since the ingests started.", Query(of("hlt_events_received_total"), "received")
                    ),
                    stat(
                        "Accepted", "Events that the menu accepted.", Query(of("hlt_events_decided_total", 'decision="accept"'), "accepted")
                    ),
                    stat(
                        "Rejected", "Events that the menu rejected.", Query(of("hlt_events_decided_total", 'decision="reject"'), "rejected")
                    ),
                    stat(
                        "Error",
                        "Events that were forced into the error stream since they could not be processed.",
                        Query(of("hlt_events_decided_total", 'decision="error"'), "error"),
                        steps=above(1),
                    ),
                    stat("Not decided yet", "Events received and in flight.", Query(of("hlt_events_inflight"), "in flight")),
                    stat(
                        "Missing",
                        "received - decided - in flight, its amount added up over the ingests. Anything but 0 is a loss: do not start "
                        "another run, save the registry, the logs and the error stream.",
                        Query(of("hlt_accounting_mismatch_events"), "missing"),
                        steps=ANY_IS_BAD,
                    ),
                ),
                line(
                    8,
                    series(
                        "Received and decided",
                        "Counts since the ingests started. The decisions, on top of each other, reach the line of what was received.",
                        Query(of("hlt_events_received_total"), "received"),
                        Query(f"sum by (decision) ({of('hlt_events_decided_total')})", "{{decision}}"),
                        Query(of("hlt_events_inflight"), "in flight"),
                        stack=True,
                        overrides=[
                            *DECISIONS,
                            named("received", custom__stacking={"mode": "none", "group": "B"}, custom__lineWidth=2, custom__fillOpacity=0),
                        ],
                    ),
                    series(
                        "Missing events",
                        "What the books lack, in every ingest, at every scrape: a flat zero.",
                        Query(of("hlt_accounting_mismatch_events"), "from the ledgers"),
                        Query(
                            f"abs(sum({of('hlt_events_received_total')}) - {DECIDED} - sum({of('hlt_events_inflight')}))",
                            "worked out by Prometheus",
                        ),
                        legend=("max", "lastNotNull"),
                        steps=Steps(GREEN, ((1, RED),)),
                    ),
                    series(
                        "Since the last decision",
                        "Time since an event was decided last. It grows while no events come; with events in flight it is a warning.",
                        Query(f"time() - ({of('hlt_last_decision_timestamp_seconds')} > 0)", "last decision"),
                        unit="s",
                        steps=above(30),
                    ),
                ),
            ],
        ),
        Section(
            "Failures",
            [
                line(
                    8,
                    series(
                        "Error stream, by reason",
                        "Events a second that went to the error stream. Each has a bundle there that runs it again: hltfarm replay.",
                        Query(rate("hlt_events_failed_total", by="reason"), "{{reason}}"),
                        unit="cps",
                        stack=True,
                        legend=MANY,
                    ),
                    bars(
                        "Error stream in an hour",
                        "Events of the last hour, by reason.",
                        Query(f"sort_desc({REASONS})", "{{reason}}"),
                        steps=Steps(GREEN, ((1, RED),)),
                    ),
                    series(
                        "Events that wait after a failure",
                        "Events of failed batches and lost workers to be tried again, and those that the error stream could not write.",
                        Query(of("hlt_suspect_events"), "to be tried again"),
                        Query(of("hlt_error_stream_waiting_events"), "for the error stream"),
                    ),
                ),
                line(
                    8,
                    series(
                        "Share of events in error",
                        "Of the events decided within five minutes, with the limit of hltfarm.limits.yml.",
                        Query(of("instance:hlt_error_ratio:rate5m"), "error"),
                        Query("hlt:error_ratio:limit", "limit"),
                        unit="percentunit",
                        overrides=[limit("limit")],
                    ),
                    series(
                        "Sent again",
                        "Events a second that sources sent again and the ledger knew already. They are not counted twice.",
                        Query(rate("hlt_events_duplicate_total"), "known already"),
                        Query(share(rate("hlt_events_duplicate_total"), rate("hlt_events_received_total")), "share of the received"),
                        overrides=[named("share of the received", unit="percentunit", custom__axisPlacement="right")],
                    ),
                ),
            ],
        ),
        Section(
            "Sources",
            [
                line(
                    8,
                    series(
                        "Frames refused, by code",
                        "Frames of sources a second that were refused. The event is with its source, not in the ledger. What the edges "
                        "of a run bring (NOT_RUNNING, WRONG_RUN, NO_CREDIT, NO_HELLO) is left out.",
                        Query(rate("hlt_frames_refused_total", f'code!~"{LATE}"', by="code"), "{{code}}"),
                        unit="cps",
                        legend=MANY,
                    ),
                    table(
                        "Frames refused so far",
                        "All codes, since the ingests started; docs/wire-format.md says what each means.",
                        {"frames": Query(f"sort_desc(sum by (code) ({of('hlt_frames_refused_total')}))")},
                    ),
                    series(
                        "Sources and their credit",
                        "Connected sources, events that they may still send, and sessions a minute that ended because the source was gone.",
                        Query(of("hlt_clients"), "sources"),
                        Query(of("hlt_licensed_events"), "events on credit"),
                        Query(f"{rate('hlt_lost_sessions_total')} * 60", "sessions lost a minute"),
                    ),
                ),
            ],
        ),
    ],
)
