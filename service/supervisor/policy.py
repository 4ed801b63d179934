"""Restart policy of one process as a pure state machine; time is an argument, in seconds of any monotonic clock.

    running ── exit ──> waiting (back-off) ── due ──> running
       │        └── hopeless, or too many exits in the window ──> quarantined ── release ──> running
       └── leave ──> leaving ── exit ──> drained, quarantined, waiting or stopped, as was asked

An operator's `leave` names what is to follow the end; a process that is not running is there at once. Nothing but `release` (or another
`leave`) starts a process that is drained or quarantined.
The delay before restart k (k = 1, 2, ... consecutive exits) is `first_s * factor**(k-1)`, at most `longest_s`.
A process that ran for `stable_s` counts as recovered: its next exit starts the series again.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from enum import StrEnum


class Phase(StrEnum):
    """Where a supervised process is."""

    RUNNING = "running"
    WAITING = "waiting"
    LEAVING = "leaving"  # told to end
    DRAINED = "drained"  # ended because an operator wanted it so
    QUARANTINED = "quarantined"
    STOPPED = "stopped"


@dataclass(frozen=True, slots=True, kw_only=True)
class RestartPolicy:
    """How restarts are paced.

    first_s: too low burns CPU on a process that cannot start, too high lengthens each loss.
    quarantine_after: exits within window_s that take the process out; too low quarantines on one bad event, too high lets
    one poisoned process disturb the farm for long.
    """

    first_s: float = 0.25
    factor: float = 2.0
    longest_s: float = 30.0
    stable_s: float = 30.0
    quarantine_after: int = 5
    window_s: float = 60.0


@dataclass(slots=True)
class RestartState:
    """History of one process. Drive it with `started`, `exited`, `leave`, `release`, `stop`; read `phase` and `due`.

    `reason`: why it is quarantined, for people; empty while it is not.
    """

    policy: RestartPolicy = field(default_factory=RestartPolicy)
    phase: Phase = Phase.WAITING
    restarts: int = 0
    due: float | None = None  # when a waiting process is to be started
    reason: str = ""
    _then: Phase = Phase.STOPPED  # what follows LEAVING
    _exits: deque[float] = field(default_factory=deque)
    _series: int = 0  # consecutive exits without a stable stretch between them
    _since: float = 0.0
    _begun: bool = False

    def started(self, now: float) -> None:
        """The process was started; the second and later starts count as restarts."""
        if self._begun:
            self.restarts += 1
        self._begun = True
        self.phase, self.due, self._since, self.reason = Phase.RUNNING, None, now, ""

    def exited(self, now: float, hopeless: bool = False) -> Phase:
        """The process ended: WAITING with `due` set, or QUARANTINED; what `leave` asked for if it was told to end.

        hopeless: it said that its configuration cannot work; starting it again would give the same end.
        """
        if self.phase is Phase.LEAVING:
            return self._settle(self._then, now)
        if now - self._since >= self.policy.stable_s:
            self._series = 0
        self._series += 1
        self._exits.append(now)
        while self._exits and self._exits[0] <= now - self.policy.window_s:
            self._exits.popleft()
        if hopeless or len(self._exits) >= self.policy.quarantine_after:
            self.phase, self.due = Phase.QUARANTINED, None
        else:
            delay = min(self.policy.longest_s, self.policy.first_s * self.policy.factor ** (self._series - 1))
            self.phase, self.due = Phase.WAITING, now + delay
        return self.phase

    def leave(self, then: Phase, now: float, reason: str = "") -> bool:
        """The process is to end, and `then` (DRAINED, QUARANTINED, WAITING for a start at once, STOPPED) to follow.

        True if it runs and has to be told; False if it is away, and `then` holds already.
        """
        self.reason = reason
        if self.phase in (Phase.RUNNING, Phase.LEAVING):
            self.phase, self._then = Phase.LEAVING, then
            return True
        self._settle(then, now)
        return False

    def _settle(self, phase: Phase, now: float) -> Phase:
        self.phase, self.due = phase, now if phase is Phase.WAITING else None
        return phase

    def release(self, now: float) -> bool:
        """Let a quarantined, drained or waiting process start at once, with a clean record. False if it is none of them."""
        if self.phase not in (Phase.QUARANTINED, Phase.DRAINED, Phase.WAITING):
            return False
        self.reason = ""
        self._exits.clear()
        self._series = 0
        self.phase, self.due = Phase.WAITING, now
        return True

    def stop(self) -> None:
        """The supervisor ends the process: no restart follows."""
        self.phase, self.due = Phase.STOPPED, None
