"""A dashboard: variables, annotations, links to the others, and rows of panels that fill its width."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from deploy.grafana.panels import DATASOURCE, WIDTH, Json, Panel

SCHEMA_VERSION = 41  # of Grafana 12; others of today read it too
TAG = "hltfarm"
#: Metric that every farm has, whatever it does: where its name is read from.
PRESENT = "hlt_start_time_seconds"
ROW_HEIGHT = 1


@dataclass(frozen=True, slots=True)
class Choice:
    """A variable that is asked for: the values of `label` in `metric`, all of them or some."""

    name: str
    title: str
    metric: str
    label: str
    text: str


WORKER = Choice("worker", "Worker", "hlt_worker_up", "worker", "Workers to look at")
DEVICE = Choice("device", "GPU", "hlt_gpu_memory_total_bytes", "device", "GPUs to look at, as HOST:INDEX")
PATH = Choice("path", "Path", "hlt_path_events_total", "path", "Trigger paths to look at")
STAGE = Choice("stage", "Stage", "hlt_stage_duration_seconds_count", "stage", "Stages of the reconstruction to look at")
INGEST = Choice("ingest", "Ingest", "hlt_ingest_up", "ingest", "Ingests to look at")


@dataclass(frozen=True, slots=True)
class Section:
    """A heading and lines of panels below it. The panels of a line have one height and together the whole width."""

    title: str
    lines: Sequence[Sequence[Panel]]


@dataclass(frozen=True, slots=True)
class Dashboard:
    """What one file holds. `uid`: never changes, links and bookmarks have it. `past`: from when on it shows first."""

    uid: str
    title: str
    text: str
    sections: Sequence[Section]
    choices: Sequence[Choice] = ()
    past: str = "now-1h"

    def json(self) -> Json:
        """As Grafana imports it. Raises ValueError for a line with gaps, and for panels of one title."""
        panels = self._placed()
        titles = [panel["title"] for panel in panels if panel["type"] != "row"]
        if len(set(titles)) < len(titles):
            raise ValueError(f"{self.uid}: panels of the same title: {sorted(t for t in titles if titles.count(t) > 1)}")
        return {
            "uid": self.uid,
            "title": f"hltfarm / {self.title}",
            "description": self.text,
            "tags": [TAG],
            "schemaVersion": SCHEMA_VERSION,
            "version": 1,
            "editable": True,
            "graphTooltip": 1,
            "fiscalYearStartMonth": 0,
            "timezone": "browser",
            "time": {"from": self.past, "to": "now"},
            "refresh": "10s",
            "timepicker": {},
            "weekStart": "",
            "links": LINKS,
            "templating": {"list": [_DATASOURCE, _FARM, *(_choice(choice) for choice in self.choices)]},
            "annotations": {"list": ANNOTATIONS},
            "panels": panels,
        }

    def _placed(self) -> list[Json]:
        found: list[Json] = []
        y = 0
        for section in self.sections:
            row: Json = {"type": "row", "title": section.title, "collapsed": False, "panels": [], "id": len(found) + 1}
            found.append({**row, "gridPos": {"x": 0, "y": y, "w": WIDTH, "h": ROW_HEIGHT}})
            y += ROW_HEIGHT
            for line in section.lines:
                if sum(panel.width for panel in line) != WIDTH or len({panel.height for panel in line}) != 1:
                    raise ValueError(f"{self.uid}: a line has gaps: {[(panel.title, panel.width, panel.height) for panel in line]}")
                x = 0
                for panel in line:
                    place = {"x": x, "y": y, "w": panel.width, "h": panel.height}
                    found.append({"id": len(found) + 1, "gridPos": place, **panel.body})
                    x += panel.width
                y += line[0].height
        return found


def line(height: int, *panels: Panel) -> list[Panel]:
    """Panels side by side, each with an equal share of the width."""
    share, rest = divmod(WIDTH, len(panels))
    return [panel.sized(share + (place < rest), height) for place, panel in enumerate(panels)]


def _query(expr: str) -> Json:
    return {"query": {"qryType": 1, "query": expr, "refId": "Variable"}, "definition": expr, "datasource": DATASOURCE}


_DATASOURCE: Json = {
    "type": "datasource",
    "name": "datasource",
    "label": "Data source",
    "description": "The Prometheus that scrapes the farm",
    "query": "prometheus",
    "regex": "",
    "refresh": 1,
    "hide": 0,
    "multi": False,
    "includeAll": False,
    "skipUrlSync": False,
    "options": [],
}
_COMMON: Json = {"type": "query", "regex": "", "refresh": 2, "sort": 7, "hide": 0, "skipUrlSync": False, "options": []}
_FARM: Json = {
    **_COMMON,
    "name": "farm",
    "label": "Farm",
    "description": "A farm by the address of its control plane (the label `instance`)",
    **_query(f"label_values({PRESENT}, instance)"),
    "multi": False,
    "includeAll": False,
}


def _choice(choice: Choice) -> Json:
    return {
        **_COMMON,
        "name": choice.name,
        "label": choice.title,
        "description": choice.text,
        **_query(f'label_values({choice.metric}{{instance="$farm"}}, {choice.label})'),
        "multi": True,
        "includeAll": True,
        "current": {"selected": True, "text": ["All"], "value": ["$__all"]},
    }


LINKS: list[Json] = [
    {
        "type": "dashboards",
        "title": "hltfarm",
        "tags": [TAG],
        "asDropdown": False,
        "includeVars": True,
        "keepTime": True,
        "targetBlank": False,
        "icon": "external link",
        "tooltip": "The other dashboards of this farm, at the same time",
        "url": "",
    }
]


def _annotation(name: str, expr: str, title: str, text: str, color: str, *, on: bool = True) -> Json:
    return {
        "name": name,
        "datasource": DATASOURCE,
        "enable": on,
        "hide": False,
        "iconColor": color,
        "expr": expr,
        "step": "10s",
        "titleFormat": title,
        "textFormat": text,
        "tagKeys": "",
        "useValueForTime": False,
    }


#: What happened, as vertical lines in every panel. Each says something for 15 s after it came about.
ANNOTATIONS: list[Json] = [
    {
        "name": "Annotations & Alerts",
        "builtIn": 1,
        "type": "dashboard",
        "datasource": {"type": "grafana", "uid": "-- Grafana --"},
        "enable": True,
        "hide": True,
        "iconColor": "rgba(0, 211, 255, 1)",
    },
    _annotation(
        "Run begins",
        'hlt_run_number{instance="$farm"} != hlt_run_number{instance="$farm"} offset 15s',
        "Run begins",
        "The number of the run changed",
        "green",
    ),
    _annotation(
        "State",
        'hlt_run_state{instance="$farm"} == 1 unless (hlt_run_state{instance="$farm"} offset 15s) == 1',
        "{{state}}",
        "The run went to the state {{state}}",
        "blue",
    ),
    _annotation(
        "Menu or models",
        'hlt_config_info{instance="$farm",menu!=""} unless hlt_config_info{instance="$farm"} offset 15s',
        "Menu {{menu}}",
        "From now on menu {{menu}} with the models {{model}} decides (hltfarm {{version}})",
        "purple",
    ),
    _annotation(
        "Worker restarted",
        'hlt_worker_restarts_total{instance="$farm"} > hlt_worker_restarts_total{instance="$farm"} offset 15s',
        "{{worker}} restarted",
        "The process of the worker {{worker}} was started again",
        "orange",
    ),
    _annotation(
        "Alerts",
        'ALERTS{instance="$farm",alertstate="firing"}',
        "{{alertname}}",
        "{{alertname}} ({{severity}}): see docs/operating.md",
        "red",
        on=False,
    ),
]
