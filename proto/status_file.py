"""The sign of life of a role, for health checks on its machine: a small file that the loop of the process rewrites every second.

It needs no socket and no keys, and it is old as soon as the loop stands still. Its time is that of the machine's monotonic clock, which
containers of one machine share and nobody sets.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable
from pathlib import Path

import msgspec

from hltfarm.proto.errors import BackendError, ConfigError

log = logging.getLogger(__name__)
EVERY_S = 1.0
FRESH_S = 15.0  # a turn of the loop may take some seconds on a busy machine, when a run is configured, or in the first batches


class Status(msgspec.Struct, frozen=True, kw_only=True):
    """What a role says of itself. `at`: monotonic seconds; `text`: why it is not ready, or what it does."""

    role: str
    pid: int
    at: float
    ready: bool
    text: str


class UnhealthyError(BackendError):
    """A role is not as a health check wants it."""

    retryable = True


class StatusFile:
    """The writing side. A file that cannot be written gets old, and is no harm to the process otherwise."""

    def __init__(self, path: Path, role: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._path, self._role, self._clock = path, role, clock
        self._next, self._failing = float("-inf"), False

    def tell(self, look: Callable[[], tuple[bool, str]]) -> None:
        """Rewrite it if that is due; `look` gives `ready` and `text`, and is called only then."""
        now = self._clock()
        if now < self._next:
            return
        self._next = now + EVERY_S
        ready, text = look()
        status = Status(role=self._role, pid=os.getpid(), at=now, ready=ready, text=text)
        fresh = self._path.with_name(f"{self._path.name}.new")
        try:
            fresh.write_bytes(msgspec.json.encode(status))
            fresh.replace(self._path)
        except OSError as error:
            if not self._failing:
                log.warning("the status file %s cannot be written: %s", self._path, error.strerror)
            self._failing = True
        else:
            self._failing = False

    def remove(self) -> None:
        """The process ends, also where the file cannot be removed."""
        try:
            self._path.unlink(missing_ok=True)
        except OSError as error:
            log.warning("the status file %s cannot be removed: %s", self._path, error.strerror)


def check(path: Path, role: str, ready: bool, now: float) -> Status:
    """The status of a role that lives and, if `ready`, could take work. Raises UnhealthyError, and ConfigError for what is no such file."""
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise UnhealthyError(f"{role}: there is no status file {path}; it has not started, or it has ended") from None
    try:
        status = msgspec.json.decode(content, type=Status)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:  # msgspec lets the second one through
        raise ConfigError(f"{path} is no status file: {error}") from error
    age = now - status.at
    if status.role != role:
        raise UnhealthyError(f"{path} is of the role {status.role}, not of {role}")
    if not -EVERY_S <= age <= FRESH_S:
        raise UnhealthyError(f"{role}: its loop stands still since {age:.0f} s ({status.text})")
    if ready and not status.ready:
        raise UnhealthyError(f"{role} is not ready: {status.text}")
    return status
