"""Writes the PrometheusRule of the component `monitoring` from the rule files of deploy/prometheus. Run it when they changed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

HERE = Path(__file__).resolve().parent
SOURCES = tuple(HERE.parent / "prometheus" / name for name in ("hltfarm.limits.yml", "hltfarm.rules.yml"))
TARGET = HERE / "components/monitoring/prometheus-rule.yaml"
HEAD = "# Written by deploy/kubernetes/prometheus_rule.py from deploy/prometheus; do not edit.\n"


def rule() -> dict[str, Any]:
    """The object: all groups of all rule files."""
    groups = [group for path in SOURCES for group in yaml.safe_load(path.read_text())["groups"]]
    return {
        "apiVersion": "monitoring.coreos.com/v1",
        "kind": "PrometheusRule",
        "metadata": {"name": "hltfarm", "labels": {"app.kubernetes.io/name": "hltfarm"}},
        "spec": {"groups": groups},
    }


if __name__ == "__main__":
    TARGET.write_text(HEAD + yaml.safe_dump(rule(), sort_keys=False, allow_unicode=True, width=140))
