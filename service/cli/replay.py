"""`hltfarm replay`: what happened to the events of the error stream, seen again."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hltfarm.service.cli.outputs import check_file


def replay(
    bundle: Annotated[Path, typer.Argument(help="A bundle of the error stream, or a folder of bundles.")],
    conditions: Annotated[
        str | None, typer.Option(help="Detector in the place of the bundle's: phase1, a detector file, or a folder with conditions.")
    ] = None,
    model: Annotated[
        str | None, typer.Option(help="Selector of tracks in the place of the bundle's: a shipped model, or a folder.")
    ] = None,
    event_model: Annotated[
        str | None, typer.Option(help="Classifier of events in the place of the bundle's: a shipped model, or a folder.")
    ] = None,
    backend: Annotated[str, typer.Option(help="cpu, cuda, or auto: cuda where there is a device.")] = "auto",
    times: Annotated[int, typer.Option(min=1, max=1000, help="Reconstructions of each event, whose bits are compared.")] = 2,
    timeout_s: Annotated[float, typer.Option(min=0.1, max=86_400, help="An event that takes longer hangs.")] = 60.0,
    force: Annotated[
        bool, typer.Option("--force", help="Replay also with another menu, other models or conditions than the bundle's.")
    ] = False,
    details: Annotated[bool, typer.Option("--details", help="Show tracebacks, and the last words of processes that died.")] = False,
    json: Annotated[Path | None, typer.Option(help="Write everything to this file.")] = None,
) -> int:
    """Reconstruct events that a farm could not decide, alone, with what decided there, in a process that may die of them.

    Exit code 0: all were reconstructed, each time with the same bits; 1: a failure is seen again, or another one; 2: a bundle is damaged,
    or cannot be replayed here.
    """
    import json as json_format

    from rich.console import Console
    from rich.markup import escape

    from hltfarm.proto.errors import ConfigError, HltfarmError
    from hltfarm.service.replay.bundle import find_bundles, read_bundle
    from hltfarm.service.replay.report import Unusable, exit_code, lines, summary, to_json
    from hltfarm.service.replay.session import Options, Replay
    from hltfarm.service.replay.session import replay as replay_bundle

    if backend not in ("cpu", "cuda", "auto"):
        raise ConfigError(f"--backend {backend!r}: choose cpu, cuda or auto")
    check_file("--json", json)
    options = Options(
        conditions=_path_or_name(conditions),
        model=_path_or_name(model),
        event_model=_path_or_name(event_model),
        backend=backend,
        times=times,
        timeout_s=timeout_s,
        force=force,
    )
    folders = find_bundles(bundle)
    outcomes: list[Replay | Unusable] = []
    errors = Console(stderr=True)
    for folder in folders:
        outcome: Replay | Unusable
        with errors.status("") as status:
            try:
                outcome = replay_bundle(read_bundle(folder), options, lambda text: status.update(escape(text)))
            except HltfarmError as error:
                if len(folders) == 1 and json is None:
                    raise ConfigError(str(error)) from error
                outcome = Unusable(folder, str(error))
        outcomes.append(outcome)
        typer.echo("\n".join(lines(outcome, details)))
    if len(outcomes) > 1:
        typer.echo(summary(outcomes))
    if json is not None:
        json.write_text(json_format.dumps(to_json(outcomes), indent=1) + "\n")
    return exit_code(outcomes)


def _path_or_name(value: str | None) -> str:
    """A folder as the child finds it, wherever it looks from; anything else as it is."""
    if not value:
        return ""
    return str(Path(value).resolve()) if Path(value).is_dir() else value


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(replay)
