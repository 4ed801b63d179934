"""The command line `hltfarm`: which commands there are, and how every one of them ends.

Each module of this folder defines `register(app)` and imports what its commands need inside them, so that `hltfarm --help`
stays quick and a missing optional dependency hurts only the command that needs it. Nothing ends with a traceback:

    0    done
    1    hltfarm could not do it (a device, a server, the accounting of a run)
    2    the caller gave something unusable: an option, a file, a configuration
    130  interrupted from the keyboard

`HLTFARM_DEBUG=1` lets tracebacks through.
"""

from __future__ import annotations

import importlib
import os
import signal
import sys
from collections.abc import Sequence
from importlib.metadata import version
from types import FrameType
from typing import Annotated

import typer

from hltfarm.proto.errors import HltfarmError, InputError

#: Command -> module of this folder that registers it; in the order of `--help`.
COMMANDS: dict[str, str] = {
    "demo": "demo",
    "simulate": "simulate",
    "sample": "sample",
    "reco": "reco",
    "export": "export",
    "compare": "compare",
    "detector": "detector",
    "menu": "menu",
    "validate": "validate",
    "serve": "serve",
    "ctl": "ctl",
    "control": "roles",
    "ingest": "roles",
    "worker": "roles",
    "drain": "drain",
    "health": "health",
    "token": "security",
    "keys": "security",
    "registry": "registry",
    "load": "load",
    "tap": "tap",
    "bench": "bench",
    "chaos": "chaos",
    "replay": "replay",
    "soak": "soak",
    "models": "models",
    "train": "train",
}

#: Modules that come with an extra of the distribution.
EXTRAS = {
    "awkward": "data",
    "cupy": "cuda",
    "cupyx": "cuda",
    "lightgbm": "train",
    "matplotlib": "validate",
    "opentelemetry": "otel",
    "pyarrow": "data",
    "pythia8mc": "sim",
    "torch": "torch",
    "uproot": "data",
}

EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_INTERRUPTED = 130
DEBUG_VARIABLE = "HLTFARM_DEBUG"


def build_app(command: str | None = None) -> typer.Typer:
    """The command tree: with the module of `command` only, when it is the name of one, else with all of them."""
    app = typer.Typer(
        name="hltfarm",
        help="A high-level-trigger farm for pixel detectors.",
        add_completion=False,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
        context_settings={"help_option_names": ["-h", "--help"]},
    )

    @app.callback(invoke_without_command=True)
    def root(
        context: typer.Context,
        show_version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False,
    ) -> None:
        if show_version:
            typer.echo(f"hltfarm {version('hltfarm')}")
        elif context.invoked_subcommand is None:
            typer.echo(context.get_help())

    modules = [COMMANDS[command]] if command in COMMANDS else list(dict.fromkeys(COMMANDS.values()))
    for module in modules:
        register(app, module)
    return app


def register(app: typer.Typer, module: str) -> None:
    """Add the commands of a module of this folder."""
    importlib.import_module(f"{__name__}.{module}").register(app)


def one_line(error: BaseException) -> str:
    """The message of an error on one line; the name of its type where it has no message."""
    return " ".join(str(error).split()) or type(error).__name__


def run(arguments: Sequence[str]) -> int:
    """Run one command line and return its exit code; errors become one line on stderr."""
    if os.environ.get(DEBUG_VARIABLE, "") not in ("", "0"):
        return invoke(arguments)
    try:
        return invoke(arguments)
    except (KeyboardInterrupt, typer.Abort):
        return EXIT_INTERRUPTED
    except typer.TyperException as error:
        message = error.format_message()
        if message.startswith("Usage:"):  # a group of commands that was given none: its help
            sys.stderr.write(message + "\n")
            return EXIT_USAGE
        context = getattr(error, "ctx", None)
        command = "hltfarm" if context is None else context.command_path
        return fail(f"{' '.join(message.split())} (see `{command} --help`)", EXIT_USAGE)
    except InputError as error:
        return fail(one_line(error), EXIT_USAGE)
    except HltfarmError as error:
        return fail(one_line(error), EXIT_FAILED)
    except BrokenPipeError:
        # The reader of our output is gone (`| head`): the rest has nowhere to go, the interpreter's last flush included.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_FAILED
    except ModuleNotFoundError as error:
        return fail(f"this command needs the module {error.name!r}, which is not installed{hint(error.name)}", EXIT_FAILED)
    except OSError as error:
        return fail(one_line(error), EXIT_FAILED)
    except Exception as error:
        return fail(f"internal error: {type(error).__name__}: {one_line(error)} ({DEBUG_VARIABLE}=1 shows where)", EXIT_FAILED)


def invoke(arguments: Sequence[str]) -> int:
    """Run one command line; its errors pass through. A command may return an exit code."""
    app = build_app(arguments[0] if arguments else None)
    result = app(args=list(arguments), prog_name="hltfarm", standalone_mode=False)
    return result if isinstance(result, int) else 0


def hint(module: str | None) -> str:
    """How to get a module that is missing, where an extra brings it."""
    extra = EXTRAS.get((module or "").partition(".")[0])
    return f": pip install 'hltfarm[{extra}]'" if extra else ""


def fail(message: str, code: int) -> int:
    """Say what went wrong, in one line on stderr, and hand the exit code back. Files of strangers may have told the text."""
    plain = "".join(character if character.isprintable() else "?" for character in message)
    sys.stderr.write(f"hltfarm: error: {plain}\n")
    return code


def end(number: int, frame: FrameType | None) -> None:
    """End as a process does that leaves the signal alone."""
    sys.exit(128 + number)


def main() -> None:
    """Entry point of the command `hltfarm`.

    The kernel keeps SIGTERM from a process 1 that does not handle it: without this a container could not be stopped before its role
    handles the signal itself, nor one that runs another command.
    """
    if os.getpid() == 1:
        signal.signal(signal.SIGTERM, end)
    sys.exit(run(sys.argv[1:]))
