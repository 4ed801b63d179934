"""Accounting, driver and report of a load, against an ingest that is a few lines of Python."""

from __future__ import annotations

import json
from collections import deque
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from hltfarm.loadgen.load.accounting import Accounting, Latency, Total
from hltfarm.loadgen.load.driver import Connection, Numbering
from hltfarm.loadgen.load.report import make_report, print_report, to_json, write_json
from hltfarm.loadgen.load.schedule import Schedule
from hltfarm.proto.errors import ConfigError, WireCode
from hltfarm.proto.events import EventId, RawEvent
from hltfarm.proto.framing import checksum
from hltfarm.proto.results import RESULT, EventFlag
from hltfarm.proto.wire import Outcome, Reason
from hltfarm.service.client import Decision, RefusedEvent

PAYLOADS = [RawEvent(EventId(1, lumi, 100 + lumi, 7), np.full(8 * lumi, lumi, dtype=np.uint8)) for lumi in (1, 2, 3)]


class Clock:
    """Time that passes only when somebody waits."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class Ingest:
    """Answers every event after `delay_s`, with `credit` events under way at most; every `reject`-th is rejected."""

    def __init__(self, clock: Clock, delay_s: float, credit: int) -> None:
        self.clock, self.delay_s, self.credit = clock, delay_s, credit
        self.resent, self.reconnects = 0, 0
        self.refused: list[RefusedEvent] = []
        self.errors: dict[WireCode, int] = {}
        self.under_way: deque[tuple[float, RawEvent]] = deque()
        self.seen: list[EventId] = []
        self.lose: set[int] = set()
        self.fail: set[int] = set()
        self.extra: list[Decision] = []

    def try_send(self, event: RawEvent, *, crc: int) -> bool:
        assert crc == checksum(event.payload)
        if len(self.under_way) >= self.credit:
            return False
        self.seen.append(event.id)
        if event.id.event not in self.lose:
            self.under_way.append((self.clock.now + self.delay_s, event))
        return True

    def decision(self, event: RawEvent, digest: int | None = None) -> Decision:
        failed = event.id.event in self.fail
        result = np.zeros(1, RESULT)
        result["flags"] = EventFlag.UNPROCESSED if failed else 0
        outcome = Outcome.ERROR if failed else Outcome.REJECT if event.id.event % 2 else Outcome.ACCEPT
        digest = len(event.payload) if digest is None else digest
        return Decision(event.id, outcome, 0, 0 if failed else digest, 0.0, 0.0, Reason.NONE, 1, "0", 0, result[0])

    def poll(self, timeout: float = 0.0) -> list[Decision]:
        if self.under_way and self.under_way[0][0] <= self.clock.now + timeout:
            self.clock.now = max(self.clock.now, self.under_way[0][0])
        else:
            self.clock.now += max(timeout, 1e-4)
        ready = list(self.extra)
        self.extra.clear()
        while self.under_way and self.under_way[0][0] <= self.clock.now:
            ready.append(self.decision(self.under_way.popleft()[1]))
        return ready


def drive(ingest: Ingest, schedule: Schedule, patience_s: float = 5.0) -> Connection:
    connection = Connection(ingest, schedule, Numbering(run=9, first=1000), PAYLOADS, Accounting("load-0"))
    connection.run(ingest.clock, lambda: False, patience_s)
    return connection


@pytest.fixture
def clock() -> Clock:
    return Clock()


def test_every_event_is_sent_once_and_answered(clock: Clock) -> None:
    ingest = Ingest(clock, delay_s=0.01, credit=100)
    total = Total([drive(ingest, Schedule(100.0, duration_s=1.0)).accounting])
    assert [identity.event for identity in ingest.seen] == list(range(1000, 1100))
    assert {identity.run for identity in ingest.seen} == {9}
    assert {(identity.lumi, identity.bx) for identity in ingest.seen} == {(1, 7), (2, 7), (3, 7)}
    assert total.outcomes == {"accepted": 50, "rejected": 50}
    assert total.problems() == []
    assert total.sent_bytes == sum(8 * identity.lumi for identity in ingest.seen)


def test_latency_counts_from_the_intended_time(clock: Clock) -> None:
    """One event at a time, 20 ms each, offered every 10 ms: the n-th answer is 10 n ms late, and no pause of the client hides it."""
    total = Total([drive(Ingest(clock, delay_s=0.02, credit=1), Schedule(100.0, events=100)).accounting])
    summary = total.latency.summary()
    assert summary["max"] == pytest.approx(20 * 100 - 10 * 99, rel=0.02)
    assert summary["p50"] == pytest.approx(20 * 50 - 10 * 49, rel=0.05)
    assert total.backlog_peak == pytest.approx(50, abs=2)
    assert total.problems() == []


def test_max_is_limited_by_credit_alone(clock: Clock) -> None:
    total = Total([drive(Ingest(clock, delay_s=0.01, credit=4), Schedule(None, duration_s=1.0)).accounting])
    assert total.sent == pytest.approx(400, abs=8)
    assert total.latency.summary()["p99"] == pytest.approx(10, rel=0.05)
    assert total.problems() == []


def test_lost_events_are_told(clock: Clock) -> None:
    ingest = Ingest(clock, delay_s=0.01, credit=50)
    ingest.lose = {1003, 1004}
    total = Total([drive(ingest, Schedule(100.0, events=20)).accounting])
    assert total.unanswered == 2
    assert total.problems() == ["2 events sent and not answered"]


def test_without_credit_nothing_is_sent_and_all_of_it_is_told(clock: Clock) -> None:
    total = Total([drive(Ingest(clock, delay_s=0.01, credit=0), Schedule(100.0, events=20)).accounting])
    assert (total.offered, total.sent, total.unsent) == (20, 0, 20)
    assert total.problems() == ["20 events never sent: no credit before the time-out"]
    assert total.latency.summary()["p99"] is None


def test_refused_events_are_not_waited_for(clock: Clock) -> None:
    ingest = Ingest(clock, delay_s=0.01, credit=50)
    ingest.lose = {1001}
    ingest.refused = [RefusedEvent(EventId(9, 1, 1001, 0), WireCode.MALFORMED_PAYLOAD, "")]
    ingest.errors = {WireCode.MALFORMED_PAYLOAD: 1, WireCode.NO_CREDIT: 3}
    total = Total([drive(ingest, Schedule(100.0, events=20), patience_s=1e9).accounting])
    assert total.refused == {"MALFORMED_PAYLOAD": 1}
    assert total.errors == {"MALFORMED_PAYLOAD": 1, "NO_CREDIT": 3}
    assert total.problems() == ["1 event refused by the ingest: MALFORMED_PAYLOAD"]


def test_strange_answers_are_counted(clock: Clock) -> None:
    ingest = Ingest(clock, delay_s=0.01, credit=50)
    stranger = RawEvent(EventId(9, 1, 5, 0), PAYLOADS[0].payload)
    connection = Connection(ingest, Schedule(100.0, events=6), Numbering(9, 1000), PAYLOADS, Accounting("load-0"))
    ingest.extra = [ingest.decision(stranger)]
    connection.run(clock, lambda: False, 5.0)
    again = Connection(ingest, Schedule(100.0, events=1), Numbering(9, 1006), PAYLOADS, connection.accounting)
    ingest.extra = [ingest.decision(RawEvent(EventId(9, 1, 1006, 0), PAYLOADS[0].payload))]
    again.run(clock, lambda: False, 5.0)
    assert connection.accounting.unexpected == 1
    assert connection.accounting.duplicates == 1


def test_another_digest_for_the_same_payload_is_a_problem() -> None:
    first, second = Accounting("a"), Accounting("b")
    for accounting, digests in ((first, (5, 5, None)), (second, (5, 6))):
        for digest in digests:
            index = accounting.add_sent(0.0, payload=0, size=8)
            accounting.add_decision(index, "accepted", 0.001, digest)
        accounting.offered = len(digests)
    assert (first.irreproducible, second.irreproducible) == (0, 1)
    other = Accounting("c")
    other.add_decision(other.add_sent(0.0, 0, 8), "accepted", 0.001, 7)
    assert Total([first, other]).irreproducible == 1
    assert Total([first, second]).problems() == ["1 event reconstructed differently from an earlier event with the same payload"]


def test_events_of_the_error_stream_have_no_digest_to_compare(clock: Clock) -> None:
    ingest = Ingest(clock, delay_s=0.01, credit=50)
    ingest.fail = {1004}
    total = Total([drive(ingest, Schedule(100.0, events=20)).accounting])
    assert total.outcomes["error"] == 1
    assert total.problems() == []


def test_numbering_is_unique_over_the_connections() -> None:
    numberings = [Numbering(1, 10 + part, stride=3) for part in range(3)]
    numbers = [numbering.number(index) for numbering in numberings for index in range(50)]
    assert sorted(numbers) == list(range(10, 160))
    assert [numbering.index(numbering.number(7)) for numbering in numberings] == [7, 7, 7]
    assert numberings[0].index(11) == -1


def test_lumisections_of_a_load_follow_the_clock(clock: Clock) -> None:
    numbering = Numbering(1, 0, lumi_s=0.5, first_lumi=7)
    ingest = Ingest(clock, 0.01, 1000)
    Connection(ingest, Schedule(100.0, events=151), numbering, PAYLOADS, Accounting("a")).run(clock, lambda: False, 5.0)
    lumis = [identity.lumi for identity in ingest.seen]
    assert lumis == sorted(lumis)
    assert {lumi: lumis.count(lumi) for lumi in lumis[:-1]} == {7: 50, 8: 50, 9: 50}


def test_the_last_event_number_is_known(clock: Clock) -> None:
    """The next load of the run must begin above it: connections do not send equally many."""
    connection = Connection(Ingest(clock, 0.01, 5), Schedule(100.0, events=4), Numbering(1, 10, stride=3), PAYLOADS, Accounting("a"))
    connection.run(clock, lambda: False, 5.0)
    assert connection.last_event == 19


def test_latency_summary_is_in_milliseconds() -> None:
    latency = Latency()
    for index in range(1, 1001):
        latency.record(index * 1e-3)
    summary = latency.summary()
    assert summary["p50"] == pytest.approx(500, rel=2e-3)
    assert summary["p90"] == pytest.approx(900, rel=2e-3)
    assert summary["p99"] == pytest.approx(990, rel=2e-3)
    assert summary["p999"] == pytest.approx(999, rel=2e-3)
    assert summary["max"] == 1000
    assert summary["mean"] == pytest.approx(500.5)


def test_report_round_trip(clock: Clock, tmp_path: Path) -> None:
    schedule = Schedule(100.0, events=100)
    connection = drive(Ingest(clock, delay_s=0.01, credit=100), schedule)
    report = make_report(
        Total([connection.accounting]),
        schedule,
        source="x.hlt",
        run=9,
        events=(1000, 1099),
        offer_seconds=1.0,
        seconds=connection.last_answer,
    )
    path = tmp_path / "new" / "report.json"
    write_json(path, to_json(report))
    values = json.loads(path.read_text())
    assert values["closed"] is True
    assert (values["sent"], values["unanswered"], values["decisions"]) == (100, 0, {"accepted": 50, "rejected": 50, "error": 0})
    assert values["offered_rate_hz"] == 100.0
    assert values["achieved_rate_hz"] == pytest.approx(100.0, rel=0.05)
    assert set(values["latency_ms"]) == {"p50", "p90", "p99", "p999", "max", "mean"}
    assert [item["answered"] for item in values["connections"]] == [100]


def test_table_says_what_is_wrong(clock: Clock) -> None:
    ingest = Ingest(clock, delay_s=0.01, credit=50)
    ingest.lose = {1000}
    schedule = Schedule(100.0, events=10)
    connection = drive(ingest, schedule)
    report = make_report(
        Total([connection.accounting]), schedule, source="x.hlt", run=9, events=(1000, 1099), offer_seconds=0.1, seconds=1.0
    )
    console = Console(record=True, width=120, file=open("/dev/null", "w"))  # noqa: SIM115
    print_report(report, console)
    console.file.close()
    text = console.export_text()
    assert "1 event sent and not answered" in text
    assert "p99.9" in text


def test_a_report_that_cannot_be_written_says_so(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot write"):
        write_json(tmp_path, {})


def test_what_decided_an_event_is_noted() -> None:
    accounting = Accounting("load-0")
    for outcome, digest, decider in (
        ("accepted", 5, ("a", 1)),
        ("rejected", 6, ("b", 1)),
        ("accepted", 6, ("b", 1)),
        ("error", None, ("b", 1)),
    ):
        accounting.add_decision(accounting.add_sent(0.0, 0, 8), outcome, 0.001, digest, 3, decider)
    assert (accounting.indices("accepted"), accounting.indices("rejected"), accounting.indices("error")) == ([0, 2], [1], [3])
    assert accounting.deciders == {(3, ("a", 1)): 1, (3, ("b", 1)): 2}
    assert accounting.irreproducible == 0, "another menu or model may give another digest"
    accounting.add_decision(accounting.add_sent(0.0, 0, 8), "accepted", 0.001, 7, 4, ("b", 1))
    assert accounting.irreproducible == 1
