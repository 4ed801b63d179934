"""Messages between an ingest and its workers: one msgpack frame, for some types followed by one frame of binary records.

Results have one more frame for each event whose columns were asked for and which is accepted: the body of a COLUMNS frame.

    worker -> ingest   Hello, Configured, Results + ANSWER[] + columns..., Failed + ASSIGNED[], CanaryDone, Alive, Leaving, Goodbye
    ingest -> worker   Welcome, Configure, Retire, Work + DESCRIPTOR[], Canary, Alive, Leave, Stay, Dismissed, Unknown

A worker says Hello and is told the slot ring (Welcome) and the programmes of the run (Configure, one message each), which it answers with
Configured; then it gets Work as far as its capacity goes. `ticket` is unique for every assignment: an answer whose ticket is no longer
valid is ignored.
A worker that wants to go (or is told to: Leave) says Leaving, finishes what it has until Dismissed (after which nothing more comes) and
says Goodbye. The last one of an ingest is told to Stay first, and dismissed when no event in flight needs a worker any more.
An ingest that does not know the sender answers Unknown: drop everything of this ingest, say Hello again.
A worker may serve several ingests of its host at a time, each over a socket of its own; batches mix their events.
Both ends are of one version of hltfarm; VERSION guards against a mixture.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Annotated, TypeAlias

import msgspec
import numpy as np

from hltfarm.proto.messages import ModelInfo, Resources, RunConfig
from hltfarm.proto.results import RESULT

VERSION = 7

#: An event in a slot. `size`: payload bytes. `flags`: wire.EventFlags that concern the worker (WANT_COLUMNS). `generation`: the programme
#: that decides it; `shadow`: one that is asked as well, 0 if none.
DESCRIPTOR = np.dtype(
    [
        ("ticket", "<u8"),
        ("event", "<u8"),
        ("slot", "<u4"),
        ("size", "<u4"),
        ("run", "<u4"),
        ("lumi", "<u4"),
        ("bx", "<u4"),
        ("flags", "<u4"),
        ("generation", "<u4"),
        ("shadow", "<u4"),
    ]
)
ASSIGNED = np.dtype([("ticket", "<u8"), ("slot", "<u4"), ("reserved", "<u4")])
#: `part`: which of the message's frames of columns is that of the event, counted from 1; 0 if none.
#: `shadow`: a ShadowOutcome of the programme `shadow_generation`, with the accepts of its paths in `shadow_bits`.
ANSWER = np.dtype(
    [
        ("ticket", "<u8"),
        ("slot", "<u4"),
        ("part", "<u4"),
        ("shadow_bits", "<u8"),
        ("shadow", "<u4"),
        ("shadow_generation", "<u4"),
        ("result", RESULT),
    ]
)


class ShadowOutcome(IntEnum):
    """What became of an event in the shadow programme."""

    NOT_ASKED = 0
    ACCEPT = 1
    REJECT = 2
    FAILED = 3


class Hello(msgspec.Struct, frozen=True, kw_only=True, tag="hello"):
    """`capacity`: events the worker wants to have at a time, queued and in processing.

    `fallback`: it wants only events on which others failed, and all of them while there is no other worker.
    `process`: a number that only this process has; its pid is that of its predecessor where both were alone in a container.
    """

    name: str
    backend: str
    device: str
    pid: int
    host: str
    capacity: int
    process: int = 0
    fallback: bool = False
    versions: dict[str, str] = {}  # of hltfarm and of what it computes with
    version: int = VERSION


#: As in the menu; the ingest makes files of these names.
Name = Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z][A-Za-z0-9_]{0,63}\Z")]


class PathInfo(msgspec.Struct, frozen=True):
    """A path of the menu; its bit is its place in the list."""

    name: Name
    stream: Name


class Configured(msgspec.Struct, frozen=True, kw_only=True, tag="configured"):
    """`error` is None on success. `fatal`: the configuration itself is wrong, no worker can do it. Backend and device are final.

    All workers of a run must report the same menu, models and conditions (the digest of the detector description).
    """

    generation: int
    error: str | None = None
    fatal: bool = False
    backend: str = ""
    device: str = ""
    menu_hash: str = ""
    paths: tuple[PathInfo, ...] = ()
    models: tuple[ModelInfo, ...] = ()
    conditions: str = ""


class Results(msgspec.Struct, frozen=True, kw_only=True, tag="results"):
    """One batch, or the part of it that came from this ingest.

    Seconds of wall time: the whole batch, and its stages as the reconstruction reports them. `batch_events`: events of the whole batch;
    0 where another ingest is told size and times of the batch, so that a sum over ingests counts it once.
    """

    seconds: float
    stage_seconds: dict[str, float]
    batch_events: int


class Failed(msgspec.Struct, frozen=True, kw_only=True, tag="failed"):
    """The batch raised an exception. `stage`: of the chain, in which it did, where that is known."""

    error: str
    stage: str = ""


class CanaryDone(msgspec.Struct, frozen=True, kw_only=True, tag="canary_done"):
    """Answer to Canary: digest of the reconstructed event and the time that it took, or why it failed."""

    serial: int
    generation: int
    digest: int = 0
    seconds: float = 0.0
    error: str | None = None


class Alive(msgspec.Struct, frozen=True, kw_only=True, tag="alive"):
    """Sign of life, both ways. A worker's says how long its oldest batch has been running (0 if none), and now and then what it uses."""

    busy_s: float = 0.0
    resources: Resources | None = None


class Leaving(msgspec.Struct, frozen=True, kw_only=True, tag="leaving"):
    """The worker wants no more work."""


class Goodbye(msgspec.Struct, frozen=True, kw_only=True, tag="goodbye"):
    """The worker has nothing left and ends."""


class Welcome(msgspec.Struct, frozen=True, kw_only=True, tag="welcome"):
    """Where the slots are. A worker says Alive every `heartbeat_s` seconds and is taken for lost after `timeout_s` of silence, and when a
    batch takes longer than `batch_timeout_s`.
    """

    ring: str
    slots: int
    slot_bytes: int
    heartbeat_s: float
    timeout_s: float
    batch_timeout_s: float


class Configure(msgspec.Struct, frozen=True, kw_only=True, tag="configure"):
    """Build the programme of this configuration; answered by Configured with the same generation.

    `keep`: earlier generations that events may still name; the others are not needed any more.
    """

    generation: int
    config: RunConfig
    keep: tuple[int, ...] = ()


class Retire(msgspec.Struct, frozen=True, kw_only=True, tag="retire"):
    """No event will name this generation any more."""

    generation: int


class Work(msgspec.Struct, frozen=True, kw_only=True, tag="work"):
    """Events to process; `alone`: together, as a batch of their own."""

    alone: bool = False


class Canary(msgspec.Struct, frozen=True, kw_only=True, tag="canary"):
    """Reconstruct this event with this programme, alone, and say what came out. It is in nobody's books.

    `fresh_s`: an answer for the same event and programme that is not older will do (a worker may be asked by several ingests).
    """

    serial: int
    generation: int
    payload: bytes
    fresh_s: float = 0.0


class Leave(msgspec.Struct, frozen=True, kw_only=True, tag="leave"):
    """Finish, say Leaving and go: an operator wants this worker away."""


class Stay(msgspec.Struct, frozen=True, kw_only=True, tag="stay"):
    """Events in flight have no other worker: go on working, and wait for Dismissed as long as this ingest lives."""


class Dismissed(msgspec.Struct, frozen=True, kw_only=True, tag="dismissed"):
    """No more work will come."""


class Unknown(msgspec.Struct, frozen=True, kw_only=True, tag="unknown"):
    """The ingest does not know you (any more)."""


FromWorker: TypeAlias = Hello | Configured | Results | Failed | CanaryDone | Alive | Leaving | Goodbye
ToWorker: TypeAlias = Welcome | Configure | Retire | Work | Canary | Alive | Leave | Stay | Dismissed | Unknown

encode = msgspec.msgpack.Encoder().encode
decode_from_worker = msgspec.msgpack.Decoder(FromWorker).decode
decode_to_worker = msgspec.msgpack.Decoder(ToWorker).decode
