"""The reference of the command line and of its variables, from the commands themselves."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer
from typer.core import TyperGroup

from hltfarm.service.cli import build_app

ROOT = Path(__file__).resolve().parents[2]
#: Variables that are no option's. A new one in the sources without a line here stops the build.
OTHERS = {
    "HLTFARM_CPU": "CPU kernels instead of the best ones that the processor runs: `x86-64-v3` or `baseline`. The bits are the same.",
    "HLTFARM_DEBUG": "Not empty and not 0: errors of the command line end with a traceback.",
    "HLTFARM_FAULTS": "Set by `hltfarm chaos` for the processes that it strikes; not for people.",
    "HLTFARM_TOKEN": "Token that `hltfarm ctl` and the Python client of the HTTP interface send: [security.md](../security.md).",
}
HEAD = "---\ntitle: {title}\n---\n\n# {title}\n\n{text}\n"
CLI = "Every command as `--help` tells it. Bad arguments and bad files end with one line on stderr and exit code 2, failures with 1."
VARIABLES = "Options that a variable can give; what stands on the command line goes first. Containers are set up with them alone."


def context_of(command: Any, parent: Any, name: str) -> Any:
    """What a command needs to tell about itself."""
    return typer.Context(command, parent=parent, info_name=name)


def commands(command: Any = None, parent: Any = None, name: str = "hltfarm") -> Iterator[tuple[str, Any, Any]]:
    """Path, command and context of every command, groups before what they hold; names that are hidden left out."""
    command = command or typer.main.get_command(build_app())
    context = context_of(command, parent, name)
    yield context.command_path, command, context
    if isinstance(command, TyperGroup):
        for sub, inner in command.commands.items():
            if not inner.hidden:
                yield from commands(inner, context, sub)


def cell(text: str) -> str:
    """A text in a table."""
    return " ".join(text.split()).replace("|", "\\|")


def dedented(text: str) -> str:
    """A docstring as the page has it."""
    lines = text.strip("\n").split("\n")
    indent = min((len(line) - len(line.lstrip()) for line in lines[1:] if line.strip()), default=0)
    return "\n".join([lines[0].strip(), *(line[indent:] for line in lines[1:])]).replace("\f", "").strip()


def cli_page() -> str:
    """Every command with its arguments and options."""
    parts = [HEAD.format(title="Command line", text=CLI)]
    for path, command, context in commands():
        depth = min(4, 1 + len(path.split()))
        if path == "hltfarm":
            names = [f"[`{name}`](#hltfarm-{name})" for name, inner in command.commands.items() if not inner.hidden]
            parts.append(" · ".join(names) + "\n")
            continue
        usage = " ".join(context.command.get_usage(context).split()).removeprefix("Usage: ")
        parts.append(f"{'#' * depth} `{path}`\n\n{dedented(command.help or '')}\n\n```text\n{usage}\n```\n")
        rows = [record for parameter in command.params if (record := parameter.get_help_record(context)) is not None]
        if rows:
            parts.append("| argument or option | is |\n|---|---|")
            parts += [f"| `{cell(name)}` | {cell(text)} |" for name, text in rows]
            parts.append("")
    return "\n".join(parts) + "\n"


def variables() -> dict[str, list[tuple[str, str, str]]]:
    """Variable -> command, option and meaning, for each option that takes it."""
    found: dict[str, list[tuple[str, str, str]]] = {}
    for path, command, context in commands():
        for parameter in command.params:
            given = parameter.envvar or ()
            for name in [given] if isinstance(given, str) else given:
                record = parameter.get_help_record(context)
                text = re.sub(r"env var: \S+?(; |\])", lambda match: "" if match[1] == "; " else "]", record[1] if record else "").replace(
                    "[]", ""
                )
                found.setdefault(name, []).append((path, max(parameter.opts, key=len), text.strip()))
    return found


def in_sources() -> set[str]:
    """Every variable that the sources name."""
    command = ["git", "grep", "-hoE", "HLTFARM_[A-Z][A-Z_]*[A-Z]", "--", "proto/*.py", "service/*.py", "workers/*.py", "loadgen/*.py"]
    return set(subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout.split())


def environment_page() -> str:
    """Every variable, the options that it stands for, and what else hltfarm reads from the environment."""
    known = variables()
    unknown = in_sources() - set(known) - set(OTHERS)
    if unknown:
        raise ValueError(f"docs/site/ref_cli.py: nothing is said about {', '.join(sorted(unknown))}")
    parts = [HEAD.format(title="Environment variables", text=VARIABLES), "| variable | option of | is |\n|---|---|---|"]
    for name, uses in sorted(known.items()):
        option, text = uses[0][1], uses[0][2]
        where = ", ".join(
            dict.fromkeys(
                f"[`{path.removeprefix('hltfarm ')} {option}`](cli.md#{path.replace(' ', '-')})" if path != "hltfarm" else option
                for path, option, _ in uses
            )
        )
        parts.append(f"| `{name}` | {where} | {cell(text)} |" if option else "")
    parts += ["", "## Others", "", "| variable | is |", "|---|---|", *(f"| `{name}` | {text} |" for name, text in OTHERS.items())]
    return "\n".join(parts) + "\n"
