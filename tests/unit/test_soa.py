"""SoA collections: layout, views and C++ struct all name the same memory."""

from __future__ import annotations

import resource
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hltfarm.proto.errors import LayoutError
from hltfarm.proto.soa import ALIGNMENT, Collection, Column, Params, Schema, aligned_empty

TRACKS = Schema(
    "Tracks",
    "columns of every kind",
    (
        Column("pt", "f4", "transverse momentum", unit="GeV"),
        Column("eta", "f4", "pseudorapidity"),
        Column("n_hits", "u2", "hits"),
        Column("phi", "f4", "azimuth"),
        Column("count", "u4", "tracks in use", scalar=True),
        Column("cov", "f8", "covariance", shape=(5, 5)),
        Column("state", "f4", "parameters", shape=(5,)),
    ),
)


def tracks(capacity: int = 100) -> Collection:
    layout = TRACKS.layout(capacity)
    buffer = aligned_empty(layout.nbytes)
    buffer[:] = 0
    return Collection(layout, buffer)


def test_columns_are_views_of_one_aligned_buffer() -> None:
    c = tracks(77)
    for column in TRACKS.columns:
        view = c[column.name]
        assert np.shares_memory(view, c.buffer)
        assert c.address(column.name) % ALIGNMENT == 0
        assert view.dtype == column.type
        assert view.shape == ((1,) if column.scalar else (77, *column.shape))


def test_columns_do_not_overlap() -> None:
    c = tracks(33)
    for value, column in enumerate(TRACKS.columns, 1):
        c[column.name][...] = value
    for value, column in enumerate(TRACKS.columns, 1):
        assert (c[column.name] == value).all()


@given(st.integers(1, 3000))
def test_matrix_elements_lie_plane_by_plane(capacity: int) -> None:
    c = tracks(capacity)
    i = capacity - 1
    c.cov[i] = np.arange(25).reshape(5, 5)
    plane = c.layout.plane_bytes(TRACKS["cov"])
    begin = c.layout.offsets["cov"]
    for k in range(25):
        at = begin + k * plane + 8 * i
        assert c.buffer[at : at + 8].view("f8")[0] == k


def test_struct_holds_capacity_and_addresses() -> None:
    c = tracks(10)
    assert c.struct["capacity"][0] == 10
    for column in TRACKS.columns:
        assert c.struct[column.name][0] == c[column.name].ctypes.data
    assert c.struct.dtype.itemsize == 8 + 8 * len(TRACKS.columns)


@pytest.mark.parametrize(
    ("buffer", "message"),
    [
        (np.zeros(8, np.uint8), "bytes are needed|are needed"),
        (np.zeros(10**6, np.float32), "uint8"),
        (aligned_empty(10**6)[1:], "not aligned"),
        (aligned_empty(10**6).reshape(1000, 1000), "one-dimensional"),
    ],
)
def test_unfit_buffers_are_refused(buffer: np.ndarray, message: str) -> None:  # type: ignore[type-arg]
    with pytest.raises(LayoutError, match=message):
        Collection(TRACKS.layout(100), buffer)


def test_schema_errors() -> None:
    with pytest.raises(LayoutError, match="taken"):
        Schema("S", "", (Column("a", "f4", ""), Column("a", "f4", "")))
    with pytest.raises(LayoutError, match="no counterpart"):
        Schema("S", "", (Column("a", "c8", ""),))
    with pytest.raises(LayoutError, match="capacity 0"):
        TRACKS.layout(0)
    with pytest.raises(AttributeError, match="no column"):
        _ = tracks().nothing


def test_params_pack_as_a_c_struct(tmp_path: Path) -> None:
    params = Params("P", "mixed sizes", (Column("a", "u1", ""), Column("b", "f8", ""), Column("c", "u2", ""), Column("d", "f4", "")))
    packed = params.pack(a=1, b=2.5, c=3, d=4.5)
    source = tmp_path / "p.cpp"
    source.write_text(
        f"#include <cstdint>\n#include <cstddef>\n#define HLT_FN inline\n{params.cpp()}\n"
        f"static_assert(sizeof(P) == {packed.dtype.itemsize});\n"
        + "".join(f"static_assert(offsetof(P, {n}) == {packed.dtype.fields[n][1]});\n" for n in "abcd")  # type: ignore[index]
    )
    subprocess.run(["g++", "-std=c++17", "-fsyntax-only", source], check=True)
    with pytest.raises(LayoutError, match="fields"):
        params.pack(a=1)


def test_view_struct_matches_the_compiler(tmp_path: Path) -> None:
    """The C++ accessor of a matrix column finds the element that NumPy wrote."""
    import ctypes

    c = tracks(37)
    c.cov[20] = np.arange(25).reshape(5, 5)
    source, library = tmp_path / "v.cpp", tmp_path / "v.so"
    source.write_text(
        "#include <cstdint>\n#define HLT_FN inline\n" + TRACKS.cpp() + 'extern "C" double get(Tracks const& t, uint32_t i, uint32_t k) {'
        " return t.cov_at(i, k); }\n"
    )
    subprocess.run(["g++", "-std=c++17", "-shared", "-fPIC", "-o", library, source], check=True)
    get = ctypes.CDLL(str(library)).get
    get.restype = ctypes.c_double
    get.argtypes = (ctypes.c_void_p, ctypes.c_uint32, ctypes.c_uint32)
    assert [get(c.struct.ctypes.data, 20, k) for k in range(25)] == list(range(25))


def test_proto_loads_neither_zmq_nor_torch_nor_cupy() -> None:
    code = (
        "import importlib, pkgutil, sys, hltfarm.proto as p\n"
        "names = [m.name for m in pkgutil.walk_packages(p.__path__, 'hltfarm.proto.')]\n"
        "[importlib.import_module(n) for n in names]\n"
        "assert len(names) > 5, names\n"
        "bad = {'zmq', 'torch', 'cupy'} & set(sys.modules)\n"
        "assert not bad, bad\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_large_memory_is_touched_where_it_is_used_and_nowhere_else():
    def resident() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()

    nbytes, step = 256 << 20, 2 << 20  # a large page each
    memory = aligned_empty(nbytes)
    assert (memory.nbytes, memory.ctypes.data % ALIGNMENT, memory.flags.writeable) == (nbytes, 0, True)
    before = resident()
    memory[::step] = 1
    assert resident() - before < nbytes // 8, "pages of 2 MiB would have filled all of it"
    assert memory[step] == 1
    with pytest.raises(MemoryError):
        aligned_empty(1 << 60)
