"""The menu: validation with messages that help, and decisions of the kernel."""

from __future__ import annotations

import json
import re
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from hltfarm.loadgen.source import open_source
from hltfarm.proto.detector import phase1
from hltfarm.proto.errors import ConfigError
from hltfarm.proto.events import EventId, RawEvent
from hltfarm.proto.raw import pack_event
from hltfarm.proto.results import RESULT
from hltfarm.workers.menu import DEFAULT_MENU, QUANTITIES, Menu
from hltfarm.workers.menu import Path as MenuPath
from hltfarm.workers.menu.evaluate import evaluate, splitmix64
from hltfarm.workers.menu.menu import Document, check
from hltfarm.workers.menu.yaml_source import read_file
from hltfarm.workers.reconstructor import Reconstructor


def menu(*paths: str) -> str:
    return "version: 1\npaths:\n" + "".join(f"  - {p}\n" for p in paths)


A = "paths: [{name: A}]"


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        ("", 1, "expected a mapping, found nothing"),
        ("[1, 2]", 1, "expected a mapping, found a list"),
        (f"{A}\n", 1, "'version' is missing"),
        (f"{A}\nversion: 2", 2, "version: version 2 of the menu language is unknown here; this hltfarm reads version 1"),
        (f"{A}\nversion: true", 2, "version: expected a whole number, found true"),
        ("version: 1\npaths: []", 2, "paths: a menu needs at least one path"),
        ("version: 1\npaths: {A: 1}", 2, "paths: expected a list, found a mapping"),
        ("version: 1\npaths:\n  - A", 3, "paths[0]: expected a mapping, found the text 'A'"),
        (menu("{name: A, enabled: false}"), 2, "paths: no path is enabled; a menu needs at least one"),
        (f"version: 1\nname: a b\n{A}", 2, "name: 'a b' is not a name: it must match ^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$"),
        (f"version: 1\nnmae: a\n{A}", 2, "unknown key 'nmae'; did you mean 'name'? known are version, name, streams, paths"),
        (menu("{name: A}", "{name: B}", "{name: A}"), 5, 'paths[2] "A": the name appears more than once; paths[0] has it already'),
        (menu("{name: 'a b'}"), 3, "paths[0] \"a b\": name: 'a b' is not a name: it must match ^[A-Za-z][A-Za-z0-9_]{0,63}$"),
        (menu("{name: 7}"), 3, "paths[0]: name: expected text, found 7"),
        (menu("{stream: s}"), 3, "paths[0]: 'name' is missing"),
        (menu("{name: A, prescale: -1}"), 3, 'paths[0] "A": prescale: must be at least 0, not -1'),
        (menu("{name: A, prescale: 4294967296}"), 3, 'paths[0] "A": prescale: must be at most 2147483648, not 4294967296'),
        (menu("{name: A, prescale: 1.5}"), 3, 'paths[0] "A": prescale: expected a whole number, found 1.5'),
        (menu("{name: A, prescale: 1:30}"), 3, "paths[0] \"A\": prescale: expected a whole number, found the text '1:30'"),
        (menu("{name: A, prescale: '2'}"), 3, "paths[0] \"A\": prescale: expected a whole number, found the text '2'"),
        (menu("{name: A, enabled: yes}"), 3, "paths[0] \"A\": enabled: expected true or false, found the text 'yes'"),
        (menu("{name: A, stream: error}"), 3, "stream: 'error' is the stream of events that could not be processed"),
        (menu(f"{{name: A, description: {'x' * 501}}}"), 3, 'paths[0] "A": description: 501 characters, 500 at most'),
        (menu('{name: A, description: "\\ud800"}'), 3, 'paths[0] "A": description: '),
        (
            menu("{name: A}", "{name: B,\n     color: red}"),
            5,
            "paths[1] \"B\": unknown key 'color'; known are name, description, enabled, ",
        ),
        (menu("{name: A, require: }"), 3, 'paths[0] "A": require: expected a mapping, found nothing'),
        (
            menu("{name: A, require: {trakcs: {min: 1}}}"),
            3,
            "require: unknown quantity 'trakcs'; did you mean 'tracks'? known are modules, ",
        ),
        (menu("{name: A, require: {hits: {}}}"), 3, 'paths[0] "A": require.hits: a cut needs min, max or both'),
        (menu("{name: A, require: {hits: {min: 5, max: 4}}}"), 3, "require.hits: min 5 is above max 4: no event can pass"),
        (menu("{name: A, require: {hits: {min: many}}}"), 3, "require.hits.min: expected a number, found the text 'many'"),
        (menu("{name: A, require: {hits: {min: .nan}}}"), 3, "require.hits.min: expected a finite number, found nan; leave a bound out"),
        (menu("{name: A, require: {hits: {max: +.Inf}}}"), 3, "require.hits.max: expected a finite number, found inf"),
        (menu("{name: A, require: {hits: {max: 1e999}}}"), 3, "require.hits.max: expected a finite number, found inf"),
        (menu("{name: A, require: {hits: {mim: 1}}}"), 3, "require.hits: unknown key 'mim'; did you mean 'min'? known are min, max"),
        (menu("{name: A, require: {hits: 5}}"), 3, "require.hits: expected a mapping, found 5"),
        (menu(*(f"{{name: P{i}}}" for i in range(65))), 67, 'paths[64] "P64": 65 enabled paths, 64 at most'),
        ("version: 1\nstreams: {physics: x}\npaths: [{name: A},\n {name: B, stream: physic}]", 4, "did you mean 'physics'?"),
        (f"version: 1\nstreams: {{ok: x, a b: y}}\n{menu('{name: A, stream: ok}')[11:]}", 2, "streams: 'a b' is not a name"),
    ],
)
def test_a_fault_is_one_line_with_line_place_value_and_way_out(text: str, line: int, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Menu.parse(text, "menu.yaml")
    assert str(caught.value).startswith(f"menu.yaml:{line}: ")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        ("version: 1\npaths: [", 2, "not valid YAML: while parsing a flow node, expected the node content"),
        (f"version: 1\n{A}\n\tx: 1", 3, "not valid YAML: "),
        (f"version: 1\n{A}\nname: \x07", 3, "not valid YAML: the character U+0007 is not allowed"),
        (f"version: 1\n{A}\nname: \ud800", 3, "not valid YAML: the character U+D800 is not allowed"),
        (f'version: 1\n{A}\nname: "\\UFFFFFFFF"', 3, "not valid YAML: an escape sequence that is no character"),
        (f"version: 1\n{A}\n---\nversion: 1", 3, "not valid YAML: expected a single document"),
        (f"version: 1\n{A}\nversion: 1", 3, "key 'version' again; first in line 1"),
        (menu("name: A\n    prescale: 2\n    prescale: 3"), 5, "paths[0] \"A\": key 'prescale' again; first in line 4"),
        (menu("{name: A, require: {hits: {min: 1},\n hits: {max: 2}}}"), 4, "paths[0] \"A\": require: key 'hits' again; first in line 3"),
        ("a: &x [1]\nb: [*x, *x]", 1, "anchors (&) and aliases (*) have no place in a menu; write the value out"),
        ("a: 1\nb: *x", 2, "anchors (&) and aliases (*)"),
        ("version: !!python/name:os.system x", 1, "the tag 'tag:yaml.org,2002:python/name:os.system' has no place here"),
        ("version: !!int one", 1, "the tag 'tag:yaml.org,2002:int' has no place here"),
        ("version: 1\n2: 3", 2, "keys are words, found '2'"),
        ("version: 1\n? [a]\n: 3", 2, "keys are words, found a list or mapping"),
        ("[" * 10_000, 1, "more than 16 levels of lists and mappings"),
        ("- a\n" * 10_001, 10_000, "more than 10000 keys and values"),
        ("#" * (1 << 17) + "\n", 1, "more than 128 KiB: too large for a menu"),
    ],
)
def test_yaml_that_a_menu_may_not_be(text: str, line: int, message: str) -> None:
    faults = check(text)
    assert isinstance(faults, tuple)
    assert (faults[0].line, faults[0].text[: len(message)]) == (line, message)
    assert "\n" not in faults[0].text


def test_hundreds_of_faults_with_thousands_of_choices_take_no_time() -> None:
    """A line each that can be read; a control plane checks menus between two requests."""
    streams = ", ".join(f"s{i:04d}: x" for i in range(2000))
    paths = "".join(f"- {{name: A{i}, stream: zz{i}}}\n" for i in range(900))
    begin = time.process_time()
    faults = check(f"version: 1\nstreams: {{{streams}}}\npaths:\n{paths}")
    assert time.process_time() - begin < 2
    assert isinstance(faults, tuple)
    assert faults[0].text.endswith("s0063, ... (2000 in all)")


def test_every_fault_is_told_in_the_order_of_lines() -> None:
    text = "version: 1\npaths:\n- name: A\n  prescale: x\n  prescale: 2\n- name: A\n  require:\n    hit: {min: 3}\n    digis: {}\n- 3\n"
    faults = check(text)
    assert isinstance(faults, tuple)
    assert [fault.line for fault in faults] == [4, 5, 6, 8, 9, 10]
    with pytest.raises(ConfigError, match=r"^m:4: .* found the text 'x' \(5 more faults; `hltfarm menu check` lists all\)$"):
        Menu.parse(text, "m")
    with pytest.raises(ConfigError, match=r"\(1 more fault; "):
        Menu.parse("a: 1\nversion: 1", "m")


NEAR_YAML = st.lists(
    st.sampled_from(
        [
            "version: 1",
            "paths:",
            "  - ",
            "name: A",
            "{",
            "}",
            "[",
            "]",
            "hits: ",
            "min: 1",
            "\n",
            ": ",
            ", ",
            "&a ",
            "*a",
            "!!int ",
            '"',
            "|",
            "? ",
            "1e3",
            "~",
            "require: ",
            "\x85",
            "%YAML",
            "#",
        ]
    ),
    max_size=30,
).map("".join)


@settings(max_examples=300, deadline=None)
@given(st.one_of(st.text(max_size=80), NEAR_YAML))
@example('version: 1\npaths: [{name: A, require: {"\\n": {}}}]')
def test_any_text_is_a_menu_or_has_faults_on_its_lines(text: str) -> None:
    outcome = check(text)
    if isinstance(outcome, tuple):
        assert outcome
        for fault in outcome:
            assert 1 <= fault.line <= len(re.split("\r\n|[\n\r\x85\u2028\u2029]", text)) + 1
            assert len(fault.at("m").splitlines()) == 1


def test_plain_words_follow_the_core_schema() -> None:
    text = menu("{name: on, description: 2024-01-01, prescale: 010, require: {hits: {min: 1e3, max: +2.5E+3}, digis: {min: -0}}}")
    (path,) = Menu.parse(text).paths
    assert (path.name, path.description, path.prescale) == ("on", "2024-01-01", 10)
    assert (path.require["hits"].min, path.require["hits"].max) == (1000.0, 2500.0)


def test_json_is_a_menu() -> None:
    document = {"version": 1, "name": "x", "paths": [{"name": "A", "enabled": True, "require": {"leading_pt": {"min": 1e-7}}}]}
    menu = Menu.parse(json.dumps(document))
    assert menu.paths[0].require["leading_pt"].min == 1e-7
    assert Menu.parse(json.dumps(document, indent=2)) == menu


def test_disabled_paths_are_checked_and_left_out() -> None:
    menu_of = Menu.parse(menu("{name: A}", "{name: B, enabled: false, stream: other}", "{name: C}"))
    assert [path.name for path in menu_of.paths] == ["A", "C"]
    assert [path.name for path in menu_of.disabled] == ["B"]
    assert list(menu_of.streams) == ["physics"]
    assert menu_of.hash == Menu.parse(menu("{name: A}", "{name: C}")).hash
    with pytest.raises(ConfigError, match="unknown quantity 'x'"):
        Menu.parse(menu("{name: A}", "{name: B, enabled: false, require: {x: {min: 1}}}"))
    many = [f"{{name: P{i}}}" for i in range(64)]
    assert len(Menu.parse(menu(*many, "{name: Spare, enabled: false}")).paths) == 64


def test_hash_follows_what_decides_and_nothing_else() -> None:
    path = "{name: A, prescale: 3, require: {hits: {min: 1}, digis: {max: 2}}}"
    a = Menu.parse(menu(path))
    same = (
        "paths:\n- require: {digis: {max: 2.0}, hits: {min: 1}}\n  prescale: 3\n  name: A\nversion: 1\n",
        menu(path.replace("}}}", "}}, description: text, stream: physics, enabled: true}")),
        "name: other\nstreams: {physics: text, calibration: text}\n" + menu(path),
    )
    assert [Menu.parse(text).hash for text in same] == [a.hash] * 3
    changed = [
        menu(path.replace(old, new))
        for old, new in (
            ("A", "B"),
            ("3", "4"),
            ("min: 1", "min: 2"),
            ("min: 1", "max: 1"),
            ("hits", "pixels"),
            ("prescale: 3", "stream: s"),
        )
    ]
    more = [menu(path, "{name: B}"), menu("{name: B}", path)]
    assert len({a.hash, *(Menu.parse(text).hash for text in changed + more)}) == 1 + len(changed) + len(more)


def test_the_built_in_menu_is_valid() -> None:
    assert Menu.parse(DEFAULT_MENU).paths


def test_the_author_s_page_is_right() -> None:
    """Its first menu is valid; its second one gives the faults printed below it."""
    page = (Path(__file__).resolve().parents[2] / "docs" / "menu.md").read_text()
    good, bad = re.findall(r"```yaml\n(.*?)```", page, re.DOTALL)
    assert [path.name for path in Menu.parse(good).paths] == ["HLT_HardVertex", "HLT_PixelActivity", "HLT_PassThrough"]
    faults = check(bad)
    assert isinstance(faults, tuple)
    printed = re.findall(r"^menu.yaml:.*$", page, re.MULTILINE)
    quantities = ", ".join(QUANTITIES)
    assert [fault.at("menu.yaml").replace(quantities, "modules, digis, ...") for fault in faults] == printed
    for key in (*Document.model_fields, *MenuPath.model_fields):
        assert f"| `{key}` |" in page


def test_a_menu_file_is_read_with_bounds(tmp_path: Path) -> None:
    file = tmp_path / "menu.yaml"
    file.write_text(menu("{name: A}"))
    assert read_file(file) == menu("{name: A}")
    file.write_bytes(b"a: \xff")
    with pytest.raises(ConfigError, match="is not UTF-8 text: invalid start byte at byte 3"):
        read_file(file)
    with pytest.raises(ConfigError, match="cannot be read: No such file"):
        read_file(tmp_path / "none.yaml")
    with pytest.raises(ConfigError, match="/dev/zero has more than 128 KiB"):
        read_file(Path("/dev/zero"))


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
    value = float(decide(menu("{name: Any}"), [e])[quantity][0])
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


def test_numpy_hash_is_splitmix64() -> None:
    """The first outputs of the generator's published C code (Vigna, splitmix64.c) for seed 1234567; its state grows by a constant."""
    states = np.uint64(1234567) + np.arange(5, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    expected = [6457827717110365317, 3203168211198807973, 9817491932198370423, 4593380528125082431, 16408922859458223821]
    assert splitmix64(states).tolist() == expected


@pytest.fixture(scope="module")
def real_events() -> tuple[np.ndarray, list[RawEvent]]:  # type: ignore[type-arg]
    """Result rows of the demo sample, and its events with several run and event numbers each."""
    sample = open_source(Path(__file__).resolve().parents[2] / "loadgen" / "data" / "demo.hlt")
    ids = [(1, 0), (1, 2**64 - 1), (2**32 - 1, 5), (7, 2**40 + 3)]
    events = [
        RawEvent(EventId(run, 1, number + i if number < 2**63 else number - i), sample[i].payload) for i in range(3) for run, number in ids
    ]
    with Reconstructor(phase1(), Menu.parse(DEFAULT_MENU), backend="cpu", threads=1) as reconstructor:
        return reconstructor.run(events).results, events


@st.composite
def menus(draw: st.DrawFn, rows: np.ndarray) -> str:  # type: ignore[type-arg]
    """Menus with bounds at, just above and just below values that occur."""
    paths = []
    for i in range(draw(st.integers(1, 64))):
        require = {}
        for quantity in draw(st.lists(st.sampled_from(QUANTITIES), max_size=4, unique=True)):
            value = float(draw(st.sampled_from(sorted({float(x) for x in rows[quantity]}))))
            bounds = [value, float(np.nextafter(value, np.inf)), float(np.nextafter(value, -np.inf))]
            low, high = draw(st.sampled_from(bounds)), draw(st.sampled_from(bounds))
            both = {"min": min(low, high), "max": max(low, high)}
            require[quantity] = {key: both[key] for key in draw(st.sampled_from([("min",), ("max",), ("min", "max")]))}
        prescale = draw(st.sampled_from([0, 1, 1, 2, 3, 10, 2**31]))
        paths.append({"name": draw(st.sampled_from(["A", "HLT_B"])) + str(i), "prescale": prescale, "require": require})
    return json.dumps({"version": 1, "paths": paths})


@settings(max_examples=12, deadline=None)
@given(data=st.data())
def test_the_kernel_decides_as_the_definition(data: st.DataObject, real_events: tuple[np.ndarray, list[RawEvent]]) -> None:  # type: ignore[type-arg]
    rows, events = real_events
    text = data.draw(menus(rows))
    defined = evaluate(Menu.parse(text), rows, [e.id.run for e in events], [e.id.event for e in events])
    decided = decide(text, events)
    assert decided["path_raw"].tolist() == defined.path_raw.tolist()
    assert decided["path_bits"].tolist() == defined.path_bits.tolist()
    assert decided["accept"].astype(bool).tolist() == defined.accept.tolist()


def test_definition_by_hand() -> None:
    rows = np.zeros(3, RESULT)
    rows["hits"] = 9, 10, 11
    text = menu("{name: Low, require: {hits: {max: 9}}}", "{name: Ten, require: {hits: {min: 10, max: 10}}}", "{name: Never, prescale: 0}")
    decisions = evaluate(Menu.parse(text), rows, 1, [5, 6, 7])
    assert decisions.raw.tolist() == [[True, False, True], [False, True, True], [False, False, True]]
    assert decisions.path_raw.tolist() == [0b101, 0b110, 0b100]
    assert decisions.path_bits.tolist() == [0b001, 0b010, 0b000]
    assert decisions.accept.tolist() == [True, True, False]
    assert evaluate(Menu.parse(text), rows[:0], 1, []).path_bits.shape == (0,)
