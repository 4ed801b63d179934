"""Log lines that strangers can cause: one in a while, with the number of those left out. Pure; time is an argument."""

from __future__ import annotations


class LogLimit:
    """At most one line every `every_s` seconds."""

    def __init__(self, every_s: float = 1.0) -> None:
        self._every_s = every_s
        self._next = float("-inf")
        self._left_out = 0

    def ask(self, now: float) -> int | None:
        """None: stay silent. Else: write the line; so many were left out since the one before."""
        if now < self._next:
            self._left_out += 1
            return None
        left_out, self._left_out = self._left_out, 0
        self._next = now + self._every_s
        return left_out
