"""`hltfarm models`: which models there are, what one is, whether it is sound, and its export."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from hltfarm.workers.models import Model

Named = Annotated[str, typer.Argument(metavar="NAME|DIR", help="A shipped model (NAME or NAME@VERSION) or the folder of a model package.")]


def list_models() -> None:
    """The models that are part of the distribution."""
    from hltfarm.workers.models import load
    from hltfarm.workers.models.registry import shipped

    rows = [("NAME", "VERSION", "KIND", "TARGET", "FEATURES", "DEFAULT", "HASH", "CONTENT")]
    for directory in shipped().values():
        model = load(directory)
        numbers = (str(model.version), model.kind, model.target, str(len(model.features)), model.manifest.default_working_point)
        rows.append((model.name, *numbers, model.hash, content(model)))
    if len(rows) == 1:
        typer.echo("no models are shipped with this distribution")
        return
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        typer.echo("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def show(name: Named, json: Annotated[bool, typer.Option("--json", help="As JSON: model.json, hash and content.")] = False) -> None:
    """What a model is: features, working points, content, training."""
    import json as codec

    from hltfarm.workers.models import load
    from hltfarm.workers.models.registry import find

    directory = find(name)
    model = load(directory)
    described = model.manifest.model_dump(mode="json", exclude_defaults=True)
    if json:
        typer.echo(codec.dumps({**described, "hash": model.hash, "directory": str(directory), "content": content(model)}, indent=1))
        return
    typer.echo(f"{model.name} version {model.version}, hash {model.hash}: {model.kind} on the {model.target}, {content(model)}")
    if model.manifest.description:
        typer.echo(model.manifest.description)
    typer.echo(f"directory: {directory}")
    for i, group in enumerate(model.inputs):
        typer.echo(f"input {i}: {', '.join(group)}")
    for cut in model.manifest.cuts:
        typer.echo(f"cut: {cut.model_dump_json(exclude_defaults=True)}")
    for point, thresholds in model.manifest.working_points.items():
        mark = " (default)" if point == model.manifest.default_working_point else ""
        typer.echo(f"working point {point}{mark}: " + ", ".join(f"{which} >= {value:g}" for which, value in thresholds.items()))
    for key, value in model.manifest.training.items():
        typer.echo(f"training {key}: {value if isinstance(value, str) else codec.dumps(value)}")


def check(
    name: Named,
    device: Annotated[str, typer.Option(help="Device of the engines: cpu, cuda, cuda:1.")] = "cpu",
    rows: Annotated[int, typer.Option(min=1, max=1 << 20, help="Random rows to score.")] = 4096,
    seed: Annotated[int, typer.Option(min=0, help="Of the random rows.")] = 1,
    cache: Annotated[Path | None, typer.Option(help="Folder of compiled models (default: in the user's cache).")] = None,
) -> int:
    """Check a model package, run it in every engine that works here, and compare the scores."""
    from hltfarm.proto.errors import BackendError
    from hltfarm.workers.dnn.features import FEATURES
    from hltfarm.workers.models import load
    from hltfarm.workers.models.engines import ENGINES, TOLERANCE, build, compare
    from hltfarm.workers.models.registry import find

    model = load(find(name))
    typer.echo(f"{model.name} version {model.version}, hash {model.hash}: the package is sound")
    unknown = [feature for feature in model.features if feature not in FEATURES]
    if model.target == "track" and unknown:
        typer.echo(f"features that this version of hltfarm does not compute: {', '.join(unknown)}")
    eager = build(model, device, "eager", max_rows=rows)
    bad = model.target == "track" and bool(unknown)
    for engine in ENGINES:
        try:
            built = build(model, device, engine, max_rows=rows, cache_dir=cache)
        except BackendError as error:
            typer.echo(f"{engine}: not available: {error}")
            continue
        difference = compare(built, eager, model, rows, seed)
        bad |= not difference <= TOLERANCE
        typer.echo(f"{engine}: {rows} rows on {device}, largest difference from eager {difference:.2g} (allowed: {TOLERANCE:g})")
    return 1 if bad else 0


def export(
    name: Named,
    out: Annotated[Path, typer.Option(help="FILE.pt2 for the torch.export archive alone, another name for a model package.")],
) -> None:
    """Write a model as an exported torch program (.pt2), for other tools or as a package of kind pt2."""
    from hltfarm.proto.errors import ConfigError
    from hltfarm.workers.models import load, save
    from hltfarm.workers.models.exporting import export_model
    from hltfarm.workers.models.registry import find

    model = load(find(name))
    if out.exists():
        raise ConfigError(f"--out {out} exists; choose another name")
    content = export_model(model)
    if out.suffix == ".pt2":
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_bytes(content.archive)
    else:
        described = model.manifest
        save(
            out,
            content,
            name=described.name,
            version=described.version,
            target=described.target,
            features=described.features,
            working_points=described.working_points,
            default_working_point=described.default_working_point,
            description=f"Exported from {model.kind} {model.hash}. {described.description}".strip()[:4000],
            training=described.training,
        )
    typer.echo(f"{out}: {model.name} version {model.version} as exported program, {len(content.archive):,} bytes")


def content(model: Model) -> str:
    """What a model consists of, in a few words."""
    from hltfarm.workers.models import Cuts, Exported, Forest, MlpWeights

    match model.content:
        case MlpWeights() as mlp:
            parameters = sum(weight.size + bias.size for weight, bias in mlp.layers)
            return f"{'-'.join(map(str, mlp.widths))}, {parameters:,} parameters"
        case Forest() as forest:
            return f"{len(forest.root)} trees, {len(forest.left):,} nodes, depth {forest.depth}"
        case Cuts() as cuts:
            return f"{len(cuts.cuts)} cuts"
        case Exported() as exported:
            return f"exported program of {len(exported.archive):,} bytes"


def register(app: typer.Typer) -> None:
    """Add the command group."""
    group: Any = typer.Typer(help="Models: list, show, check, export.", no_args_is_help=True)
    group.command("list")(list_models)
    group.command()(show)
    group.command()(check)
    group.command()(export)
    app.add_typer(group, name="models")
