"""The engine of a worker with several ingests: one reconstruction, mixed batches, answers that go home."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from hltfarm.proto import worker_link as link
from hltfarm.proto.errors import ConfigError
from hltfarm.proto.events import RawEvent
from hltfarm.proto.messages import RunConfig
from hltfarm.proto.results import RESULT
from hltfarm.proto.slots import SlotView
from hltfarm.proto.wire import EventFlags
from hltfarm.service.ingest.slots import SlotRing
from hltfarm.workers.descriptors import Descriptor
from hltfarm.workers.engine import Built, Engine, Finished, Ready

DEADLINE_S = 20.0


class Reconstruction:
    """Odd programmes accept every event, even ones none; its digest is the first byte of its payload."""

    backend = device = "fake"
    parallel = 2

    def __init__(self) -> None:
        self.registered = 0
        self.closed = False
        self.programmes: set[int] = set()
        self.broken: set[int] = set()
        self.gate: threading.Barrier | None = None  #: batches wait here for each other
        self.now = self.most = 0  #: batches at a time

    def run(self, events: list[RawEvent], *, columns: list[bool] | None, programme: int) -> Any:
        assert not self.closed
        assert programme in self.programmes
        if programme in self.broken:
            raise ValueError("a model that cannot compute this")
        self.now += 1
        self.most = max(self.most, self.now)
        if self.gate is not None:
            self.gate.wait(DEADLINE_S)
        self.now -= 1
        results = np.zeros(len(events), dtype=RESULT)
        results["accept"], results["path_bits"] = programme % 2, programme
        results["digest"] = [int(event.payload[0]) for event in events]
        tables = [{"tracks": {"pt": np.full(1, event.payload[0], dtype=np.float32)}} for event in events]
        return SimpleNamespace(results=results, stage_seconds={"unpack": 1.0}, reply=lambda i: tables[i])

    def register(self, buffer: memoryview) -> None:
        self.registered += 1

    def forget(self, programme: int) -> None:
        self.programmes.remove(programme)

    def close(self) -> None:
        self.closed = True


class Bench:
    """An engine, the rings of two ingests, and the outcomes one after the other."""

    def __init__(self, folder: Path, threads: int = 3) -> None:
        self.hold: threading.Event | None = None  #: the menu "slow" is built when it is set
        self.built: list[Reconstruction] = []
        self._programmes = 0
        self._told = threading.Semaphore(0)
        self.engine = Engine(self._build, self._told.release, threads=threads)
        self.rings = [SlotRing(folder / str(number), 8, 4096) for number in range(2)]

    def _build(self, config: RunConfig, present: Any) -> Built:
        if present is None:
            self.built.append(Reconstruction())
        assert present in (None, self.built[-1])
        if config.menu == "bad":
            raise ConfigError("no such menu")
        if config.menu == "slow":
            assert self.hold is not None
            assert self.hold.wait(DEADLINE_S)
        self._programmes += 1
        self.built[-1].programmes.add(self._programmes)
        return Built(self.built[-1], self._programmes, "c0ffee", ())

    def view(self, ingest: int) -> SlotView:
        ring = self.rings[ingest]
        return SlotView(ring.path, ring.slots, ring.slot_bytes)

    def outcome(self) -> Ready | Finished:
        assert self._told.acquire(timeout=DEADLINE_S)
        outcome = self.engine.next_outcome()
        assert outcome is not None
        return outcome

    def configure(
        self, ingest: int, view: SlotView, run: int = 1, generation: int = 1, keep: tuple[int, ...] = (), menu: str = ""
    ) -> link.Configured:
        self.engine.configure(ingest, view, link.Configure(generation=generation, config=RunConfig(run=run, menu=menu), keep=keep))
        outcome = self.outcome()
        assert isinstance(outcome, Ready)
        assert outcome.ingest == ingest
        return outcome.message

    def run(self, *events: Descriptor) -> Finished:
        self.engine.run(list(events))
        outcome = self.outcome()
        assert isinstance(outcome, Finished)
        return outcome

    def event(self, ingest: int, tag: int, flags: int = 0, generation: int = 1, shadow: int = 0) -> Descriptor:
        """Ticket, event and first byte are the tag."""
        return (tag, tag, self.rings[ingest].put(bytes([tag]) * 8), 8, 1, 1, 0, flags, generation, shadow, ingest)

    def close(self) -> None:
        assert self.engine.close(DEADLINE_S)
        for ring in self.rings:
            ring.close()


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    bench = Bench(tmp_path)
    yield bench
    bench.close()


def test_one_reconstruction_serves_all_ingests_of_a_run(bench: Bench) -> None:
    first, second = bench.view(0), bench.view(1)
    assert bench.configure(0, first).error is None
    assert bench.configure(1, second).error is None
    assert [(built.registered, built.closed) for built in bench.built] == [(2, False)]
    bench.configure(0, first, run=2)
    assert [(built.registered, built.closed) for built in bench.built] == [(2, True), (2, False)]
    bench.configure(1, second, run=2)
    assert len(bench.built) == 2


def test_a_new_ring_of_an_ingest_is_registered_with_a_new_reconstruction(bench: Bench) -> None:
    bench.configure(0, bench.view(0))
    bench.configure(1, bench.view(1))
    bench.configure(1, bench.view(1))  # an ingest that was restarted: the device must let go of the old ring
    assert [(built.registered, built.closed) for built in bench.built] == [(2, True), (2, False)]
    (answer,) = bench.run(bench.event(0, 5)).answers
    assert answer.records["result"]["digest"].tolist() == [5]


def test_answers_of_a_mixed_batch_go_home(bench: Bench) -> None:
    bench.configure(0, bench.view(0))
    bench.configure(1, bench.view(1))
    want = int(EventFlags.WANT_COLUMNS)
    batch = [bench.event(1, 11), bench.event(0, 12, want), bench.event(1, 13, want), bench.event(0, 14), bench.event(1, 15, want)]
    answers = {answer.ingest: answer for answer in bench.run(*batch).answers}
    assert {number: answer.records["ticket"].tolist() for number, answer in answers.items()} == {1: [11, 13, 15], 0: [12, 14]}
    assert {number: answer.records["result"]["digest"].tolist() for number, answer in answers.items()} == {1: [11, 13, 15], 0: [12, 14]}
    assert {number: answer.records["part"].tolist() for number, answer in answers.items()} == {1: [0, 1, 2], 0: [1, 0]}
    assert [len(answers[number].parts) for number in (0, 1)] == [1, 2]
    assert answers[0].parts[0] != answers[1].parts[0]
    counted = [answer.message.batch_events for answer in answers.values() if isinstance(answer.message, link.Results)]
    assert sorted(counted) == [0, 5], "the batch is counted once"


def test_events_of_an_ingest_in_another_run_fail(bench: Bench) -> None:
    tell: Callable[..., link.Configured] = bench.configure
    tell(0, bench.view(0), run=1)
    tell(1, bench.view(1), run=2)
    finished = bench.run(bench.event(0, 1), bench.event(1, 2))
    assert [type(answer.message) for answer in finished.answers] == [link.Failed, link.Failed]
    assert not finished.broken
    (good,) = bench.run(bench.event(1, 3)).answers
    assert isinstance(good.message, link.Results)


def test_batches_run_side_by_side_and_building_waits_for_them(bench: Bench) -> None:
    view = bench.view(0)
    bench.configure(0, view)
    assert bench.engine.parallel == 2, "as many as the reconstruction says"
    bench.built[0].gate = threading.Barrier(3)  # opens when both batches run and the third thread, here, has seen it
    for tag in (1, 2):
        bench.engine.run([bench.event(0, tag)])
    bench.engine.configure(0, view, link.Configure(generation=2, config=RunConfig(run=2)))
    bench.engine.run([bench.event(0, 3, generation=2)])
    assert len(bench.built) == 1, "a reconstruction is not replaced while batches run"
    bench.built[0].gate.wait(DEADLINE_S)
    first = [bench.outcome() for _ in range(2)]
    assert all(isinstance(outcome, Finished) for outcome in first)
    assert sorted(outcome.answers[0].records["ticket"][0] for outcome in first if isinstance(outcome, Finished)) == [1, 2]
    assert isinstance(bench.outcome(), Ready)
    last = bench.outcome()
    assert isinstance(last, Finished)
    assert last.answers[0].records["ticket"].tolist() == [3]
    assert [built.closed for built in bench.built] == [True, False]
    assert bench.engine.busy_s(0.0) == 0.0


def test_programmes_of_a_run_share_a_reconstruction_and_a_batch(bench: Bench) -> None:
    view = bench.view(0)
    bench.configure(0, view)
    assert bench.configure(0, view, generation=2, keep=(1,), menu="other").error is None
    (answer,) = bench.run(bench.event(0, 1), bench.event(0, 2, generation=2), bench.event(0, 3)).answers
    assert answer.records["ticket"].tolist() == [1, 2, 3]
    assert answer.records["result"]["digest"].tolist() == [1, 2, 3]
    assert answer.records["result"]["path_bits"].tolist() == [1, 2, 1], "each event was decided by its own"
    assert len(bench.built) == 1


def test_events_do_not_wait_for_a_programme_that_is_being_built(tmp_path: Path) -> None:
    """On a CPU, too, which runs one batch at a time."""
    bench = Bench(tmp_path, threads=1)
    bench.hold = threading.Event()
    view = bench.view(0)
    bench.configure(0, view)
    bench.engine.configure(0, view, link.Configure(generation=2, config=RunConfig(run=1, menu="slow"), keep=(1,)))
    for tag in (1, 2):
        finished = bench.run(bench.event(0, tag))
        assert finished.answers[0].records["result"]["digest"].tolist() == [tag]
    assert (bench.engine.pending, bench.engine.computing) == (1, 0)
    bench.built[0].gate = threading.Barrier(2)
    for tag in (3, 4):
        bench.engine.run([bench.event(0, tag)])
    bench.built[0].gate.wait(DEADLINE_S)  # one batch; the other waits for it, and has not come to the gate
    assert isinstance(bench.outcome(), Finished)
    assert bench.built[0].most == 1
    bench.built[0].gate.wait(DEADLINE_S)
    assert isinstance(bench.outcome(), Finished)
    bench.hold.set()
    assert isinstance(bench.outcome(), Ready)
    assert (bench.engine.pending, bench.engine.building) == (0, 0)
    bench.close()


def test_a_programme_that_cannot_be_built_leaves_the_others_alone(bench: Bench) -> None:
    view = bench.view(0)
    bench.configure(0, view)
    answer = bench.configure(0, view, generation=2, keep=(1,), menu="bad")
    assert answer.error is not None
    assert "no such menu" in answer.error
    assert answer.fatal
    (good,) = bench.run(bench.event(0, 1)).answers
    assert isinstance(good.message, link.Results)
    (failed,) = bench.run(bench.event(0, 2, generation=2)).answers
    assert isinstance(failed.message, link.Failed)


def test_a_retired_programme_gives_its_memory_back_and_is_used_again_if_another_ingest_has_it(bench: Bench) -> None:
    first, second = bench.view(0), bench.view(1)
    bench.configure(0, first)
    bench.configure(0, first, generation=2, keep=(1,), menu="other")
    bench.configure(1, second, generation=9, menu="other")
    assert bench.built[0].programmes == {1, 2}
    bench.engine.retire(0, 2)
    bench.configure(1, second, generation=9, menu="other")
    assert bench.built[0].programmes == {1, 2}, "the other ingest has it"
    bench.engine.retire(1, 9)
    bench.run(bench.event(0, 1))
    assert bench.built[0].programmes == {1}


def test_what_no_job_answers_for_ends_the_worker(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    """Memory of a device that cannot be given back: the thread must not go without a word, for the next reconstruction waits for it."""
    view = bench.view(0)
    bench.configure(0, view, generation=1)
    bench.configure(0, view, generation=2, keep=(1,), menu="other")
    bench.built[0].programmes.clear()
    bench.engine.retire(0, 2)
    outcome = bench.outcome()
    assert isinstance(outcome, Finished)
    assert (outcome.answers, outcome.broken) == ((), True)
    assert "the engine failed" in caplog.text


def test_a_shadow_is_asked_beside_the_decision_and_its_faults_are_its_own(bench: Bench) -> None:
    view = bench.view(0)
    bench.configure(0, view)
    bench.configure(0, view, generation=2, keep=(1,), menu="other")
    batch = [bench.event(0, 1, shadow=2), bench.event(0, 2), bench.event(0, 3, shadow=7)]
    (answer,) = bench.run(*batch).answers
    assert answer.records["result"]["accept"].tolist() == [1, 1, 1]
    assert answer.records["shadow"].tolist() == [link.ShadowOutcome.REJECT, link.ShadowOutcome.NOT_ASKED, link.ShadowOutcome.NOT_ASKED]
    assert answer.records["shadow_bits"].tolist() == [2, 0, 0]
    assert answer.records["shadow_generation"][0] == 2
    bench.built[0].broken.add(2)
    (answer,) = bench.run(*batch).answers
    assert isinstance(answer.message, link.Results)
    assert answer.records["result"]["accept"].tolist() == [1, 1, 1]
    assert answer.records["shadow"].tolist() == [link.ShadowOutcome.FAILED, link.ShadowOutcome.NOT_ASKED, link.ShadowOutcome.NOT_ASKED]


def test_a_new_ring_takes_the_programmes_of_all_ingests_along(bench: Bench) -> None:
    bench.configure(0, bench.view(0))
    bench.configure(0, bench.engine._rings[0], generation=2, keep=(1,), menu="other")
    bench.configure(1, bench.view(1))
    bench.configure(1, bench.view(1))
    (answer,) = bench.run(bench.event(0, 1), bench.event(0, 2, generation=2)).answers
    assert isinstance(answer.message, link.Results)
    assert len(bench.built) == 2


def sing(bench: Bench, ingest: int, serial: int, generation: int = 1, tag: int = 9, fresh_s: float = 0.0) -> link.CanaryDone:
    bench.engine.canary(ingest, link.Canary(serial=serial, generation=generation, payload=bytes([tag]) * 8, fresh_s=fresh_s))
    outcome = bench.outcome()
    assert isinstance(outcome, Ready)
    assert isinstance(outcome.message, link.CanaryDone)
    assert (outcome.ingest, outcome.message.serial, outcome.message.generation) == (ingest, serial, generation)
    return outcome.message


def test_a_canary_says_the_digest_of_its_event(bench: Bench) -> None:
    assert "no programme 1" in str(sing(bench, 0, 3).error)
    bench.configure(0, bench.view(0))
    done = sing(bench, 0, 4)
    assert (done.digest, done.error) == (9, None)
    assert done.seconds > 0
    bench.built[0].broken.add(1)
    assert "cannot compute" in str(sing(bench, 0, 5).error)
    assert bench.engine.busy_s(1e9) == 0.0, "it is over, failed or not"


def test_a_fresh_canary_serves_every_ingest(bench: Bench) -> None:
    bench.configure(0, bench.view(0))
    bench.configure(1, bench.view(1))
    assert sing(bench, 0, 1).digest == 9
    bench.built[0].broken.add(1)  # whoever is computed from now on fails
    assert sing(bench, 1, 1, fresh_s=60.0).digest == 9
    assert sing(bench, 1, 2, fresh_s=60.0, tag=7).error is not None, "another event"
    assert sing(bench, 1, 3).error is not None, "too old"
