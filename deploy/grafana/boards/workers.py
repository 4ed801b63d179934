"""Do the workers and their GPUs work, and evenly?"""

from __future__ import annotations

from deploy.grafana.boards.terms import of, rate
from deploy.grafana.dashboard import DEVICE, WORKER, Dashboard, Section, line
from deploy.grafana.panels import ANY_IS_BAD, BOOLEAN, GREEN, RED, YELLOW, YES_NO, Query, Steps, above, named, series, stat, table, timeline

CHOSEN = 'worker=~"$worker"'
GPUS = 'device=~"$device"'
MANY = ("mean", "max", "lastNotNull")
#: 0 gone, 1 alive, 2 ready.
LIFE = f"sum by (worker) ({of('hlt_worker_up', CHOSEN)}) + sum by (worker) ({of('hlt_worker_ready', CHOSEN)})"
LIFE_NAMES = [
    {
        "type": "value",
        "options": {
            "0": {"text": "lost", "color": RED, "index": 0},
            "1": {"text": "alive", "color": YELLOW, "index": 1},
            "2": {"text": "ready", "color": GREEN, "index": 2},
        },
    }
]
BAD_YES = named("distrusted", mappings=YES_NO, thresholds=ANY_IS_BAD.json(), custom__cellOptions={"type": "color-text"})
AGE = f"time() - ({of('hlt_canary_timestamp_seconds', CHOSEN)} > 0)"

WORKERS = Dashboard(
    uid="hltfarm-workers",
    title="Workers and GPUs",
    text="Do the workers and their GPUs work, and evenly?",
    choices=[WORKER, DEVICE],
    sections=[
        Section(
            "Now",
            [
                line(
                    4,
                    stat("Ready", "Workers that take events.", Query(of("hlt_workers_ready"), "ready"), steps=Steps(RED, ((1, GREEN),))),
                    stat(
                        "Lost",
                        "Workers that are known and do not answer.",
                        Query(f"count({of('hlt_worker_up')}) - sum({of('hlt_worker_up')})", "lost"),
                        steps=ANY_IS_BAD,
                    ),
                    stat(
                        "Out of service",
                        "Workers in quarantine: they ended too often, or an operator took them out.",
                        Query(of("hlt_workers_quarantined"), "quarantined"),
                        steps=above(1),
                    ),
                    stat(
                        "Distrusted",
                        "Workers that reconstruct other bits than the others, and get no events: their device is broken.",
                        Query(f"sum({of('hlt_worker_distrusted')})", "distrusted"),
                        steps=ANY_IS_BAD,
                    ),
                    stat(
                        "Restarts in an hour",
                        "Processes of workers that were started again.",
                        Query(f"sum(increase({of('hlt_worker_restarts_total')}[1h]))", "restarts"),
                        decimals=0,
                        steps=above(1, 5),
                    ),
                    stat(
                        "Events a worker",
                        "Mean rate of the workers that are ready.",
                        Query(f"{rate('hlt_worker_events_total')} / (sum({of('hlt_workers_ready')}) > 0)", "events"),
                        unit="cps",
                        spark=True,
                        none="none ready",
                    ),
                ),
                line(
                    8,
                    timeline(
                        "Life of the workers",
                        "lost: it does not answer. alive: it builds the menu. ready: it takes events.",
                        Query(LIFE, "{{worker}}"),
                        mappings=LIFE_NAMES,
                        steps=BOOLEAN,
                    ),
                    table(
                        "Workers known",
                        "One row for each worker; more of it: hltfarm ctl workers.",
                        {
                            "ready": Query(f"sum by (worker) ({of('hlt_worker_ready', CHOSEN)})"),
                            "in flight": Query(f"sum by (worker) ({of('hlt_worker_inflight_events', CHOSEN)})"),
                            "credit": Query(f"sum by (worker) ({of('hlt_credits', CHOSEN)})"),
                            "events": Query(f"sum by (worker) ({of('hlt_worker_events_total', CHOSEN)})"),
                            "restarts": Query(f"sum by (worker) ({of('hlt_worker_restarts_total', CHOSEN)})"),
                            "distrusted": Query(f"sum by (worker) ({of('hlt_worker_distrusted', CHOSEN)})"),
                        },
                        by="worker",
                        overrides=[
                            named("ready", mappings=YES_NO, thresholds=BOOLEAN.json(), custom__cellOptions={"type": "color-text"}),
                            BAD_YES,
                        ],
                    ),
                ),
            ],
        ),
        Section(
            "Work",
            [
                line(
                    9,
                    series(
                        "Events, by worker",
                        "Events a second. Equal devices should do equal work; one that falls behind is slow or ill.",
                        Query(rate("hlt_worker_events_total", CHOSEN, by="worker"), "{{worker}}"),
                        unit="cps",
                        legend=MANY,
                    ),
                    series(
                        "In flight, by worker",
                        "Events that are with the worker.",
                        Query(f"sum by (worker) ({of('hlt_worker_inflight_events', CHOSEN)})", "{{worker}}"),
                        legend=MANY,
                    ),
                ),
                line(
                    9,
                    series(
                        "Credit, by worker",
                        "Events that the worker can still take. 0 for long: it is the one that all wait for.",
                        Query(f"sum by (worker) ({of('hlt_credits', CHOSEN)})", "{{worker}}"),
                        legend=MANY,
                    ),
                    series(
                        "Memory, by worker",
                        "Resident memory of the process, with the pages of slot rings that it has touched.",
                        Query(of("hlt_worker_resident_bytes", CHOSEN), "{{worker}}"),
                        unit="bytes",
                        legend=MANY,
                    ),
                ),
            ],
        ),
        Section(
            "GPUs",
            [
                line(
                    9,
                    series(
                        "Utilization, by GPU",
                        "Share of the time in which the GPU computed, over the last second or so. Needs nvidia-ml-py in the worker.",
                        Query(of("hlt_gpu_utilization_ratio", GPUS), "{{device}}"),
                        unit="percentunit",
                        high=1,
                        legend=MANY,
                    ),
                    series(
                        "Memory in use, by GPU",
                        "Share of the memory of the GPU that is in use, by anybody.",
                        Query(f"{of('hlt_gpu_memory_used_bytes', GPUS)} / {of('hlt_gpu_memory_total_bytes', GPUS)}", "{{device}}"),
                        unit="percentunit",
                        high=1,
                        steps=above(0.9, 0.97),
                        legend=MANY,
                    ),
                    table(
                        "GPUs known",
                        "Memory of each GPU that a worker computes on.",
                        {
                            "used": Query(f"sum by (device) ({of('hlt_gpu_memory_used_bytes', GPUS)})"),
                            "memory": Query(f"sum by (device) ({of('hlt_gpu_memory_total_bytes', GPUS)})"),
                            "busy": Query(f"sum by (device) ({of('hlt_gpu_utilization_ratio', GPUS)})"),
                        },
                        by="device",
                        overrides=[named("used", unit="bytes"), named("memory", unit="bytes"), named("busy", unit="percentunit")],
                    ),
                ),
            ],
        ),
        Section(
            "Trust",
            [
                line(
                    8,
                    series(
                        "Age of the last good canary",
                        "Every worker is given the same event every few seconds and must give the same digest. Growing: it does not work.",
                        Query(AGE, "{{worker}}"),
                        unit="s",
                        steps=above(30, 60),
                        legend=MANY,
                    ),
                    series(
                        "Canaries that failed",
                        "Canaries within five minutes that raised an error, were not answered or gave a wrong digest.",
                        Query(f"sum by (worker) (increase({of('hlt_canary_failures_total', CHOSEN)}[5m]))", "{{worker}}"),
                    ),
                    series(
                        "Restarts",
                        "Starts of a worker's process after its first, since the farm began.",
                        Query(f"sum by (worker) ({of('hlt_worker_restarts_total', CHOSEN)})", "{{worker}}"),
                    ),
                    series(
                        "Answers too late",
                        "Answers of workers a second for events that had been given to others meanwhile. They are ignored.",
                        Query(rate("hlt_stale_answers_total"), "answers"),
                        unit="cps",
                    ),
                ),
            ],
        ),
    ],
)
