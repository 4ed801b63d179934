"""Faults on order in a worker: who is struck, how often, and that nothing happens without an order."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest

from hltfarm.proto.errors import ConfigError
from hltfarm.proto.events import EventId, RawEvent
from hltfarm.proto.messages import RunConfig
from hltfarm.workers.engine import Built, Reconstruction
from hltfarm.workers.faults import Act, FaultFile, Order, faulty, give, strikes

NOTHING = np.zeros(8, dtype=np.uint8)


class Plain:
    """Counts its batches."""

    backend = "cpu"

    def __init__(self) -> None:
        self.batches = 0

    def run(self, events: list[RawEvent], **options: Any) -> int:
        self.batches += 1
        return len(events)


def batch(*numbers: int) -> list[RawEvent]:
    return [RawEvent(EventId(1, 1, number, 0), NOTHING) for number in numbers]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "faults.json"
    give(path, [])
    return path


def reconstruction(file: Path, worker: str = "worker-0") -> Any:
    wrapped = cast(Reconstruction, Plain())
    built = faulty(lambda config, present: Built(wrapped, 1, "", ()), FaultFile(file, worker))(RunConfig(run=1), None)
    return built.reconstruction


def test_without_an_order_nothing_happens(file: Path) -> None:
    made = reconstruction(file)
    assert made.run(batch(1, 2), columns=None) == 2
    assert (made.backend, made.batches, strikes(file)) == ("cpu", 1, [])


def test_an_order_for_some_batches_is_carried_out_so_often_over_all_workers(file: Path) -> None:
    give(file, [Order(number=1, act=Act.FAIL, batches=3)])
    workers = [reconstruction(file, f"worker-{index}") for index in range(2)]
    failed = 0
    for index in range(8):
        try:
            workers[index % 2].run(batch(index), columns=None)
        except RuntimeError:
            failed += 1
    assert failed == 3
    assert [(strike.worker, strike.events) for strike in strikes(file)] == [("worker-0", (0,)), ("worker-1", (1,)), ("worker-0", (2,))]
    assert reconstruction(file).run(batch(9), columns=None) == 1  # a worker that was started again does not begin anew


def test_an_order_for_one_worker(file: Path) -> None:
    give(file, [Order(number=1, act=Act.OOM, worker="worker-1")])
    assert reconstruction(file, "worker-0").run(batch(1)) == 1
    with pytest.raises(MemoryError):
        reconstruction(file, "worker-1").run(batch(1))


def test_an_event_is_poison_in_every_batch(file: Path) -> None:
    give(file, [Order(number=1, act=Act.FAIL, events=(7,))])
    made = reconstruction(file)
    for numbers in ((6, 7, 8), (7,)):
        with pytest.raises(RuntimeError):
            made.run(batch(*numbers))
    assert made.run(batch(6, 8)) == 2
    assert len(strikes(file)) == 2


def test_slow_lasts_as_long_as_the_order(file: Path) -> None:
    give(file, [Order(number=1, act=Act.SLOW, factor=3.0)])
    made = reconstruction(file)
    assert [made.run(batch(1)), made.run(batch(2))] == [1, 1]
    assert len(strikes(file)) == 1
    give(file, [])
    assert made.run(batch(3)) == 1


def test_a_hanging_batch_does_not_return(file: Path) -> None:
    give(file, [Order(number=1, act=Act.HANG)])
    made, returned = reconstruction(file), threading.Event()

    def work() -> None:
        made.run(batch(1))
        returned.set()

    threading.Thread(target=work, daemon=True).start()
    while not strikes(file):
        assert not returned.is_set()
    assert not returned.wait(0.2)


def test_orders_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="HLTFARM_FAULTS"):
        FaultFile(tmp_path / "none.json", "worker-0")
    broken = tmp_path / "broken.json"
    broken.write_text('{"orders": [{"number": 1, "act": "dance"}]}')
    with pytest.raises(ConfigError, match="dance"):
        FaultFile(broken, "worker-0")
