"""Dashboards of deploy/grafana: the files are what make.py writes, every panel is complete, every query reads what is exported or recorded.

That the queries return data is tested against a real Prometheus: tests/integration/test_dashboards.py.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml

from deploy.grafana.make import FOLDER, files
from hltfarm.proto.messages import GpuUse, Resources, WorkerStatus
from tests.unit.farm_fake import SELECTOR, snapshot
from tests.unit.test_metrics import FixedLink, scrape
from tests.unit.test_metrics_page import exported
from tests.unit.test_prometheus_rules import LIMITS, RULES, SUFFIXES, names_in

ROOT = Path(__file__).resolve().parents[2]
BOARDS: dict[str, dict[str, Any]] = {path.stem: json.loads(path.read_text()) for path in sorted(FOLDER.glob("*.json"))}
PANELS = [(uid, panel) for uid, board in BOARDS.items() for panel in board["panels"] if panel["type"] != "row"]
#: Bookmarks and links of sites have them.
UIDS = {f"hltfarm-{name}" for name in ("overview", "latency", "paths", "workers", "accounting", "inference", "outputs", "control")}
EXPORTED = exported()
OF_PROMETHEUS = {"ALERTS", "scrape_duration_seconds", "scrape_samples_scraped"}


def queries(board: dict[str, Any]) -> list[str]:
    """Every expression of a dashboard, those of variables and annotations too."""
    found = [target["expr"] for panel in board["panels"] for target in panel.get("targets", ())]
    found += [note["expr"] for note in board["annotations"]["list"] if "expr" in note]
    return found + [variable["definition"] for variable in board["templating"]["list"] if variable["type"] == "query"]


def test_the_files_are_what_is_written() -> None:
    assert {path: path.read_text() for path in FOLDER.glob("*.json")} == files(), "run `make dashboards`"
    assert set(BOARDS) == UIDS == {board["uid"] for board in BOARDS.values()}


@pytest.mark.parametrize("uid", BOARDS)
def test_a_dashboard_has_no_gaps(uid: str) -> None:
    board = BOARDS[uid]
    cells = Counter[tuple[int, int]]()
    for panel in board["panels"]:
        place = panel["gridPos"]
        cells.update((x, y) for x in range(place["x"], place["x"] + place["w"]) for y in range(place["y"], place["y"] + place["h"]))
    height = max(y for _, y in cells) + 1
    assert cells == Counter((x, y) for x in range(24) for y in range(height))
    numbers = [panel["id"] for panel in board["panels"]]
    assert len(set(numbers)) == len(numbers)


@pytest.mark.parametrize(("uid", "panel"), PANELS, ids=[f"{uid}-{panel['id']}" for uid, panel in PANELS])
def test_a_panel_is_complete(uid: str, panel: dict[str, Any]) -> None:
    assert len(panel["description"].split()) >= 3, "what it shows"
    assert panel["description"].endswith(".")
    assert panel["fieldConfig"]["defaults"]["unit"]
    assert panel["fieldConfig"]["defaults"]["thresholds"]["steps"][0]["value"] is None
    assert panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
    letters = [target["refId"] for target in panel["targets"]]
    assert letters == [chr(ord("A") + place) for place in range(len(letters))] != []
    for target in panel["targets"]:
        assert target["legendFormat"] != "__auto" or panel["type"] == "table", f"{panel['title']}: a legend"
        labels = set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"]))
        known = {label for name in names_in(target["expr"]) for label in EXPORTED.get(plain(name), {"instance", "cause", "path", "stage"})}
        assert labels <= known | {"le"}, target


def plain(name: str) -> str:
    """The name of a histogram's series without its suffix."""
    for suffix in SUFFIXES:
        if name.removesuffix(suffix) in EXPORTED:
            return name.removesuffix(suffix)
    return name


@pytest.mark.parametrize("uid", BOARDS)
def test_queries_read_what_is_exported_or_recorded(uid: str) -> None:
    known = set(EXPORTED) | {rule["record"] for rule in (*LIMITS, *RULES) if "record" in rule}
    variables = {variable["name"] for variable in BOARDS[uid]["templating"]["list"]} | {"__rate_interval"}
    for expr in queries(BOARDS[uid]):
        read = {plain(name) for name in names_in(expr)}
        assert read - known == set(), expr
        assert read or any(name in expr for name in OF_PROMETHEUS), expr
        assert set(re.findall(r"\$\{?(\w+)", expr)) <= variables, expr
        everywhere = all(name.startswith("hlt:") for name in read) or re.match(r"sum by \(instance\)|label_values\(hlt_start", expr)
        assert everywhere or 'instance="$farm"' in expr, f"{expr} mixes farms"


def test_every_metric_is_on_a_dashboard() -> None:
    read = {plain(name) for board in BOARDS.values() for expr in queries(board) for name in names_in(expr)}
    rules = {rule["record"]: {plain(name) for name in names_in(rule["expr"])} for rule in RULES if "record" in rule}
    read |= {name for record in rules if record in read for name in rules[record]}
    assert set(EXPORTED) - read == set()


def test_the_provisioning_names_what_is_there() -> None:
    folder = FOLDER.parent / "provisioning"
    (source,) = yaml.safe_load((folder / "datasources" / "prometheus.yml").read_text())["datasources"]
    scrape_s = yaml.safe_load((ROOT / "deploy" / "prometheus" / "prometheus-containers.yml").read_text())["global"]["scrape_interval"]
    assert (source["type"], source["url"], source["jsonData"]["timeInterval"]) == ("prometheus", "http://prometheus:9090", scrape_s)
    (provider,) = yaml.safe_load((folder / "dashboards" / "hltfarm.yml").read_text())["providers"]
    assert (provider["type"], provider["options"]["path"]) == ("file", "/etc/grafana/dashboards")


def worker(number: int) -> WorkerStatus:
    gpu = GpuUse(index=number % 8, uuid=f"GPU-{number}", memory_used_bytes=1, memory_total_bytes=2, utilization=0.5)
    given = snapshot().workers[0]
    return msgspec.structs.replace(given, name=f"w{number}", host=f"node{number // 8}", resources=Resources(resident_bytes=1, gpu=gpu))


def test_series_of_a_large_farm() -> None:
    """What Prometheus has to keep: docs/monitoring.md has these numbers."""
    sizes = [len(scrape(FixedLink(snapshot(workers=[worker(i) for i in range(count)], models=(SELECTOR,))))[1]) for count in (0, 1, 100)]
    assert sizes[1] - sizes[0] == 10 + 3, "of a worker and of its GPU"
    assert sizes[2] - sizes[0] == 100 * (10 + 3)
