"""Farms of the integration tests, which leave no thread, descriptor or process behind."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator

import pytest

from tests.integration.ingest_farm import Farm
from tests.leaks import children_of


@pytest.fixture
def make_farm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Farm]]:
    farms: list[Farm] = []
    threads = set(threading.enumerate())
    descriptors = len(os.listdir("/proc/self/fd"))

    def make(**changes: object) -> Farm:
        farms.append(Farm(tmp_path_factory.mktemp("farm"), **changes))
        return farms[-1]

    yield make
    for farm in farms:
        farm.close()
    assert set(threading.enumerate()) <= threads
    assert len(os.listdir("/proc/self/fd")) <= descriptors
    assert not children_of(os.getpid())  # but for a forkserver, which Python keeps: tests before may have started it


@pytest.fixture
def farm(make_farm: Callable[..., Farm]) -> Farm:
    return make_farm()
