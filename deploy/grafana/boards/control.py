"""Do the control plane, the ingests and the run registry do their part?"""

from __future__ import annotations

from deploy.grafana.boards.overview import state_timeline
from deploy.grafana.boards.terms import FARM, of, rate
from deploy.grafana.dashboard import Dashboard, Section, line
from deploy.grafana.panels import ANY_IS_BAD, BOOLEAN, YES_NO, Query, above, bars, series, stat, table, timeline

CONTROL = Dashboard(
    uid="hltfarm-control",
    title="Control and registry",
    text="Do the control plane, the ingests and the run registry do their part?",
    sections=[
        Section(
            "Now",
            [
                line(
                    4,
                    stat(
                        "Up since",
                        "Time since the control plane started.",
                        Query(f"time() - {of('hlt_start_time_seconds')}", "up"),
                        unit="s",
                    ),
                    stat("Version", "hltfarm on the control plane.", Query(of("hlt_config_info"), "{{version}}"), mode="name"),
                    stat(
                        "Registry",
                        "Whether the run registry takes what is written.",
                        Query(of("hlt_registry_up"), "up"),
                        mappings=YES_NO,
                        steps=BOOLEAN,
                    ),
                    stat(
                        "Entries that wait",
                        "Entries that wait to be written to the registry.",
                        Query(of("hlt_registry_waiting_entries"), "entries"),
                        steps=above(100, 10_000),
                    ),
                    stat(
                        "Entries lost",
                        "Entries that the registry never got; they are in the log.",
                        Query(of("hlt_registry_lost_entries_total"), "entries"),
                        steps=ANY_IS_BAD,
                    ),
                    stat("Ingests that answer", "Ingests that answer the control plane.", Query(f"sum({of('hlt_ingest_up')})", "ingests")),
                ),
            ],
        ),
        Section(
            "Run",
            [
                line(
                    8,
                    state_timeline,
                    series(
                        "Run and lumisection",
                        "Numbers of the present run and of its highest lumisection.",
                        Query(of("hlt_run_number"), "run"),
                        Query(of("hlt_lumisection"), "lumisection"),
                        legend=("lastNotNull",),
                    ),
                    series(
                        "Problems over time",
                        "Problems that the status names, and whether events would be taken.",
                        Query(of("hlt_problems"), "problems"),
                        Query(of("hlt_ready"), "ready"),
                        legend=("lastNotNull",),
                    ),
                ),
                line(
                    8,
                    series(
                        "Commands that failed",
                        "Long commands within ten minutes that ended as failed or took too long.",
                        Query(f"sum by (command) (increase({of('hlt_transitions_failed_total')}[10m]))", "{{command}}"),
                        legend=("max",),
                    ),
                    table(
                        "Configuration",
                        "Menu by its hash, models by name and hash.",
                        {"info": Query(of("hlt_config_info"))},
                        hide=("Value",),
                        columns={"instance": "farm"},
                    ),
                ),
            ],
        ),
        Section(
            "Processes",
            [
                line(
                    8,
                    timeline("Ingests", "Whether each ingest answers the control plane.", Query(of("hlt_ingest_up"), "{{ingest}}")),
                    series(
                        "Up time of the ingests",
                        "A fall to 0 is a restart: the books of its run begin anew, and the sources send again.",
                        Query(f"time() - {of('hlt_ingest_start_time_seconds')}", "{{ingest}}"),
                        unit="s",
                    ),
                    bars(
                        "Restarts of ingests",
                        "Times that an ingest came back as a new process, seen by this control plane.",
                        Query(of("hlt_ingest_restarts_total"), "{{ingest}}"),
                        steps=above(1),
                    ),
                ),
            ],
        ),
        Section(
            "Access and scrapes",
            [
                line(
                    8,
                    series(
                        "HTTP requests refused",
                        "401: no token that is known. 403: without the role. 413: too large.",
                        Query(rate("hlt_http_refused_total", by="status"), "{{status}}"),
                        unit="cps",
                    ),
                    series(
                        "Time of a scrape",
                        "What it takes Prometheus to get the numbers of the farm; the ingests are asked anew each time.",
                        Query(f"scrape_duration_seconds{{{FARM}}}", "scrape"),
                        unit="s",
                    ),
                    series(
                        "Series",
                        "Series that the farm exports: what it costs Prometheus.",
                        Query(f"scrape_samples_scraped{{{FARM}}}", "series"),
                    ),
                ),
            ],
        ),
    ],
)
