"""A real Prometheus that scrapes one farm every second with the rules of deploy/prometheus, and what Grafana asks it."""

from __future__ import annotations

import math
import re
import shutil
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import yaml

ROOT = Path(__file__).resolve().parents[2]
RULES = ROOT / "deploy" / "prometheus"
PROGRAM = shutil.which("prometheus")
SCRAPE_S = 1
START_S = 30.0


class Prometheus:
    """The HTTP API of a server. `began`: when it started, seconds since 1970."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.began = time.time()
        self._client = httpx.Client(base_url=url, trust_env=False, timeout=10.0)

    def close(self) -> None:
        self._client.close()

    def ready(self) -> bool:
        try:
            return self._client.get("/-/ready").status_code == 200
        except httpx.TransportError:
            return False

    def _ask(self, path: str, **form: Any) -> Any:
        answer = self._client.post(path, data=form)
        body = answer.json()
        assert body["status"] == "success", f"{form}: {body.get('error')}"
        return body["data"]

    def label_values(self, label: str, selector: str) -> list[str]:
        """As Grafana's label_values(selector, label)."""
        answer = self._client.get(f"/api/v1/label/{label}/values", params={"match[]": selector, "start": self.began - 60})
        found: list[str] = answer.json()["data"]
        return found

    def instant(self, expr: str) -> list[dict[str, Any]]:
        """Series of the newest values, with finite ones."""
        found = self._ask("/api/v1/query", query=expr)["result"]
        return [series for series in found if math.isfinite(float(series["value"][1]))]

    def range(self, expr: str) -> list[dict[str, Any]]:
        """Series since the server began, those with a finite value."""
        found = self._ask("/api/v1/query_range", query=expr, start=self.began, end=time.time(), step=SCRAPE_S)["result"]
        return [series for series in found if any(math.isfinite(float(value)) for _, value in series["values"])]


@contextmanager
def prometheus_of(target: str, port: int, folder: Path) -> Iterator[Prometheus]:
    """A server with the configuration of deploy/prometheus, but for the target and the interval; it scrapes `target`."""
    assert PROGRAM is not None
    configuration = yaml.safe_load((RULES / "prometheus.yml").read_text())
    configuration["global"] = dict.fromkeys(configuration["global"], f"{SCRAPE_S}s")
    configuration["rule_files"] = [str(RULES / name) for name in configuration["rule_files"]]
    configuration["scrape_configs"][0]["static_configs"] = [{"targets": [target]}]
    file, log = folder / "prometheus.yml", folder / "prometheus.log"
    file.write_text(yaml.safe_dump(configuration))
    address = f"127.0.0.1:{port}"
    command = [PROGRAM, f"--config.file={file}", f"--storage.tsdb.path={folder / 'tsdb'}", f"--web.listen-address={address}"]
    with log.open("w") as output, subprocess.Popen(command, stdout=output, stderr=output) as process:
        server = Prometheus(f"http://{address}")
        try:
            deadline = time.monotonic() + START_S
            while not server.ready():
                if process.poll() is not None or time.monotonic() > deadline:
                    raise AssertionError(log.read_text()[-2000:])
                time.sleep(0.05)  # the interval of asking
            yield server
        finally:
            server.close()
            process.terminate()
            process.wait(START_S)


def _escaped(value: str) -> str:
    """A value in a regular expression in a string of PromQL, as Grafana's prometheusSpecialRegexEscape writes it."""
    return re.sub(r"[$^*{}\[\]'+?.()|]", r"\\\\\g<0>", value.replace("\\", "\\\\\\\\"))


def chosen(values: Sequence[str], *, many: bool) -> str:
    """A variable's text in a query: one value, or all of a variable that takes several."""
    if not many:
        return values[0].replace("\\", "\\\\").replace("'", "\\'")
    escaped = [_escaped(value) for value in values]
    return escaped[0] if len(escaped) == 1 else f"({'|'.join(escaped)})"


def substituted(expr: str, variables: Mapping[str, str]) -> str:
    """An expression as Grafana sends it. Raises KeyError for a variable that the dashboard does not have."""
    spans = {"__interval": f"{SCRAPE_S}s", "__rate_interval": f"{max(2 * SCRAPE_S, 4 * SCRAPE_S)}s", "__range": "60s"}
    known = {**spans, **variables}
    return re.sub(r"\$\{?(\w+)\}?", lambda found: known[found[1]], expr)
