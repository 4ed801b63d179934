"""Panels as Grafana's JSON has them: a function for each kind; data source, legend and colours of all dashboards are in one place."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias

Json: TypeAlias = dict[str, Any]

DATASOURCE: Json = {"type": "prometheus", "uid": "${datasource}"}
GREEN, YELLOW, RED, BLUE, GREY, PURPLE = "green", "yellow", "red", "blue", "#8e8e8e", "purple"
WIDTH = 24  # columns of a dashboard
HIDDEN = ("Time", "__name__", "job")


@dataclass(frozen=True, slots=True)
class Query:
    """One target. `legend`: as Grafana's format, such as `{{path}}`. `instant`: only the newest value; `heatmap`: buckets."""

    expr: str
    legend: str = ""
    instant: bool = False
    heatmap: bool = False


@dataclass(frozen=True, slots=True)
class Steps:
    """Colours by value: `base` below the first step; each step is (from this value on, colour)."""

    base: str = GREEN
    steps: tuple[tuple[float, str], ...] = ()

    def json(self) -> Json:
        """As the panel has it."""
        steps = [{"color": self.base, "value": None}, *({"color": color, "value": value} for value, color in self.steps)]
        return {"mode": "absolute", "steps": steps}


PLAIN = Steps(BLUE)


def above(yellow: float, red: float | None = None) -> Steps:
    """Green, then yellow from the first number on, then red."""
    return Steps(GREEN, ((yellow, YELLOW), *(((red, RED),) if red is not None else ())))


ANY_IS_BAD = Steps(GREEN, ((1, RED),))
BOOLEAN = Steps(RED, ((1, GREEN),))
YES_NO: list[Json] = [{"type": "value", "options": {"0": {"text": "no", "index": 0}, "1": {"text": "yes", "index": 1}}}]


@dataclass(frozen=True, slots=True)
class Panel:
    """A panel and its size; where it stands is found by the dashboard. `body` lacks id and gridPos."""

    body: Json
    width: int
    height: int

    @property
    def title(self) -> str:
        """What stands above it."""
        return str(self.body["title"])

    def sized(self, width: int, height: int) -> Panel:
        """The same panel in another size."""
        return replace(self, width=width, height=height)


@dataclass(frozen=True, slots=True)
class Look:
    """Unit, limits and colours of the values of a panel."""

    unit: str = "short"
    low: float | None = None
    high: float | None = None
    decimals: int | None = None
    steps: Steps = PLAIN
    mappings: Sequence[Json] = ()
    color: Json = field(default_factory=lambda: {"mode": "thresholds"})
    custom: Json = field(default_factory=dict)
    overrides: Sequence[Json] = ()

    def json(self) -> Json:
        """As `fieldConfig`."""
        limits = {"min": self.low, "max": self.high, "decimals": self.decimals}
        defaults: Json = {"unit": self.unit, "color": self.color, "thresholds": self.steps.json(), "mappings": list(self.mappings)}
        defaults |= {key: value for key, value in limits.items() if value is not None}
        return {"defaults": defaults | {"custom": self.custom}, "overrides": list(self.overrides)}


def named(name: str, **properties: Any) -> Json:
    """An override for the series or column of this name; `custom__width=90` is the property `custom.width`."""
    return {
        "matcher": {"id": "byName", "options": name},
        "properties": [{"id": key.replace("__", "."), "value": value} for key, value in properties.items()],
    }


def fixed(name: str, color: str) -> Json:
    """A series that always has the same colour."""
    return named(name, color={"mode": "fixed", "fixedColor": color})


def limit(name: str) -> Json:
    """A series that is a limit: dashed and red."""
    return named(
        name, custom__lineStyle={"fill": "dash", "dash": [8, 8]}, custom__fillOpacity=0, color={"mode": "fixed", "fixedColor": RED}
    )


DECISIONS = (fixed("received", BLUE), fixed("accept", GREEN), fixed("reject", GREY), fixed("error", RED), fixed("in flight", YELLOW))


def _targets(queries: Sequence[Query], *, table: bool = False) -> list[Json]:
    found = []
    for place, query in enumerate(queries):
        kind = "table" if table else "heatmap" if query.heatmap else "time_series"
        found.append(
            {
                "refId": chr(ord("A") + place),
                "datasource": DATASOURCE,
                "editorMode": "code",
                "expr": query.expr,
                "legendFormat": query.legend or "__auto",
                "format": kind,
                "instant": query.instant or table,
                "range": not (query.instant or table),
            }
        )
    return found


#: An ingest of `hltfarm serve` is known by a socket in a folder of that process; its name is enough.
_SHORT: Json = {"id": "renameByRegex", "options": {"regex": "ipc://\\S*/(\\S+)-control\\.sock", "renamePattern": "$1"}}


def _panel(
    kind: str, title: str, text: str, queries: Sequence[Query], look: Look, options: Json, size: tuple[int, int], **more: Any
) -> Panel:
    if any("{{ingest}}" in query.legend for query in queries):
        more["transformations"] = [_SHORT]
    body = {
        "type": kind,
        "title": title,
        "description": text,
        "datasource": DATASOURCE,
        "targets": more.pop("targets", None) or _targets(queries),
        "fieldConfig": look.json(),
        "options": options,
        **more,
    }
    return Panel(body, *size)


def series(
    title: str,
    text: str,
    *queries: Query,
    unit: str = "short",
    low: float | None = 0,
    high: float | None = None,
    stack: bool = False,
    log: bool = False,
    steps: Steps | None = None,
    legend: Sequence[str] = ("mean", "lastNotNull"),
    overrides: Sequence[Json] = (),
    bars: bool = False,
) -> Panel:
    """Lines over time. `steps`: thresholds as dashed lines; `legend`: what is said of each line beside its name."""
    custom = {
        "drawStyle": "bars" if bars else "line",
        "lineInterpolation": "linear",
        "lineWidth": 1,
        "fillOpacity": 60 if bars else 30 if stack else 8,
        "showPoints": "never",
        "spanNulls": False,
        "axisPlacement": "auto",
        "scaleDistribution": {"type": "log", "log": 10} if log else {"type": "linear"},
        "stacking": {"mode": "normal" if stack else "none", "group": "A"},
        "thresholdsStyle": {"mode": "dashed" if steps else "off"},
    }
    look = Look(unit, low, high, None, steps or PLAIN, (), {"mode": "palette-classic"}, custom, overrides)
    many = {"displayMode": "table", "placement": "right"} if len(legend) > 2 else {"displayMode": "list", "placement": "bottom"}
    options = {"legend": {**many, "showLegend": True, "calcs": list(legend)}, "tooltip": {"mode": "multi", "sort": "desc"}}
    return _panel("timeseries", title, text, queries, look, options, (12, 8))


def stat(
    title: str,
    text: str,
    *queries: Query,
    unit: str = "short",
    steps: Steps = PLAIN,
    mappings: Sequence[Json] = (),
    mode: str = "value",
    spark: bool = False,
    decimals: int | None = None,
    none: str = "",
) -> Panel:
    """The newest value, large. `mode`: `name` shows the legend in its place; `spark`: with its course; `none`: shown without a value."""
    given = tuple(query if spark else replace(query, instant=True) for query in queries)
    empty = [{"type": "special", "options": {"match": "null", "result": {"text": none, "index": 9}}}] if none else []
    look = Look(unit, steps=steps, mappings=[*mappings, *empty], decimals=decimals)
    options = {
        "reduceOptions": {"values": False, "calcs": ["lastNotNull"], "fields": ""},
        "orientation": "auto",
        "textMode": mode,
        "colorMode": "value",
        "graphMode": "area" if spark else "none",
        "justifyMode": "auto",
        "wideLayout": True,
        "showPercentChange": False,
        "percentChangeColorMode": "standard",
    }
    return _panel("stat", title, text, given, look, options, (4, 4))


def bars(title: str, text: str, *queries: Query, unit: str = "short", high: float | None = None, steps: Steps = PLAIN) -> Panel:
    """One bar for each series, by its newest value."""
    look = Look(unit, 0, high, steps=steps)
    options = {
        "reduceOptions": {"values": False, "calcs": ["lastNotNull"], "fields": ""},
        "orientation": "horizontal",
        "displayMode": "basic",
        "valueMode": "color",
        "namePlacement": "left",
        "showUnfilled": True,
        "sizing": "auto",
        "minVizWidth": 8,
        "minVizHeight": 16,
        "maxVizHeight": 40,
        "legend": {"displayMode": "list", "placement": "bottom", "showLegend": False, "calcs": []},
    }
    return _panel("bargauge", title, text, [replace(query, instant=True) for query in queries], look, options, (12, 8))


def heatmap(title: str, text: str, query: Query, unit: str) -> Panel:
    """How many events in which bucket of a histogram, over time."""
    options = {
        "calculate": False,
        "cellGap": 1,
        "color": {
            "mode": "scheme",
            "scheme": "Viridis",
            "steps": 64,
            "scale": "exponential",
            "exponent": 0.5,
            "reverse": False,
            "fill": "dark-blue",
        },
        "exemplars": {"color": "rgba(255,0,255,0.7)"},
        "filterValues": {"le": 1e-9},
        "legend": {"show": True},
        "rowsFrame": {"layout": "auto"},
        "showValue": "never",
        "tooltip": {"mode": "single", "yHistogram": False, "showColorScale": False},
        "yAxis": {"axisPlacement": "left", "reverse": False, "unit": unit},
    }
    custom = {"hideFrom": {"tooltip": False, "viz": False, "legend": False}, "scaleDistribution": {"type": "linear"}}
    return _panel("heatmap", title, text, [replace(query, heatmap=True, legend="{{le}}")], Look(custom=custom), options, (12, 8))


def timeline(title: str, text: str, *queries: Query, mappings: Sequence[Json] = YES_NO, steps: Steps = BOOLEAN) -> Panel:
    """States over time, a row for each series."""
    custom = {"lineWidth": 0, "fillOpacity": 70}
    options = {
        "mergeValues": True,
        "showValue": "never",
        "alignValue": "left",
        "rowHeight": 0.8,
        "legend": {"displayMode": "list", "placement": "bottom", "showLegend": True, "calcs": []},
        "tooltip": {"mode": "single", "sort": "none"},
    }
    return _panel("state-timeline", title, text, queries, Look(steps=steps, mappings=mappings, custom=custom), options, (12, 8))


def table(
    title: str,
    text: str,
    queries: Mapping[str, Query],
    *,
    by: str | None = None,
    columns: Mapping[str, str] | None = None,
    overrides: Sequence[Json] = (),
    sort: str | None = None,
    hide: Sequence[str] = (),
) -> Panel:
    """A row for each series. queries: name of the value's column -> query; `by`: the label that rows of several queries share, None for
    one query. columns: label -> what stands above it.
    """
    names, found = list(queries), list(queries.values())
    values = {f"Value #{chr(ord('A') + place)}" if by else "Value": name for place, name in enumerate(names)}
    join: list[Json] = [{"id": "joinByField", "options": {"byField": by, "mode": "outer"}}] if by else []
    dropped = [*HIDDEN, *hide, *(f"{name} {number}" for name in HIDDEN for number in range(1, len(names) + 1) if by)]
    rename: Json = {**values, **(columns or {})}
    shown = {"excludeByName": dict.fromkeys(dropped, True), "indexByName": {}, "renameByName": rename, "includeByName": {}}
    custom = {"align": "auto", "cellOptions": {"type": "auto"}, "filterable": False, "inspect": False}
    options = {
        "frameIndex": 0,
        "showHeader": True,
        "cellHeight": "sm",
        "sortBy": [{"displayName": sort, "desc": True}] if sort else [],
    }
    transformations = [*join, {"id": "organize", "options": shown}]
    look = Look(custom=custom, overrides=overrides)
    targets = _targets(found, table=True)
    return _panel("table", title, text, (), look, options, (12, 8), targets=targets, transformations=transformations)
