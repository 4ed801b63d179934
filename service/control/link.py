"""The way from the control plane to its ingests: one DEALER socket each, every request with a deadline.

A request that gets no answer raises `UnreachableError`; the socket stays, ZeroMQ reconnects it by itself, and an answer that
comes too late is recognised by its id and dropped (it is counted in `late_replies`).
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass
from typing import Protocol

import msgspec
import zmq
import zmq.asyncio

from hltfarm.proto.errors import BackendError, HltfarmError, StateError
from hltfarm.proto.messages import Command, CommandReply, EventInfo, KeptEvent, RunConfig, RunState, Snapshot
from hltfarm.service.control.merge import merge, staying
from hltfarm.service.runcontrol import ADMITTING, OPEN, combined
from hltfarm.service.security.keys import ClientCurve

NOT_OURS = "ingest {} does not belong to the farm any more"


class UnreachableError(BackendError):
    """An ingest did not answer in time; it may be back later."""

    retryable = True


class RefusedError(HltfarmError):
    """An ingest could not carry out a command that its state allows (a menu or detector it cannot load, for instance)."""


@dataclass(frozen=True, slots=True)
class IngestView:
    """What is known of one ingest: its snapshot, or why there is none."""

    endpoint: str
    snapshot: Snapshot | None
    error: str | None = None


@dataclass(frozen=True, slots=True)
class FarmView:
    """What is known of the farm at one moment. `snapshot` adds up the reachable ingests and `books`; None if none is reachable.

    left: ingests that left the farm with closed books, each with what it said last. books: what all of those counted.
    remarks: problems that have no influence on the state.
    """

    state: RunState
    snapshot: Snapshot | None
    ingests: tuple[IngestView, ...]
    left: tuple[IngestView, ...] = ()
    books: tuple[Snapshot, ...] = ()
    remarks: tuple[str, ...] = ()

    @property
    def problems(self) -> list[str]:
        """Why the state is not as it should be, in words."""
        lost = [view.error for view in self.ingests if view.error is not None]
        return [*lost, *(self.snapshot.problems if self.snapshot is not None else ()), *self.remarks]


class Link(Protocol):
    """What the control plane needs of its ingests; tests put a fake in its place."""

    async def look(self) -> FarmView:
        """Ask every ingest for its snapshot. Never raises for an ingest that is gone: the view says so."""
        ...

    async def command(self, op: str, config: RunConfig | None = None) -> FarmView:
        """Send a command to every ingest. Raises `UnreachableError`, `StateError` or `RefusedError`."""
        ...

    async def worker_command(self, op: str, worker: str, *, pid: int = 0, reason: str = "") -> None:
        """Send a command that concerns one worker to every ingest. Raises as `command` does, if no ingest carried it out."""
        ...

    async def tell(self, endpoint: str, op: str, config: RunConfig | None = None, worker: str | None = None, reason: str = "") -> None:
        """Send a command to one ingest. Raises as `command` does."""
        ...

    async def detach(self, endpoint: str, consumer: str) -> None:
        """One ingest is to wait no longer for a consumer of its output. Raises as `command` does."""
        ...

    async def change_programme(
        self, endpoint: str, op: str, config: RunConfig | None = None, *, lumi: int = 0, fraction: float = 0.0
    ) -> None:
        """Send a command about menu and models of the open run to one ingest. Raises as `command` does."""
        ...

    async def recent(self, op: str, kind: str, limit: int) -> list[tuple[str, EventInfo]]:
        """The latest events of every ingest that answers, with its endpoint. Raises `UnreachableError` if none does, `RefusedError`."""
        ...

    async def recent_event(self, event_id: str) -> tuple[str, KeptEvent, bytes] | None:
        """An event that an ingest keeps: its endpoint, what is known of it, its payload. None if none of those that answer has it.

        Raises as `recent`.
        """
        ...

    async def close(self) -> None:
        """Release sockets and tasks."""
        ...


def view_of(
    ingests: Sequence[IngestView], left: Sequence[IngestView] = (), books: Sequence[Snapshot] = (), remarks: Sequence[str] = ()
) -> FarmView:
    """Combine the views of all ingests. One that is gone makes a running farm degraded, and a farm without a run an Error."""
    present = [view.snapshot for view in ingests if view.snapshot is not None]
    state = combined([snapshot.state for snapshot in staying(present)])
    if len(present) < len(ingests) and state in ADMITTING:
        state = RunState.RUNNING_DEGRADED
    elif len(present) < len(ingests) and state not in OPEN:
        state = RunState.ERROR
    merged = merge(present, books) if present else None
    return FarmView(state, merged, tuple(ingests), tuple(left), tuple(books), tuple(remarks))


def refusal(op: str, errors: Sequence[HltfarmError], ingests: int) -> HltfarmError | None:
    """What a command to `ingests` ingests fails with, given the errors of some of them; None if it counts as carried out.

    A run needs all of them to begin. A run that lost one (it is gone, or came back without the run) must still be paused, drained,
    stopped and reset by the others.
    """
    if not errors or (len(errors) < ingests and op not in ("configure", "start")):
        return None
    return errors[0]


class IngestLink:
    """One ingest's control socket. Use it from one event loop; `close` it there."""

    def __init__(self, context: zmq.asyncio.Context, endpoint: str, timeout_s: float, curve: ClientCurve | None = None) -> None:
        self.endpoint = endpoint
        self.late_replies = 0
        self._timeout_s = timeout_s
        self._waiting: dict[str, asyncio.Future[tuple[CommandReply, list[bytes]]]] = {}
        self._decoder = msgspec.json.Decoder(CommandReply)
        self._socket = context.socket(zmq.DEALER)
        self._socket.setsockopt(zmq.LINGER, 0)
        self._socket.setsockopt(zmq.SNDHWM, 16)
        self._socket.setsockopt(zmq.IMMEDIATE, 1)  # nothing queues for an ingest that is not there: it would be carried out much later
        self._socket.setsockopt(zmq.RECONNECT_IVL_MAX, 250)
        self._hint = ""
        if curve is not None and endpoint.startswith("tcp://"):
            curve.apply(self._socket)
            self._hint = " (the key of this control must be in its allow-list, and the ingest's own the one that was given)"
        self._socket.connect(endpoint)
        self._reader: asyncio.Task[None] | None = None
        self._closed = False

    async def request(
        self,
        op: str,
        config: RunConfig | None = None,
        worker: str | None = None,
        *,
        pid: int = 0,
        reason: str = "",
        consumer: str | None = None,
    ) -> CommandReply:
        """One request and its reply. Raises `UnreachableError` when it does not come in time."""
        return await self.send(Command(id=uuid.uuid4().hex, op=op, config=config, worker=worker, pid=pid, reason=reason, consumer=consumer))

    async def send(self, command: Command) -> CommandReply:
        """A command and its reply. Raises `UnreachableError` when it does not come in time."""
        return (await self.ask(command))[0]

    async def ask(self, command: Command) -> tuple[CommandReply, list[bytes]]:
        """A command, its reply and the frames behind it. Raises `UnreachableError` when they do not come in time, or before `close`."""
        if self._reader is None:
            self._reader = asyncio.create_task(self._read(), name=f"control link {self.endpoint}")
        op = command.op
        reply: asyncio.Future[tuple[CommandReply, list[bytes]]] = asyncio.get_running_loop().create_future()
        self._waiting[command.id] = reply
        try:
            async with asyncio.timeout(self._timeout_s):
                await self._socket.send(msgspec.json.encode(command))
                return await reply
        except TimeoutError:
            raise UnreachableError(f"ingest {self.endpoint} did not answer {op!r} within {self._timeout_s:g} s{self._hint}") from None
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if not self._closed or (task is not None and task.cancelling()):
                raise
            raise UnreachableError(NOT_OURS.format(self.endpoint)) from None  # the socket's end, and not that of who waits
        finally:
            self._waiting.pop(command.id, None)

    async def _read(self) -> None:
        while True:
            frames = await self._socket.recv_multipart()
            try:
                reply = self._decoder.decode(frames[0])
            except (msgspec.DecodeError, UnicodeDecodeError) as error:  # ValidationError is one: a peer of another version
                for future in self._waiting.values():
                    if not future.done():
                        future.set_exception(UnreachableError(f"ingest {self.endpoint} sent an answer that cannot be read: {error}"))
                continue
            waiting = self._waiting.get(reply.id)
            if waiting is None or waiting.done():
                self.late_replies += 1
            else:
                waiting.set_result((reply, frames[1:]))

    async def close(self) -> None:
        """End the reader and close the socket; requests under way get no answer."""
        self._closed = True
        for future in self._waiting.values():
            future.cancel()
        if self._reader is not None:
            self._reader.cancel()
            await asyncio.gather(self._reader, return_exceptions=True)
        self._socket.close()


class FarmLink:
    """All ingests of a farm. Owns its ZeroMQ context. `curve`: keys for the endpoints that are tcp; None where none asks for them."""

    def __init__(self, endpoints: Sequence[str], timeout_s: float, curve: ClientCurve | None = None) -> None:
        self._context = zmq.asyncio.Context()
        self._timeout_s, self._curve = timeout_s, curve
        self._links = [self._connected(endpoint) for endpoint in endpoints]

    def _connected(self, endpoint: str) -> IngestLink:
        return IngestLink(self._context, endpoint, self._timeout_s, self._curve)

    async def look(self) -> FarmView:
        """See `Link.look`."""
        return view_of(await asyncio.gather(*(self.ask(link) for link in self._links)))

    def addressed(self) -> Sequence[IngestLink]:
        """To whom commands for all ingests go."""
        return self._links

    async def ask(self, link: IngestLink) -> IngestView:
        """What one ingest says of itself, or why it does not."""
        try:
            reply = await link.request("snapshot")
        except UnreachableError as error:
            return IngestView(link.endpoint, None, str(error))
        refusal = reply.error if reply.snapshot is None else None
        return IngestView(link.endpoint, reply.snapshot, refusal)

    async def command(self, op: str, config: RunConfig | None = None) -> FarmView:
        """See `Link.command`. The command goes to all ingests, also if one refuses; see `refusal` for what is raised then."""
        replies = await asyncio.gather(*(self._reply(link.endpoint, op, link.request(op, config)) for link in self.addressed()))
        error = refusal(op, [reply for reply in replies if isinstance(reply, HltfarmError)], len(replies))
        if error is not None:
            raise error
        views = [reply for reply in replies if isinstance(reply, IngestView)]
        if len(views) < len(replies) or any(view.snapshot is None for view in views):
            return await self.look()
        return view_of(views)

    async def worker_command(self, op: str, worker: str, *, pid: int = 0, reason: str = "") -> None:
        """See `Link.worker_command`."""
        requests = ((link.endpoint, link.request(op, worker=worker, pid=pid, reason=reason)) for link in self.addressed())
        replies = await asyncio.gather(*(self._reply(endpoint, op, request) for endpoint, request in requests))
        error = refusal(op, [reply for reply in replies if isinstance(reply, HltfarmError)], len(replies))
        if error is not None:
            raise error

    async def tell(self, endpoint: str, op: str, config: RunConfig | None = None, worker: str | None = None, reason: str = "") -> None:
        """See `Link.tell`."""
        await self._ask(endpoint, op, self._link(endpoint).request(op, config, worker, reason=reason))

    async def detach(self, endpoint: str, consumer: str) -> None:
        """See `Link.detach`."""
        await self._ask(endpoint, "detach", self._link(endpoint).request("detach", consumer=consumer))

    def _link(self, endpoint: str) -> IngestLink:
        found = next((link for link in self._links if link.endpoint == endpoint), None)
        if found is None:
            raise UnreachableError(NOT_OURS.format(endpoint))
        return found

    async def _ask(self, endpoint: str, op: str, request: Coroutine[None, None, CommandReply]) -> None:
        reply = await self._reply(endpoint, op, request)
        if isinstance(reply, HltfarmError):
            raise reply

    async def change_programme(
        self, endpoint: str, op: str, config: RunConfig | None = None, *, lumi: int = 0, fraction: float = 0.0
    ) -> None:
        """See `Link.change_programme`."""
        link = self._link(endpoint)
        command = Command(id=uuid.uuid4().hex, op=op, config=config, lumi=lumi, fraction=fraction)
        reply = await self._reply(endpoint, op, link.send(command))
        if isinstance(reply, HltfarmError):
            raise reply

    @staticmethod
    async def _reply(endpoint: str, op: str, request: Coroutine[None, None, CommandReply]) -> IngestView | HltfarmError:
        try:
            reply = await request
        except UnreachableError as error:
            return error
        if reply.error is None:
            return IngestView(endpoint, reply.snapshot)
        if reply.legal:
            return StateError(reply.error, reply.legal)
        return RefusedError(f"ingest {endpoint} refused {op!r}: {reply.error}")

    async def recent(self, op: str, kind: str, limit: int) -> list[tuple[str, EventInfo]]:
        """See `Link.recent`."""
        answers = await self._ask_all(Command(id="", op=op, kind=kind, limit=limit))
        return [(endpoint, info) for endpoint, reply, _ in answers for info in reply.events]

    async def recent_event(self, event_id: str) -> tuple[str, KeptEvent, bytes] | None:
        """See `Link.recent_event`."""
        for endpoint, reply, parts in await self._ask_all(Command(id="", op="event", event_id=event_id)):
            if reply.event is not None and len(parts) == 1:
                return endpoint, reply.event, parts[0]
        return None

    async def _ask_all(self, command: Command) -> list[tuple[str, CommandReply, list[bytes]]]:
        """The answers of all ingests to a question."""
        links = self.addressed()
        asked = [link.ask(msgspec.structs.replace(command, id=uuid.uuid4().hex)) for link in links]
        found, errors = [], list[HltfarmError]()
        for link, answer in zip(links, await asyncio.gather(*asked, return_exceptions=True), strict=True):
            if isinstance(answer, HltfarmError):
                errors.append(answer)
            elif isinstance(answer, BaseException):
                raise answer
            elif answer[0].error is not None:
                errors.append(RefusedError(f"ingest {link.endpoint} refused {command.op!r}: {answer[0].error}"))
            else:
                found.append((link.endpoint, *answer))
        if errors and not found:
            raise errors[0]
        return found

    async def close(self) -> None:
        """Close every socket and the context."""
        await asyncio.gather(*(link.close() for link in self._links))
        self._context.term()
