"""The last minutes of a farm: rates and latencies between looks, gaps, restarts, and what the pages of the console get of them."""

from __future__ import annotations

import asyncio
import itertools

import httpx
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hltfarm.proto.messages import Histogram, LedgerCounts, RunConfig, RunState, Snapshot
from hltfarm.service.control.app import create_app
from hltfarm.service.control.history import History, columns, quantile, since
from hltfarm.service.control.link import FarmView, IngestView, view_of
from hltfarm.service.control.settings import ControlSettings
from tests.unit.farm_fake import ENDPOINT, FakeLink, snapshot


def looked(given: Snapshot | None) -> FarmView:
    return view_of([IngestView(ENDPOINT, given, None if given is not None else "gone")])


def counted(n: int, **changes: object) -> Snapshot:
    """A snapshot after n seconds of a steady farm."""
    totals = LedgerCounts(received=100 * n, accepted=20 * n, rejected=70 * n, error=10 * n, in_flight=5)
    return snapshot(
        totals=totals,
        ingest_bytes=3_000_000 * n,
        path_accepts={"HLT_A": 20 * n, "HLT_B": n},
        event_latency=Histogram(bounds=[0.001, 0.01, 0.1], counts=[50 * n, 40 * n, 10 * n, 0], sum=float(n)),
        stage_duration={"unpack": Histogram(bounds=[0.001], counts=[n, n], sum=0.004 * n), "fit": Histogram(bounds=[0.001], counts=[0, 0])},
        **changes,
    )


def history(**options: float) -> History:
    walls = itertools.count(1000.0, 1.0)
    return History(lambda: next(walls), **options)


def test_a_sample_says_what_happened_in_its_second() -> None:
    book = history()
    for second in range(4):
        book.observe(looked(counted(second)), 10.0 + second)
    first, *_, last = book.after()
    assert (first.received_hz, first.in_flight, first.workers_ready, first.workers) == (None, 5, 1, 2)
    assert (last.received_hz, last.accepted_hz, last.rejected_hz, last.error_hz) == (100.0, 20.0, 70.0, 10.0)
    assert last.mb_per_s == 3.0
    assert last.paths == {"HLT_A": 20.0, "HLT_B": 1.0}
    assert last.stages_ms == {"unpack": 2.0}, "0.004 s over two batches; the fit did not run"
    assert last.latency_p50_ms == 1.0, "half of them within the first bin"
    assert last.latency_p99_ms == pytest.approx(10 + 90 * 0.9)
    assert last.state == "Running"
    assert book.path_rates(over=2) == {"HLT_A": 20.0, "HLT_B": 1.0}


def test_rates_are_over_the_time_that_passed() -> None:
    book = history()
    times = [0.0, 0.5, 1.25, 1.5, 2.1, 6.1]
    for time in times:
        book.observe(looked(counted(round(100 * time))), time)
    assert [sample.received_hz for sample in book.after()] == [None, pytest.approx(1e4), pytest.approx(1e4), pytest.approx(1e4)]
    assert len(book.after()) == 4, "one a second: at 0, 1.25, 2.1 and 6.1"


def test_a_farm_that_does_not_answer_leaves_a_gap_and_a_restarted_one_begins_anew() -> None:
    book = history()
    restarted = counted(1)
    for second, look in enumerate([counted(5), counted(6), None, counted(8), counted(9), restarted, counted(2)]):
        book.observe(looked(look), float(second))
    rates = [sample.received_hz for sample in book.after()]
    assert rates == [None, 100.0, None, None, 100.0, None, 100.0]
    gap = book.after()[2]
    assert (gap.in_flight, gap.workers, gap.state) == (None, None, "Error")


def test_only_what_is_newer_and_never_more_than_it_keeps() -> None:
    book = history(interval_s=1.0, kept_s=5.0)
    for second in range(12):
        book.observe(looked(counted(second)), float(second))
    assert [sample.time for sample in book.after()] == [1007.0, 1008.0, 1009.0, 1010.0, 1011.0]
    assert [sample.time for sample in book.after(1009.0)] == [1010.0, 1011.0]
    assert book.after(1011.0) == []
    assert next(sample.time for sample in book.after(0.0)) == 1007.0


def test_a_page_that_is_ahead_of_a_clock_that_was_set_back_gets_everything() -> None:
    walls = iter([1000.0, 1001.0, 940.0, 941.0])
    book = History(lambda: next(walls))
    for second in range(4):
        book.observe(looked(counted(second)), 10.0 + second)
    assert [sample.time for sample in book.after(1001.0)] == [1000.0, 1001.0, 940.0, 941.0]
    assert [sample.time for sample in book.after(940.0)] == [941.0]
    assert book.after(943.0) == [], "a little ahead is another process's clock"


def test_columns_have_one_length_also_for_paths_that_come_and_go() -> None:
    book = history()
    book.observe(looked(counted(0)), 0.0)
    book.observe(looked(msgspec.structs.replace(counted(1), path_accepts={"HLT_A": 20})), 1.0)
    book.observe(looked(counted(2)), 2.0)
    table = columns(book.after())
    assert table["paths"] == {"HLT_A": [None, 20.0, 20.0], "HLT_B": [None, None, 2.0]}
    assert {len(values) for values in table.values() if isinstance(values, list)} == {3}


@given(st.lists(st.integers(0, 50), min_size=4, max_size=4), st.floats(0.01, 0.99))
def test_quantiles_lie_in_the_bin_in_which_that_share_is_reached(counts: list[int], share: float) -> None:
    bounds = [1.0, 2.0, 4.0]
    found = quantile(Histogram(bounds=bounds, counts=counts), share)
    if not sum(counts):
        assert found is None
        return
    assert found is not None
    values = [value for value, count in zip([0.5, 1.5, 3.0, 5.0], counts, strict=True) for _ in range(count)]
    exact = values[max(0, -(-int(share * len(values) * 1e9) // int(1e9)) - 1)]
    low, high = {0.5: (0.0, 1.0), 1.5: (1.0, 2.0), 3.0: (2.0, 4.0), 5.0: (4.0, 4.0)}[exact]
    assert low <= found <= high


def test_histograms_of_other_processes_are_not_subtracted() -> None:
    old = Histogram(bounds=[1.0], counts=[5, 5], sum=7.0)
    assert since(Histogram(bounds=[1.0], counts=[6, 7], sum=9.0), old) == Histogram(bounds=[1.0], counts=[1, 2], sum=2.0)
    fresh = Histogram(bounds=[1.0], counts=[1, 0], sum=0.5)
    assert since(fresh, old) == fresh
    other = Histogram(bounds=[2.0], counts=[6, 7], sum=9.0)
    assert since(other, old) == other


def test_pages_get_the_history_and_the_paths() -> None:
    link = FakeLink(RunState.HALTED)
    app = create_app(ControlSettings(ingests=(ENDPOINT,), poll_s=0.02), link)
    menu = (
        "version: 1\npaths:\n  - {name: HLT_B, stream: rare, prescale: 3, description: seldom}\n"
        "  - {name: HLT_A, stream: physics}\n  - {name: HLT_Off, enabled: false}\n"
    )

    async def test() -> None:
        transport = httpx.ASGITransport(app)
        async with app.router.lifespan_context(app), httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            assert (await client.get("/v1/paths")).json() == {"menu": None, "paths": []}
            await link.command("configure", RunConfig(run=3, menu=menu))
            await link.command("start")
            await link.looked(2)
            answer = (await client.get("/v1/paths")).json()
            names = [path["name"] for path in answer["paths"]]
            assert names == ["HLT_B", "HLT_A"]
            first, second = answer["paths"]
            assert first["prescale"] == 3
            assert (first["description"], first["stream"], first["active"]) == ("seldom", "rare", True)
            assert (first["events"], first["accepted"], first["prescaled"], first["fraction"]) == (899, 0, 33, 0.0)
            assert (second["events"], second["accepted"]) == (900, 150)
            assert second["fraction_low"] < second["fraction"] == 150 / 900 < second["fraction_high"]
            whole = (await client.get("/v1/history")).json()
            assert whole["interval_s"] == 1.0
            assert len(whole["time"]) == len(whole["state"]) == len(whole["received_hz"]) >= 1
            assert (await client.get(f"/v1/history?since={whole['time'][-1] + 4}")).json()["time"] == []
            assert (await client.get("/v1/history?since=nan")).status_code == 422

    asyncio.run(test())
