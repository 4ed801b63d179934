"""`hltfarm bench`: measurements, each a ratio or a rate with its spread; never part of the test suite."""

from __future__ import annotations

import sys
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import TYPE_CHECKING, Annotated

import typer

from hltfarm.service.cli import bench_control, bench_curve
from hltfarm.service.cli.bench_farm import farm
from hltfarm.service.cli.bench_output import output
from hltfarm.service.cli.options import EngineOption, ModelOption
from hltfarm.service.cli.outputs import check_file, check_folder

if TYPE_CHECKING:
    from hltfarm.workers.reconstruct import Source


def numbers(text: str, least: int = 1) -> list[int]:
    """Integers of at least `least` from a comma-separated list. Raises ConfigError for anything else."""
    from hltfarm.proto.errors import ConfigError

    try:
        values = [int(x) for x in text.split(",")]
    except ValueError:
        values = []
    if not values or min(values) < least:
        raise ConfigError(f"{text!r} is not a comma-separated list of integers from {least} on")
    return values


def pipeline(
    sources: Annotated[list[Path], typer.Argument(help="Sample files (.hlt) or pixeltrack-standalone data directories.")],
    backend: Annotated[str, typer.Option(help="cpu, cuda or both.")] = "cpu",
    batches: Annotated[str, typer.Option(help="CUDA: batch sizes.")] = "1,4,16,64,256",
    threads: Annotated[str, typer.Option(help="CPU: numbers of threads.")] = "1,2",
    devices: Annotated[str | None, typer.Option(help="Numbers of GPUs: one process each, all together, instead of one GPU alone.")] = None,
    events: Annotated[int, typer.Option(min=32, help="Events of a sample that are used, and about the most of a measurement.")] = 4096,
    seconds: Annotated[float, typer.Option(min=0.1, help="About how long a measurement may take; it takes a sample once at least.")] = 2.0,
    repeat: Annotated[int, typer.Option(min=1, help="Measurements of each setting; the median counts.")] = 3,
    model: ModelOption = None,
    engine: EngineOption = None,
    json: Annotated[Path | None, typer.Option(help="Write the figures to this file.")] = None,
) -> None:
    """The chain in process: events per second, latency and stages by batch size; with several samples the growth with their hits."""
    from rich.console import Console

    from hltfarm.loadgen.source import open_source
    from hltfarm.proto.errors import BackendError, ConfigError
    from hltfarm.workers.bench import Effort, Results, read, run_pipeline
    from hltfarm.workers.bench_devices import Scaling, run_scaling
    from hltfarm.workers.bench_report import print_report, write_report
    from hltfarm.workers.configuration import DEFAULT, with_models

    if backend not in ("cpu", "cuda", "both"):
        raise ConfigError(f"--backend {backend!r}: use cpu, cuda or both")
    if devices is not None and backend != "cuda":
        raise ConfigError("--devices are GPUs; use --backend cuda")
    check_file("--json", json)
    sizes, counts, gpus = numbers(batches), numbers(threads), numbers(devices, 0) if devices else []
    if len(set(gpus)) < len(gpus):
        raise ConfigError(f"--devices {devices}: a GPU is named twice")
    samples, config = [read(open_source(source), events) for source in sources], with_models(DEFAULT, model, engine=engine)
    names = [sample.name for sample in samples]
    if len(set(names)) < len(names):
        raise ConfigError(f"samples {', '.join(names)}: each needs a name of its own")
    results, scalings = Results(), list[Scaling]()
    with Console(stderr=True).status("") as status:
        if gpus:
            scalings, results.left_out = run_scaling(samples, gpus, sizes, seconds, config, status.update)
        else:
            results = run_pipeline(samples, backend, sizes, counts, Effort(events, repeat, seconds), config, status.update)
    if json:
        write_report(results, scalings, samples, json)
    print_report(results, scalings, samples)
    if results.unequal:
        raise BackendError(f"{len(results.unequal)} digests differ between measurements of the same event; the figures are worthless")
    if not results.points and not scalings:
        raise BackendError(f"nothing was measured: {results.left_out[0].reason}")


def kernels(
    source: Annotated[Path, typer.Argument(help="A .hlt sample file or a pixeltrack-standalone data directory.")],
    backend: Annotated[str, typer.Option(help="cpu, cuda, or auto: cuda where there is a device.")] = "auto",
    batch: Annotated[int, typer.Option(min=1, max=4096, help="CUDA: events of a batch. CPU: events that are run, one by one.")] = 64,
    model: ModelOption = None,
    engine: EngineOption = None,
    counters: Annotated[
        bool, typer.Option("--counters", help="CUDA: read the hardware counters of every kernel with Nsight Compute.")
    ] = False,
    json: Annotated[Path | None, typer.Option(help="Write the figures to this file.")] = None,
    under_ncu: Annotated[Path | None, typer.Option(hidden=True, help="Be the process that --counters profiles.")] = None,
) -> None:
    """Time of every kernel of the chain, within the CUDA graph or on one CPU thread; with --counters why it takes that time."""
    from hltfarm.loadgen.source import open_source
    from hltfarm.proto.errors import ConfigError, SampleError
    from hltfarm.workers.configuration import DEFAULT, with_models
    from hltfarm.workers.kernel_bench import on_cpu, on_device, print_report, write_report
    from hltfarm.workers.reconstructor import cuda_available

    if backend not in ("auto", "cpu", "cuda"):
        raise ConfigError(f"--backend {backend!r}: use auto, cpu or cuda")
    check_file("--json", json)
    opened, config = open_source(source), with_models(DEFAULT, model, engine=engine)
    if len(opened) == 0:
        raise SampleError(f"{opened.name}: no events in it")
    if backend == "auto":
        backend = "cuda" if cuda_available() else "cpu"
    if under_ncu:
        from hltfarm.workers.counters import one_batch

        one_batch(opened, config, batch, under_ncu)
        return
    if counters:
        if backend == "cpu":
            raise ConfigError("--counters are those of a GPU; use --backend cuda on a machine with one")
        read_counters(opened, source, batch, model, engine, json)
        return
    times = on_device(opened, config, batch) if backend == "cuda" else on_cpu(opened, config, batch)
    if json:
        write_report(times, opened, backend, batch if backend == "cuda" else 1, json)
    print_report(times, f"{opened.name}, {backend}, " + (f"batches of {batch}" if backend == "cuda" else f"{batch} events"))


def read_counters(opened: Source, source: Path, batch: int, model: str | None, engine: str | None, json: Path | None) -> None:
    """Counters of one batch: this command again as a process under Nsight Compute."""
    from rich.console import Console

    from hltfarm.workers.counters import find_ncu, print_report, profile, write_report

    ncu = find_ncu()
    options = [f"--{name}={value}" for name, value in (("batch", batch), ("model", model), ("engine", engine)) if value is not None]
    with NamedTemporaryFile() as facts, Console(stderr=True).status(f"one batch of {batch} under {ncu}, every kernel many times"):
        again = ["-c", "from hltfarm.service.cli import main; main()", "bench", "kernels", str(source), "--backend", "cuda"]
        counted = profile(ncu, [sys.executable, *again, *options, f"--under-ncu={facts.name}"], Path(facts.name), batch)
    if json:
        write_report(counted, opened, batch, json)
    print_report(counted, f"{opened.name}, batch of {batch}")


def equality(
    source: Annotated[Path, typer.Argument(help="A .hlt sample file or a pixeltrack-standalone data directory.")],
    backend: Annotated[str, typer.Option(help="cpu, cuda, both, or auto: both where there is a device.")] = "auto",
    events: Annotated[int, typer.Option(min=1, help="Events of a run on the GPU; more than the sample has: it is read again.")] = 1000,
    batches: Annotated[str, typer.Option(help="Batch sizes (CPU: events of a task, up to 16).")] = "1,64,256",
    threads: Annotated[int, typer.Option(min=0, max=1024, help="CPU threads; 0: all cores of this process.")] = 0,
    model: ModelOption = None,
    engine: EngineOption = None,
    json: Annotated[Path | None, typer.Option(help="Write the comparison to this file.")] = None,
) -> None:
    """Whether every event has the same result, bit for bit, on CPU and GPU and in batches of every size; exit code 1 if not."""
    from rich.console import Console

    from hltfarm.loadgen.source import open_source
    from hltfarm.proto.errors import BackendError, ConfigError
    from hltfarm.workers.bench import read
    from hltfarm.workers.configuration import DEFAULT, with_models
    from hltfarm.workers.equality import print_report, run_equality, write_report
    from hltfarm.workers.reconstructor import cuda_available

    if backend not in ("auto", "cpu", "cuda", "both"):
        raise ConfigError(f"--backend {backend!r}: use auto, cpu, cuda or both")
    check_file("--json", json)
    if backend == "auto":
        backend = "both" if cuda_available() else "cpu"
    sizes, config = numbers(batches), with_models(DEFAULT, model, engine=engine)
    sample = read(open_source(source), events)
    with Console(stderr=True).status("") as status:
        runs = run_equality(sample, ("cpu", "cuda") if backend == "both" else (backend,), sizes, events, threads, config, status.update)
    if json:
        write_report(runs, sample, json)
    print_report(runs, sample)
    if any(run.unequal for run in runs):
        raise BackendError(f"{sample.name}: results are not the same in all runs")
    if all(run.left_out for run in runs):
        raise BackendError(f"nothing was compared: {runs[0].left_out}")


def selector(
    model: Annotated[str, typer.Argument(help="A shipped model or a folder with one.")],
    backend: Annotated[str, typer.Option(help="cpu, cuda, or auto: cuda where there is a device.")] = "auto",
    rows: Annotated[int, typer.Option(min=32, max=1 << 24, help="Tracks that are scored.")] = 100_000,
    runs: Annotated[int, typer.Option(min=3, help="Runs of each engine.")] = 100,
    engines: Annotated[str, typer.Option(help="Of fused,eager,compile,aot.")] = "fused,eager,compile,aot",
    json: Annotated[Path | None, typer.Option(help="Write the figures to this file.")] = None,
) -> None:
    """One selector of tracks, computed in every way: time, and how the scores differ."""
    from hltfarm.proto.errors import ConfigError
    from hltfarm.workers.dnn import FEATURES
    from hltfarm.workers.models import load
    from hltfarm.workers.models.registry import find
    from hltfarm.workers.reconstructor import cuda_available
    from hltfarm.workers.selector_bench import measure, print_report, write_report

    if backend not in ("auto", "cpu", "cuda"):
        raise ConfigError(f"--backend {backend!r}: use auto, cpu or cuda")
    check_file("--json", json)
    chosen = load(find(model), FEATURES)
    if backend == "auto":
        backend = "cuda" if cuda_available() else "cpu"
    points = measure(chosen, backend, rows, runs, names(engines))
    if json:
        write_report(points, chosen, json)
    print_report(points, chosen)


def names(text: str) -> list[str]:
    """Names from a comma-separated list; "none" is an empty one."""
    return [] if text == "none" else [name.strip() for name in text.split(",")]


def inference(
    models: Annotated[str | None, typer.Option(help="Models, of simple,masked,multihead,resnet,deepset,graph, or none.")] = None,
    sizes: Annotated[str | None, typer.Option(help="Sizes in elements (default: 1000 to 1000000, on CUDA to 10000000).")] = None,
    device: Annotated[str, typer.Option(help="cpu, cuda or auto.")] = "auto",
    runs: Annotated[int, typer.Option(min=3, help="Runs of each point, fewer where they take long.")] = 100,
    engines: Annotated[str | None, typer.Option(help="Engines, of eager,compile,aot, or none.")] = None,
    json: Annotated[Path | None, typer.Option(help="Write the figures to this file.")] = None,
    plots: Annotated[Path | None, typer.Option(help="Draw the figures into this folder.")] = None,
    quick: Annotated[bool, typer.Option("--quick", help="Small sizes and one small network, less than a minute.")] = False,
) -> None:
    """Models on the columns where they lie, against copies; eager, compiled and ahead-of-time engines by number of parameters."""
    from rich.console import Console

    from hltfarm.workers.inference.command import plan, run

    chosen = plan(
        device,
        quick=quick,
        runs=runs,
        models=None if models is None else names(models),
        sizes=None if sizes is None else numbers(sizes),
        engines=None if engines is None else names(engines),
    )
    check_folder("--plots", plots)
    if json is not None:
        check_folder("--json", json.parent)
        check_file("--json", json)
    run(chosen, json, plots, Console(width=160))


def register(app: typer.Typer) -> None:
    """Add the command group."""
    group = typer.Typer(help="Benchmarks.", no_args_is_help=True)
    group.command()(pipeline)
    group.command()(inference)
    group.command()(selector)
    group.command()(kernels)
    group.command()(equality)
    group.command()(farm)
    bench_curve.register(group)
    bench_control.register(group)
    group.command()(output)
    app.add_typer(group, name="bench")
