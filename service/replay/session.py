"""Runs a bundle in a child process, with a time limit, and starts another one where an event took the first along."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from types import TracebackType
from typing import IO, Self

from msgspec.structs import replace

from hltfarm.proto.errors import BackendError, ConfigError
from hltfarm.proto.messages import RunConfig
from hltfarm.proto.versions import versions
from hltfarm.service.replay import link
from hltfarm.service.replay.bundle import Bundle
from hltfarm.service.replay.verdict import Ending, Failed, Verdict, cautions, differences, judge, models_text
from hltfarm.service.supervisor.processes import LAUNCHER, describe_exit

CHILD = (sys.executable, "-P", "-m", "hltfarm.service.replay.child")
PREPARE_S = 600.0  # time that a GPU may take to compile, and torch to build
LAST_WORDS_S = 5.0  # time that a child which is told to abort has to write its stacks
DETAIL_BYTES = 4000


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """conditions, model, event_model: in the place of those of the bundle; empty: those. times: reconstructions of each event.

    timeout_s: of one reconstruction. force: replay also with a menu, models or conditions other than those of the bundle.
    """

    conditions: str = ""
    model: str = ""
    event_model: str = ""
    backend: str = "auto"
    times: int = 2
    timeout_s: float = 60.0
    force: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Replay:
    """A bundle that was replayed. `differences`, `cautions`: between here and the farm, as verdict.py tells them."""

    bundle: Bundle
    here: link.Prepared
    differences: tuple[str, ...]
    cautions: tuple[str, ...]
    verdicts: tuple[Verdict, ...]

    @property
    def good(self) -> bool:
        """Whether every event was reconstructed, each time with the same bits."""
        return all(verdict.good for verdict in self.verdicts)


def configuration(bundle: Bundle, options: Options) -> RunConfig:
    """What decides in the replay. Raises ConfigError if a folder that the bundle names is not on this machine, with the way out."""
    config = bundle.record.config
    config = replace(
        config,
        menu=bundle.menu,
        detector=options.conditions or config.detector,
        model=options.model or config.model,
        event_model=options.event_model or config.event_model,
    )
    if config.detector != "phase1" and not Path(config.detector).exists():
        raise ConfigError(
            f"{bundle.folder}: there are no conditions at {config.detector!r} on this machine; "
            f"give a folder with those of digest {bundle.record.conditions or '(unknown)'} with --conditions"
        )
    for option, name in (("--model", config.model), ("--event-model", config.event_model)):
        if name and Path(name).is_absolute() and not Path(name).is_dir():
            raise ConfigError(
                f"{bundle.folder}: there is no model at {name!r} on this machine; the models of the bundle are "
                f"{models_text(bundle.record.models)}; give a folder with {option}"
            )
    return config


def replay(bundle: Bundle, options: Options, say: Callable[[str], None]) -> Replay:
    """Replay every event of a bundle, each alone. say: told what is being done.

    Raises ConfigError if nothing can be replayed here: what decides cannot be built, or is not what the bundle names and `force` is not
    set.
    """
    asked = link.Prepare(events_file=str(bundle.events_file), config=configuration(bundle, options), backend=options.backend)
    say(f"{bundle.folder.name}: building")
    child, here = prepared(bundle, asked)
    verdicts = []
    try:
        found = differences(bundle.record, here)
        if found and not options.force:
            raise ConfigError(f"{bundle.folder}: not what decided in the farm: {'; '.join(found)}; --force replays all the same")
        for index, event in enumerate(bundle.record.events):
            times: list[link.Done | Failed] = []
            for number in range(options.times):
                say(f"{bundle.folder.name}: event {event.event}, time {number + 1} of {options.times}")
                times.append(child.reconstruct(index, options.timeout_s))
                if isinstance(times[-1], Failed):
                    break
            verdicts.append(judge(event, times))
            left = bundle.record.events[index + 1 :]
            if isinstance(times[-1], Failed) and left:
                child.close()  # what the failure left behind is not to be trusted
                try:
                    child, here = prepared(bundle, asked)
                except ConfigError as error:
                    gone = Failed(ending=Ending.CRASHED, text=f"nothing can be built any more after event {event.event}: {error}")
                    verdicts += [judge(other, [gone]) for other in left]
                    break
    finally:
        child.close()
    cautious = tuple(cautions(bundle.record, here, versions()))
    return Replay(bundle=bundle, here=here, differences=tuple(found), cautions=cautious, verdicts=tuple(verdicts))


def prepared(bundle: Bundle, asked: link.Prepare) -> tuple[Child, link.Prepared]:
    """A child that has built what decides. Raises ConfigError if it could not."""
    child = Child()
    try:
        answer = child.ask(asked, PREPARE_S)
        if isinstance(answer, link.Prepared):
            return child, answer
        why = (
            answer.text if isinstance(answer, Failed) else answer.error if isinstance(answer, link.Raised) else "it answers something else"
        )
        raise ConfigError(f"{bundle.folder}: what decided its events cannot be built here: {why}")
    except BaseException:
        child.close()
        raise


class Child:
    """The process of child.py, killed by `close` at the latest."""

    def __init__(self, nice: int = 0) -> None:
        """nice: how much it stands back for others. Raises BackendError if the system gives no process."""
        here, there = socket.socketpair()
        self._words: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 close() does
        launcher = (sys.executable, "-I", "-S", str(LAUNCHER), str(os.getpid()))  # it dies with this process
        try:
            with there:
                self._process = subprocess.Popen(
                    (*launcher, *CHILD, str(there.fileno()), str(nice)),
                    pass_fds=(there.fileno(),),
                    stdin=subprocess.DEVNULL,
                    stdout=self._words,
                    stderr=self._words,
                    start_new_session=True,  # Ctrl-C is for the parent, which ends it
                )
        except OSError as error:
            here.close()
            self._words.close()
            raise BackendError(f"a process for the replay cannot be started: {error}") from error
        self._connection = Connection(here.detach())

    def reconstruct(self, index: int, timeout_s: float, columns: bool = False) -> link.Done | Failed:
        """One event of the file that was prepared. columns: with those that are drawn."""
        answer = self.ask(link.Reconstruct(index=index, columns=columns), timeout_s)
        if isinstance(answer, link.Raised):
            return Failed(ending=Ending.RAISED, text=answer.error, detail=answer.traceback)
        if not isinstance(answer, link.Done | Failed):
            return Failed(ending=Ending.RAISED, text="the process answers something else")
        return answer

    def ask(self, message: link.ToChild, timeout_s: float) -> link.FromChild | Failed:
        """The answer to a message, or what became of the child: it ended, or it said nothing for so long and was killed."""
        try:
            self._connection.send_bytes(link.encode(message))
            if not self._connection.poll(timeout_s):
                self._abort()
                return Failed(ending=Ending.TIMED_OUT, text=f"no result after {timeout_s:g} s", detail=self._last_words())
            answer: link.FromChild = link.decode_from_child(self._connection.recv_bytes())
            return answer
        except (EOFError, ConnectionError):
            code = self._process.wait()
            return Failed(ending=Ending.CRASHED, text=f"the process ended: {describe_exit(code)}", detail=self._last_words())

    def _abort(self) -> None:
        """Kill it so that it writes where it hangs."""
        self._process.send_signal(signal.SIGABRT)
        try:
            self._process.wait(LAST_WORDS_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _last_words(self) -> str:
        size = self._words.seek(0, os.SEEK_END)
        self._words.seek(max(0, size - DETAIL_BYTES))
        return self._words.read().decode(errors="replace").strip()

    def kill(self) -> None:
        """End the process; who waits for an answer learns that it ended. For another thread than the one that asks, which closes it."""
        self._process.kill()

    def close(self) -> None:
        """End the process, whatever it does; no effect a second time."""
        self._connection.close()
        self._process.kill()
        self._process.wait()
        self._words.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        self.close()
