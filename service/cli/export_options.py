"""Options of commands that write columns of events."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from hltfarm.service.export import RootLayout

TABLE = (
    "Table to write; repeat it for more: tracks, vertices, hits (of reco), and of the truth particles, collisions, crossings, pixels "
    "(default: tracks and vertices; export: what is there)."
)
COLUMNS = "Only columns that match this pattern, such as 'track_*'; repeat it for more (default: all)."
ROOT = ".root files: rntuple, or ttree for a ROOT before 6.34, which flattens rows of several values."

TableOption = Annotated[list[str] | None, typer.Option("--table", help=TABLE)]
ColumnsOption = Annotated[list[str] | None, typer.Option("--columns", help=COLUMNS)]
LayoutOption = Annotated[str, typer.Option("--root", help=ROOT)]


def layout_of(text: str) -> RootLayout:
    """Layout of .root files by name. Raises ConfigError for another one."""
    from hltfarm.proto.errors import ConfigError
    from hltfarm.service.export import RootLayout

    if text not in tuple(RootLayout):
        raise ConfigError(f"--root {text!r} is none of {', '.join(RootLayout)}")
    return RootLayout(text)
