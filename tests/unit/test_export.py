"""Columns of events in ROOT, Parquet and Arrow: every bit as it went in, complete files or none, one definition."""

from __future__ import annotations

import gc
import json
import resource
import sys
from collections import deque
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from hltfarm.proto.errors import BackendError, ConfigError, LayoutError
from hltfarm.proto.events import EventId
from hltfarm.proto.results import OUTPUT_DECISION, RESULT
from hltfarm.service.export import EventSchema, RootLayout, TableFile, event_schema, table_file
from hltfarm.service.export.block import EventRow, Lists, block, payload_table
from hltfarm.service.export.schema import PREFIXES, Field
from tests.unit.event_tables import FORMATS, columns_of, metadata_of

ALL = tuple(PREFIXES)


def schema(tables: tuple[str, ...] = ALL) -> EventSchema:
    return event_schema(decision=OUTPUT_DECISION, paths=("HLT_A", "HLT_B"), tables=tables, streams=True)


def values(field: Field, n: int, rng: np.random.Generator) -> NDArray[Any]:
    """Random bits, those of NaN with payloads included."""
    if field.dtype.kind == "b":
        return rng.random((n, *field.shape)) < 0.5
    if field.listed:
        rows = np.full((n, 6), -1, field.dtype)
        for row in rows:
            row[: rng.integers(0, 7)] = 17
        return rows
    raw = rng.integers(0, 256, (n, *field.shape, field.dtype.itemsize), dtype=np.uint8)
    made = raw.reshape(-1).view(field.dtype).reshape(n, *field.shape)
    if n and field.dtype.kind == "f":
        made.reshape(-1)[0] = np.array([0x7FC12345], np.uint32).view(np.float32)[0]
    return made


def rows(of: EventSchema, n: int, seed: int = 1) -> list[EventRow]:
    rng = np.random.default_rng(seed)
    made = []
    for i in range(n):
        decision = rng.integers(0, 256, OUTPUT_DECISION.itemsize, dtype=np.uint8).view(OUTPUT_DECISION)
        tables: dict[str, Any] = {}
        for table, fields in of.tables.items():
            length = [0, 1, 40][i % 3]
            tables[table] = {field.source: values(field, length, rng) for field in fields}
        if i % 5 == 4:  # nobody kept its tables
            for table in ("tracks", "vertices", "hits"):
                tables.pop(table, None)
        names = ("HLT_B", "HLT_A") if i % 2 else ("HLT_B",)
        made.append(EventRow(EventId(7, 1 + i // 3, 2**63 + i, 3), decision, names, i % 2, tables))
    return made


def write(path: Path, of: EventSchema, events: list[EventRow], layout: RootLayout = RootLayout.RNTUPLE) -> None:
    with TableFile(path, of, {"origin": "a test"}, layout=layout) as file:
        for event in events:
            file.append(event)


@pytest.mark.parametrize("name", FORMATS)
def test_every_bit_comes_back_from_several_blocks(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(table_file, "BLOCK_EVENTS", 7)
    of = schema()
    events = rows(of, 30)
    path = tmp_path / name
    write(path, of, events, RootLayout.TTREE if "ttree" in name else RootLayout.RNTUPLE)
    expected, found = block(of, events), columns_of(path)
    assert set(found) == set(of.names)
    for field in of.fields:
        wanted, got = expected[field.name], found[field.name]
        if isinstance(wanted, Lists):
            assert isinstance(got, Lists), field
            _equal(got.values, wanted.values, field)
            if "ttree" in name and (field.listed or field.shape):  # flattened, as many values an event as its rows have together
                sizes = np.diff(wanted.offsets if wanted.inner is None else wanted.inner[wanted.offsets])
                np.testing.assert_array_equal(np.diff(got.offsets), sizes * max(1, field.width))
            else:
                np.testing.assert_array_equal(got.offsets, wanted.offsets)
                assert (got.inner is None) == (wanted.inner is None)
                if wanted.inner is not None and got.inner is not None:
                    np.testing.assert_array_equal(got.inner, wanted.inner)
        else:
            assert not isinstance(got, Lists), field
            _equal(got, wanted, field)


def _equal(got: NDArray[Any], wanted: NDArray[Any], field: Field) -> None:
    assert got.dtype == field.dtype, field
    assert got.tobytes() == wanted.tobytes(), field


@pytest.mark.parametrize("name", FORMATS)
def test_the_metadata_tell_what_was_given_and_what_the_columns_are(name: str, tmp_path: Path) -> None:
    of = schema(("tracks",))
    write(tmp_path / name, of, rows(of, 1))
    text = metadata_of(tmp_path / name)
    assert (text["origin"], text["format"], list(text["columns"])) == ("a test", 1, sorted(of.names))
    assert text["columns"]["track_pt"] == {"type": "list of float32", "unit": "GeV", "doc": "transverse momentum"}
    assert text["columns"]["track_hits"]["type"] == "list of lists of int32"
    assert text["columns"]["track_cov"]["type"] == "list of 15 float32"


@pytest.mark.parametrize("name", ["a::b.root", "a:b.root", "data:a.root", "a::b.parquet"])
def test_a_name_is_that_of_one_file_whatever_is_in_it(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a").write_bytes(b"of somebody")
    monkeypatch.chdir(tmp_path)
    with TableFile(name, event_schema(decision=None)) as file:
        file.append(EventRow(EventId(1, 2, 3)))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", name]
    assert (tmp_path / "a").read_bytes() == b"of somebody"
    assert (tmp_path / name).stat().st_size > 100


@pytest.mark.parametrize("name", FORMATS)
def test_a_file_without_events_has_its_columns(name: str, tmp_path: Path) -> None:
    of = schema()
    write(tmp_path / name, of, [], RootLayout.TTREE if "ttree" in name else RootLayout.RNTUPLE)
    found = columns_of(tmp_path / name)
    assert set(found) == set(of.names)
    assert {len(column.offsets) - 1 if isinstance(column, Lists) else len(column) for column in found.values()} == {0}


def test_all_fields_of_a_decision_are_documented() -> None:
    of = event_schema(decision=OUTPUT_DECISION)
    assert {"digest", "menu", "models", *(RESULT.names or ())} <= set(of.names)
    assert all(field.doc for field in of.fields)
    strange = event_schema(decision=np.dtype([("digest", "<u4"), ("new", "<f4")]))
    assert [field.doc for field in strange.fields if field.name in ("digest", "new")] == ["of another version of hltfarm"] * 2


def test_a_path_accepts_by_the_menu_of_its_event() -> None:
    of = event_schema(decision=OUTPUT_DECISION, paths=("A", "B"))
    decision = np.zeros(1, OUTPUT_DECISION)
    decision["path_bits"] = 2
    made = block(of, [EventRow(EventId(1, 1, i), decision, names) for i, names in enumerate([("A", "B"), ("B", "A"), ("B",), ("C", "B")])])
    assert [made["passed_A"].tolist(), made["passed_B"].tolist()] == [[False, True, False, False], [True, False, False, True]]  # type: ignore[union-attr]


def test_columns_are_chosen_by_patterns() -> None:
    of = schema().chosen(["track_p*", "digest"])
    assert of.names == ("run", "lumi", "event", "digest", "track_pt", "track_phi")
    with pytest.raises(ConfigError, match=r"no column matches 'muon_\*'"):
        schema().chosen(["track_*", "muon_*"])
    with pytest.raises(ConfigError, match="table 'muons' is unknown; there are tracks, vertices"):
        schema(("muons",))
    with pytest.raises(ConfigError, match="two columns are named passed_A"):
        event_schema(decision=np.dtype([("path_bits", "<u8"), ("passed_A", "<u4")]), paths=("A",))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"pt": None}, "column 'pt' of tracks is missing"),
        ({"pt": np.zeros(2, np.float64)}, "column 'pt' of tracks is 1-dimensional float64, expected list of float32"),
        ({"pt": np.zeros((2, 2), np.float32)}, "is 2-dimensional float32"),
        ({"cov": np.zeros((2, 14), np.float32)}, "rows of 14 values, expected 15"),
        ({"pt": np.zeros(3, np.float32)}, "column 'eta' of tracks has 2 rows, others have 3"),
    ],
)
def test_tables_that_are_not_as_the_schema_says_are_refused(change: dict[str, Any], message: str, tmp_path: Path) -> None:
    of = schema(("tracks",))
    tracks = {field.source: values(field, 2, np.random.default_rng(1)) for field in of.tables["tracks"]} | change
    tracks = {name: column for name, column in tracks.items() if column is not None}
    decision = np.zeros(1, OUTPUT_DECISION)
    with pytest.raises(LayoutError, match=message), TableFile(tmp_path / "x.parquet", of) as file:
        file.append(EventRow(EventId(1, 1, 5), decision, tables={"tracks": tracks}))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", FORMATS)
def test_an_interrupted_file_leaves_what_was_there(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(table_file, "BLOCK_EVENTS", 2)
    of = schema(("tracks",))
    path = tmp_path / name
    path.write_bytes(b"the file before")
    with pytest.raises(KeyboardInterrupt):
        _interrupted(path, of)
    assert [p.read_bytes() for p in tmp_path.iterdir()] == [b"the file before"]


def _interrupted(path: Path, of: EventSchema) -> None:
    with TableFile(path, of) as file:
        for event in rows(of, 5):
            file.append(event)
        assert [p.name for p in path.parent.iterdir() if p != path] == [f"{path.name}.part"]
        raise KeyboardInterrupt


@pytest.mark.parametrize("name", FORMATS)
def test_a_disk_that_refuses_is_an_error_and_leaves_nothing(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(table_file, "BLOCK_EVENTS", 2)
    of = schema()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))
    try:
        with pytest.raises(OSError, match="File too large") as caught:
            write(tmp_path / name, of, rows(of, 20), RootLayout.TTREE if "ttree" in name else RootLayout.RNTUPLE)
        gc.collect()  # a writer that tries again would complain now
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert caught.value.filename == str(tmp_path / name)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", FORMATS)
def test_a_file_that_lacks_a_block_is_never_completed(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody catches the error of a full disk and goes on when there is room again."""
    monkeypatch.setattr(table_file, "BLOCK_EVENTS", 2)
    of = schema()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    file = TableFile(tmp_path / name, of, layout=RootLayout.TTREE if "ttree" in name else RootLayout.RNTUPLE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))
    try:
        with pytest.raises(OSError, match="File too large"):
            deque(map(file.append, rows(of, 20)), 0)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    with pytest.raises(LayoutError, match="takes no more events"):
        file.append(rows(of, 1)[0])
    file.close()
    assert not file.complete
    assert list(tmp_path.iterdir()) == []


def test_other_suffixes_and_a_missing_extra_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match=r"x\.csv: the suffix tells the format; use \.root, \.parquet, \.arrow"):
        TableFile(tmp_path / "x.csv", schema())
    for module, suffix in (("uproot", "root"), ("pyarrow", "parquet"), ("pyarrow", "arrow")):
        monkeypatch.setitem(sys.modules, module, None)
        with pytest.raises(BackendError, match=rf"needs {module}, which is not installed; install hltfarm\[data\]"):
            TableFile(tmp_path / f"x.{suffix}", schema())
    assert list(tmp_path.iterdir()) == []


def test_raw_data_are_bytes(tmp_path: Path) -> None:
    import pyarrow.parquet as parquet

    of = event_schema(decision=None, tables=("raw",))
    payloads = [np.arange(n, dtype=np.uint8) for n in (0, 8, 200)]
    write(tmp_path / "x.parquet", of, [EventRow(EventId(1, 1, i), tables=payload_table(p)) for i, p in enumerate(payloads)])
    assert parquet.read_table(tmp_path / "x.parquet")["raw"].to_pylist() == [p.tobytes() for p in payloads]


def test_metadata_are_json_with_sorted_keys(tmp_path: Path) -> None:
    of = event_schema(decision=None)
    write(tmp_path / "x.arrow", of, [EventRow(EventId(1, 2, 3))])
    text = metadata_of(tmp_path / "x.arrow")
    assert json.loads(json.dumps(text)) == text
