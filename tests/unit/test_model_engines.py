"""Every engine gives the scores of the definition in tests/reference/models.py to 1e-5, on tensors that lie as columns do."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from hltfarm.proto.errors import BackendError, ConfigError, LayoutError
from hltfarm.service import cli
from hltfarm.workers import dnn
from hltfarm.workers.models import Cuts, Exported, Forest, MlpWeights, Model, aot, compiler, probe, save
from hltfarm.workers.models.engines import ENGINES, TOLERANCE, TorchEngine, build
from hltfarm.workers.models.exporting import export
from hltfarm.workers.models.layout import Columns, Layout, layout_of
from hltfarm.workers.models.networks import Mlp, network
from tests.reference import models as reference
from tests.reference.model_samples import EVENT, FEATURES, TRACK, cuts, forest, perceptron

CAPACITY = 512  # of the columns, in rows
CPU = torch.device("cpu")


def no_compiler() -> str | None:
    try:
        compiler.check()
    except BackendError as error:
        return str(error)
    return None


needs_compiler = pytest.mark.skipif(shutil.which("g++") is None, reason="no C++ compiler: g++ is not installed")


class Attention(torch.nn.Module):
    """A model of two inputs that is no perceptron."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(2)
        self.first, self.second, self.last = torch.nn.Linear(3, 8), torch.nn.Linear(2, 8), torch.nn.Linear(8, 1)

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        h = self.first(x) * torch.softmax(self.second(y), 1)
        return torch.sigmoid(self.last(torch.nn.functional.gelu(h)))


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("aot") / "cache"


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Model]:
    folder = tmp_path_factory.mktemp("models")
    contents: dict[str, tuple[MlpWeights | Forest | Cuts | Exported, dict[str, Any]]] = {
        "mlp": (perceptron(hidden=(16, 16)), TRACK),
        "half": (perceptron(hidden=(16, 16)), {**TRACK, "half": True}),
        "forest": (forest(), TRACK),
        "cuts": (cuts(), TRACK),
        "event cuts": (cuts(), EVENT),
        "pt2": (export(Attention(), [3, 2]), {**TRACK, "inputs": [["zip", "pt", "eta"], ["phi", "tip"]]}),
    }
    return {name: save(folder / name.replace(" ", "-"), content, **arguments) for name, (content, arguments) in contents.items()}


def columns(rows: np.ndarray[Any, Any], device: torch.device = CPU) -> torch.Tensor:
    """Rows (n, k) as a strided view over columns of CAPACITY elements, one element off a boundary of 16 bytes."""
    values = rows.reshape(len(rows), -1)
    memory = torch.empty(values.shape[1] * CAPACITY + 1, dtype=torch.from_numpy(values).dtype, device=device)
    view = memory.as_strided(values.shape, (1, CAPACITY), 1)
    view.copy_(torch.from_numpy(values))
    return view if rows.ndim == 2 else view[:, 0]


def expected(model: Model, inputs: list[np.ndarray[Any, Any]]) -> np.ndarray[Any, Any]:
    if isinstance(model.content, Exported):
        with torch.no_grad():
            scores: np.ndarray[Any, Any] = Attention()(*map(torch.from_numpy, inputs))[:, 0].numpy()
            return scores
    return reference.scores(model, inputs)


def largest_difference(engine: TorchEngine, model: Model, n: int, seed: int = 5) -> float:
    """Of the scores in a strided column to the definition; nothing beside the column may be written."""
    rows = probe.rows(model, n, seed)
    around = torch.full((2 * n + 1,), -7.0)
    engine.run(tuple(columns(values) for values in rows), around[1::2])
    assert bool((around[::2] == -7.0).all())
    return float(np.abs(around[1::2].numpy() - expected(model, rows)).max())


def like(model: Model) -> tuple[tuple[torch.Tensor, ...], torch.Tensor]:
    return tuple(columns(values) for values in probe.rows(model, 40, 1)), torch.zeros(81)[1::2]


@pytest.mark.parametrize("name", ["mlp", "half", "forest", "cuts", "event cuts", "pt2"])
def test_eager(name: str, models: dict[str, Model], record_property: Callable[[str, object], None]) -> None:
    model = models[name]
    engine = build(model, "cpu", max_rows=CAPACITY, like=like(model))
    difference = max(largest_difference(engine, model, n, seed) for n, seed in ((400, 1), (2, 2), (1, 3)))
    print(f"eager {name}: {difference:.2g}")
    record_property("largest difference", difference)
    assert difference <= (0 if "cuts" in name else TOLERANCE)


@needs_compiler
@pytest.mark.parametrize(("engine", "name"), [("compile", "mlp"), ("compile", "pt2"), ("aot", "mlp"), ("aot", "pt2")])
def test_compiled(engine: str, name: str, models: dict[str, Model], cache: Path) -> None:
    reason = no_compiler()
    if reason:
        pytest.skip(reason)
    model = models[name]
    built = build(model, "cpu", engine, max_rows=CAPACITY, cache_dir=cache, like=like(model))
    difference = max(largest_difference(built, model, n, n) for n in (400, 31, 2, 1))
    print(f"{engine} {name}: {difference:.2g}")
    assert difference <= TOLERANCE


@pytest.mark.gpu
@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("name", ["mlp", "pt2", "forest", "cuts"])
def test_cuda_graph(engine: str, name: str, models: dict[str, Model], cache: Path) -> None:
    """Captured once, replayed on other rows: the scores of those, in a column that starts off a boundary of 16 bytes."""
    model, device = models[name], torch.device("cuda", torch.cuda.current_device())
    around = torch.full((402,), -7.0, device=device)
    out = around[1:401]
    inputs = tuple(columns(values, device) for values in probe.rows(model, 400, 1))
    built = build(model, device, engine, max_rows=CAPACITY, cache_dir=cache, like=(inputs, out))
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        built.run(inputs, out)
    rows = probe.rows(model, 400, 2)
    for tensor, values in zip(inputs, rows, strict=True):
        tensor.copy_(torch.from_numpy(values).reshape(tensor.shape))
    graph.replay()
    torch.cuda.synchronize()
    difference = float(np.abs(out.cpu().numpy() - expected(model, rows)).max())
    print(f"cuda {engine} {name}: {difference:.2g}")
    assert difference <= TOLERANCE
    assert around[[0, 401]].tolist() == [-7.0, -7.0]


@needs_compiler
def test_aot_code_is_built_once(models: dict[str, Model], cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = models["mlp"]
    first = build(model, "cpu", "aot", max_rows=CAPACITY, cache_dir=cache, like=like(model))

    def never(*arguments: object) -> None:
        raise AssertionError("built again")

    monkeypatch.setattr(aot, "_build", never)
    again = build(model, "cpu", "aot", max_rows=CAPACITY, cache_dir=cache, like=like(model))
    assert largest_difference(first, model, 50) == largest_difference(again, model, 50)
    for other in (models["half"], model):
        layout = None if other is model else like(other)
        with pytest.raises(AssertionError, match="built again"):
            build(other, "cpu", "aot", max_rows=CAPACITY, cache_dir=cache, like=layout)


def test_what_compiled_code_goes_by(models: dict[str, Model], monkeypatch: pytest.MonkeyPatch) -> None:
    """Loops are cut for the threads that there are: code for one thread per lane is not that for all cores."""
    layout, keys = layout_of(models["mlp"], None), set()
    for threads in (1, 1, 4):
        monkeypatch.setattr(torch, "get_num_threads", lambda n=threads: n)
        keys.add(aot._key(models["mlp"].hash, CPU, layout, CAPACITY, "g++"))
    assert len(keys) == 2


@needs_compiler
def test_aot_refuses_other_strides(models: dict[str, Model], cache: Path) -> None:
    """AOTInductor itself would read the wrong numbers."""
    model = models["mlp"]
    engine = build(model, "cpu", "aot", max_rows=CAPACITY, cache_dir=cache, like=like(model))
    (x,), out = like(model)
    with pytest.raises(LayoutError, match=r"input 0 has strides \(5, 1\); the aot code was built for \(1, 512\)"):
        engine.run((x.contiguous(),), out)
    with pytest.raises(LayoutError, match=r"out has strides \(1,\); the aot code was built for \(2,\)"):
        engine.run((x,), out.contiguous())
    engine.run((x[:1],), out[:1].clone())  # the stride of a single row is never used


@needs_compiler
def test_compiled_code_is_only_loaded_from_a_private_folder(models: dict[str, Model], tmp_path: Path) -> None:
    open_to_all = tmp_path / "cache"
    open_to_all.mkdir()
    open_to_all.chmod(0o777)
    with pytest.raises(BackendError, match=r"drwxrwxrwx.*only loaded from where its owner alone can write"):
        build(models["mlp"], "cpu", "aot", max_rows=8, cache_dir=open_to_all)
    (tmp_path / "file").write_text("")
    with pytest.raises(BackendError, match="cannot be made"):
        build(models["mlp"], "cpu", "aot", max_rows=8, cache_dir=tmp_path / "file")


def test_what_an_engine_refuses(models: dict[str, Model]) -> None:
    engine = build(models["mlp"], CPU, max_rows=8)
    x, out = torch.zeros(4, 5), torch.zeros(4)
    for inputs, scores, message in (
        ((x, x), out, "2 input tensors; the model takes 1"),
        ((x[:, :4],), out, r"input 0 is torch\.float32 \(4, 4\) on cpu; expected torch\.float32 \(4, 5\)"),
        ((x[:3],), out, r"input 0 is torch\.float32 \(3, 5\)"),
        ((x.double(),), out, r"input 0 is torch\.float64"),
        ((x,), out.double(), r"out is torch\.float64"),
        ((x,), torch.zeros(4, 2), r"out is torch\.float32 \(4, 2\)"),
        ((x.to("meta"),), out, "on meta"),
        ((torch.zeros(9, 5),), torch.zeros(9), "9 rows; the engine was built for at most 8"),
    ):
        with pytest.raises(LayoutError, match=message):
            engine.run(inputs, scores)
    two = torch.full((4, 1), -1.0)
    engine.run((x,), two)
    engine.run((x,), out)
    assert torch.equal(two[:, 0], out)
    engine.run((x[:0],), out[:0])


def test_what_build_refuses(models: dict[str, Model], tmp_path: Path) -> None:
    model = models["mlp"]
    with pytest.raises(ConfigError, match="engine 'magic' is unknown; known are eager, compile, aot"):
        build(model, "cpu", "magic", max_rows=1)
    with pytest.raises(ConfigError, match="rows 9, max_rows 8"):
        build(model, "cpu", max_rows=8, rows=9)
    with pytest.raises(LayoutError, match=r"inputs of shapes \(4, 4\); model sample takes \(n, 5\)"):
        build(model, "cpu", max_rows=8, like=((torch.zeros(4, 4),), torch.zeros(4)))
    with pytest.raises(LayoutError, match=r"a tensor of torch\.float64"):
        build(model, "cpu", max_rows=8, like=((torch.zeros(4, 5),), torch.zeros(4).double()))
    with pytest.raises(LayoutError, match="numbers of hits"):
        build(models["cuts"], "cpu", max_rows=8, like=((torch.zeros(4, 5),), torch.zeros(4)))
    small = save(tmp_path / "m", export(Attention(), [3, 2], max_rows=100), **TRACK, inputs=[FEATURES[:3], FEATURES[3:]])
    with pytest.raises(ConfigError, match="was exported for at most 100 rows, 101 are needed"):
        build(small, "cpu", max_rows=101)
    build(small, "cpu", max_rows=100)


@pytest.mark.parametrize("device", ["foo", "meta", "cuda:x", ""])
def test_devices_that_are_none(device: str, models: dict[str, Model]) -> None:
    with pytest.raises(ConfigError, match=f"device '{device}' is none of an engine; use cpu, cuda or cuda:N"):
        build(models["mlp"], device, max_rows=8)


@needs_compiler
def test_a_process_may_compile_any_number_of_models(tmp_path: Path) -> None:
    """torch keeps a few programs of one code object (8 as shipped); a worker meets more models than that."""
    with torch._dynamo.config.patch(recompile_limit=1):
        for width in (4, 8, 16):
            model = save(tmp_path / str(width), perceptron(hidden=(width,)), **TRACK)
            built = build(model, "cpu", "compile", max_rows=CAPACITY, like=like(model))
            assert largest_difference(built, model, 50) <= TOLERANCE
        lane = build(model, "cpu", "compile", max_rows=CAPACITY, like=like(model))  # the program is there already
        assert largest_difference(lane, model, 50) <= TOLERANCE


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_no_cuda_device(models: dict[str, Model]) -> None:
    with pytest.raises(BackendError, match="no CUDA device"):
        build(models["mlp"], "cuda", max_rows=8)


def test_rows_for_tracing_are_no_divisor_of_a_stride() -> None:
    def rows(*strides: tuple[int, int], columns: int = 5) -> int:
        return Layout(tuple(Columns(columns, torch.float32, s) for s in strides), Columns(None, torch.float32, (1,))).example_rows

    assert rows((5, 1)) == 31
    assert rows((31, 1), columns=31) == 30
    assert rows((1, 31 * 64)) == 30
    assert rows((1, 32)) == 31
    assert rows((1, 8)) == 7
    assert rows((0, 1), columns=1) == 31


def test_training_and_inference_agree(tmp_path: Path) -> None:
    """The module that is trained is the one that runs: gradients flow, weights come back as they are shipped."""
    net = Mlp.untrained(np.zeros(5), np.ones(5), (8,), seed=3)
    again = Mlp.untrained(np.zeros(5), np.ones(5), (8,), seed=3)
    x, wanted = torch.randn(64, 5), (torch.arange(64) % 2).float()
    before = torch.nn.functional.binary_cross_entropy_with_logits(net.logits(x), wanted)
    optimizer = torch.optim.Adam(net.parameters(), 0.05)
    for _ in range(20):
        optimizer.zero_grad()
        loss = torch.nn.functional.binary_cross_entropy_with_logits(net.logits(x), wanted)
        loss.backward()
        optimizer.step()
    assert loss < before
    assert torch.equal(net.mean, again.mean)
    model = save(tmp_path / "m", net.weights(), **TRACK)
    shipped = network(model, CPU)
    assert torch.equal(shipped(x), net(x))
    assert not any(p.requires_grad for p in shipped.parameters())
    assert not torch.equal(again(x), net(x))


@needs_compiler
def test_a_compiler_with_a_static_runtime_is_refused(tmp_path: Path, models: dict[str, Model]) -> None:
    wrapper = tmp_path / "static-g++"
    wrapper.write_text('#!/bin/sh\nexec g++ "$@" -static-libstdc++\n')
    wrapper.chmod(0o755)
    with pytest.raises(BackendError, match=r"static-g\+\+ does not link libstdc\+\+\.so but lib.*crash.*CXX=g\+\+"):
        compiler.check(str(wrapper))
    with (
        torch._inductor.config.patch({"cpp.cxx": (None, str(wrapper))}),
        pytest.raises(BackendError, match=r"static-g\+\+ does not link"),
    ):
        build(models["mlp"], "cpu", "aot", max_rows=8, cache_dir=tmp_path / "cache")
    assert not (tmp_path / "cache").exists()
    assert compiler.check("g++") == "g++"


def test_compilers_that_do_not_work(tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    broken.write_text("#!/bin/sh\necho 'probe.cpp:1: fatal error: iostream: No such file' >&2\nexit 1\n")
    broken.chmod(0o755)
    with pytest.raises(BackendError, match=r"broken cannot build a library: probe\.cpp:1: fatal error: iostream"):
        compiler.check(str(broken))
    with pytest.raises(BackendError, match="cannot be run"):
        compiler.check(str(tmp_path / "missing"))
    with (
        torch._inductor.config.patch({"cpp.cxx": (None, str(tmp_path / "missing"))}),
        pytest.raises(BackendError, match="no C\\+\\+ compiler"),
    ):
        compiler.find()


def test_libraries_of_an_elf_file() -> None:
    from hltfarm.workers.backends import cpu_kernels

    text = Path(cpu_kernels.__file__).read_bytes()
    names = compiler.needed(text)
    assert any(name.startswith(("libm.so", "libc.so")) for name in names)
    assert not any(name.startswith("libstdc++.so") for name in names), "it brings its own"
    assert compiler.needed(b"no ELF file") == []
    assert compiler.needed(text[:64]) == []


def test_check_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """An engine that cannot be built here is no fault of the model; features that nobody computes are."""
    known, unknown = tmp_path / "known", tmp_path / "unknown"
    save(known, perceptron(), **{**TRACK, "features": dnn.FEATURES[:5]})
    save(unknown, perceptron(), **{**TRACK, "features": [*dnn.FEATURES[:4], "charm"]})
    with torch._inductor.config.patch({"cpp.cxx": (None, str(tmp_path / "missing"))}):
        assert cli.run(["models", "check", str(known), "--rows", "500"]) == 0
        lines = capsys.readouterr().out.splitlines()
        assert "the package is sound" in lines[0]
        assert lines[1] == "eager: 500 rows on cpu, largest difference from eager 0 (allowed: 1e-05)"
        assert [line.split(": ")[:3] for line in lines[2:]] == [[e, "not available", "no C++ compiler"] for e in ("compile", "aot")]
        assert cli.run(["models", "check", str(unknown), "--rows", "500"]) == 1
        assert "does not compute: charm" in capsys.readouterr().out
    assert cli.run(["models", "check", str(tmp_path / "none")]) == 2
