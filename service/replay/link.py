"""Messages between `hltfarm replay` (or the control plane, which shows events) and its child, msgpack over a pair of sockets.

The child speaks when it is asked.
"""

from __future__ import annotations

from typing import TypeAlias

import msgspec

from hltfarm.proto.messages import ModelInfo, RunConfig
from hltfarm.proto.worker_link import PathInfo


class Prepare(msgspec.Struct, frozen=True, kw_only=True, tag="prepare"):
    """Build what decides, for the events of this sample file."""

    events_file: str
    config: RunConfig
    backend: str


class Load(msgspec.Struct, frozen=True, kw_only=True, tag="load"):
    """The events of another file, for what is prepared; answered by Prepared."""

    events_file: str


class Reconstruct(msgspec.Struct, frozen=True, kw_only=True, tag="reconstruct"):
    """Reconstruct the event at this place of the file, alone. `columns`: with what there is to be drawn (columns.py)."""

    index: int
    columns: bool = False


class Unpack(msgspec.Struct, frozen=True, kw_only=True, tag="unpack"):
    """Read the pixel words of the first event of a file, and no more; needs nothing prepared."""

    events_file: str
    detector: str


class Prepared(msgspec.Struct, frozen=True, kw_only=True, tag="prepared"):
    """What was built here; fields as in worker_link.Configured."""

    backend: str
    device: str
    menu_hash: str
    paths: tuple[PathInfo, ...]
    models: tuple[ModelInfo, ...]
    conditions: str


class Done(msgspec.Struct, frozen=True, kw_only=True, tag="done"):
    """The event was reconstructed: its RESULT record, the time that it took, and its columns if they were asked for."""

    result: bytes
    seconds: float
    columns: bytes = b""


class Unpacked(msgspec.Struct, frozen=True, kw_only=True, tag="unpacked"):
    """What the words of an event say, as encoded columns."""

    columns: bytes


class Raised(msgspec.Struct, frozen=True, kw_only=True, tag="raised"):
    """An exception, as workers report it ("Type: text"), with its traceback."""

    error: str
    traceback: str


ToChild: TypeAlias = Prepare | Load | Reconstruct | Unpack
FromChild: TypeAlias = Prepared | Done | Unpacked | Raised

encode = msgspec.msgpack.Encoder().encode
decode_to_child = msgspec.msgpack.Decoder(ToChild).decode
decode_from_child = msgspec.msgpack.Decoder(FromChild).decode
