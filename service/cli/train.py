"""`hltfarm train`: a model from samples, as a package that the farm loads, and a report."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hltfarm.service.cli.options import ModelOption, WorkingPointOption
from hltfarm.service.cli.outputs import check_folder

if TYPE_CHECKING:
    from hltfarm.loadgen.training.perceptron import MlpConfig


class Kind(StrEnum):
    """What is trained."""

    MLP = "mlp"
    FOREST = "forest"


class Target(StrEnum):
    """What is scored."""

    TRACK = "track"
    EVENT = "event"


def train(
    context: typer.Context,
    sources: Annotated[list[Path] | None, typer.Argument(help="Samples with truth, for a selector of tracks.")] = None,
    out: Annotated[Path, typer.Option(help="Folder for the report; the model package becomes a folder of its name in it.")] = Path(
        "training"
    ),
    kind: Annotated[Kind, typer.Option(help="A dense network, or boosted trees (needs LightGBM).")] = Kind.MLP,
    target: Annotated[Target, typer.Option(help="A selector of tracks, or a classifier of events.")] = Target.TRACK,
    name: Annotated[str, typer.Option(help="Of the model.")] = "track-mlp",
    version: Annotated[int, typer.Option(min=1, help="Of the model.")] = 1,
    events: Annotated[int | None, typer.Option(min=1, help="Events of each sample; default: all.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Decides split, first weights and order of rows.")] = 1,
    test: Annotated[list[Path] | None, typer.Option(help="Samples to measure on; default: a part of the events of SOURCES.")] = None,
    signal: Annotated[list[Path] | None, typer.Option(help="Samples that a classifier of events should accept.")] = None,
    background: Annotated[list[Path] | None, typer.Option(help="Samples that it should reject.")] = None,
    test_signal: Annotated[list[Path] | None, typer.Option(help="Signal to measure on; default: a part of the events of --signal.")] = None,
    test_background: Annotated[list[Path] | None, typer.Option(help="Background to measure on, likewise.")] = None,
    feature: Annotated[
        list[str] | None, typer.Option(help="Feature of the model; several times; default: all, of events the physical ones.")
    ] = None,
    hidden: Annotated[str | None, typer.Option(help="Widths of the hidden layers of a network; default: 64,32, for events 8.")] = None,
    epochs: Annotated[int | None, typer.Option(min=1, help="Of a network, at most; default: 30, for events 300.")] = None,
    trees: Annotated[int, typer.Option(min=1, max=4096, help="Of a forest, at most.")] = 200,
    leaves: Annotated[int, typer.Option(min=2, max=1024, help="Of a tree.")] = 32,
    efficiency: Annotated[
        list[float] | None, typer.Option(help="Working points; default: 0.995 0.99 0.98, for events 0.98 0.95 0.9.")
    ] = None,
    default: Annotated[float | None, typer.Option(help="Working point that is used unless another one is asked for.")] = None,
    triplet_weight: Annotated[float, typer.Option(min=0.01, max=100, help="Of a triplet in the loss; longer tracks weigh 1.")] = 3.0,
    hard_exponent: Annotated[float, typer.Option(min=0, max=2, help="True tracks weigh as this power of pt, from 1 to 50 GeV.")] = 0.5,
    displaced_exponent: Annotated[float, typer.Option(min=0, max=2, help="And as this power of |tip|, from 0.01 to 0.1 cm.")] = 1.0,
    half: Annotated[bool, typer.Option(help="Store the weights of a network as float16.")] = False,
    overwrite: Annotated[bool, typer.Option(help="Replace a model package of this name.")] = False,
    config: Annotated[str, typer.Option(help="Reconstruction: default, or patatrack-phase1.")] = "default",
    model: ModelOption = None,
    working_point: WorkingPointOption = None,
    backend: Annotated[str, typer.Option(help="cpu, cuda, or auto: cuda where there is a device.")] = "auto",
    batch: Annotated[int, typer.Option(min=1, max=4096, help="Events that are reconstructed together.")] = 16,
    threads: Annotated[int, typer.Option(min=0, max=1024, help="CPU threads of the reconstruction; 0: all cores of this process.")] = 0,
) -> None:
    """Train a selector of tracks against truth, or a classifier of events, and write it as a model package.

    Needs the extra `train` (LightGBM, Matplotlib). --model and --working-point name the selector that a classifier of events works with.
    """
    from rich.console import Console
    from rich.progress import track
    from rich.table import Table

    from hltfarm.loadgen.training import samples
    from hltfarm.loadgen.training.figures import draw
    from hltfarm.loadgen.training.forest import ForestConfig
    from hltfarm.loadgen.training.job import TrainConfig, check_package, save_package
    from hltfarm.loadgen.training.job import train as run
    from hltfarm.loadgen.training.measure import selection
    from hltfarm.loadgen.training.page import PAGE, summary, write_report
    from hltfarm.loadgen.training.split import Fractions
    from hltfarm.loadgen.training.working_points import point_name
    from hltfarm.proto.errors import ConfigError
    from hltfarm.workers.configuration import PATATRACK_PHASE1, configuration, with_models
    from hltfarm.workers.models.manifest import MANIFEST

    tracks, testing = target == Target.TRACK, list(test or [])
    _check_samples(tracks, sources or [], signal or [], background or [], testing, test_signal or [], test_background or [])
    points = tuple(efficiency or ((0.995, 0.99, 0.98) if tracks else (0.98, 0.95, 0.9)))
    known = [point_name(point) for point in points]
    chosen = point_name(default if default is not None else (0.99 if tracks else 0.95))
    if chosen not in known:
        raise ConfigError(f"--default {chosen} is not one of the working points {', '.join(known)}; add it with --efficiency")
    names = _features(feature, tracks)
    settings = TrainConfig(
        kind=kind.value,
        seed=seed,
        mlp=_network(tracks, _widths(hidden or ("64,32" if tracks else "8")), epochs),
        forest=ForestConfig(trees=trees, leaves=leaves),
        fractions=Fractions() if tracks else Fractions(validation=0.3),
        efficiencies=points,
        default=chosen,
        triplet_weight=triplet_weight,
        hard_exponent=hard_exponent,
        displaced_exponent=displaced_exponent,
        half=half,
    )
    check_package(name, version, target.value, names, settings)
    reconstruction = with_models(configuration(config), None if tracks else model, None if tracks else working_point, event_model="none")
    package = out / name
    if package.exists() and not overwrite:
        raise ConfigError(f"{package} exists; choose another --name or --out, or --overwrite it")
    if package.exists() and not (package / MANIFEST).is_file():
        raise ConfigError(f"{package} is no model package, which --overwrite could replace; choose another --name or --out")
    check_folder("--out", out)
    console = Console(stderr=True)

    def watch(steps: Sequence[int], what: str) -> Iterable[int]:
        return track(steps, what, console=console, transient=True, disable=not console.is_terminal)

    def report(step: int, loss: float, stop: float) -> None:
        if console.is_terminal:
            console.print(f"{'tree' if kind == Kind.FOREST else 'epoch'} {step + 1}: loss {loss:.5f}, validation {stop:.5f}", end="\r")

    reading = samples.Reading(reconstruction, events, backend, batch, threads)
    if tracks:
        rows = samples.track_rows(sources or [], reading, watch)
        unseen = samples.track_rows(testing, reading, watch) if testing else None
    else:
        rows = samples.event_rows(signal or [], background or [], reading, watch)
        unseen = samples.event_rows(test_signal or [], test_background or [], reading, watch) if test_signal else None
    rows, unseen = rows.only(names), unseen.only(names) if unseen is not None else None
    about: dict[str, Any] = {
        "command": _command(context),
        "samples": [p.name for p in sources or []]
        if tracks
        else {"signal": [p.name for p in signal or []], "background": [p.name for p in background or []]},
        "test_samples": [p.name for p in (*testing, *(test_signal or []), *(test_background or []))],
        "configuration": reconstruction.name,
        "seed": seed,
    }
    trained = run(rows, unseen, settings, report)
    document = {"model": f"{name}-{version}", **about, **trained.document}
    if tracks and testing:
        other = samples.loose_tracks(testing, samples.Reading(PATATRACK_PHASE1, events, backend, batch, threads), watch)
        document["selections"] = {
            f"loose, {PATATRACK_PHASE1.name}": selection(other, other.label | ~other.label, other.events),
            **document["selections"],
        }
    saved = save_package(trained, package, name, version, settings, rows, about, overwrite=overwrite)
    write_report(document, draw(document, out), out)
    stdout = Console()
    title, head, lines = summary(document)
    shown = Table(*head, title=title, title_justify="left")
    for line in lines:
        shown.add_row(*line)
    stdout.print(shown)
    stdout.print(f"model: {package} ({saved.hash})", soft_wrap=True)
    stdout.print(f"report: {out / PAGE}", soft_wrap=True)


def _check_samples(
    tracks: bool,
    sources: list[Path],
    signal: list[Path],
    background: list[Path],
    test: list[Path],
    test_signal: list[Path],
    test_background: list[Path],
) -> None:
    """Raise ConfigError unless the samples are those that the target needs."""
    from hltfarm.proto.errors import ConfigError

    if tracks and (signal or background or test_signal or test_background):
        raise ConfigError("--signal and --background are for --target event; a selector of tracks takes samples with truth as SOURCES")
    if tracks and not sources:
        raise ConfigError("a selector of tracks needs at least one sample with truth")
    if not tracks and (sources or test):
        raise ConfigError("a classifier of events takes --signal and --background, and --test-signal and --test-background to measure on")
    if not tracks and not (signal and background):
        raise ConfigError("a classifier of events needs --signal and --background")
    if bool(test_signal) != bool(test_background):
        raise ConfigError("--test-signal and --test-background belong together")


def _features(asked: list[str] | None, tracks: bool) -> tuple[str, ...]:
    """Names of the features to train with. Raises ConfigError for one that is not known, or that is named twice."""
    from hltfarm.loadgen.training.samples import EVENT_FEATURES
    from hltfarm.proto.errors import ConfigError
    from hltfarm.workers.dnn import FEATURES
    from hltfarm.workers.dnn.selector import EVENT_INPUTS

    known = FEATURES if tracks else EVENT_INPUTS
    if not asked:
        return FEATURES if tracks else EVENT_FEATURES
    for name in asked:
        if name not in known:
            raise ConfigError(f"--feature {name}: unknown; known are {', '.join(known)}")
    if len(set(asked)) < len(asked):
        raise ConfigError("--feature: a feature is named twice")
    return tuple(asked)


def _network(tracks: bool, hidden: tuple[int, ...], epochs: int | None) -> MlpConfig:
    """Events are few, and their quantities have long tails."""
    from hltfarm.loadgen.training.perceptron import MlpConfig

    if tracks:
        return MlpConfig(hidden, epochs or 30)
    return MlpConfig(hidden, epochs or 300, patience=40, batch_rows=128, weight_decay=1e-2, robust=True)


def _command(context: typer.Context) -> str:
    """The command line as far as it was given, files and folders by their names: where they lie on this machine tells nobody anything."""
    words = ["hltfarm", "train"]
    for parameter in context.command.params:
        name = str(parameter.name)
        source = context.get_parameter_source(name)
        if source is None or source.name != "COMMANDLINE":
            continue
        value = context.params[name]
        for entry in value if isinstance(value, list | tuple) else [value]:
            text = Path(entry).name if isinstance(entry, Path) or name == "model" else str(entry)
            if parameter.param_type_name == "argument":
                words.append(text)
            elif isinstance(entry, bool):
                words.append(parameter.opts[0] if entry else parameter.secondary_opts[0])
            else:
                words += [parameter.opts[0], text]
    return shlex.join(words)


def _widths(text: str) -> tuple[int, ...]:
    """Widths from "64,32". Raises ConfigError."""
    from hltfarm.proto.errors import ConfigError
    from hltfarm.workers.dnn import MLP_MAX_WIDTH
    from hltfarm.workers.models.contents import MAX_LAYERS

    try:
        widths = tuple(int(part) for part in text.split(","))
    except ValueError:
        raise ConfigError(f"--hidden {text!r}: not a list of widths such as 64,32") from None
    if not all(1 <= width <= MLP_MAX_WIDTH for width in widths) or len(widths) >= MAX_LAYERS:
        raise ConfigError(f"--hidden {text!r}: up to {MAX_LAYERS - 1} widths, each 1 to {MLP_MAX_WIDTH}, which is what the kernels compute")
    return widths


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(train)
