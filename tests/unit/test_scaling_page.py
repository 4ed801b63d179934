"""The tables of docs/scaling.md are what its formulas give."""

from __future__ import annotations

import math
import re
from pathlib import Path

import pytest

PAGE = (Path(__file__).resolve().parents[2] / "docs/scaling.md").read_text()
USE = 0.8
#: pileup -> bytes of an event, farm rate of a GPU, latency in seconds: the numbers to start from.
START = {50: (255e3, 30_000, 0.035), 200: (0.93e6, 1_800, 0.2)}
ROWS = re.findall(
    r"^\| (\d+) kHz \| (\d+) \| (\d+) \| ([\d ]+)/s \| ([\d.]+) GB/s, ([\d.]+) ([GT])b/s \| (\d+) Gb/s \| (\d+) \| ([\d ]+) \| (\d+) a GPU",
    PAGE,
    re.M,
)


def number(text: str) -> float:
    return float(text.replace(" ", ""))


def test_the_table_is_found() -> None:
    assert {(row[0], row[1]) for row in ROWS} == {(rate, pileup) for rate in ("100", "750") for pileup in ("50", "200")}


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row[0]} kHz, pileup {row[1]}")
def test_a_row_is_what_the_formulas_give(row: tuple[str, ...]) -> None:
    khz, pileup, gpus, per_gpu, gigabytes, bits, unit, gigabits, ingests, all_ingests, slots = row
    size, farm, p99 = START[int(pileup)]
    rate = 1e3 * float(khz)
    assert int(gpus) == math.ceil(rate / (USE * farm))
    each = rate / int(gpus)
    assert number(per_gpu) == pytest.approx(each, rel=1e-3)
    assert float(gigabytes) == pytest.approx(rate * size / 1e9, rel=5e-3)
    assert float(bits) * {"G": 1e9, "T": 1e12}[unit] == pytest.approx(8 * rate * size, rel=3e-2)
    assert float(gigabits) == pytest.approx(8e-9 * each * size, rel=4e-2)
    assert int(ingests) == max(2, math.ceil(USE * farm / 4000), math.ceil(size * USE * farm / 2e9))
    assert number(all_ingests) == int(gpus) * int(ingests)
    assert int(slots) == pytest.approx(each * p99, rel=1e-2)


def test_series_of_a_node_add_up() -> None:
    rows = re.findall(r"^\| (\d+) \| [\d.]+ \| \d+ ms \| [\d.]+ m?s \| \d+ kB \| ([\d ]+) \|", PAGE, re.M)
    assert len(rows) == 5
    assert all(number(series) == 160 + 18 * int(ingests) for ingests, series in rows)
    assert "is 103:" in PAGE
    assert 6 * (5 + 10) + 13 == 103
