"""Rules of deploy/prometheus: they speak of metrics that exist, every alert has a test and a section for the night shift."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.unit.test_metrics_page import exported

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "deploy" / "prometheus"
PAGE = (ROOT / "docs" / "operating.md").read_text()
PROMTOOL = shutil.which("promtool")
SUFFIXES = ("_bucket", "_sum", "_count")
needs_promtool = pytest.mark.skipif(PROMTOOL is None, reason="promtool is not installed (Debian package prometheus)")


def rules(name: str) -> list[dict[str, Any]]:
    return [rule for group in yaml.safe_load((FOLDER / name).read_text())["groups"] for rule in group["rules"]]


LIMITS, RULES = rules("hltfarm.limits.yml"), rules("hltfarm.rules.yml")
ALERTS = [rule for rule in RULES if "alert" in rule]
CASES = yaml.safe_load((FOLDER / "hltfarm.rules.test.yml").read_text())["tests"]


def names_in(expression: str) -> set[str]:
    """Series that an expression reads."""
    bare = re.sub(r'"[^"]*"', "", expression)
    return set(re.findall(r"(?<![\w:])(?:hlt_[a-z0-9_]+|(?:hlt|instance\w*):[a-z0-9_:]+)", bare))


def test_every_rule_reads_what_is_exported_or_recorded() -> None:
    known = set(exported())
    known |= {f"{name}{suffix}" for name in list(known) for suffix in SUFFIXES if name.endswith(("_seconds", "_events"))}
    known |= {rule["record"] for rule in LIMITS}
    for rule in RULES:
        read = names_in(rule["expr"])
        assert read <= known or rule.get("alert") == "HltNotScraped", (rule, read - known)
        if "record" in rule:
            known.add(rule["record"])  # a rule reads only what stands before it


def test_the_cases_feed_what_is_exported() -> None:
    known = exported()
    for case in CASES:
        for series in case["input_series"]:
            match = re.match(r"(\w+)(?:\{(.*)\})?$", series["series"])
            assert match, series
            name = match[1].removesuffix("_bucket").removesuffix("_sum").removesuffix("_count")
            labels = set(re.findall(r'(\w+)="', match[2] or "")) - {"instance", "job", "le"}
            assert name == "up" or labels <= known[name], (case["name"], series)


@pytest.mark.parametrize("alert", ALERTS, ids=lambda rule: str(rule["alert"]))
def test_an_alert_is_complete(alert: dict[str, Any]) -> None:
    name = alert["alert"]
    assert alert["labels"]["severity"] in ("critical", "warning")
    assert "for" in alert
    assert set(alert["annotations"]) == {"summary", "description", "runbook_url"}
    assert alert["annotations"]["runbook_url"] == f"docs/operating.md#{name.lower()}"
    section = re.search(rf"^#### {name}$\n(.*?)(?=^##|\Z)", PAGE, re.MULTILINE | re.DOTALL)
    assert section, f"docs/operating.md has no section {name}"
    assert len(section[1].split()) > 20, "the section says what it means, how to see it and what to do"


@pytest.mark.parametrize("alert", ALERTS, ids=lambda rule: str(rule["alert"]))
def test_an_alert_has_a_case_that_fires_and_one_that_does_not(alert: dict[str, Any]) -> None:
    name = alert["alert"]
    mine = [case for case in CASES if case["name"].startswith(name) and not case["name"][len(name) :][:1].isalnum()]
    fired = [sample["labels"] for case in mine for test in case["promql_expr_test"] for sample in test["exp_samples"]]
    assert any(f'alertname="{name}"' in labels and 'alertstate="firing"' in labels for labels in fired)
    spared = any('instance="good"' in series["series"] for case in mine for series in case["input_series"])
    assert spared, "a farm `good` with a near miss belongs into the case"
    assert not any('instance="good"' in labels for labels in fired)


def test_the_sections_are_those_of_the_alerts() -> None:
    sections = re.findall(r"^#### (Hlt\w+)$", PAGE, re.MULTILINE)
    assert sections == [rule["alert"] for rule in ALERTS]


@needs_promtool
@pytest.mark.parametrize(
    "arguments",
    [
        ("check", "rules", "hltfarm.limits.yml", "hltfarm.rules.yml"),
        ("check", "config", "prometheus.yml"),
        ("check", "config", "prometheus-containers.yml"),
        ("test", "rules", "hltfarm.rules.test.yml"),
    ],
    ids=" ".join,
)
def test_promtool_agrees(arguments: tuple[str, ...]) -> None:
    assert PROMTOOL is not None
    done = subprocess.run([PROMTOOL, *arguments], cwd=FOLDER, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
