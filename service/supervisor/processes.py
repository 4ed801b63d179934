"""The shell around the restart policy: asyncio subprocesses. Exits are reaped at once (the event loop's child watcher).

Every process has a task that starts it, waits for its end, tells `on_exit`, and starts it again when the policy says so.
Processes may be added, told to leave and forgotten while the others run.
Children get a session of their own, so that Ctrl-C reaches the supervisor only, which then ends them in order.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
from asyncio.subprocess import PIPE, STDOUT, Process
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from hltfarm.proto.errors import StateError
from hltfarm.service.control.models import ProcessModel
from hltfarm.service.supervisor.policy import Phase, RestartPolicy, RestartState

log = logging.getLogger(__name__)
LAUNCHER = Path(__file__).with_name("child.py")
CHUNK = 1 << 16
HOPELESS = 2  # exit code of hltfarm's commands for a configuration that cannot be used
LONGEST_LINE = 1 << 14  # bytes; a longer line of a child is forwarded in pieces

Emit = Callable[[str, str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessSpec:
    """A process to keep running. Roles stop in the order in which the supervisor was given them."""

    name: str
    role: str
    command: tuple[str, ...]
    environment: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Exit:
    """The end of a process, but for those that `Supervisor.stop` ends. `phase`: what follows; `last_line`: the last output, or empty."""

    spec: ProcessSpec
    pid: int
    phase: Phase
    status: str
    last_line: str


@dataclass(slots=True)
class _Kept:
    spec: ProcessSpec
    state: RestartState
    process: Process | None = None
    last_exit: str | None = None
    last_line: str = ""
    nudge: asyncio.Event = field(default_factory=asyncio.Event)
    impatience: asyncio.TimerHandle | None = None  # kills a process that was told to leave and does not


def describe_exit(code: int) -> str:
    """An exit status in words."""
    if code >= 0:
        return f"exit code {code}"
    try:
        return f"signal {signal.Signals(-code).name}"
    except ValueError:
        return f"signal {-code}"


class Supervisor:
    """Keeps processes running.

    on_exit: told of every exit, before the process is started again. leave_s: a process that was told to leave is killed after that time.
    emit: given (process name, line) for every line of output. clock: monotonic seconds.
    """

    def __init__(
        self,
        specs: Sequence[ProcessSpec],
        *,
        on_exit: Callable[[Exit], Awaitable[None]],
        emit: Emit,
        clock: Callable[[], float],
        policy: RestartPolicy | None = None,
        leave_s: float = 30.0,
    ) -> None:
        self._policy = policy or RestartPolicy()
        self._kept = {spec.name: _Kept(spec, RestartState(self._policy)) for spec in specs}
        self._leave_s = leave_s
        self._on_exit, self._emit, self._clock = on_exit, emit, clock
        self._stopping = asyncio.Event()
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._fault: asyncio.Future[None] | None = None

    def start(self) -> None:
        """Start every process; call it from the event loop of the main thread (the death signal is tied to the thread)."""
        self._fault = asyncio.get_running_loop().create_future()
        for kept in self._kept.values():
            self._begin(kept)

    def _begin(self, kept: _Kept) -> None:
        name = kept.spec.name
        self._tasks[name] = task = asyncio.create_task(self._keep(kept), name=f"keep {name}")
        task.add_done_callback(lambda done: self._ended(name, done))

    def _ended(self, name: str, task: asyncio.Task[None]) -> None:
        """The task of a process is over: that process was forgotten, or everything ends, or the task has a fault."""
        fault = None if task.cancelled() else task.exception()
        if self._stopping.is_set():
            return
        if fault is None and self._kept[name].state.phase is Phase.STOPPED:
            del self._kept[name], self._tasks[name]
        elif self._fault is not None and not self._fault.done():
            self._fault.set_exception(fault or asyncio.CancelledError(f"keep {name}"))

    def add(self, spec: ProcessSpec) -> None:
        """Start one more process and keep it running. Raises StateError if there is one of its name, or all are being ended."""
        if spec.name in self._kept:
            raise StateError(f"there is a process {spec.name!r} already; choose another name, or delete it first")
        if self._stopping.is_set():
            raise StateError("the farm is being ended")
        self._kept[spec.name] = kept = _Kept(spec, RestartState(self._policy))
        self._begin(kept)

    def leave(self, name: str, then: Phase, *, reason: str = "", now: bool = False) -> None:
        """Let a process finish and end (`now`: kill it), and then be DRAINED, QUARANTINED, started again (WAITING) or forgotten (STOPPED).

        Raises KeyError for an unknown name, StateError if it was told to leave before and has not ended yet.
        """
        kept = self._kept[name]
        if kept.state.phase is Phase.LEAVING and not now:
            raise StateError(f"{name!r} is leaving already; wait for its end")
        if kept.state.leave(then, self._clock(), reason):
            self._signal(kept, signal.SIGKILL if now else signal.SIGTERM)
            if kept.impatience is None:
                kept.impatience = asyncio.get_running_loop().call_later(self._leave_s, self._lose_patience, kept)
        kept.nudge.set()

    def _lose_patience(self, kept: _Kept) -> None:
        log.warning("%s did not leave within %g s and is killed", kept.spec.name, self._leave_s)
        self._signal(kept, signal.SIGKILL)

    def kill_wedged(self, name: str, pid: int, why: str) -> None:
        """SIGKILL to a process that no longer does its work, if it is still the one of that pid; the policy decides what follows."""
        kept = self._kept.get(name)
        if kept is not None and kept.process is not None and kept.process.pid == pid:
            log.error("%s is killed: %s", name, why, extra={"pid": pid})
            self._signal(kept, signal.SIGKILL)

    def processes(self) -> list[ProcessModel]:
        """Every supervised process."""
        return [
            ProcessModel(
                name=kept.spec.name,
                role=kept.spec.role,
                phase=str(kept.state.phase),
                pid=None if kept.process is None else kept.process.pid,
                restarts=kept.state.restarts,
                last_exit=kept.last_exit,
                reason=kept.state.reason or None,
            )
            for kept in self._kept.values()
        ]

    def release(self, name: str) -> bool:
        """Start a quarantined, drained or waiting process now. Raises KeyError for an unknown name."""
        kept = self._kept[name]
        released = kept.state.release(self._clock())
        kept.nudge.set()
        return released

    async def failed(self) -> None:
        """Wait for a task that keeps a process to end by itself, which is a fault of the supervisor; raises that fault."""
        assert self._fault is not None, "start comes first"
        await asyncio.shield(self._fault)

    async def stop(self, grace_s: float) -> None:
        """End all processes, the last role first: SIGTERM, and SIGKILL to those that are still there after `grace_s` seconds."""
        self._stopping.set()
        roles = list(dict.fromkeys(kept.spec.role for kept in self._kept.values()))
        for role in reversed(roles):
            group = [kept for kept in self._kept.values() if kept.spec.role == role and kept.spec.name in self._tasks]
            for kept in group:
                kept.state.stop()
                kept.nudge.set()
                self._signal(kept, signal.SIGTERM)
            tasks = [self._tasks[kept.spec.name] for kept in group]
            if not tasks:
                continue
            _done, pending = await asyncio.wait(tasks, timeout=grace_s)
            if pending:
                for kept in group:
                    if kept.process is not None:
                        log.warning("%s did not end within %g s and is killed", kept.spec.name, grace_s)
                        self._signal(kept, signal.SIGKILL)
                await asyncio.wait(pending)

    def kill(self) -> None:
        """SIGKILL to every process, at once; `stop` still has to be awaited."""
        for kept in self._kept.values():
            self._signal(kept, signal.SIGKILL)

    @staticmethod
    def _signal(kept: _Kept, number: signal.Signals) -> None:
        process = kept.process
        if process is not None and process.returncode is None:
            try:
                process.send_signal(number)
            except ProcessLookupError:
                log.debug("%s ended before %s", kept.spec.name, number.name)

    async def _keep(self, kept: _Kept) -> None:
        while not self._stopping.is_set():
            pid, code = await self._run(kept)
            if self._stopping.is_set():
                break
            phase = self._after(kept, code)
            await self._on_exit(Exit(kept.spec, pid, phase, describe_exit(code), kept.last_line))
            await self._until_due(kept)
            if kept.state.phase is Phase.STOPPED:  # forgotten
                return
        kept.state.stop()

    def _after(self, kept: _Kept, code: int) -> Phase:
        """What follows the end of a process."""
        asked = kept.state.phase is Phase.LEAVING
        if kept.impatience is not None:
            kept.impatience.cancel()
            kept.impatience = None
        phase = kept.state.exited(self._clock(), hopeless=code == HOPELESS)
        if phase is Phase.QUARANTINED and not asked:
            said = kept.last_line.removeprefix("hltfarm: error: ")
            cause = "its configuration cannot be used" if code == HOPELESS else f"it ended again and again ({describe_exit(code)})"
            kept.state.reason = f"{cause}: {said}" if said else cause
            if kept.spec.role == "worker":
                log.error("%s is quarantined: %s; release it over the API when the cause is gone", kept.spec.name, kept.state.reason)
        return phase

    async def _run(self, kept: _Kept) -> tuple[int, int]:
        """Start the process and wait for its end: (pid, exit status)."""
        spec, before = kept.spec, kept.state.phase
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-I",
            "-S",
            str(LAUNCHER),
            str(os.getpid()),
            *spec.command,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=PIPE,
            stderr=STDOUT,
            env={**os.environ, **spec.environment},
            start_new_session=True,
        )
        kept.process = process
        asked, reason = kept.state.phase, kept.state.reason
        kept.state.started(self._clock())
        log.info("%s started", spec.name, extra={"pid": process.pid, "restarts": kept.state.restarts})
        forward = asyncio.create_task(self._forward(kept, process), name=f"output of {spec.name}")
        try:
            if self._stopping.is_set():  # stop, or an operator, came while the process was being started
                self._signal(kept, signal.SIGTERM)
            elif asked is not before:
                self.leave(spec.name, asked, reason=reason)
            code = await process.wait()
        finally:
            kept.process = None
        await forward
        kept.last_exit = describe_exit(code)
        expected = self._stopping.is_set() or kept.state.phase is Phase.LEAVING
        level = logging.INFO if expected else logging.WARNING
        log.log(level, "%s ended: %s", spec.name, kept.last_exit, extra={"pid": process.pid})
        return process.pid, code

    async def _forward(self, kept: _Kept, process: Process) -> None:
        assert process.stdout is not None
        kept.last_line = ""
        rest = b""
        while chunk := await process.stdout.read(CHUNK):
            *lines, rest = (rest + chunk).split(b"\n")
            while len(rest) > LONGEST_LINE:
                lines.append(rest[:LONGEST_LINE])
                rest = rest[LONGEST_LINE:]
            for line in lines:
                self._say(kept, line)
        if rest:
            self._say(kept, rest)

    def _say(self, kept: _Kept, line: bytes) -> None:
        kept.last_line = line.decode(errors="replace")
        self._emit(kept.spec.name, kept.last_line)

    async def _until_due(self, kept: _Kept) -> None:
        """Wait until the policy wants the process started, or a release or stop comes in between."""
        while not self._stopping.is_set() and kept.state.phase is not Phase.STOPPED:
            kept.nudge.clear()
            due = kept.state.due
            if due is not None and due <= self._clock():
                return
            try:
                async with asyncio.timeout(None if due is None else due - self._clock()):
                    await kept.nudge.wait()
            except TimeoutError:
                continue
