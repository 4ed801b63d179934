"""Tensor views: any choice of columns has the values, strides and memory that NumPy sees, and every misuse is refused by name."""

from __future__ import annotations

import gc
import weakref
from itertools import pairwise
from math import prod
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from hltfarm.proto.errors import LayoutError
from hltfarm.proto.soa import ALIGNMENT, Collection, Column, Schema, aligned_empty
from hltfarm.workers.tensors import TensorCollection

TRACKS = Schema(
    "Tracks",
    "columns of every kind",
    (
        Column("pt", "f4", "transverse momentum", unit="GeV"),
        Column("eta", "f4", "pseudorapidity"),
        Column("n_hits", "u2", "hits"),
        Column("phi", "f4", "azimuth"),
        Column("beam_z", "f4", "beam spot", unit="cm", scalar=True),
        Column("beam_x", "f4", "beam spot", unit="cm", scalar=True),
        Column("cov", "f8", "covariance", shape=(3, 4)),
        Column("state", "f4", "parameters", shape=(5,)),
        Column("used", "u1", "0 or 1"),
        Column("id", "u4", "number"),
        Column("score", "f4", "score"),
    ),
)
NAMES = tuple(c.name for c in TRACKS.columns)


def collection(schema: Schema = TRACKS, capacity: int = 100) -> Collection:
    """Filled with different, finite numbers."""
    layout = schema.layout(capacity)
    c = Collection(layout, aligned_empty(layout.nbytes))
    for i, column in enumerate(schema.columns):
        c[column.name][...] = (np.arange(c[column.name].size).reshape(c[column.name].shape) * 7 + i) % 120
    return c


def expected(c: Collection, name: str, rows: slice) -> NDArray[Any]:
    """(rows, planes) of a column, as NumPy sees it."""
    column = c.schema[name]
    values = np.repeat(c[name], c.capacity, axis=0) if column.scalar else c[name]
    return np.asarray(values[rows].reshape(len(range(c.capacity)[rows]), column.planes))


def same(tensor: Any, values: NDArray[Any]) -> None:
    assert tensor.dtype == getattr(torch, values.dtype.name)
    assert tuple(tensor.shape) == values.shape
    np.testing.assert_array_equal(tensor.numpy(), values)


@st.composite
def row_ranges(draw: st.DrawFn, capacity: int) -> tuple[int, int]:
    first = draw(st.integers(0, capacity))
    return first, draw(st.integers(first, capacity))


@given(st.data(), st.integers(1, 300), st.lists(st.sampled_from(NAMES), min_size=1, max_size=6))
def test_any_choice_of_columns_splits_into_the_fewest_tensors(data: st.DataObject, capacity: int, names: list[str]) -> None:
    c = collection(capacity=capacity)
    first, last = data.draw(row_ranges(capacity))
    rows = slice(first, last)
    parts = TensorCollection(c).input("x", *names, rows=rows, split=True)
    planes = [(name, k) for name in names for k in range(TRACKS[name].planes)]
    assert sum(prod(t.shape[1:]) for t in parts) == len(planes)
    values = iter(expected(c, name, rows)[:, k] for name in names for k in range(TRACKS[name].planes))
    for part in parts:
        flat = part.flatten(1)
        for k in range(flat.shape[1]):
            same(flat[:, k], next(values))
    assert len(parts) == fewest(c, names)


def fewest(c: Collection, names: list[str]) -> int:
    """Least number of groups of neighbours that one strided tensor can hold, by trying every way to cut the list."""
    best = len(names)
    for cuts in range(2 ** (len(names) - 1)):
        edges = [0, *(i + 1 for i in range(len(names) - 1) if cuts >> i & 1), len(names)]
        if all(fits_one_tensor(c, names[a:b]) for a, b in pairwise(edges)):
            best = min(best, len(edges) - 1)
    return best


def fits_one_tensor(c: Collection, names: list[str]) -> bool:
    columns = [TRACKS[n] for n in names]
    starts = [c.layout.offsets[x.name] + k * c.layout.plane_bytes(x) for x in columns for k in range(x.planes)]
    steps = {b - a for a, b in pairwise(starts)}
    return len({x.type for x in columns}) == 1 == len({x.scalar for x in columns}) and len(steps) <= 1 and min(steps, default=0) >= 0


@given(st.data(), st.integers(1, 300), st.sampled_from([("pt", "eta"), ("pt", "pt"), ("pt",), ("beam_z", "beam_x"), ("state",), ("cov",)]))
def test_evenly_spaced_columns_are_one_strided_tensor(data: st.DataObject, capacity: int, names: tuple[str, ...]) -> None:
    c = collection(capacity=capacity)
    first, last = data.draw(row_ranges(capacity))
    views = TensorCollection(c, rows=slice(first, last))
    x = views.input("x", *names)
    shape = TRACKS[names[0]].shape or (len(names),)
    values = np.concatenate([expected(c, n, slice(first, last)) for n in names], axis=1)
    same(x, values.reshape(last - first, *shape))
    row = 0 if TRACKS[names[0]].scalar else 1
    assert x.stride(0) == row
    if last > first:
        assert views.addresses()["x"].pointer == c.address(names[0]) + row * first * x.element_size()
        assert views.owns(x)


def test_strides_are_the_spacing_of_the_columns() -> None:
    c = collection(Schema("S", "floats", tuple(Column(n, "f4", n) for n in "abcdef")), 40)
    views = TensorCollection(c)
    same(views.input("x", "b", "d", "f"), np.stack([c.b, c.d, c.f], axis=1))
    address = views.addresses()["x"]
    assert address == (c.address("b"), (1, 2 * 64), (40, 3))  # a column of 40 floats takes 64, a multiple of 128 bytes


def test_a_matrix_column_keeps_its_shape() -> None:
    c = collection(capacity=50)
    views = TensorCollection(c, size=20)
    same(views.input("cov", "cov"), c.cov[:20])
    assert views.addresses()["cov"].strides == (1, 4 * 64, 64)


def test_batches_are_a_dimension() -> None:
    c = collection(capacity=90)
    views = TensorCollection(c, size=60, batch=20)
    same(views.input("x", "pt", "eta"), np.stack([c.pt, c.eta], axis=1)[:60].reshape(3, 20, 2))
    same(views.input("beam", "beam_z"), np.full((3, 20, 1), c.beam_z[0]))
    same(views.input("flat", "phi", rows=slice(30, 90), batch=60), c.phi[30:].reshape(1, 60, 1))
    assert views["beam"].stride()[:2] == (0, 0)


@given(st.integers(1, 200), st.sampled_from(["pt", "cov", "state", "used"]), st.data())
def test_writes_are_seen_on_both_sides(capacity: int, name: str, data: st.DataObject) -> None:
    c = collection(capacity=capacity)
    before = {n: c[n].copy() for n in NAMES}
    y = TensorCollection(c).output("y", name)
    i = data.draw(st.integers(0, capacity - 1))
    y[i] = 123
    assert (c[name][i] == 123).all()
    c[name][i] = 45
    assert (y[i] == 45).all()
    before[name][i] = 45
    for n in NAMES:
        np.testing.assert_array_equal(c[n], before[n])


def test_models_write_outputs_in_place() -> None:
    c = collection()
    views = TensorCollection(c, size=30)
    x, y = views.input("x", "pt", "eta"), views.output("y", "score")
    weight = torch.tensor([[2.0], [3.0]])
    after = c.score[30:].copy()
    with torch.inference_mode():
        torch.mm(x, weight, out=y)
    np.testing.assert_allclose(c.score[:30], 2 * c.pt[:30] + 3 * c.eta[:30], rtol=1e-6)
    np.testing.assert_array_equal(c.score[30:], after)
    views.check_unwritten()
    views.check_owned("y", y)


def test_several_collections() -> None:
    tracks = collection()
    vertices = collection(Schema("Vertices", "vertices", (Column("z", "f4", "z"), Column("score", "f4", "score"))), 10)
    views = TensorCollection(tracks, vertices)
    same(views.input("z", "z"), vertices.z[:, None])
    same(views.input("pt", "pt"), tracks.pt[:, None])
    same(views.output("score", "Vertices.score"), vertices.score[:, None])
    a, b = views.input("mixed", "Tracks.pt", "Vertices.z", split=True, size=5)
    same(a, tracks.pt[:5, None])
    same(b, vertices.z[:5, None])
    assert views.owns(b)
    assert list(views.inputs) == ["z", "pt", "mixed"]
    assert list(views.outputs) == ["score"]
    assert list(views.addresses()) == ["z", "pt", "score", "mixed[0]", "mixed[1]"]


def test_unsigned_columns_are_moved_converted_or_read_as_signed() -> None:
    c = collection()
    views = TensorCollection(c)
    n_hits = views.input("n_hits", "n_hits")
    assert n_hits.dtype == torch.uint16
    np.testing.assert_array_equal(n_hits.to(torch.float32)[:, 0].numpy(), c.n_hits.astype(np.float32))
    assert int(views.input("id", "id", dtype=torch.int32).sum()) == int(c.id.sum())
    c.used[:] = np.arange(100) % 2
    assert views.input("mask", "used", dtype=torch.bool)[:, 0].nonzero()[:, 0].tolist() == list(range(1, 100, 2))


def test_reversed_columns_take_several_tensors() -> None:
    c = collection()
    parts = TensorCollection(c).input("x", "eta", "pt", split=True)
    assert [t.data_ptr() for t in parts] == [c.address("eta"), c.address("pt")]


@pytest.mark.parametrize(
    ("columns", "options", "message"),
    [
        ((), {}, "at least one column"),
        (("pt", "momentum"), {}, "no column 'momentum'"),
        (("Vertices.z",), {}, "no collection 'Vertices'"),
        (("pt", "n_hits"), {}, "column 'n_hits' is uint16, 'pt' is float32"),
        (("pt", "eta", "phi"), {}, "column 'phi' breaks the even spacing"),
        (("pt", "state"), {}, "column 'state' breaks the even spacing"),
        (("eta", "pt"), {}, "column 'pt' lies before 'eta'"),
        (("phi", "beam_z"), {}, "column 'beam_z' and 'phi' differ in kind"),
        (("pt",), {"size": 101}, "column 'pt' of Tracks: rows 0 .. 101"),
        (("pt",), {"size": -1}, "column 'pt' of Tracks: rows 0 .. -1"),
        (("pt",), {"rows": slice(-3, None)}, "rows -3"),
        (("pt",), {"rows": slice(50, 40)}, "rows 50 .. 40"),
        (("pt",), {"rows": slice(0, 10, 2)}, "column 'pt' of Tracks: .* has a step"),
        (("pt",), {"rows": slice(0, 10), "size": 10}, "both given"),
        (("pt",), {"batch": 33}, "100 rows of column 'pt' are not a whole number"),
        (("pt",), {"batch": 0}, "batches of 0"),
        (("pt",), {"dtype": torch.float64}, "column 'pt' is float32, torch.float64 is expected"),
        (("n_hits",), {"dtype": torch.int32}, "column 'n_hits' is uint16, torch.int32 is expected"),
    ],
)
def test_unfit_declarations_name_the_column(columns: tuple[str, ...], options: dict[str, Any], message: str) -> None:
    with pytest.raises(LayoutError, match=message):
        TensorCollection(collection()).input("x", *columns, **options)


@pytest.mark.parametrize(
    ("columns", "split", "message"),
    [
        (("beam_z",), False, "column 'beam_z' is one value for all rows"),
        (("pt", "pt"), False, "column 'pt' is named twice"),
        (("pt", "eta", "pt"), True, "column 'pt' is named twice"),
    ],
)
def test_outputs_have_memory_for_each_element(columns: tuple[str, ...], split: bool, message: str) -> None:
    with pytest.raises(LayoutError, match=message):
        TensorCollection(collection()).output("y", *columns, split=split)


def test_overlap_is_refused_and_found_by_memory() -> None:
    c = collection()
    views = TensorCollection(c)
    views.output("y", "score", rows=slice(0, 50))
    views.output("rest", "score", rows=slice(50, 100))
    views.output("none", "score", size=0)
    with pytest.raises(LayoutError, match="column 'score' is in 'y' and in 'again': two outputs"):
        views.output("again", "score", rows=slice(49, 51), inplace=True)
    with pytest.raises(LayoutError, match="column 'score' is in 'y' and in 'x': an input and an output"):
        views.input("x", "score")
    views.input("cov", "cov")
    with pytest.raises(LayoutError, match="column 'cov' is in 'cov' and in 'new'"):
        views.output("new", "cov")
    same(views.output("new", "cov", inplace=True), c.cov)
    alias = Collection(Schema("Alias", "the same memory", TRACKS.columns).layout(100), c.buffer)
    both = TensorCollection(c, alias)
    both.output("y", "Tracks.score")
    with pytest.raises(LayoutError, match="column 'score' is in 'y' and in 'z': two outputs"):
        both.output("z", "Alias.score")


def test_inputs_are_read_only() -> None:
    c = collection()
    views = TensorCollection(c)
    x, y = views.input("x", "pt"), views.output("y", "eta")
    z = views.output("pt", "pt", inplace=True)
    y.zero_()
    z.add_(1)
    views.check_unwritten()  # writes through outputs are none to an input, also where they share memory
    with torch.inference_mode():
        x[3, 0] = 1
    with pytest.raises(LayoutError, match=r"input 'x' was written to \(columns pt\)"):
        views.check_unwritten()


@pytest.mark.parametrize("write", [lambda x: torch.add(x, 1, out=x), lambda x: x[2:4].mul_(2), lambda x: x.view(-1).zero_()])
def test_every_way_to_write_is_seen(write: Any) -> None:
    with torch.inference_mode():
        views = TensorCollection(collection())
        write(views.input("x", "pt"))
    with pytest.raises(LayoutError, match="'x' was written to"):
        views.check_unwritten()


def test_foreign_tensors_are_not_owned() -> None:
    c = collection()
    views = TensorCollection(c)
    x = views.input("x", "pt", "eta")
    assert views.owns(x[5:])
    assert not views.owns(x.clone())
    assert not views.owns(x[:0])
    assert not views.owns(torch.empty(3, device="meta"))
    past = torch.from_numpy(c.buffer).view(torch.float32)
    assert views.owns(past)
    assert not views.owns(torch.from_numpy(aligned_empty(c.layout.nbytes)))
    with pytest.raises(LayoutError, match=r"'score': torch\.float32 .* lies outside of Tracks"):
        views.check_owned("score", x + 1)


def test_memory_behind_the_collection_is_not_owned() -> None:
    layout = TRACKS.layout(10)
    buffer = aligned_empty(layout.nbytes + ALIGNMENT)
    views = TensorCollection(Collection(layout, buffer))
    whole = torch.from_numpy(buffer)
    assert views.owns(whole[: layout.nbytes])
    assert not views.owns(whole)
    assert not views.owns(whole[layout.nbytes :])


def test_tensors_keep_the_memory_alive() -> None:
    c = collection()
    views = TensorCollection(c)
    x = views.input("x", "pt")
    values, alive = c.pt.copy(), weakref.ref(c.buffer)
    views.close()
    del c, views
    gc.collect()
    assert alive() is not None
    np.testing.assert_array_equal(x[:, 0].numpy(), values)
    del x
    gc.collect()
    assert alive() is None


def test_closed_views_are_refused() -> None:
    with TensorCollection(collection()) as views:
        views.input("x", "pt")
        assert views["x"] is views.inputs["x"]
    uses: list[Any] = [
        lambda: views["x"],
        lambda: views.inputs,
        lambda: views.outputs,
        views.addresses,
        views.check_unwritten,
        lambda: views.owns(torch.empty(1)),
        lambda: views.input("y", "eta"),
    ]
    for use in uses:
        with pytest.raises(LayoutError, match="the tensors over Tracks are closed"):
            use()
    views.close()


def test_a_collection_with_another_buffer_is_refused() -> None:
    c = collection()
    views = TensorCollection(c)
    views.input("x", "pt")
    c.buffer = aligned_empty(c.layout.nbytes)
    with pytest.raises(LayoutError, match="Tracks: the collection has another buffer"):
        views["x"]


def test_unaligned_memory_is_refused() -> None:
    c = collection()
    c.buffer = aligned_empty(c.layout.nbytes + 4)[4:]
    with pytest.raises(LayoutError, match=r"column 'pt' begins at .* not at a multiple of 128"):
        TensorCollection(c).input("x", "pt")
    same(TensorCollection(c).input("x", "pt", rows=slice(1, 9)), expected_at(c, "pt", 1, 9))
    c.buffer = aligned_empty(c.layout.nbytes + 2)[2:]
    with pytest.raises(LayoutError, match="not at a multiple of 4"):
        TensorCollection(c).input("x", "pt", rows=slice(1, 9))


def expected_at(c: Collection, name: str, first: int, last: int) -> NDArray[Any]:
    begin = c.layout.offsets[name]
    return np.asarray(c.buffer[begin + 4 * first : begin + 4 * last].view(np.float32)[:, None])


def test_read_only_memory_is_refused() -> None:
    c = collection()
    c.buffer.flags.writeable = False
    with pytest.raises(LayoutError, match="column 'pt' is read-only"):
        TensorCollection(c).input("x", "pt")


def test_names_and_collections_are_checked() -> None:
    with pytest.raises(LayoutError, match="at least one collection"):
        TensorCollection()
    with pytest.raises(LayoutError, match="same name: Tracks, Tracks"):
        TensorCollection(collection(), collection())
    views = TensorCollection(collection(), collection(Schema("Other", "", (Column("pt", "f4", ""),))))
    with pytest.raises(LayoutError, match=r"column 'pt' is in Tracks and in Other: write Tracks\.pt"):
        views.input("x", "pt")
    with pytest.raises(LayoutError, match="column 'pt' is in Other, 'eta' in Tracks"):
        views.input("x", "eta", "Other.pt")
    views.input("x", "eta")
    with pytest.raises(LayoutError, match=r"'x' is declared already \(columns eta\)"):
        views.output("x", "phi")
    with pytest.raises(LayoutError, match="no tensor 'y' is declared; there are x"):
        views["y"]
