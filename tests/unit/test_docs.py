"""Documentation that is executed."""

from __future__ import annotations

import doctest
import json
import re
from pathlib import Path
from typing import Any

import pytest

DOCS = Path(__file__).resolve().parents[2] / "docs"


@pytest.mark.parametrize("page", ["event-walk.md", "adding-a-stage.md", "direct-inference.md"])
def test_page_runs_as_written(page: str) -> None:
    result = doctest.testfile(str(DOCS / page), module_relative=False, optionflags=doctest.NORMALIZE_WHITESPACE)
    assert result.attempted > 0
    assert result.failed == 0


def percent(ratio: dict[str, Any], digits: int = 2) -> str:
    return f"{100 * ratio['rate']:.{digits}f} %"


def test_tables_of_the_shipped_models_are_those_of_their_reports() -> None:
    page = (DOCS / "training.md").read_text()
    track, event = (json.loads((DOCS / "reports" / name / "report.json").read_text()) for name in ("track-mlp", "event-mlp"))
    rows = []
    for name, group in track["test"]["groups"].items():
        for point, regions in group["working_points"].items():
            cells = [percent(regions[region][key]) for region in ("all", "hard") for key in ("efficiency", "fake_rate_before", "fake_rate")]
            rows.append([name, point, f"{track['working_points'][point][name]:.3f}", *cells])
    for name in ("loose, patatrack-phase1", "loose", "tighter cuts, 0.99", "model, 0.995", "model, 0.99", "model, 0.98"):
        hard = [track["selections"][name][group]["hard"] for group in ("triplets", "longer")]
        rows.append([name, *(text for r in hard for text in (f"{r['true_per_event']:.2f}", percent(r["fake_rate"])))])
    rows += [[entry["feature"], f"{entry['triplets']:.2f}", f"{entry['longer']:.2f}"] for entry in track["importance"][:10]]
    for point, regions in event["test"]["groups"]["event"]["working_points"].items():
        r = regions["all"]
        rows.append([point, f"{event['working_points'][point]['event']:.3f}", percent(r["efficiency"], 1), percent(r["false_kept"])])
    assert [row for row in rows if f"| {' | '.join(row)} |" not in page] == []


@pytest.mark.parametrize("page", ["training.md", "models.md"])
def test_links_of_a_page_lead_somewhere(page: str) -> None:
    links = re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", (DOCS / page).read_text())
    assert [link for link in links if not (DOCS / link).exists()] == []
    assert links
