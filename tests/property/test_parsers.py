"""The fuzz targets with a few hundred inputs each: their seeds, mutations of them, and random bytes. `make fuzz` does it by the million."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from tests.fuzz.parsers import TARGETS

MUTATIONS = 60
EXTREMES = (0, 1, 0x7F, 0xFF, 1 << 31, 1 << 63, (1 << 64) - 1)
SLOW = {"feds": 15, "ingest": 25, "samples": 15, "models": 25, "archives": 40}


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    """What an ingest logs of nonsense is not of interest here."""
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


def mutated(seed: bytes, rng: np.random.Generator, others: list[bytes]) -> bytes:
    """The seed with some bytes set, cut out, doubled, or replaced by a part of another one."""
    data = bytearray(seed)
    for _ in range(1 + int(rng.integers(8))):
        at = int(rng.integers(len(data) + 1))
        size = int(rng.integers(1, 17))
        match int(rng.integers(5)):
            case 0:
                data[at : at + size] = rng.bytes(size)
            case 1:
                del data[at : at + size]
            case 2:
                data[at:at] = data[at : at + size]
            case 3:
                other = others[int(rng.integers(len(others)))]
                begin = int(rng.integers(len(other) + 1))
                data[at : at + size] = other[begin : begin + size]
            case _:
                data[at : at + 8] = EXTREMES[int(rng.integers(len(EXTREMES)))].to_bytes(8, "little")
    return bytes(data)


@pytest.mark.parametrize("name", TARGETS)
def test_foreign_bytes_end_in_promised_errors(name: str, tmp_path: Path) -> None:
    target = TARGETS[name]
    seeds = list(target.seeds(tmp_path))
    assert seeds
    rng = np.random.default_rng(len(name))
    for seed in seeds:
        target.run(seed, tmp_path)
    for number in range(SLOW.get(name, MUTATIONS)):
        for seed in seeds[number % 3 :: 3]:
            target.run(mutated(seed, rng, seeds), tmp_path)
        target.run(rng.bytes(int(rng.integers(300))), tmp_path)
