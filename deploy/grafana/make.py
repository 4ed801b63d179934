"""Writes deploy/grafana/dashboards/*.json: `python -m deploy.grafana.make` in the root of the repository, or `make dashboards`."""

from __future__ import annotations

import json
from pathlib import Path

from deploy.grafana.boards.accounting import ACCOUNTING
from deploy.grafana.boards.control import CONTROL
from deploy.grafana.boards.inference import INFERENCE
from deploy.grafana.boards.latency import LATENCY_BY_STAGE
from deploy.grafana.boards.outputs import OUTPUTS
from deploy.grafana.boards.overview import OVERVIEW
from deploy.grafana.boards.paths import PATHS
from deploy.grafana.boards.workers import WORKERS

FOLDER = Path(__file__).with_name("dashboards")
DASHBOARDS = (OVERVIEW, LATENCY_BY_STAGE, PATHS, WORKERS, ACCOUNTING, INFERENCE, OUTPUTS, CONTROL)


def files() -> dict[Path, str]:
    """Path -> text of every dashboard."""
    return {FOLDER / f"{board.uid}.json": json.dumps(board.json(), indent=1, ensure_ascii=False) + "\n" for board in DASHBOARDS}


def main() -> None:
    """Write them, and remove what is none of them any more."""
    FOLDER.mkdir(exist_ok=True)
    texts = files()
    for old in set(FOLDER.glob("*.json")) - set(texts):
        old.unlink()
    for path, text in texts.items():
        path.write_text(text)
        print(path.relative_to(FOLDER.parent.parent.parent))


if __name__ == "__main__":
    main()
