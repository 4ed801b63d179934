"""Credit: who may send how many events and bytes. Pure; time is an argument (seconds, any origin).

Each client has a licence that is a total since the start of its session. The ingest has to honour it, so licensed but unsent events
reserve room: `reserved = licensed - received`. A licence is lowered by announcing a smaller total; the room comes back only when
the client confirms the announcement (until then events may be under way). Invariant, kept by `plan`:
room in use + sum of reserved <= capacity, in events and in bytes, so that a licensed event always finds a slot.

Fairness: a client that sent something lately is active; active clients share the capacity equally, idle ones keep a small floor, enough
for one event of the largest size, with which they become active again.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from hltfarm.proto.errors import ConfigError


class Grant(NamedTuple):
    """New totals for a client; `confirm`: the client has to repeat `serial`, because a total was lowered."""

    client: int
    events: int
    bytes: int
    serial: int
    confirm: bool


@dataclass(slots=True)
class _Account:
    licensed_events: int = 0  # what must be honoured
    licensed_bytes: int = 0
    announced_events: int = 0  # what the client was told last
    announced_bytes: int = 0
    received_events: int = 0
    received_bytes: int = 0
    held_events: int = 0  # admitted, not yet decided
    held_bytes: int = 0
    serial: int = 0
    lowered: int = 0  # serial of a lowering that is not confirmed yet, 0 if none
    active_until: float = 0.0

    @property
    def reserved_events(self) -> int:
        return max(0, self.licensed_events - self.received_events)

    @property
    def reserved_bytes(self) -> int:
        return max(0, self.licensed_bytes - self.received_bytes)


class CreditBook:
    """Licences of all clients of one ingest.

    capacity_events, capacity_bytes: room for admitted and licensed events together.
    max_clients: sessions at a time; capacity must hold one largest event for each (ConfigError).
    idle_s: a client that sent nothing for so long falls back to the floor.
    """

    def __init__(
        self, capacity_events: int, capacity_bytes: int, *, max_payload_bytes: int, max_clients: int = 64, idle_s: float = 2.0
    ) -> None:
        if capacity_events < max_clients or capacity_bytes < max_clients * max_payload_bytes:
            raise ConfigError(
                f"room for {capacity_events} events and {capacity_bytes} bytes is too small for {max_clients} clients "
                f"with one event of {max_payload_bytes} bytes each: more slots or fewer clients"
            )
        self.capacity_events = capacity_events
        self.capacity_bytes = capacity_bytes
        self.max_clients = max_clients
        self._floor_events = min(4, capacity_events // max_clients)
        self._floor_bytes = max_payload_bytes
        self._idle_s = idle_s
        self._accounts: dict[int, _Account] = {}
        self._used_events = self._used_bytes = 0  # held by all, also by clients that left

    # -- clients -----------------------------------------------------------------------------------------------------------

    def join(self, client: int) -> bool:
        """Open an account without licence. False: there are `max_clients` already."""
        if len(self._accounts) >= self.max_clients:
            return False
        self._accounts[client] = _Account()
        return True

    def leave(self, client: int) -> None:
        """Close the account; its reservation is free at once, what it has in the farm stays in use until `release`."""
        self._accounts.pop(client, None)

    def confirm(self, client: int, serial: int, sent_events: int, sent_bytes: int) -> None:
        """A hello: all the client sent before it has arrived (or never will), and it knows the credit `serial`."""
        account = self._accounts[client]
        # A client cannot have sent more than it was licensed to; a larger claim would only buy a larger licence.
        account.received_events = max(account.received_events, min(sent_events, account.licensed_events))
        account.received_bytes = max(account.received_bytes, min(sent_bytes, account.licensed_bytes))
        if account.lowered and serial >= account.lowered:
            account.lowered = 0
            account.licensed_events = account.announced_events
            account.licensed_bytes = account.announced_bytes

    def arrived(self, client: int, size: int, now: float) -> bool:
        """Count an event frame that arrived; True if the licence covers it. Frames that are refused for other reasons count, too."""
        account = self._accounts[client]
        account.received_events += 1
        account.received_bytes += size
        account.active_until = now + self._idle_s
        return account.received_events <= account.licensed_events and account.received_bytes <= account.licensed_bytes

    def hold(self, client: int, size: int) -> None:
        """The event was admitted."""
        self._used_events += 1
        self._used_bytes += size
        account = self._accounts.get(client)
        if account is not None:
            account.held_events += 1
            account.held_bytes += size

    def release(self, client: int, events: int, size: int) -> None:
        """`events` of the client with `size` bytes together were decided; their room is free."""
        self._used_events -= events
        self._used_bytes -= size
        account = self._accounts.get(client)
        if account is not None:
            account.held_events -= events
            account.held_bytes -= size

    # -- licences ----------------------------------------------------------------------------------------------------------

    def plan(self, now: float, *, open_: bool, stalled: frozenset[int] = frozenset()) -> list[Grant]:
        """Licences to announce now. Not `open_` withdraws all; `stalled` clients (who do not read) get nothing new."""
        grants = []
        events_left = self.capacity_events - self._used_events - sum(a.reserved_events for a in self._accounts.values())
        bytes_left = self.capacity_bytes - self._used_bytes - sum(a.reserved_bytes for a in self._accounts.values())
        for client, account, target_events, target_bytes in self._targets(now):
            if not open_:
                target_events = target_bytes = 0
            want_events = max(0, target_events - account.held_events)  # what should be reserved
            want_bytes = max(0, target_bytes - account.held_bytes)
            if client in stalled:
                want_events, want_bytes = min(want_events, account.reserved_events), min(want_bytes, account.reserved_bytes)
            add_events = min(want_events - account.reserved_events, events_left)
            add_bytes = min(want_bytes - account.reserved_bytes, bytes_left)
            if not self._worthwhile(account, add_events, add_bytes, target_events, open_):
                continue
            if open_ and -self._floor_bytes <= add_bytes < 0:
                add_bytes = 0  # not worth a round of confirmation
            grant = self._announce(client, account, add_events, add_bytes)
            if grant is not None:
                events_left -= max(0, add_events)
                bytes_left -= max(0, add_bytes)
                grants.append(grant)
        return grants

    def settle(self) -> None:
        """The run is over: what was licensed and not sent is no longer honoured."""
        for account in self._accounts.values():
            account.licensed_events = account.announced_events = account.received_events
            account.licensed_bytes = account.announced_bytes = account.received_bytes
            account.lowered = 0

    @property
    def reserved_events(self) -> int:
        """Events that may still arrive under the licences given."""
        return sum(account.reserved_events for account in self._accounts.values())

    @property
    def reserved_bytes(self) -> int:
        return sum(account.reserved_bytes for account in self._accounts.values())

    @property
    def used(self) -> tuple[int, int]:
        """(events, bytes) admitted and undecided."""
        return self._used_events, self._used_bytes

    def current(self, client: int) -> Grant:
        """The licence as last announced."""
        account = self._accounts[client]
        return Grant(client, account.announced_events, account.announced_bytes, account.serial, account.lowered != 0)

    def _targets(self, now: float) -> Iterator[tuple[int, _Account, int, int]]:
        active = sum(1 for account in self._accounts.values() if account.active_until > now)
        idle = len(self._accounts) - active
        share_events = (self.capacity_events - idle * self._floor_events) // max(1, active)
        share_bytes = (self.capacity_bytes - idle * self._floor_bytes) // max(1, active)
        for client, account in self._accounts.items():
            if account.active_until > now:
                yield client, account, share_events, share_bytes
            else:
                yield client, account, self._floor_events, self._floor_bytes

    def _worthwhile(self, account: _Account, add_events: int, add_bytes: int, target_events: int, open_: bool) -> bool:
        """Avoid a message for every event: a quarter of the share at a time, sooner when the client is about to run dry."""
        if not open_:
            return account.announced_events > account.received_events or account.announced_bytes > account.received_bytes
        if account.lowered:
            return False  # one change at a time
        if add_events < 0 or add_bytes < -self._floor_bytes:
            return True
        if add_events >= max(1, target_events // 4) or (add_events > 0 and account.reserved_events == 0):
            return True
        return add_bytes > 0 and account.reserved_bytes < self._floor_bytes

    @staticmethod
    def _announce(client: int, account: _Account, add_events: int, add_bytes: int) -> Grant | None:
        base_events = max(account.licensed_events, account.received_events)
        base_bytes = max(account.licensed_bytes, account.received_bytes)
        events, size = base_events + add_events, base_bytes + add_bytes
        if (events, size) == (account.announced_events, account.announced_bytes):
            return None
        account.serial += 1
        confirm = events < account.licensed_events or size < account.licensed_bytes
        if confirm:
            account.lowered = account.serial
        account.announced_events, account.announced_bytes = events, size
        account.licensed_events = max(account.licensed_events, events)
        account.licensed_bytes = max(account.licensed_bytes, size)
        return Grant(client, events, size, account.serial, confirm)
