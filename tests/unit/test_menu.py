"""The menu: validation with messages that help, and decisions of the kernel."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from hltfarm.proto.detector import phase1
from hltfarm.proto.errors import ConfigError
from hltfarm.proto.events import EventId, RawEvent
from hltfarm.proto.raw import pack_event
from hltfarm.workers.menu import DEFAULT_MENU, QUANTITIES, Menu
from hltfarm.workers.reconstructor import Reconstructor


def menu(*paths: str) -> str:
    return "version: 1\npaths:\n" + "".join(f"  - {p}\n" for p in paths)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[1, 2]", "expected a mapping"),
        ("version: 1\npaths: [", "not valid YAML"),
        ("version: 2\npaths: [{name: A}]", "version"),
        ("version: 1\npaths: []", "paths"),
        (menu("{name: A}", "{name: A}"), "'A' appears more than once"),
        (menu("{name: 'a b'}"), "name"),
        (menu("{name: A, prescale: -1}"), "prescale"),
        (menu("{name: A, color: red}"), "color"),
        (menu("{name: A, require: {muons: {min: 1}}}"), "unknown quantity 'muons'"),
        (menu("{name: A, require: {hits: {}}}"), "needs min, max or both"),
        (menu("{name: A, require: {hits: {min: 5, max: 4}}}"), "no event can pass"),
        (menu("{name: A, require: {hits: {min: many}}}"), "hits"),
        (menu(*(f"{{name: P{i}}}" for i in range(65))), "paths"),
    ],
)
def test_bad_menus_get_one_line_that_names_the_fault(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        Menu.parse(text, "menu.yaml")
    assert str(caught.value).startswith("menu.yaml: ")
    assert "\n" not in str(caught.value)


def test_hash_follows_content_not_layout() -> None:
    a = Menu.parse(menu("{name: A, prescale: 3}"))
    assert a.hash == Menu.parse("paths:\n- prescale: 3\n  name: A\nversion: 1\n").hash
    assert a.hash != Menu.parse(menu("{name: A, prescale: 4}")).hash
    assert Menu.parse(DEFAULT_MENU).paths


def event(number: int, pixels: int, run: int = 1) -> RawEvent:
    """An event with `pixels` isolated pixels of high charge in module 500."""
    k = np.arange(pixels)
    payload = pack_event(phase1(), np.full(pixels, 500), 4 * (k % 40), 4 * (k // 40) + 1, np.full(pixels, 250), event_number=number, bx=0)
    return RawEvent(EventId(run, 1, number), payload)


def decide(text: str, events: list[RawEvent]) -> np.ndarray:  # type: ignore[type-arg]
    with Reconstructor(phase1(), Menu.parse(text), backend="cpu", threads=1) as reconstructor:
        return reconstructor.run(events).results


def test_cuts_are_inclusive_and_paths_own_bits() -> None:
    text = menu(
        "{name: Low, require: {hits: {max: 9}}}", "{name: Exact, require: {hits: {min: 10, max: 10}}}", "{name: Never, prescale: 0}"
    )
    rows = decide(text, [event(i, n) for i, n in enumerate((9, 10, 11))])
    assert rows["hits"].tolist() == [9, 10, 11]
    assert rows["path_raw"].tolist() == [0b101, 0b110, 0b100]
    assert rows["path_bits"].tolist() == [0b001, 0b010, 0b000]
    assert rows["accept"].tolist() == [1, 1, 0]


@pytest.mark.parametrize("quantity", QUANTITIES)
def test_every_quantity_reads_its_own_column(quantity: str) -> None:
    """The order of QUANTITIES is that of the kernel: a window around the true value passes, one beside it does not."""
    e = event(1, 25)
    damaged = e.payload.copy()
    damaged.view("<u4")[1 + 2 * len(phase1().cabling.fed_ids) + 1] = 0  # the first FED's header loses its marker
    e = replace(e, payload=damaged)
    value = int(decide(menu("{name: Any}"), [e])[quantity][0])
    text = menu(
        f"{{name: In, require: {{{quantity}: {{min: {value}, max: {value}}}}}}}",
        f"{{name: Out, require: {{{quantity}: {{min: {value + 1}}}}}}}",
    )
    assert decide(text, [e])["path_raw"].tolist() == [0b01]
    others = {q: int(decide(menu("{name: Any}"), [e])[q][0]) for q in QUANTITIES}
    assert others["fed_errors"] == 1


def test_prescale_keeps_its_share_and_depends_on_run_event_and_name_only() -> None:
    one = event(0, 1)
    events = [replace(one, id=EventId(1, 1, i)) for i in range(2000)]
    rows = decide(menu("{name: Ten, prescale: 10}", "{name: Ten2, prescale: 10}"), events)
    first, second = (rows["path_bits"] & 1).astype(bool), (rows["path_bits"] & 2).astype(bool)
    assert 140 < first.sum() < 260  # 200 +- 13
    assert 140 < second.sum() < 260
    assert (first != second).any()
    again = decide(menu("{name: New}", "{name: Ten, prescale: 10}"), events[::-1])[::-1]
    assert np.array_equal((again["path_bits"] & 2).astype(bool), first)
    other_run = decide(menu("{name: Ten, prescale: 10}"), [replace(e, id=e.id._replace(run=2)) for e in events])
    assert not np.array_equal(other_run["path_bits"].astype(bool), first)
