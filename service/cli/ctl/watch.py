"""`hltfarm ctl watch`: the farm's numbers as they change, on a terminal in place, elsewhere a line each time."""

from __future__ import annotations

import json as codec
import time
from collections.abc import Callable, Iterator
from itertools import count as counting
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hltfarm.service.cli import one_line
from hltfarm.service.cli.ctl.runs import status_text
from hltfarm.service.cli.ctl.session import session_of

if TYPE_CHECKING:
    from hltfarm.service.api import FarmApi


def line(status: dict[str, Any]) -> str:
    """The farm on one line."""
    ledger, rates = status["ledger"] or {}, status["rates"]
    decided = ledger.get("accepted", 0) + ledger.get("rejected", 0)
    share = f"{100 * ledger['accepted'] / decided:.2f}%" if decided else "-"
    problems = f"; {'; '.join(status['problems'])}" if status["problems"] else ""
    return (
        f"{status['state']} run {status['run'] or '-'} in {rates['received_hz']:.1f}/s "
        f"decided {rates['decided_hz']:.1f}/s accepted {rates['accepted_hz']:.1f}/s ({share}) {rates['bytes_per_s'] / 1e6:.1f} MB/s "
        f"in flight {ledger.get('in_flight', 0)} error {ledger.get('error', 0)} mismatch {ledger.get('mismatch', 0)} "
        f"workers {status['workers_ready']}/{status['workers']}{problems}"
    )


def watch(
    context: typer.Context,
    count: Annotated[int | None, typer.Option(min=1, help="Number of looks (default: until Ctrl-C).")] = None,
    interval: Annotated[float, typer.Option(min=0.1, max=3600, help="Seconds between two looks.")] = 1.0,
) -> None:
    """Live numbers of the farm."""
    from rich.console import Console

    session, console = session_of(context), Console(highlight=False)
    with session.farm() as farm:
        if console.is_terminal and not session.json:
            _live(console, looks(farm, count, interval))
            return
        for status in looks(farm, count, interval):
            typer.echo(codec.dumps(status) if session.json else _timed(status, line))


def looks(farm: FarmApi, count: int | None, interval: float) -> Iterator[dict[str, Any]]:
    """Looks at the farm. One that gets no answer has only `no_answer`, but for the first: a control plane that is restarted comes back."""
    from hltfarm.service.api import NoAnswerError

    due = time.monotonic()
    for number in counting() if count is None else range(count):
        time.sleep(max(0.0, due - time.monotonic()))  # the sampling interval
        due = max(due, time.monotonic()) + interval
        try:
            yield farm.status()
        except NoAnswerError as error:
            if not number:
                raise
            yield {"no_answer": one_line(error)}


def _timed(status: dict[str, Any], text: Callable[[dict[str, Any]], str]) -> str:
    return f"{time.strftime('%H:%M:%S')} {text(status) if 'no_answer' not in status else 'no answer: ' + status['no_answer']}"


def _live(console: Any, looks: Iterator[dict[str, Any]]) -> None:
    from rich.live import Live
    from rich.text import Text

    with Live(console=console, auto_refresh=False) as live:
        for status in looks:
            live.update(Text(_timed(status, status_text)), refresh=True)


def register(group: Any) -> None:
    """Add the command."""
    group.command()(watch)
