"""`hltfarm ctl`: a running farm, steered and looked at over its HTTP API. Exit codes, beside those of every command:

0  done
1  the farm refused it, or could not do it
2  the command line, a menu or a model cannot be used
3  no farm answers at the URL
"""

from __future__ import annotations

from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from hltfarm.service.cli import fail, one_line

EXIT_NO_ANSWER = 3
URL_VARIABLE, DEFAULT_URL = "HLTFARM_URL", "http://127.0.0.1:8080"
#: Options that every command of the group takes, and may stand behind it as well; whether they have a value.
_SHARED = {"--url": True, "--token": True, "--json": False}


def shared_first(arguments: list[str]) -> list[str]:
    """The command line with the shared options in front, where the group looks for them; what follows `--` stays."""
    end = arguments.index("--") if "--" in arguments else len(arguments)
    front: list[str] = []
    rest: list[str] = []
    given = iter(arguments[:end])
    for word in given:
        name, equals, _value = word.partition("=")
        if name not in _SHARED:
            rest.append(word)
            continue
        front.append(word)
        if _SHARED[name] and not equals:
            front += [value for value in [next(given, None)] if value is not None]
    return front + rest + arguments[end:]


class CtlGroup(TyperGroup):
    """Takes the shared options anywhere, and turns the errors of the farm into exit codes and lines on stderr."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """See click."""
        return super().parse_args(ctx, shared_first(args))

    def invoke(self, ctx: Any) -> Any:
        """See click."""
        from hltfarm.proto.errors import StateError
        from hltfarm.service.api import FarmError, NoAnswerError

        try:
            return super().invoke(ctx)
        except NoAnswerError as error:
            return fail(f"no farm answers: {one_line(error)} (--url or {URL_VARIABLE})", EXIT_NO_ANSWER)
        except StateError as error:
            if not error.legal:
                return fail(one_line(error), 1)
            legal = ", ".join(error.legal)  # the farm's message may end with them, too
            return fail(f"{one_line(error).removesuffix(f'; legal: {legal}')}; now possible: {legal}", 1)
        except FarmError as error:
            for line, text in error.faults:
                typer.echo(f"menu:{line}: {text}", err=True)
            if error.faults:
                count = len(error.faults)
                return fail(f"the menu cannot be used: {count} {'fault' if count == 1 else 'faults'}, see above", 2)
            return fail(one_line(error), 2 if error.status == 422 else 1)


def register(app: typer.Typer) -> None:
    """Add the command group."""
    from hltfarm.service.cli.ctl import menus, models, runs, shadow, watch, workers
    from hltfarm.service.cli.ctl.session import Session

    group: Any = typer.Typer(help="Steer a running farm over its HTTP API.", no_args_is_help=True, cls=CtlGroup)

    def shared(
        context: typer.Context,
        url: Annotated[str, typer.Option(help="Of the farm's API.", envvar=URL_VARIABLE)] = DEFAULT_URL,
        token: Annotated[str | None, typer.Option(help="Of the API; better in HLTFARM_TOKEN, where nobody else sees it.")] = None,
        json: Annotated[bool, typer.Option("--json", help="Print what the farm answers, as JSON.")] = False,
    ) -> None:
        context.obj = Session(url=url, token=token, json=json)

    group.callback()(shared)
    for part in (runs, watch, workers, menus, models, shadow):
        part.register(group)
    app.add_typer(group, name="ctl")
