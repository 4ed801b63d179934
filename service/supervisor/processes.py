"""The shell around the restart policy: asyncio subprocesses. Exits are reaped at once (the event loop's child watcher).

Every process has a task that starts it, waits for its end, tells `on_exit`, and starts it again when the policy says so.
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
    """An unexpected end. `phase`: what follows; `last_line`: the last output, empty if there was none."""

    spec: ProcessSpec
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

    on_exit: told of every unexpected exit, before the process is started again.
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
    ) -> None:
        self._kept = {spec.name: _Kept(spec, RestartState(policy or RestartPolicy())) for spec in specs}
        self._on_exit, self._emit, self._clock = on_exit, emit, clock
        self._stopping = asyncio.Event()
        self._tasks: dict[str, asyncio.Task[None]] = {}

    def start(self) -> None:
        """Start every process; call it from the event loop of the main thread (the death signal is tied to the thread)."""
        for name, kept in self._kept.items():
            self._tasks[name] = asyncio.create_task(self._keep(kept), name=f"keep {name}")

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
            )
            for kept in self._kept.values()
        ]

    def release(self, name: str) -> bool:
        """Start a quarantined or waiting process now. Raises KeyError for an unknown name."""
        kept = self._kept[name]
        released = kept.state.release(self._clock())
        kept.nudge.set()
        return released

    async def failed(self) -> None:
        """Return when a task that keeps a process has ended by itself: a fault of the supervisor. Raises that fault."""
        done, _pending = await asyncio.wait(self._tasks.values(), return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()

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
            code = await self._run(kept)
            if self._stopping.is_set():
                break
            phase = kept.state.exited(self._clock(), hopeless=code == HOPELESS)
            if phase is Phase.QUARANTINED:
                log.error("%s is quarantined; release it over the API when the cause is gone", kept.spec.name)
            await self._on_exit(Exit(kept.spec, phase, describe_exit(code), kept.last_line))
            await self._until_due(kept)
        kept.state.stop()

    async def _run(self, kept: _Kept) -> int:
        spec = kept.spec
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
        kept.state.started(self._clock())
        log.info("%s started", spec.name, extra={"pid": process.pid, "restarts": kept.state.restarts})
        forward = asyncio.create_task(self._forward(kept, process), name=f"output of {spec.name}")
        try:
            if self._stopping.is_set():  # stop came while the process was being started
                self._signal(kept, signal.SIGTERM)
            code = await process.wait()
        finally:
            kept.process = None
        await forward
        kept.last_exit = describe_exit(code)
        level = logging.INFO if self._stopping.is_set() else logging.WARNING
        log.log(level, "%s ended: %s", spec.name, kept.last_exit, extra={"pid": process.pid})
        return code

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
        while not self._stopping.is_set():
            kept.nudge.clear()
            due = kept.state.due
            if due is not None and due <= self._clock():
                return
            try:
                async with asyncio.timeout(None if due is None else due - self._clock()):
                    await kept.nudge.wait()
            except TimeoutError:
                continue
