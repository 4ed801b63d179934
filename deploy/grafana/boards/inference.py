"""Which models decide, what do they cost, and what would another menu or model change?"""

from __future__ import annotations

from deploy.grafana.boards.terms import mean, of, quantile, rate, share
from deploy.grafana.dashboard import PATH, Dashboard, Section, line
from deploy.grafana.panels import GREEN, GREY, RED, YELLOW, Query, above, bars, fixed, series, stat, table

DNN = 'stage="dnn"'
STAGES = "hlt_stage_duration_seconds"
LOOSE, PURE = (rate("hlt_objects_total", f'kind="{kind}"') for kind in ("tracks", "tracks_high_purity"))
#: The engine that computes the selector of tracks, as a label of what it costs.
SELECTOR = of("hlt_model_info", 'target="track"')
BY_ENGINE = f"on () group_left (engine) topk(1, {SELECTOR})"
SEEN = f"sum({of('hlt_shadow_events')})"
LOST, GAINED, KEPT, WOULD = (
    f"sum({of('hlt_shadow_events', *labels)})"
    for labels in (
        ('active="accept"', 'shadow="reject"'),
        ('active="reject"', 'shadow="accept"'),
        ('active="accept"',),
        ('shadow="accept"',),
    )
)
DIFFER = f"{LOST} + {GAINED}"
SHADOW = "hlt_shadow_path_events"
CHOSEN = 'path=~"$path"'
ONE_ONLY = of(SHADOW, CHOSEN, 'accepted_by!="both"')
BY_PATH = f"sum by (path) ({of(SHADOW, CHOSEN)})"

INFERENCE = Dashboard(
    uid="hltfarm-inference",
    title="Inference and shadow",
    text="Which models decide, what do they cost, and what would another menu or model change?",
    choices=[PATH],
    sections=[
        Section(
            "Models",
            [
                line(
                    6,
                    table(
                        "Models that decide",
                        "Each model by name and hash, with the engine that computes it and the working point that selects tracks.",
                        {"info": Query(of("hlt_model_info"))},
                        hide=("Value", "instance"),
                    ),
                    stat(
                        "Share of the time in the model",
                        "Part of the time in all stages that the dnn stage takes: features, scores and selection of tracks.",
                        Query(share(rate(f"{STAGES}_sum", DNN), rate(f"{STAGES}_sum", 'stage!="batch"')), "dnn"),
                        unit="percentunit",
                        spark=True,
                        steps=above(0.4, 0.6),
                        none="no events",
                    ),
                    stat(
                        "Tracks scored",
                        "Tracks (loose or better) of decided events, a second: what the model has looked at.",
                        Query(LOOSE, "tracks"),
                        unit="cps",
                        spark=True,
                    ),
                    stat(
                        "Tracks kept",
                        "Share of the loose tracks that the model takes for high purity.",
                        Query(share(PURE, LOOSE), "high purity"),
                        unit="percentunit",
                        spark=True,
                        none="no tracks",
                    ),
                ),
                line(
                    8,
                    series(
                        "Time of the model, by engine",
                        "Mean and 99th percentile of the dnn stage for one batch, under the engine that computes the selector of tracks.",
                        Query(f"({mean(STAGES, DNN)}) * {BY_ENGINE}", "mean, {{engine}}"),
                        Query(f"({quantile(0.99, STAGES, DNN)}) * {BY_ENGINE}", "99 %, {{engine}}"),
                        unit="s",
                    ),
                    series(
                        "Time for a track, by engine",
                        "Time in the dnn stage divided by the tracks of decided events.",
                        Query(f"({share(rate(f'{STAGES}_sum', DNN), LOOSE)}) * {BY_ENGINE}", "{{engine}}"),
                        unit="s",
                    ),
                    series(
                        "Tracks in an event",
                        "Mean numbers over decided events. A step without a change of model: look at what it reads.",
                        Query(share(LOOSE, rate("hlt_events_decided_total", 'decision=~"accept|reject"')), "loose or better"),
                        Query(share(PURE, rate("hlt_events_decided_total", 'decision=~"accept|reject"')), "high purity"),
                    ),
                ),
            ],
        ),
        Section(
            "Shadow: what another menu or model would decide",
            [
                line(
                    5,
                    stat(
                        "Share of the events",
                        "Part of the events that the shadow decides too; 0 without one.",
                        Query(of("hlt_shadow_fraction"), "share"),
                        unit="percentunit",
                    ),
                    stat("Events compared", "Events that both have decided, since the shadow began.", Query(SEEN, "events")),
                    stat(
                        "Decided otherwise",
                        "Share of these events that the shadow decides otherwise.",
                        Query(f"({DIFFER}) / ({SEEN} > 0)", "differ"),
                        unit="percentunit",
                        decimals=2,
                        none="no shadow",
                    ),
                    stat(
                        "Failed",
                        "Events that the shadow could not process. They were decided all the same.",
                        Query(of("hlt_shadow_failed_events"), "failed"),
                        steps=above(1),
                    ),
                    bars(
                        "Both decisions",
                        "Events since the shadow began, by what was decided and what the shadow would have decided.",
                        Query(of("hlt_shadow_events"), "{{active}}, shadow {{shadow}}"),
                    ),
                ),
                line(
                    8,
                    series(
                        "Accepted share, in force and shadow",
                        "Of the events that both have decided, since the shadow began.",
                        Query(f"{KEPT} / ({SEEN} > 0)", "in force"),
                        Query(f"{WOULD} / ({SEEN} > 0)", "shadow"),
                        unit="percentunit",
                        overrides=[fixed("in force", GREEN), fixed("shadow", "purple")],
                    ),
                    bars(
                        "Paths that differ",
                        "Share of a path's accepts that only one of the two has.",
                        Query(
                            f"sort_desc(sum by (path) ({ONE_ONLY}) / ({BY_PATH} > 0))",
                            "{{path}}",
                        ),
                        unit="percentunit",
                        high=1,
                        steps=above(0.05, 0.2),
                    ),
                    series(
                        "Accepts of paths in the events of the shadow",
                        "Both, only what is in force, or only the shadow.",
                        Query(f"sum by (accepted_by) ({of(SHADOW, CHOSEN)})", "{{accepted_by}}"),
                        overrides=[fixed("both", GREY), fixed("active_only", YELLOW), fixed("shadow_only", RED)],
                    ),
                ),
            ],
        ),
    ],
)
