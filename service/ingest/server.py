"""Ingest process: three ROUTER sockets in one poll loop around the machines. Single-threaded.

A turn: events in, answers in, commands, time; then work out and credits out.
"""

from __future__ import annotations

import logging
import os
import time
from types import TracebackType
from typing import Self

import msgspec
import zmq

from hltfarm.proto.errors import ConfigError, HltfarmError, StateError, WireCode
from hltfarm.proto.messages import (
    EVENT_OPS,
    OPS,
    PROGRAMME_OPS,
    WORKER_OPS,
    Command,
    CommandReply,
    LedgerCounts,
    RunConfig,
    RunState,
    Shadow,
    Snapshot,
    models_text,
)
from hltfarm.proto.wire import Reason
from hltfarm.service.ingest.binding import bind
from hltfarm.service.ingest.credit import CreditBook
from hltfarm.service.ingest.disk import space
from hltfarm.service.ingest.dispatch import Dispatcher
from hltfarm.service.ingest.door import CLIENTS, ClientDoor
from hltfarm.service.ingest.error_stream import ErrorStream, EventWriter, write_frames
from hltfarm.service.ingest.flow import EventFlow
from hltfarm.service.ingest.gate import Gate
from hltfarm.service.ingest.ledger import Ledger
from hltfarm.service.ingest.payload_formats import PayloadFormats
from hltfarm.service.ingest.pool import WorkerPool
from hltfarm.service.ingest.programmes import Programmes
from hltfarm.service.ingest.questions import answer
from hltfarm.service.ingest.recent import RecentEvents
from hltfarm.service.ingest.settings import IngestSettings
from hltfarm.service.ingest.slots import SlotRing
from hltfarm.service.ingest.stats import Stats
from hltfarm.service.ingest.waiting_room import WaitingRoom
from hltfarm.service.output.outputs import Outputs
from hltfarm.service.output.stream_door import ROOM as CONSUMERS
from hltfarm.service.runcontrol import ADMITTING, OPEN, RunControl, legal
from hltfarm.service.security.keys import ServerCurve, load_allow_list

log = logging.getLogger(__name__)
TICK_S = 0.05
CONTROL = "control"  # the room of control planes in the allow-list
TCP = "tcp://"
RETRY_S = 1.0
LOOKS_S = 5.0  # a control plane that asked for nothing within this time looks here no more


class IngestServer:
    """One ingest. Sockets are bound and the ring exists when the constructor returns; `turn` does the work; `close` removes everything.

    Raises ConfigError for settings that cannot work here (endpoint taken, no room in /dev/shm).
    """

    def __init__(self, settings: IngestSettings, writer: EventWriter = write_frames) -> None:
        limits = settings.limits
        room = settings.bytes_in_farm or settings.slots * limits.max_payload_bytes
        self._settings = settings
        self._credit = CreditBook(
            settings.slots, room, max_payload_bytes=limits.max_payload_bytes, max_clients=min(settings.max_clients, settings.slots)
        )
        self._stats = Stats()
        self._ledger = Ledger(settings.slots, settings.window)
        self._dispatcher = Dispatcher(settings.slots)
        self._programmes = Programmes()
        self._control = RunControl()
        self._config: RunConfig | None = None
        self._problems: list[str] = []
        self._started = time.time()
        self._folders = {"errors": settings.error_dir}
        if settings.output.folder is not None:
            self._folders["output"] = settings.output.folder
        self._outputs: Outputs | None = None
        try:
            errors = ErrorStream(settings.error_dir, writer)
        except OSError as error:
            raise ConfigError(f"the folder of the error stream, {settings.error_dir}, cannot be used: {error}") from error
        allowed = load_allow_list(settings.curve.allow) if settings.curve is not None else None
        self._ring = SlotRing(settings.ring, settings.slots, limits.max_payload_bytes)
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        clients, workers, self._commands = (self._context.socket(zmq.ROUTER) for _ in range(3))
        self._gate = Gate(self._context, settings.curve.allow, allowed, self._stats) if settings.curve and allowed else None
        guard = self._gate if settings.clients_url.startswith(TCP) else None
        self._door = ClientDoor(clients, self._credit, self._stats, limits, settings.client_timeout_s, guard)
        self._pool = WorkerPool(workers, self._dispatcher, self._ring, self._stats, settings, self._programmes)
        self._commands.setsockopt(zmq.LINGER, 1000)
        self._commands.setsockopt(zmq.MAXMSGSIZE, 16 << 20)
        self._sockets = [clients, workers, self._commands]
        if settings.curve is not None:
            self._guard(settings.curve)
        try:
            urls = (settings.clients_url, settings.workers_url, settings.control_url)
            self.clients_url, self.workers_url, self.control_url = (
                bind(socket, peers, url) for socket, peers, url in zip(self._sockets, ("clients", "workers", "control"), urls, strict=True)
            )
            self._outputs, self.output_url = self._open_output()
        except ConfigError:
            self.close()
            raise
        self._flow = EventFlow(
            self._ring, self._ledger, self._dispatcher, self._credit, errors, self._stats, limits, self._door.deliver, time.time,
            self._programmes,
        )  # fmt: skip
        self._flow.describe = self._pool.describe
        self._flow.formats = PayloadFormats(settings.payload_formats)
        self._recent = self._flow.recent = RecentEvents(settings.recent_bytes, os.urandom(4).hex())
        self._door.flow = self._pool.flow = self._flow
        self._poller = zmq.Poller()
        for socket in (*self._sockets, *([self._gate.socket] if self._gate is not None else [])):
            self._poller.register(socket, zmq.POLLIN)
        if self._outputs is not None:
            self._flow.waiting = WaitingRoom(self._outputs, self._ring, self._ledger, self._flow.programmes_of)
            self._poller.register(self._outputs.descriptor, zmq.POLLIN)
        self._now = time.monotonic()
        self._next_tick = self._next_retry = self._now
        self._stop_deadline = float("inf")
        self.leaving = False  #: it ends, or was told that it is about to
        self._asked, self._told = float("-inf"), False  # a control's last look, and whether one saw the end of a run that was left
        self._ending_since = self._now

    def _guard(self, curve: ServerCurve) -> None:
        """CURVE on the tcp sockets, but that of the workers, who share this machine's memory."""
        clients, _workers, commands = self._sockets
        for socket, url, room in ((clients, self._settings.clients_url, CLIENTS), (commands, self._settings.control_url, CONTROL)):
            if url.startswith(TCP):
                curve.apply(socket, room)

    def _open_output(self) -> tuple[Outputs | None, str]:
        """Where accepted events go; the endpoint for consumers, empty without one."""
        settings, url = self._settings.output, ""
        socket: zmq.Socket[bytes] | None = None
        gate: Gate | None = None
        if settings.url is not None:
            socket = self._context.socket(zmq.ROUTER)
            self._sockets.append(socket)
            if self._settings.curve is not None and settings.url.startswith(TCP):
                self._settings.curve.apply(socket, CONSUMERS)
                gate = self._gate
            url = bind(socket, "output-url", settings.url)
        if not settings.active:
            return None, url
        lumisections = self._ledger.lumisections
        outputs = Outputs(settings, lumisections.counts, lumisections.touched, lambda run: self._ledger.counts(run).in_flight, socket, gate)
        return outputs, url

    # -- loop --------------------------------------------------------------------------------------------------------------

    def turn(self) -> None:
        """Wait for messages (at most TICK_S), handle them and what time brings."""
        wait_s = max(0.0, self._next_tick - time.monotonic())
        self._poller.poll(int(wait_s * 1000) + 1)
        self._now = now = time.monotonic()
        now_ns = int(now * 1e9)
        if self._gate is not None:
            self._gate.receive(now)
        self._door.receive(now)
        self._pool.receive(now)
        if self._outputs is not None:
            self._outputs.turn(self._flow.run, now)
            self._flow.settle_waiting(now_ns)
        self._receive_commands(now, now_ns)
        if now >= self._next_tick:
            self._tick(now, now_ns)
        self._pool.dispatch()
        open_ = self._control.state in ADMITTING and self._pool.staffed
        grants = self._credit.plan(now, open_=open_, stalled=self._door.stalled)
        self._door.announce(grants, self._flow.run or 0, open_)

    def _tick(self, now: float, now_ns: int) -> None:
        elapsed = now - self._next_tick + TICK_S
        self._next_tick = now + TICK_S
        self._pool.tick(now, now_ns)
        if self._gate is not None and self._gate.look(now):
            self._door.expel()
            if self._outputs is not None:
                self._outputs.look_at_keys()
        self._door.tick(now)
        if self._outputs is not None:
            self._outputs.tick(now)
        if self._flow.trouble and now >= self._next_retry:
            self._next_retry = now + RETRY_S
            self._flow.retry(now_ns)
        self._backpressure(elapsed)
        self._assess()
        self._end_run(now, now_ns)

    def _assess(self) -> None:
        """Problems, and what they make of the state; also before every snapshot, so that it never tells of the past."""
        self._problems = self._pool.problems() if self._config is not None else []
        if self._flow.trouble:
            self._problems.append(self._flow.trouble)
        if self._outputs is not None:
            self._problems += self._outputs.problems()
        if self._pool.fatal and self._control.state not in (RunState.ERROR, RunState.HALTED):
            self._problems.append(f"the configuration cannot be used: {self._pool.fatal}")
            self._control = self._control.failed()
        self._control = self._control.degraded(bool(self._problems))

    def _backpressure(self, elapsed: float) -> None:
        if self._control.state is RunState.PAUSED:
            self._stats.backpressure["paused"] += elapsed
        if self._control.state not in ADMITTING:
            return
        used_events, used_bytes = self._credit.used
        causes = {
            "no_worker": not self._pool.staffed,
            "slots": used_events + self._credit.reserved_events >= self._credit.capacity_events and self._dispatcher.queued > 0,
            "bytes": used_bytes + self._credit.reserved_bytes >= self._credit.capacity_bytes and self._dispatcher.queued > 0,
            "client_not_reading": bool(self._door.stalled),
            "output": self._outputs is not None and self._outputs.holds_back(self._settings.slots),
        }
        for cause, present in causes.items():
            if present:
                self._stats.backpressure[cause] += elapsed

    def _end_run(self, now: float, now_ns: int) -> None:
        """A stopped run ends when nothing is in flight or licensed any more; what takes too long is forced."""
        if self._control.state is not RunState.DRAINING or not self._control.ending:
            return
        if self._ledger.in_flight and now >= self._stop_deadline:
            self._flow.force(Reason.STOPPED, now_ns)
        confirmed = not self._credit.reserved_events or now - self._ending_since > self._settings.confirm_timeout_s
        if not self._ledger.in_flight and confirmed:
            if self._outputs is not None and self._config is not None and self._flow.run is not None:
                self._close_admission()
                self._outputs.end_run(self._config.run)
                self._outputs.tick(now)
            if self._outputs is not None and not self._outputs.closed:
                return
            self._control = self._control.emptied()
            self._close_admission()
            log.info("run %s ended: %s", self._config.run if self._config else None, self._counts())

    def _close_admission(self) -> None:
        self._flow.run = None
        self._credit.settle()

    # -- commands ----------------------------------------------------------------------------------------------------------

    def _receive_commands(self, now: float, now_ns: int) -> None:
        while True:
            try:
                frames = self._commands.recv_multipart(zmq.NOBLOCK, copy=False)
            except zmq.Again:
                return
            if not self._may_command(frames[-1]):
                continue
            parts: list[bytes] = []
            try:
                command = msgspec.json.decode(frames[-1].buffer, type=Command)
            except (msgspec.MsgspecError, UnicodeDecodeError) as error:  # msgspec lets the second one through
                reply = CommandReply(id="", error=f"not a command: {error}")
            else:
                if command.op in EVENT_OPS:
                    reply, parts = answer(self._recent, command)
                else:
                    reply = self._reply(command, now, now_ns)
            try:
                self._commands.send_multipart([frames[0].bytes, msgspec.json.encode(reply), *parts], zmq.NOBLOCK)
            except zmq.ZMQError as error:
                log.warning("the reply to a command could not be sent: %s", error)

    def _may_command(self, frame: zmq.Frame) -> bool:
        """False for a control plane whose key has been taken from the allow-list since it connected; it is counted, and not answered."""
        if self._gate is None or not self._settings.control_url.startswith(TCP):
            return True
        if self._gate.name(CONTROL, self._gate.key(frame)) is not None:
            return True
        self._stats.refused[WireCode.NOT_ALLOWED.name] += 1
        return False

    def _reply(self, command: Command, now: float, now_ns: int) -> CommandReply:
        try:
            self._execute(command, now, now_ns)
        except StateError as error:
            return CommandReply(id=command.id, error=str(error), legal=error.legal)
        except HltfarmError as error:
            return CommandReply(id=command.id, error=str(error))
        self._assess()
        return CommandReply(id=command.id, snapshot=self.snapshot())

    def _execute(self, command: Command, now: float, now_ns: int) -> None:
        op = command.op
        if op == "snapshot":
            self._asked = now
            self._told = self.leaving and self._control.state not in OPEN
            return
        if op == "leave":
            self.leave()
            return
        if op in WORKER_OPS:
            self._execute_for_worker(command, now_ns)
            return
        if op == "detach":
            if self._outputs is None or not command.consumer:
                raise ConfigError("detach needs the name of a consumer, and an ingest with an output")
            self._outputs.detach(command.consumer)
            self._flow.settle_waiting(now_ns)
            return
        if op not in OPS:
            raise ConfigError(f"no command {op!r}; there are {', '.join(OPS)}")
        if op in PROGRAMME_OPS:
            self._change_programme(command)
            return
        if op == "configure" and command.config is None:
            raise ConfigError("configure needs a run configuration")
        if self.leaving and op in ("configure", "start", "resume"):
            raise ConfigError(f"this ingest leaves the farm, and takes no {op} any more")
        self._control = self._control.command(op)
        log.info("%s: %s", op, self._control.state)
        if command.config is not None and op == "configure":
            self._config = command.config
            self._pool.configure(command.config)
            if self._outputs is not None:
                self._outputs.prepare(command.config.detector)
        elif op == "start" and self._config is not None:
            self._flow.run = self._config.run
        elif op == "stop":
            self._stop_deadline = now + self._settings.stop_timeout_s
            self._ending_since = now
        elif op == "reset":
            self._flow.force(Reason.RESET, now_ns)
            if self._outputs is not None and self._config is not None:
                self._outputs.reset()
                self._outputs.end_run(self._config.run)
            self._close_admission()
            self._programmes.forget()
            self._pool.fatal = None
            self._config = None

    def _change_programme(self, command: Command) -> None:
        """Menus and models of an open run, or of one that this ingest is to join."""
        op, config, state = command.op, command.config, self._control.state
        if state not in OPEN and state is not RunState.CONFIGURED:
            raise StateError(f"{op!r} needs a run, the state is {state}", legal(state))
        if op in ("prepare", "shadow") and config is None:
            raise ConfigError(f"{op} needs a run configuration")
        if op == "prepare" and config is not None:
            self._pool.prepare(config)
        elif op == "activate":
            entry = self._programmes.activate(command.lumi, self._pool.waits_for(self._programmes.pending), config)
            log.info("menu %s, models %s decide from lumisection %d on", entry.menu_hash, models_text(entry.models), entry.first_lumi)
        elif op == "discard":
            self._programmes.discard(config)
        elif op == "shadow" and config is not None:
            self._pool.cast(config, command.fraction)
        elif op == "shadow_end":
            self._programmes.shadow = None

    def _execute_for_worker(self, command: Command, now_ns: int) -> None:
        """What concerns one worker."""
        name = command.worker
        if not name:
            raise ConfigError(f"{command.op} needs the name of the worker")
        if command.op == "worker_lost":
            self._pool.lost(name, command.pid, now_ns)
        elif command.op == "worker_drain":
            self._pool.drain(name)
        elif command.op == "worker_quarantine":
            self._pool.quarantine(name, command.reason)
        else:
            self._pool.release(name)

    # -- state -------------------------------------------------------------------------------------------------------------

    @property
    def state(self) -> RunState:
        """State of run control."""
        return self._control.state

    @property
    def in_flight(self) -> int:
        """Events received and not decided."""
        return self._ledger.in_flight

    def leave(self) -> None:
        """Take part in no run any more: an open one ends here once all that is in flight is decided, however long that takes."""
        if not self.leaving:
            log.info("leaving the farm with %d events in flight", self._ledger.in_flight)
        self.leaving = True
        if self._control.state in OPEN and not self._control.ending:
            self._control = self._control.command("stop")
            self._stop_deadline, self._ending_since = float("inf"), self._now

    def stop(self) -> None:
        """Leave, with the time of the command `stop` for what is in flight."""
        self.leave()
        if self._control.state in OPEN:
            self._execute(Command(id="", op="stop"), self._now, int(self._now * 1e9))

    def health(self) -> tuple[bool, str]:
        """Whether this ingest could take events, and how it is: it does not leave and has a worker, which is ready if a run is open."""
        if self.leaving:
            return False, f"leaving, {self._ledger.in_flight} events in flight"
        able = self._dispatcher.ready_workers if self._control.state in OPEN else sum(worker.up for worker in self._pool.status())
        return able > 0, f"{self._control.state}, {able} workers"

    @property
    def untold(self) -> bool:
        """Whether a control plane that looks here now and then has not seen the closed books yet."""
        return not self._told and self._now - self._asked < LOOKS_S

    def _counts(self) -> LedgerCounts:
        return self._ledger.counts(self._config.run) if self._config is not None else LedgerCounts()

    def snapshot(self) -> Snapshot:
        """State and counters now."""
        stats, programmes = self._stats, self._programmes
        current = programmes.current
        return Snapshot(
            state=self._control.state,
            run=self._config.run if self._config is not None else None,
            ledger=self._counts(),
            totals=self._ledger.totals(),
            workers=self._pool.status(),
            queue_events=self._dispatcher.queued,
            slots_free=self._ring.free,
            slots_total=self._settings.slots,
            clients=len(self._door),
            ingest_bytes=stats.ingest_bytes,
            frames_refused=dict(stats.refused),
            failures=dict(stats.failures),
            path_accepts=stats.path_accepts,
            path_prescaled=stats.path_prescaled,
            stream_events=dict(stats.stream_events),
            stream_bytes=dict(stats.stream_bytes),
            backpressure_seconds=dict(stats.backpressure),
            event_latency=stats.latency.frozen(),
            stage_duration={stage: histo.frozen() for stage, histo in stats.stages.items()},
            batch_events=stats.batch_events.frozen(),
            menu_hash=current.menu_hash if current is not None else "",
            models=current.models if current is not None else (),
            programmes=programmes.told(),
            pending=programmes.told_pending(self._pool.waits_for(programmes.pending)),
            shadow=self._told_shadow(),
            lumi=programmes.lumi,
            problems=list(self._problems),
            clients_url=self.clients_url,
            canary_s=self._settings.canary_s,
            started=self._started,
            last_decision=stats.last_decision,
            path_events=dict(stats.path_events),
            event_flags=dict(stats.flags),
            objects=dict(stats.objects),
            disks={name: space(folder) for name, folder in self._folders.items()},
            outputs=() if self._outputs is None else (self._outputs.status(self._now),),
            info={
                "ending": int(self._control.ending),
                "leaving": int(self.leaving),
                "stale_answers": stats.stale_answers,
                "lost_sessions": stats.lost_sessions,
                "columns_sent": stats.columns_sent,
                "columns_left_out": stats.columns_left_out,
                "suspects": self._dispatcher.suspects,
                "stranded": self._flow.stranded,
                "reserved_events": self._credit.reserved_events,
                "remembered_decisions": self._ledger.remembered,
            },
        )

    def _told_shadow(self) -> Shadow | None:
        book = self._programmes.shadow
        entry = self._programmes.get(book.generation) if book is not None else None
        if book is None or entry is None:
            return None
        return book.told(entry.menu_hash, entry.models, self._pool.waits_for(entry), entry.error)

    def close(self) -> None:
        """Close the sockets, remove the ring."""
        for socket in self._sockets:
            socket.close()
        if self._gate is not None:
            self._gate.close()
        self._context.term()
        if self._outputs is not None:
            self._outputs.close()
        self._ring.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        self.close()
