"""Who gets accepted events over ZeroMQ, and which events have to wait for whom. Pure; time is an argument (seconds, any origin).

A monitor takes what its credit allows and is told how many events it missed. A lossless consumer gets every event of its streams: events
wait for its credit, and stay in flight until it has confirmed them. One that falls silent keeps its claim under its name until it comes
back (it gets again what it had not confirmed) or is detached.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

from hltfarm.proto.output_wire import Mode

WINDOW = 128  #: events that may be under way to a consumer, whatever credit it gives; they are copied
WINDOW_BYTES = 32 << 20  #: their bytes; a single event may have more


class Send(NamedTuple):
    """An event to send: to whom, with which serial, after how many missed ones; `resent`: it was sent in an earlier session."""

    identity: bytes
    session: int
    serial: int
    missed: int
    number: int
    resent: bool


class Joined(NamedTuple):
    """A new session, events that are released by it, and the identity of the earlier session of its name, if that was there."""

    session: int
    released: list[int]
    replaced: bytes | None


class SubscriberStatus(NamedTuple):
    """For people: `waiting` events wait for its credit or its confirmation. `silent_s`: since it was heard of."""

    name: str
    mode: str
    streams: tuple[str, ...]
    present: bool
    sent: int
    missed: int
    waiting: int
    silent_s: float


class _Waiting(NamedTuple):
    number: int
    size: int
    resent: bool  # it was sent in an earlier session


class _UnderWay(NamedTuple):
    serial: int
    number: int
    size: int


@dataclass(slots=True)
class _Subscriber:
    name: str
    mode: Mode
    streams: tuple[str, ...]  # empty: all
    identity: bytes
    session: int
    heard: float
    present: bool = True
    granted: int = 0
    sent: int = 0
    missed: int = 0
    sent_before: int = 0  # in earlier sessions, for the status
    waiting: deque[_Waiting] = field(default_factory=deque)  # lossless: not sent in this session so far
    under_way: deque[_UnderWay] = field(default_factory=deque)  # sent, not confirmed
    bytes: int = 0  # under way

    def wants(self, streams: Iterable[str]) -> bool:
        return not self.streams or any(stream in self.streams for stream in streams)

    def has_room(self, size: int) -> bool:
        return self.sent < self.granted and (not self.under_way or self.bytes + size <= WINDOW_BYTES)

    def claims(self) -> list[int]:
        """Events that wait for it."""
        if self.mode is Mode.MONITOR:
            return []
        return [item.number for item in self.under_way] + [item.number for item in self.waiting]


class Subscribers:
    """All consumers of one ingest. Events are known by their numbers. `most`: sessions at a time."""

    def __init__(self, timeout_s: float, most: int = 64) -> None:
        self._timeout_s = timeout_s
        self._most = most
        self._by_name: dict[str, _Subscriber] = {}
        self._by_session: dict[int, _Subscriber] = {}
        self._next = 1

    def __len__(self) -> int:
        return len(self._by_name)

    # -- sessions ----------------------------------------------------------------------------------------------------------

    def subscribe(self, identity: bytes, name: str, mode: Mode, streams: tuple[str, ...], now: float) -> Joined | None:
        """A new session; the earlier one of the same name ends. None: there are too many consumers.

        A lossless consumer that comes back as such inherits its events; with other streams, what is no longer wanted is for it, too.
        One that comes back as a monitor has no claim to them: they are released.
        """
        former = self._by_name.get(name)
        if former is None and len(self._by_name) >= self._most:
            return None
        fresh = _Subscriber(name, mode, streams, identity, self._next, now)
        self._next += 1
        released: list[int] = []
        if former is not None:
            self._by_session.pop(former.session, None)
            fresh.sent_before = former.sent_before + former.sent
            if mode is Mode.MONITOR:
                released = former.claims()
            elif former.mode is Mode.LOSSLESS:
                fresh.waiting.extend(_Waiting(item.number, item.size, True) for item in former.under_way)
                fresh.waiting.extend(former.waiting)
        self._by_name[name] = self._by_session[fresh.session] = fresh
        return Joined(fresh.session, released, former.identity if former is not None and former.present else None)

    def credit(self, session: int, granted: int, confirmed: int, now: float) -> tuple[list[int], list[Send]] | None:
        """A consumer says what it takes and what it has. Returns the events it confirms, and what to send now; None: no such session."""
        subscriber = self._by_session.get(session)
        if subscriber is None:
            return None
        subscriber.heard, subscriber.present = now, True
        subscriber.granted = max(subscriber.granted, min(granted, min(confirmed, subscriber.sent) + WINDOW))
        released = []
        while subscriber.under_way and subscriber.under_way[0].serial <= confirmed:
            item = subscriber.under_way.popleft()
            subscriber.bytes -= item.size
            if subscriber.mode is Mode.LOSSLESS:
                released.append(item.number)
        return released, self._send_waiting(subscriber)

    def identity(self, session: int) -> bytes | None:
        """Who has the session."""
        subscriber = self._by_session.get(session)
        return None if subscriber is None else subscriber.identity

    def holder(self, name: str) -> int | None:
        """The session that has a name, present or awaited."""
        subscriber = self._by_name.get(name)
        return None if subscriber is None else subscriber.session

    def totals(self, session: int) -> tuple[int, int]:
        """(sent, missed) in a session."""
        subscriber = self._by_session[session]
        return subscriber.sent, subscriber.missed

    def leave(self, session: int) -> list[int]:
        """The consumer ends its subscription; its events are released."""
        subscriber = self._by_session.get(session)
        return [] if subscriber is None else self._remove(subscriber)

    def detach(self, name: str) -> tuple[bytes, list[int]] | None:
        """An operator ends a subscription: its identity, and the events that waited for it. None: nobody of that name."""
        subscriber = self._by_name.get(name)
        return None if subscriber is None else (subscriber.identity, self._remove(subscriber))

    def lost(self, session: int) -> None:
        """Its connection is gone; monitors are forgotten, lossless consumers awaited."""
        subscriber = self._by_session.get(session)
        if subscriber is not None:
            self._absent(subscriber)

    def tick(self, now: float) -> None:
        """Consumers that are silent for too long are gone."""
        for subscriber in list(self._by_name.values()):
            if subscriber.present and now - subscriber.heard > self._timeout_s:
                self._absent(subscriber)

    # -- events ------------------------------------------------------------------------------------------------------------

    def offer(self, number: int, size: int, streams: Iterable[str]) -> tuple[list[Send], int]:
        """An accepted event of `size` bytes. Returns what to send now, and how many consumers have to confirm the event."""
        sends: list[Send] = []
        claims = 0
        for subscriber in self._by_name.values():
            if not subscriber.wants(streams):
                continue
            if subscriber.mode is Mode.LOSSLESS:
                claims += 1
                subscriber.waiting.append(_Waiting(number, size, False))
                sends += self._send_waiting(subscriber)
            elif subscriber.has_room(size):
                sends.append(self._send(subscriber, _Waiting(number, size, False)))
            else:
                subscriber.missed += 1
        return sends, claims

    def give_up(self) -> list[int]:
        """Nobody waits for events any more: all are released, counted as missed by their consumers."""
        released: list[int] = []
        for subscriber in self._by_name.values():
            subscriber.missed += len(subscriber.waiting)
            released += subscriber.claims()
            subscriber.waiting.clear()
            if subscriber.mode is Mode.LOSSLESS:
                subscriber.under_way.clear()
                subscriber.bytes = 0
        return released

    # -- state -------------------------------------------------------------------------------------------------------------

    def problems(self) -> list[str]:
        """Consumers for whom the farm waits."""
        return [
            f"consumer {s.name} of the output is gone, {len(s.claims())} events wait for it: start or detach it"
            for s in self._by_name.values()
            if s.mode is Mode.LOSSLESS and not s.present
        ]

    def status(self, now: float) -> list[SubscriberStatus]:
        """All consumers."""
        return [
            SubscriberStatus(
                s.name, s.mode.name.lower(), s.streams, s.present, s.sent_before + s.sent, s.missed,
                len(s.claims()), round(now - s.heard, 3),
            )
            for s in self._by_name.values()
        ]  # fmt: skip

    def _send_waiting(self, subscriber: _Subscriber) -> list[Send]:
        sends = []
        while subscriber.present and subscriber.waiting and subscriber.has_room(subscriber.waiting[0].size):
            sends.append(self._send(subscriber, subscriber.waiting.popleft()))
        return sends

    def _send(self, subscriber: _Subscriber, item: _Waiting) -> Send:
        subscriber.sent += 1
        subscriber.under_way.append(_UnderWay(subscriber.sent, item.number, item.size))
        subscriber.bytes += item.size
        return Send(subscriber.identity, subscriber.session, subscriber.sent, subscriber.missed, item.number, item.resent)

    def _absent(self, subscriber: _Subscriber) -> None:
        subscriber.present = False
        if subscriber.mode is Mode.MONITOR:
            self._remove(subscriber)

    def _remove(self, subscriber: _Subscriber) -> list[int]:
        self._by_name.pop(subscriber.name, None)
        self._by_session.pop(subscriber.session, None)
        return subscriber.claims()
