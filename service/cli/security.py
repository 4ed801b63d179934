"""`hltfarm token`: tokens of the HTTP API; and what the roles make of their options of security."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from hltfarm.service.control.access import AccessSettings

token = typer.Typer(help="Tokens of the HTTP API.", no_args_is_help=True)


def access_settings(http: str, tokens: Path | None, *, open_metrics: bool, insecure: bool) -> AccessSettings:
    """Settings of the API's door. Raises ConfigError where others could reach it and nobody is asked for a token."""
    from hltfarm.service.control.access import AccessSettings
    from hltfarm.service.security.binds import check_http

    check_http(http, tokens=tokens is not None, insecure=insecure)
    return AccessSettings(tokens=tokens, open_metrics=open_metrics, local_only=tokens is None and not insecure)


def moment(text: str | None) -> datetime | None:
    """A day or a moment (ISO 8601; without zone UTC) that is to come. Raises ConfigError."""
    from hltfarm.proto.errors import ConfigError

    if text is None:
        return None
    try:
        value = datetime.fromisoformat(text)
    except ValueError:
        raise ConfigError(f"--expires {text!r}: give a day or a moment, such as 2027-01-31 or 2027-01-31T18:00:00Z") from None
    value = value if value.tzinfo is not None else value.replace(tzinfo=UTC)
    if value <= datetime.now(UTC):
        raise ConfigError(f"--expires {text}: that is over already")
    return value


@token.command()
def new(
    name: Annotated[str, typer.Argument(help="Whom the token stands for; shown wherever it says who did what.")],
    role: Annotated[str, typer.Option(help="viewer, operator or admin.")] = "viewer",
    expires: Annotated[str | None, typer.Option(help="Day or moment (ISO 8601, UTC) from which it is refused; default: never.")] = None,
    file: Annotated[Path | None, typer.Option(help="Tokens file to add its entry to; made if there is none.")] = None,
) -> None:
    """Make a token. It is shown this once; the farm keeps its SHA-256 alone."""
    from hltfarm.service.security.tokens import Role, add_entry, entry_text, new_token

    fresh, entry = new_token(name, Role.of(role), moment(expires))
    if file is not None:
        add_entry(file, entry)
        typer.echo(f"entry of {name!r} added to {file}", err=True)
    else:
        typer.echo(f"entry for the list `tokens:` of the tokens file (mode 0600):\n{entry_text(entry)}", err=True)
    typer.echo("the token, shown this once:", err=True)
    typer.echo(fresh)


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.add_typer(token, name="token")
