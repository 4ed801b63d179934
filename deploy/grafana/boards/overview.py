"""Is the farm well, what does it take and give, and how late?"""

from __future__ import annotations

from deploy.grafana.boards.terms import FARM, of, quantile, rate
from deploy.grafana.dashboard import Dashboard, Section, line
from deploy.grafana.panels import (
    ANY_IS_BAD,
    BOOLEAN,
    DECISIONS,
    GREEN,
    GREY,
    PLAIN,
    RED,
    YELLOW,
    YES_NO,
    Query,
    Steps,
    above,
    bars,
    fixed,
    limit,
    named,
    series,
    stat,
    table,
    timeline,
)

STATE_COLOURS = {
    "Halted": GREY,
    "Configured": "blue",
    "Running": GREEN,
    "RunningDegraded": "orange",
    "Paused": YELLOW,
    "Draining": "purple",
    "Error": RED,
}
#: The present state as a number, so that a panel can colour it.
_SELECTED = [of("hlt_run_state", f'state="{state}"') for state in STATE_COLOURS]
STATE = " or ".join(f"{selected} * {number} > 0" for number, selected in enumerate(_SELECTED, 1))
STATE_NAMES = [
    {
        "type": "value",
        "options": {
            str(number): {"text": name, "color": color, "index": number} for number, (name, color) in enumerate(STATE_COLOURS.items(), 1)
        },
    }
]
SEVERITY = [{"type": "value", "options": {"critical": {"color": RED, "index": 0}, "warning": {"color": YELLOW, "index": 1}}}]

state_timeline = timeline(
    "State of the run",
    "The states of run control over time. RunningDegraded: the run goes on with something missing, see the problems.",
    Query(f"max without (state) ({STATE})", "state"),
    mappings=STATE_NAMES,
    steps=PLAIN,
)

OVERVIEW = Dashboard(
    uid="hltfarm-overview",
    title="Overview",
    text="Is the farm well, what does it take and give, and how late? Start here.",
    past="now-30m",
    sections=[
        Section(
            "Now",
            [
                line(
                    4,
                    stat(
                        "State",
                        "State of the run, as run control names it.",
                        Query(f"max without (state) ({STATE})", "state"),
                        mappings=STATE_NAMES,
                        none="no answer",
                    ),
                    stat("Run", "Number of the present or last run.", Query(of("hlt_run_number"), "run"), unit="none"),
                    stat(
                        "Lumisection",
                        "The highest lumisection of the run so far.",
                        Query(of("hlt_lumisection"), "lumisection"),
                        unit="none",
                    ),
                    stat(
                        "Ready",
                        "Whether the farm can be given events, as /v2/health/ready says.",
                        Query(of("hlt_ready"), "ready"),
                        mappings=YES_NO,
                        steps=BOOLEAN,
                        none="no answer",
                    ),
                    stat(
                        "Problems",
                        "Problems that the status of the farm names in words: hltfarm ctl status.",
                        Query(of("hlt_problems"), "problems"),
                        steps=above(1, 5),
                    ),
                    stat(
                        "Missing in the books",
                        "received - decided - in flight, its amount added up over the ingests. Anything but 0 is a loss of events.",
                        Query(of("hlt_accounting_mismatch_events"), "missing"),
                        steps=ANY_IS_BAD,
                    ),
                ),
                line(
                    4,
                    stat(
                        "Events in",
                        "Events received a second.",
                        Query(rate("hlt_events_received_total"), "received"),
                        unit="cps",
                        spark=True,
                    ),
                    stat(
                        "Accepted",
                        "Share of the events that the menu accepts, over five minutes.",
                        Query(of("instance:hlt_accept_ratio:rate5m"), "accepted"),
                        unit="percentunit",
                        spark=True,
                        none="no events",
                    ),
                    stat(
                        "99 % within",
                        "99 % of the events of the last minute were decided within this time, counted from their receipt.",
                        Query(of("instance:hlt_event_latency_seconds:p99_1m"), "latency"),
                        unit="s",
                        spark=True,
                        none="no events",
                    ),
                    stat(
                        "In flight",
                        "Events received and not decided yet.",
                        Query(of("hlt_events_inflight"), "in flight"),
                        spark=True,
                    ),
                    stat(
                        "Workers ready",
                        "Workers that have built the menu of the run and take events.",
                        Query(of("hlt_workers_ready"), "ready"),
                        steps=Steps(RED, ((1, GREEN),)),
                    ),
                    stat(
                        "Error stream",
                        "Events of the last hour that could not be processed. Each is kept with all that is needed to run it again.",
                        Query(f"sum(increase({of('hlt_events_failed_total')}[1h]))", "events"),
                        decimals=0,
                        steps=above(1),
                    ),
                ),
            ],
        ),
        Section(
            "Events",
            [
                line(
                    8,
                    series(
                        "Rates",
                        "Events received, and decided as accept, reject or error (forced into the error stream), a second.",
                        Query(rate("hlt_events_received_total"), "received"),
                        Query(rate("hlt_events_decided_total", by="decision"), "{{decision}}"),
                        unit="cps",
                        overrides=DECISIONS,
                    ),
                    series(
                        "Latency",
                        "From receipt to decision, in the ingest. The budget is hlt:latency_budget:seconds of hltfarm.limits.yml.",
                        Query(quantile(0.5, "hlt_event_latency_seconds"), "50 %"),
                        Query(quantile(0.9, "hlt_event_latency_seconds"), "90 %"),
                        Query(quantile(0.99, "hlt_event_latency_seconds"), "99 %"),
                        Query("hlt:latency_budget:seconds", "budget"),
                        unit="s",
                        log=True,
                        low=None,
                        overrides=[limit("budget")],
                    ),
                ),
                line(
                    8,
                    series(
                        "Where events wait",
                        "Events in flight, those of them that wait for a worker, and those that wait to be tried again after a failure.",
                        Query(of("hlt_events_inflight"), "in flight"),
                        Query(f"sum({of('hlt_queue_depth')})", "wait for a worker"),
                        Query(of("hlt_suspect_events"), "to be tried again"),
                    ),
                    series(
                        "No credit for the sources",
                        "Share of the time of an ingest without credit for its sources, by what was short. Nothing is lost: they wait.",
                        Query(of("instance_cause:hlt_backpressure:share1m"), "{{cause}}"),
                        Query("hlt:backpressure_share:limit", "limit"),
                        unit="percentunit",
                        overrides=[limit("limit")],
                    ),
                ),
            ],
        ),
        Section(
            "Farm",
            [
                line(
                    7,
                    state_timeline,
                    series(
                        "Workers",
                        "Workers that are known, alive, and ready for events.",
                        Query(f"count({of('hlt_worker_up')})", "known"),
                        Query(f"sum({of('hlt_worker_up')})", "alive"),
                        Query(of("hlt_workers_ready"), "ready"),
                        overrides=[fixed("known", GREY), fixed("alive", YELLOW), fixed("ready", GREEN)],
                    ),
                    bars(
                        "Slots in use",
                        "Share of the slots of shared memory that hold an event. Near 100 %: the workers are slower than the sources.",
                        Query(of("instance:hlt_slots:occupancy"), "slots"),
                        unit="percentunit",
                        high=1,
                        steps=above(0.8, 0.95),
                    ),
                ),
                line(
                    8,
                    table(
                        "Alerts that fire",
                        "What each means and what to do stands in docs/operating.md under its name.",
                        {"firing": Query(f'ALERTS{{{FARM},alertstate="firing"}}')},
                        columns={"alertname": "alert"},
                        overrides=[named("severity", mappings=SEVERITY, custom__cellOptions={"type": "color-text"})],
                        hide=("Value", "alertstate", "instance"),
                    ),
                    table(
                        "Farms",
                        "Every farm that this Prometheus scrapes, also those that are not chosen above.",
                        {
                            "events/s": Query("sum by (instance) (rate(hlt_events_received_total[$__rate_interval]))"),
                            "in flight": Query("sum by (instance) (hlt_events_inflight)"),
                            "workers ready": Query("sum by (instance) (hlt_workers_ready)"),
                            "missing": Query("sum by (instance) (hlt_accounting_mismatch_events)"),
                        },
                        by="instance",
                        columns={"instance": "farm"},
                        overrides=[
                            named("events/s", unit="cps", decimals=1),
                            named("missing", thresholds=ANY_IS_BAD.json(), custom__cellOptions={"type": "color-text"}),
                        ],
                    ),
                ),
            ],
        ),
    ],
)
