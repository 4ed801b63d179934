"""Where does the time of an event go?"""

from __future__ import annotations

from deploy.grafana.boards.terms import mean, of, quantile, rate, share
from deploy.grafana.dashboard import STAGE, Dashboard, Section, line
from deploy.grafana.panels import Query, above, bars, heatmap, limit, series

WAITED = 'stage="batch"'
CHOSEN = ('stage=~"$stage"', 'stage!="batch"')
STAGES = "hlt_stage_duration_seconds"
MEAN5 = "instance_stage:hlt_stage_duration_seconds:mean5m"
SHARE = f"{of(MEAN5, *CHOSEN)} / on (instance) group_left () sum by (instance) ({of(MEAN5, CHOSEN[1])})"
LATENCY = "hlt_event_latency_seconds"

LATENCY_BY_STAGE = Dashboard(
    uid="hltfarm-latency",
    title="Latency by stage",
    text="Where does the time of an event go: waiting, batches, stages of the reconstruction?",
    choices=[STAGE],
    sections=[
        Section(
            "Events: from receipt to decision",
            [
                line(
                    9,
                    heatmap(
                        "Distribution of the latency",
                        "How many events a second took how long, from receipt to decision in the ingest.",
                        Query(rate(f"{LATENCY}_bucket", by="le")),
                        "s",
                    ),
                    series(
                        "Quantiles of the latency",
                        "Half of the events, 90 %, 99 % and 99.9 % are faster. A bucket is the resolution: 1, 2, 5, 10, 20, ... ms.",
                        *(Query(quantile(q, LATENCY), f"{100 * q:g} %") for q in (0.5, 0.9, 0.99, 0.999)),
                        Query(mean(LATENCY), "mean"),
                        Query("hlt:latency_budget:seconds", "budget"),
                        unit="s",
                        low=None,
                        log=True,
                        overrides=[limit("budget")],
                    ),
                ),
                line(
                    8,
                    series(
                        "Waiting and computing",
                        "Mean latency of an event, and mean time of a batch in a worker. The rest is time in queues and in company.",
                        Query(mean(LATENCY), "event, in all"),
                        Query(mean(STAGES, WAITED), "batch, in the worker"),
                        unit="s",
                    ),
                    series(
                        "Queue and slots",
                        "Events that wait for a worker, and slots of shared memory that hold one. A queue that grows means saturation.",
                        Query(of("hlt_queue_depth"), "queue: {{stage}}"),
                        Query(f"{of('hlt_slots')} - {of('hlt_slots_free')}", "slots in use"),
                        Query(of("hlt_slots"), "slots"),
                    ),
                ),
            ],
        ),
        Section(
            "Stages of a batch",
            [
                line(
                    9,
                    series(
                        "Mean time of a batch, by stage",
                        "Mean time of one batch in each stage, on top of each other. On a CPU it is added up over the threads; "
                        "GPUs time their stages every 10 s.",
                        Query(mean(STAGES, *CHOSEN, by="stage"), "{{stage}}"),
                        unit="s",
                        stack=True,
                        legend=("mean", "max", "lastNotNull"),
                    ),
                    series(
                        "99 % of the batches, by stage",
                        "99 % of the batches take less time than this in the stage.",
                        Query(quantile(0.99, STAGES, *CHOSEN, by="stage"), "{{stage}}"),
                        unit="s",
                        log=True,
                        low=None,
                        legend=("mean", "max", "lastNotNull"),
                    ),
                ),
                line(
                    9,
                    bars(
                        "Share of the time, by stage",
                        "What part of the time in all stages goes into each, over the last five minutes.",
                        Query(f"sort_desc({SHARE})", "{{stage}}"),
                        unit="percentunit",
                        steps=above(0.4, 0.6),
                    ),
                    series(
                        "Time per event, by stage",
                        "Mean time of a batch divided by its mean number of events: what a stage costs for one event.",
                        Query(share(mean(STAGES, *CHOSEN, by="stage"), mean("hlt_batch_events"), "on () group_left ()"), "{{stage}}"),
                        unit="s",
                        stack=True,
                        legend=("mean", "max", "lastNotNull"),
                    ),
                ),
            ],
        ),
        Section(
            "Batches",
            [
                line(
                    8,
                    heatmap(
                        "Sizes of batches",
                        "How many batches a second had how many events. Single events: the load is low, or the deadline short.",
                        Query(rate("hlt_batch_events_bucket", by="le")),
                        "short",
                    ),
                    series(
                        "Events in a batch",
                        "Mean number of events that are computed together.",
                        Query(mean("hlt_batch_events"), "events"),
                    ),
                    series(
                        "Time of a batch",
                        "From its start to its end, by the clock.",
                        Query(quantile(0.5, STAGES, WAITED), "50 %"),
                        Query(quantile(0.99, STAGES, WAITED), "99 %"),
                        unit="s",
                    ),
                ),
            ],
        ),
    ],
)
