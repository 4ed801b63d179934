"""What a registry promises on every database. Each check is given a function that opens a registry on one that was empty."""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import UTC, datetime

import msgspec
import pytest
from sqlalchemy import inspect

from hltfarm.proto.errors import ConfigError
from hltfarm.proto.messages import LedgerCounts, RunConfig
from hltfarm.service.registry import LARGEST_RUN, Activation, AuditEntry, Outcome, Registry, RunCounts, TransitionRecord
from hltfarm.service.registry.tables import Base
from tests.unit.farm_fake import CLASSIFIER, SELECTOR

Open = Callable[..., Registry]
ASKED = RunConfig(run=0, detector="d", menu="m", model="/models/x", working_point="0.99", engine="aot", event_model="none")
LEDGER = LedgerCounts(received=60, accepted=10, rejected=30, error=5, in_flight=15, duplicates=1)


def check_a_configuration_comes_back_with_its_number(open_: Open) -> None:
    registry = open_()
    given = registry.runs.allocate(ASKED, "hash")
    assert given == msgspec.structs.replace(ASKED, run=1)
    record = registry.runs.get(1)
    assert record is not None
    assert (record.config, record.menu_hash, record.models, record.outcome) == (given, "hash", None, Outcome.CONFIGURED)
    with pytest.raises(ConfigError, match="the last was 1; leave it out to get 2"):
        registry.runs.allocate(given, "hash")
    assert registry.runs.allocate(msgspec.structs.replace(ASKED, run=LARGEST_RUN), "hash").run == LARGEST_RUN
    with pytest.raises(ConfigError, match="all numbers are used"):
        registry.runs.allocate(ASKED, "hash")
    assert registry.runs.get(7) is None


def check_a_run_from_its_start_to_its_end(open_: Open) -> None:
    registry = open_()
    registry.runs.allocate(ASKED, "hash")
    registry.runs.begin(1, 2000.5)
    assert [record.config.run for record in registry.runs.open()] == [1]
    for models in ((), (SELECTOR,), (SELECTOR, CLASSIFIER)):
        registry.runs.decided_by(1, models)
        record = registry.runs.get(1)
        assert record is not None
        assert record.models == models
    registry.runs.finish(1, Outcome.STOPPED, LEDGER, 2003.25)
    record = registry.runs.get(1)
    assert record is not None
    assert (record.outcome, record.ledger) == (Outcome.STOPPED, LEDGER)
    assert (record.started, record.stopped) == (datetime.fromtimestamp(2000.5, UTC), datetime.fromtimestamp(2003.25, UTC))
    assert registry.runs.open() == []
    with pytest.raises(ConfigError, match="run 2 is not in the registry"):
        registry.runs.begin(2, 0.0)


def check_numbers_are_unique_among_controls_that_share_a_database(open_: Open) -> None:
    """Four controls, at the same time."""
    given: list[int] = []
    failures: list[BaseException] = []

    def take(registry: Registry) -> None:
        try:
            for _ in range(10):
                given.append(registry.runs.allocate(ASKED, "hash").run)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=take, args=(open_(f"farm-{i}"),)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert sorted(given) == list(range(1, 41))


def check_farms_on_one_database_leave_each_others_runs_alone(open_: Open) -> None:
    a, b = open_("a"), open_("b")
    for registry in (a, b):
        registry.runs.begin(registry.runs.allocate(ASKED, "hash").run, 1.0)
    assert [(record.farm, record.config.run) for record in a.runs.open()] == [("a", 1)]
    assert [(record.farm, record.config.run) for record in b.runs.open()] == [("b", 2)]
    assert [record.config.run for record in a.runs.page(10)] == [2, 1]
    assert [record.config.run for record in a.runs.page(10, before=2)] == [1]
    pending = TransitionRecord(
        id="t1", run=1, command="stop", progress="pending", began=datetime.fromtimestamp(5, UTC), ended=None, error=None
    )
    a.journal.transition(pending)
    b.journal.abandon("gone", 9.0)
    assert a.journal.transition_of("t1") == pending


def check_counters_and_activations_are_replaced_as_a_whole(open_: Open) -> None:
    registry = open_()
    registry.runs.allocate(ASKED, "hash")
    assert registry.counters.get(1) == RunCounts()
    marks = {"tcp://a": {"paths": {"HLT_A": 12}}}
    first = Activation(first_lumi=1, menu="m", menu_hash="h", models=(SELECTOR,), accepted=3, rejected=4)
    registry.counters.put(1, RunCounts(values={"paths": {"HLT_A": 2, "HLT_B": 0}, "failures": {}}, marks=marks), [first])
    second = Activation(first_lumi=9, menu="", menu_hash="i", models=(), accepted=1 << 40, rejected=0)
    registry.counters.put(1, RunCounts(values={"paths": {"HLT_A": 1 << 40}}, marks={}), [first, second])
    found = registry.counters.get(1)
    assert (found.values, found.marks) == ({"paths": {"HLT_A": 1 << 40}}, {})
    assert found.counted == datetime.fromtimestamp(1000, UTC)
    assert registry.counters.activations(1) == [first, second]
    with pytest.raises(ConfigError, match="run 2 is not in the registry"):
        registry.counters.put(2, RunCounts(), [])


def check_menus_are_found_by_hash_and_name(open_: Open) -> None:
    registry = open_()
    one, new = registry.menus.put("collisions", "00ff", "text", "ann")
    assert new
    again, new = registry.menus.put("collisions", "00ff", "text", "bob")
    assert (again, new) == (one, False)
    words, new = registry.menus.put("collisions", "00ff", "text # with words", "bob")
    assert (words.text, words.who, new) == ("text # with words", "bob", False)
    registry.menus.put("collisions", "11ff", "other", "ann")
    registry.menus.put("cosmics", "00ff", "text", "ann")
    assert {record.hash for record in registry.menus.find("collisions")} == {"00ff", "11ff"}
    assert {record.name for record in registry.menus.find("00ff")} == {"collisions", "cosmics"}
    registry.menus.remove("00ff")
    assert [(record.name, record.hash) for record in registry.menus.all()] == [("collisions", "11ff")]
    assert registry.menus.find("cosmics") == []


def check_transitions_end_once(open_: Open) -> None:
    registry = open_()
    began, ended = datetime.fromtimestamp(100.25, UTC), datetime.fromtimestamp(101.5, UTC)
    pending = TransitionRecord(id="abc", run=3, command="drain", progress="pending", began=began, ended=None, error=None)
    registry.journal.transition(pending)
    assert registry.journal.transition_of("abc") == pending
    done = TransitionRecord(id="abc", run=3, command="drain", progress="done", began=began, ended=ended, error=None)
    registry.journal.transition(done)
    registry.journal.abandon("the control was restarted", 500.0)
    assert registry.journal.transition_of("abc") == done
    registry.journal.transition(TransitionRecord(id="d", run=None, command="stop", progress="pending", began=began, ended=None, error=None))
    registry.journal.abandon("the control was restarted", 500.0)
    left = registry.journal.transition_of("d")
    assert left is not None
    assert (left.progress, left.error, left.ended) == ("failed", "the control was restarted", datetime.fromtimestamp(500, UTC))
    assert registry.journal.transition_of("x") is None


def check_the_audit_is_paged_and_takes_every_text(open_: Open) -> None:
    registry = open_()
    for i in range(5):
        registry.journal.audit(
            AuditEntry(
                time=datetime.fromtimestamp(100 + i, UTC),
                who="ann\0\ud800",
                address="127.0.0.1",
                command="POST /v1/control/pause",
                arguments={"n": i, "text": "\0é\ud800"},
                status=200,
                outcome="done",
                detail=None if i else "no\0",
                transition=None,
            )
        )
    page = registry.journal.audited(2)
    assert [entry.arguments["n"] for entry in page] == [4, 3]
    rest = registry.journal.audited(10, before=page[-1].id)
    assert [entry.arguments["n"] for entry in rest] == [2, 1, 0]
    assert (rest[-1].who, rest[-1].detail, rest[-1].arguments["text"]) == ("ann??", "no?", "\0é\ud800")


def check_the_tables_are_those_of_the_steps(open_: Open) -> None:
    """The declared tables and what the steps made have the same columns, keys and types."""
    registry = open_()
    with registry.database.reading() as session:
        found = inspect(session.connection())
        for table in Base.metadata.sorted_tables:
            columns = {column["name"]: column for column in found.get_columns(table.name)}
            assert list(columns) == [column.name for column in table.columns], table.name
            for column in table.columns:
                assert columns[column.name]["nullable"] == column.nullable, column
                assert columns[column.name]["type"].python_type is column.type.python_type, column
            assert found.get_pk_constraint(table.name)["constrained_columns"] == [column.name for column in table.primary_key.columns]


CHECKS = [check for name, check in list(globals().items()) if name.startswith("check_")]
