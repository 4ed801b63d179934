"""`hltfarm token` and `hltfarm keys`: tokens of the HTTP API, CURVE keys of ZeroMQ peers; and what roles make of such options."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from hltfarm.service.control.access import AccessSettings
    from hltfarm.service.security.keys import ClientCurve, ServerCurve

keys = typer.Typer(help="CURVE keys of ZeroMQ peers.", no_args_is_help=True)
token = typer.Typer(help="Tokens of the HTTP API.", no_args_is_help=True)


def access_settings(http: str, tokens: Path | None, *, open_metrics: bool, insecure: bool) -> AccessSettings:
    """Settings of the API's door. Raises ConfigError where others could reach it and nobody is asked for a token."""
    from hltfarm.service.control.access import AccessSettings
    from hltfarm.service.security.binds import check_http
    from hltfarm.service.security.tokens import load_tokens

    check_http(http, tokens=tokens is not None, insecure=insecure)
    if tokens is not None:
        load_tokens(tokens)  # what cannot be used ends the command before it starts anything
    return AccessSettings(tokens=tokens, open_metrics=open_metrics, local_only=tokens is None and not insecure)


def server_curve(key: Path | None, allow: Path | None) -> ServerCurve | None:
    """Keys of ingests. Raises ConfigError for one without the other, and for files that cannot be used."""
    from hltfarm.proto.errors import ConfigError
    from hltfarm.service.security.keys import ServerCurve, load_allow_list, load_secret

    if key is None and allow is None:
        return None
    if key is None or allow is None:
        raise ConfigError("--curve-key FILE and --allow DIR belong together: the key of the ingest, and the keys of those who may come")
    load_allow_list(allow)
    return ServerCurve(load_secret(key), allow)


def client_curve(key: Path | None, server_key: Path | None) -> ClientCurve | None:
    """Keys of one who connects to ingests. Raises as `server_curve`."""
    from hltfarm.proto.errors import ConfigError
    from hltfarm.service.security.keys import ClientCurve, load_public, load_secret

    if key is None and server_key is None:
        return None
    if key is None or server_key is None:
        raise ConfigError("--key FILE and --server-key FILE belong together: the own secret key, and the public one of the ingests")
    return ClientCurve(load_public(server_key), load_secret(key))


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


@keys.command("new")
def new_pair(
    name: Annotated[str, typer.Argument(help="Name of the files, and of the peer in an allow-list.")],
    out: Annotated[Path, typer.Option(help="Folder for the two files.")] = Path("."),
) -> None:
    """Make a pair of keys: NAME.key to be handed out, NAME.key_secret to be kept (mode 0600)."""
    from hltfarm.service.security.keys import new_keys

    public, secret = new_keys(name, out)
    typer.echo(f"public key, to be handed out: {public}\nsecret key, to be kept: {secret}")


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.add_typer(token, name="token")
    app.add_typer(keys, name="keys")
