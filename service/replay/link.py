"""Messages between `hltfarm replay` and its child, msgpack over a pair of sockets. The child speaks when it is asked."""

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


class Reconstruct(msgspec.Struct, frozen=True, kw_only=True, tag="reconstruct"):
    """Reconstruct the event at this place of the file, alone."""

    index: int


class Prepared(msgspec.Struct, frozen=True, kw_only=True, tag="prepared"):
    """What was built here; fields as in worker_link.Configured."""

    backend: str
    device: str
    menu_hash: str
    paths: tuple[PathInfo, ...]
    models: tuple[ModelInfo, ...]
    conditions: str


class Done(msgspec.Struct, frozen=True, kw_only=True, tag="done"):
    """The event was reconstructed: its RESULT record and the time that it took."""

    result: bytes
    seconds: float


class Raised(msgspec.Struct, frozen=True, kw_only=True, tag="raised"):
    """An exception, as workers report it ("Type: text"), with its traceback."""

    error: str
    traceback: str


ToChild: TypeAlias = Prepare | Reconstruct
FromChild: TypeAlias = Prepared | Done | Raised

encode = msgspec.msgpack.Encoder().encode
decode_to_child = msgspec.msgpack.Decoder(ToChild).decode
decode_from_child = msgspec.msgpack.Decoder(FromChild).decode
