"""Engines that run a model with torch on columns where they lie: eager, compiled by torch.compile, or built ahead of time (AOT).

All give the same scores to 1e-5. Building may compile, allocate and synchronise; running does neither: no synchronisation, no
allocation outside torch's caching allocator, so that a run can be captured in a CUDA graph once it has been built.

What a caller passes has a layout (dtypes and strides; the number of rows is open). AOT code is built for one layout, because
AOTInductor fixes strides and does not check them; so every engine checks what it is given.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import CodeType, FunctionType, MethodType
from typing import Literal, Protocol, get_args

import torch
from torch import Tensor, nn

from hltfarm.proto.errors import BackendError, ConfigError, LayoutError
from hltfarm.workers.models import aot, compiler, probe
from hltfarm.workers.models.layout import Columns, Layout, layout_of, scores
from hltfarm.workers.models.networks import network
from hltfarm.workers.models.package import Model

EngineName = Literal["eager", "compile", "aot"]
ENGINES: tuple[EngineName, ...] = get_args(EngineName)
#: Largest difference of scores to the eager engine with which an engine is handed out: beyond it the compiler got it wrong.
TOLERANCE = 1e-5


class Engine(Protocol):
    """Something that scores rows."""

    @property
    def name(self) -> EngineName: ...

    def run(self, inputs: tuple[Tensor, ...], out: Tensor) -> None:
        """Write a score for each row of the inputs into `out`, on the current stream. Does not synchronise.

        inputs: as `Model.inputs` groups the features, (n, k) float32, any strides; the caller owns all memory. out: (n,) or (n, 1)
        float32, any stride. Raises LayoutError for other shapes, dtypes, devices, and, for AOT code, strides.
        """
        ...


@dataclass(frozen=True)
class TorchEngine:
    """An engine around a function that writes scores of inputs into `out`."""

    name: EngineName
    device: torch.device
    layout: Layout
    max_rows: int
    function: Callable[[tuple[Tensor, ...], Tensor], None]
    fixed_strides: bool = False

    def run(self, inputs: tuple[Tensor, ...], out: Tensor) -> None:
        """See Engine."""
        self._check(inputs, out)
        if out.shape[0] == 0:
            return
        with torch.inference_mode():
            self.function(inputs, scores(out))

    def _check(self, inputs: tuple[Tensor, ...], out: Tensor) -> None:
        if len(inputs) != len(self.layout.inputs):
            raise LayoutError(f"{len(inputs)} input tensors; the model takes {len(self.layout.inputs)}")
        rows = out.shape[0]
        if rows > self.max_rows:
            raise LayoutError(f"{rows} rows; the engine was built for at most {self.max_rows}")
        for i, (tensor, wanted) in enumerate(zip(inputs, self.layout.inputs, strict=True)):
            self._check_one(f"input {i}", tensor, wanted, rows)
        self._check_one("out", scores(out), self.layout.out, rows)

    def _check_one(self, what: str, tensor: Tensor, wanted: Columns, rows: int) -> None:
        shape = wanted.shape(rows)
        if tuple(tensor.shape) != shape or tensor.dtype != wanted.dtype or tensor.device != self.device:
            found = f"{tensor.dtype} {tuple(tensor.shape)} on {tensor.device}"
            raise LayoutError(f"{what} is {found}; expected {wanted.dtype} {shape} on {self.device}")
        if self.fixed_strides and not wanted.fits(tensor.stride(), rows):
            raise LayoutError(f"{what} has strides {tuple(tensor.stride())}; the {self.name} code was built for {wanted.strides}")


class Into(nn.Module):  # type: ignore[misc]  # torch is untyped here
    """A network that writes its scores into its last argument: what compilers are given, so that no copy is left at the end."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, *tensors: Tensor) -> tuple[()]:
        tensors[-1].copy_(self.net(*tensors[:-1]))
        return ()


def build(
    model: Model,
    device: torch.device | str,
    engine: str = "eager",
    *,
    max_rows: int,
    cache_dir: Path | None = None,
    like: tuple[Sequence[Tensor], Tensor] | None = None,
    rows: int | None = None,
) -> TorchEngine:
    """An engine for a model, compiled, warmed up and compared with the eager one on random rows.

    `max_rows`: most rows of a run. `like`: inputs and scores as they will be passed; only their dtypes and strides matter (default:
    contiguous). `rows`: torch.compile specialises on this number (as a CUDA graph has); else it leaves it open. `cache_dir`: of AOT code
    (default: aot.default_cache()). Cuts on tracks take the numbers of hits as second input.

    Raises BackendError if a compiler or this torch cannot do it, ConfigError for a model that is refused, or what is no device.
    """
    device = _device(device)
    if engine not in ENGINES:
        raise ConfigError(f"engine {engine!r} is unknown; known are {', '.join(ENGINES)}")
    if max_rows < 1 or (rows is not None and not 1 <= rows <= max_rows):
        raise ConfigError(f"rows {rows}, max_rows {max_rows}: expected 1 <= rows <= max_rows")
    net = network(model, device)
    limit = getattr(net, "max_rows", None)
    if limit is not None and max_rows > limit:
        raise ConfigError(f"model {model.name} was exported for at most {limit} rows, {max_rows} are needed: export it with a larger Dim")
    layout = layout_of(model, like)
    eager = TorchEngine("eager", device, layout, max_rows, net.score_into)
    if engine == "eager":
        eager.run(*layout.example(1, device))
        return eager
    with _quiet():
        if engine == "compile":
            built = TorchEngine("compile", device, layout, max_rows, _compiled(model, net, device, rows, max_rows, layout))
        else:
            function = aot.function(Into(net), model.hash, device, layout, max_rows, cache_dir)
            built = TorchEngine("aot", device, layout, max_rows, function, fixed_strides=True)
        _compare(built, eager, model, rows or min(max_rows, layout.example_rows))
    return built


def _compiled(model: Model, net: nn.Module, device: torch.device, rows: int | None, max_rows: int, layout: Layout) -> Callable[..., None]:
    """torch.compile, and its compilation now. One row alone runs eagerly where rows are open: 0 and 1 would be compiled anew."""
    if device.type == "cpu":
        compiler.check()
    module = Into(net)
    forward = FunctionType(_code(model.hash, device, repr(layout)), Into.forward.__globals__)
    module.forward = MethodType(forward, module)  # type: ignore[method-assign]
    into = torch.compile(module, fullgraph=True, dynamic=rows is None)

    def function(inputs: tuple[Tensor, ...], out: Tensor) -> None:
        if rows is None and out.shape[0] == 1:
            net.score_into(inputs, out)
        else:
            into(*inputs, out)

    inputs, out = layout.example(rows or min(max_rows, layout.example_rows), device)
    try:
        with torch.inference_mode(), torch._inductor.config.patch(compile_threads=1):
            function(inputs, out)
    except Exception as error:
        raise BackendError(f"torch.compile failed: {type(error).__name__}: {error}") from error
    return function


@functools.lru_cache(maxsize=16)
def _code(*what: object) -> CodeType:
    """The code of `Into.forward`, a copy for each model. torch keeps what it compiled by code object, and no more than a few programs
    (recompile_limit) of one; so the lanes of a model share theirs, and a process may meet any number of models."""
    return Into.forward.__code__.replace()


def _compare(built: TorchEngine, eager: TorchEngine, model: Model, rows: int) -> None:
    difference = compare(built, eager, model, rows)
    if not difference <= TOLERANCE:
        raise BackendError(f"the {built.name} engine differs from the eager one by {difference:.2g}; use another engine")


def compare(one: TorchEngine, other: TorchEngine, model: Model, rows: int, seed: int = 1) -> float:
    """Largest difference of the scores of two engines on probe rows; synchronises."""
    scored = []
    for engine in (one, other):
        inputs, out = engine.layout.example(rows, engine.device)
        for tensor, values in zip(inputs, probe.rows(model, rows, seed), strict=True):
            tensor.copy_(torch.from_numpy(values).reshape(tensor.shape))
        engine.run(inputs, out)
        scored.append(out)
    difference: float = (scored[0] - scored[1]).abs().max().item()
    return difference


def _device(device: torch.device | str) -> torch.device:
    """The device with its index. Raises ConfigError for what is no device of an engine, BackendError if there is none."""
    try:
        known = torch.device(device)
    except RuntimeError:
        known = None
    if known is None or known.type not in ("cpu", "cuda"):
        raise ConfigError(f"device {str(device)!r} is none of an engine; use cpu, cuda or cuda:N")
    device = known
    if device.type == "cuda":
        if not torch.cuda.is_available():
            raise BackendError("no CUDA device for torch; use the device cpu")
        if device.index is not None and device.index >= torch.cuda.device_count():
            raise BackendError(f"no CUDA device {device.index}: there are {torch.cuda.device_count()}, from 0")
        if device.index is None:
            device = torch.device("cuda", torch.cuda.current_device())
    return device


@contextmanager
def _quiet() -> Iterator[None]:
    """torch warns about its own deprecations while it compiles."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
