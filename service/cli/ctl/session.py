"""What the commands of `hltfarm ctl` share: the connection, and how answers are printed."""

from __future__ import annotations

import json as codec
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

if TYPE_CHECKING:
    from hltfarm.service.api import FarmApi

NoWait = Annotated[bool, typer.Option("--no-wait", help="Do not wait until it is done; print the transition to follow.")]
Timeout = Annotated[float, typer.Option(min=0.1, max=86400, help="Longest wait, in seconds.")]
Partial = Annotated[bool, typer.Option("--partial", help="Go on without ingests that do not answer; they follow when they are back.")]
TIMEOUT_S = 120.0


@dataclass(frozen=True, slots=True)
class Session:
    """The shared options. `token` None: that of the environment."""

    url: str
    token: str | None
    json: bool

    def farm(self) -> AbstractContextManager[FarmApi]:
        """A connection, for a `with` block."""
        from hltfarm.service.api import FarmApi

        return FarmApi(self.url, token=self.token)

    def show(self, answer: Any, text: Callable[[Any], str]) -> None:
        """Print an answer: as JSON if that was asked for, else what `text` makes of it."""
        typer.echo(codec.dumps(answer, indent=1) if self.json else text(answer))

    def wait(self, farm: FarmApi, answer: dict[str, Any], no_wait: bool, timeout_s: float) -> None:
        """Follow the transition of an answer (unless told not to), and print what became of it."""
        self.show(answer if no_wait else farm.follow(answer, timeout_s), transition_text)


def session_of(context: typer.Context) -> Session:
    """The session that the group has made."""
    return cast(Session, context.obj)


def transition_text(answer: dict[str, Any]) -> str:
    """A transition, or the status that a quick command answers with."""
    if "progress" not in answer:
        run = f", run {answer['run']}" if answer.get("run") is not None else ""
        return f"{answer['state']}{run}" if "state" in answer else "done"
    run = f" of run {answer['run']}" if answer.get("run") is not None else ""
    lumi = f", from lumisection {answer['lumisection']} on" if answer.get("lumisection") else ""
    follow = f"; follow it at /v1/transitions/{answer['id']}" if answer["progress"] == "pending" else f" after {answer['seconds']:.1f} s"
    return f"{answer['command']}{run}: {answer['progress']}{lumi}{follow}"


def table(headers: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Left-aligned columns, two blanks apart, for people and for `awk`. Empty cells are dashes."""
    cells = [list(headers), *[["-" if cell in (None, "") else str(cell) for cell in row] for row in rows]]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in cells)


def moment(text: str | None) -> str:
    """A time of the API to the second."""
    return "-" if text is None else text[:19].replace("T", " ")


def models_text(models: Sequence[dict[str, Any]]) -> str:
    """Models that take part in a decision: name, version, hash, and the working point of a selector."""

    def one(model: dict[str, Any]) -> str:
        point = f", working point {model['working_point']}" if model["working_point"] else ""
        return f"{model['name']} {model['version']} ({model['hash']}{point})"

    return ", ".join(one(model) for model in models) or "none"
