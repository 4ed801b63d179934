"""Tensor views over device memory: what CuPy sees, torch sees, without a copy, on the device that holds it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from hltfarm.proto.errors import LayoutError
from hltfarm.proto.soa import Collection, Column, Schema, aligned_empty

pytestmark = pytest.mark.gpu

SCHEMA = Schema(
    "S",
    "columns of every kind",
    (
        Column("a", "f4", "a"),
        Column("b", "f4", "b"),
        Column("c", "f4", "c"),
        Column("m", "f8", "m", shape=(3, 2)),
        Column("n", "f4", "n", scalar=True),
        Column("id", "u4", "id"),
        Column("score", "f4", "score"),
    ),
)


@pytest.fixture
def torch() -> Any:
    torch = pytest.importorskip("torch")
    if not torch.cuda.is_available():
        pytest.skip("this torch is built without CUDA")
    return torch


def collection(capacity: int = 100, device: int = 0) -> Collection:
    import cupy

    layout = SCHEMA.layout(capacity)
    with cupy.cuda.Device(device):
        c = Collection(layout, cupy.zeros(layout.nbytes, cupy.uint8))
        for i, column in enumerate(SCHEMA.columns):
            view = c[column.name]
            view[...] = cupy.arange(view.size).reshape(view.shape).astype(view.dtype) + i
        cupy.cuda.Device().synchronize()
    return c


@pytest.mark.parametrize("capacity", [1, 33, 1000])
def test_values_strides_and_addresses(torch: Any, capacity: int) -> None:
    from hltfarm.workers.tensors import TensorCollection

    c = collection(capacity)
    views = TensorCollection(c)
    x, m, n = views.input("x", "a", "c"), views.input("m", "m"), views.input("n", "n")
    plane = c.layout.plane_bytes(SCHEMA["a"]) // 4
    assert views.device == torch.device("cuda", 0)
    assert views.addresses()["x"] == (c.address("a"), (1, 2 * plane), (capacity, 2))
    np.testing.assert_array_equal(x.cpu().numpy(), np.stack([c.a.get(), c.c.get()], axis=1))
    np.testing.assert_array_equal(m.cpu().numpy(), c.m.get())
    np.testing.assert_array_equal(n.cpu().numpy(), np.full((capacity, 1), c.n.get()[0]))
    assert n.stride(0) == 0
    assert views.owns(x)
    assert not views.owns(x.clone())
    assert not views.owns(x.cpu())


def test_writes_are_seen_on_both_sides(torch: Any) -> None:
    import cupy

    from hltfarm.workers.tensors import TensorCollection

    c = collection()
    views = TensorCollection(c, size=20)
    x, y = views.input("x", "a", "b"), views.output("y", "score")
    torch.mm(x, torch.tensor([[2.0], [1.0]], device=views.device), out=y)
    torch.cuda.synchronize()
    np.testing.assert_allclose(c.score.get()[:20], 2 * c.a.get()[:20] + c.b.get()[:20], rtol=1e-6)
    np.testing.assert_array_equal(c.score.get()[20:], np.arange(20, 100, dtype=np.float32) + 6)
    c.a[4] = 77
    cupy.cuda.Device().synchronize()
    assert float(x[4, 0]) == 77
    views.check_unwritten()
    x.add_(1)
    with pytest.raises(LayoutError, match="'x' was written to"):
        views.check_unwritten()


def test_views_work_within_a_captured_graph(torch: Any) -> None:
    """A row range of a bucket: the graph reads and writes the columns that CuPy fills between replays."""
    import cupy

    from hltfarm.workers.tensors import TensorCollection

    c = collection(256)
    stream = cupy.cuda.Stream(non_blocking=True)
    views = TensorCollection(c, rows=slice(64, 128))
    x, y = views.input("x", "a", "b", "c"), views.output("y", "score")
    external = torch.cuda.ExternalStream(stream.ptr, device=views.device)
    with stream, torch.cuda.stream(external):
        torch.sum(x, 1, keepdim=True, out=y)  # first use outside of the capture
        stream.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=external):
            torch.sum(x, 1, keepdim=True, out=y)
        for value in (1.0, 5.0):
            c.a[:] = value
            graph.replay()
            stream.synchronize()
            np.testing.assert_array_equal(c.score.get()[64:128], value + c.b.get()[64:128] + c.c.get()[64:128])
    views.check_unwritten()


def test_host_and_device_do_not_mix(torch: Any) -> None:
    from hltfarm.workers.tensors import TensorCollection

    layout = Schema("Host", "on the host", (Column("z", "f4", "z"),)).layout(10)
    with pytest.raises(LayoutError, match="several devices: S on cuda:0, Host on cpu"):
        TensorCollection(collection(), Collection(layout, aligned_empty(layout.nbytes)))


def test_tensors_are_on_the_device_of_the_buffer(torch: Any) -> None:
    from hltfarm.workers.tensors import TensorCollection

    if torch.cuda.device_count() < 2:
        pytest.skip("needs two devices")
    c = collection(device=1)
    views = TensorCollection(c)
    x = views.input("x", "a", "b")
    assert x.device == torch.device("cuda", 1)
    assert x.data_ptr() == c.address("a")
    with pytest.raises(LayoutError, match="several devices"):
        TensorCollection(collection(device=0), Collection(Schema("T", "", SCHEMA.columns).layout(100), c.buffer))
