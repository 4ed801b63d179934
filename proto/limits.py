"""Limits of the wire format: what a peer accepts before it looks at the content."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Limits:
    """Largest things that may cross the wire. Too low refuses real events; too high lets one client claim the memory of all.

    The payload limit is also the size of a slot in the ring, so it costs address space in `/dev/shm` for every slot.
    """

    max_payload_bytes: int = 4 << 20  # one event; pileup 200 needs about 1 MB
    max_name_bytes: int = 255  # the client's name in a hello
    max_text_bytes: int = 1024  # the text of an error
    max_decisions: int = 65536  # records in one decision message
    max_columns_bytes: int = 8 << 20  # columns of one event in a reply; larger ones are left out and flagged

    @property
    def socket_bytes(self) -> int:
        """Frames beyond this are not even received: ZeroMQ closes the connection (ZMQ_MAXMSGSIZE).

        Frames between `max_payload_bytes` and this bound are read and answered with OVERSIZE.
        """
        return 4 * self.max_payload_bytes
