"""The reference of the metrics: what one scrape of a farm has, from the code that answers it."""

from __future__ import annotations

from hltfarm.service.control.link import IngestView, view_of
from hltfarm.service.control.metrics import ControlNumbers, MetricsInput, registry_of
from tests.unit.farm_fake import snapshot

INTRO = """---
title: Metrics
---

# Metrics

What `GET /metrics` of the control plane has, by name. [operating.md](../operating.md#metrics) tells what to look at, and
[which alerts](../operating.md#alerts) are made of them. Counters run since the ingest started.

| metric | kind | labels | is |
|---|---|---|---|
"""


def metrics_page() -> str:
    """Every family of a farm with workers, an output, a consumer and a shadow."""
    view = view_of([IngestView("tcp://ingest:7403", snapshot())])
    numbers = ControlNumbers(0.0, True, {"tcp://ingest:7403": 0}, {"drain": 0}, {})
    rows = []
    for family in registry_of(lambda: MetricsInput(view, "0", None, numbers)).collect():
        name = f"{family.name}_total" if family.type == "counter" else family.name
        labels = sorted({label for sample in family.samples for label in sample.labels} - {"le"})
        rows.append(
            (
                name,
                f"| `{name}` | {family.type} | {', '.join(f'`{label}`' for label in labels)} | {family.documentation.replace('|', '/')} |",
            )
        )
    return INTRO + "\n".join(row for _, row in sorted(rows)) + "\n"
