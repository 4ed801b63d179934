"""Differences of menus: what an operator has to know before the exchange, and nothing that makes no difference."""

from __future__ import annotations

from hltfarm.workers.menu.diff import Change, compare
from hltfarm.workers.menu.menu import Menu

BEFORE = """\
version: 1
name: collisions
paths:
  - {name: HLT_A, require: {hits: {min: 10}, tracks: {max: 5}}}
  - {name: HLT_B, prescale: 10, stream: monitoring}
  - {name: HLT_C, description: old words}
"""
AFTER = """\
version: 1
name: collisions-v2
paths:
  - {name: HLT_B, prescale: 20, stream: physics}
  - {name: HLT_A, require: {hits: {min: 10, max: 90}, vertices: {min: 1}}}
  - {name: HLT_D}
"""
NAMES = ("a", "b")


def test_paths_cuts_prescales_streams_and_bits() -> None:
    found = compare(Menu.parse(BEFORE), Menu.parse(AFTER), BEFORE, AFTER, NAMES)
    assert not found.same_decisions
    assert (found.added, found.removed) == (("HLT_D",), ("HLT_C",))
    assert found.changed == {
        "HLT_A": (
            Change("require.hits", {"min": 10.0}, {"min": 10.0, "max": 90.0}),
            Change("require.tracks", {"max": 5.0}, None),
            Change("require.vertices", None, {"min": 1.0}),
        ),
        "HLT_B": (Change("stream", "monitoring", "physics"), Change("prescale", 10, 20)),
    }
    assert found.moved == {"HLT_A": (0, 1), "HLT_B": (1, 0)}
    assert found.text.startswith("--- a\n+++ b\n@@ -1,6 +1,6 @@\n version: 1\n-name: collisions\n+name: collisions-v2\n")


def test_words_and_layout_decide_nothing() -> None:
    after = BEFORE.replace("old words", "new words").replace("hits: {min: 10}, tracks: {max: 5}", "tracks: {max: 5}, hits: {min: 1e1}")
    found = compare(Menu.parse(BEFORE), Menu.parse(after), BEFORE, after, NAMES)
    assert found.same_decisions
    assert found.changed == {"HLT_C": (Change("description", "old words", "new words"),)}
    assert (found.added, found.removed, found.moved) == ((), (), {})
    assert found.text


def test_a_path_that_is_switched_off_is_changed_not_removed() -> None:
    after = BEFORE.replace("{name: HLT_B,", "{name: HLT_B, enabled: false,")
    found = compare(Menu.parse(BEFORE), Menu.parse(after), BEFORE, after, NAMES)
    assert found.changed == {"HLT_B": (Change("enabled", True, False),)}
    assert (found.removed, found.moved, found.same_decisions) == ((), {"HLT_C": (2, 1)}, False)


def test_a_menu_does_not_differ_from_itself() -> None:
    found = compare(Menu.parse(BEFORE), Menu.parse(BEFORE), BEFORE, BEFORE, NAMES)
    assert (found.changed, found.text, found.same_decisions) == ({}, "", True)
