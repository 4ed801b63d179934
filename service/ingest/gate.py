"""The gate of an ingest's sockets: answers ZeroMQ's questions whose CURVE keys may come in (ZAP, ZeroMQ RFC 27), in the ingest's own loop.

libzmq asks over an inproc socket of the context whenever a peer has proved that it has its key, and goes on when the answer has come.
"""

from __future__ import annotations

import logging
from pathlib import Path

import zmq
from zmq.utils import z85

from hltfarm.proto.errors import ConfigError, WireCode
from hltfarm.service.ingest.stats import Stats
from hltfarm.service.security.keys import AllowList, allow_stamp, load_allow_list
from hltfarm.service.security.log_limit import LogLimit

log = logging.getLogger(__name__)
ENDPOINT = "inproc://zeromq.zap.01"
VERSION = b"1.0"
LOOK_S = 1.0  # between two looks at the allow-list: so long may somebody still come in whose key has been taken away


class Gate:
    """Who may come in: the allow-list of `folder`, as read last in `allowed`. Sockets with CURVE may be bound once it exists."""

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]], folder: Path, allowed: AllowList, stats: Stats) -> None:
        self._folder = folder
        self._stats = stats
        self._limit = LogLimit()
        self._next_look = float("-inf")
        self._list = allowed
        self._tell()
        self.socket = context.socket(zmq.REP)
        self.socket.setsockopt(zmq.LINGER, 0)
        self.socket.bind(ENDPOINT)

    @staticmethod
    def key(frame: zmq.Frame) -> bytes:
        """The key under which a message came; empty for one that came over a socket without CURVE."""
        try:
            user = frame.get("User-Id")
        except zmq.ZMQError:
            return b""
        return user.encode() if isinstance(user, str) else bytes(user)

    def name(self, room: str, key: bytes) -> str | None:
        """Whose key it is; None if it may not come in (any more)."""
        return self._list.name(room, key)

    def receive(self, now: float) -> None:
        """Answer all questions."""
        while True:
            try:
                question = self.socket.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                return
            self.socket.send_multipart(self._answer(question, now))

    def _answer(self, question: list[bytes], now: float) -> list[bytes]:
        version, request, room, address, _identity, mechanism, *credentials = question
        if version != VERSION or mechanism != b"CURVE" or len(credentials) != 1:
            return [VERSION, request, b"400", b"CURVE is spoken here", b"", b""]
        self.look(now)
        key = z85.encode(credentials[0])
        name = self._list.name(room.decode(), key)
        if name is not None:
            return [VERSION, request, b"200", b"OK", key, b""]
        self._stats.refused[WireCode.NOT_ALLOWED.name] += 1
        left_out = self._limit.ask(now)
        if left_out is not None:
            more = f" ({left_out} more before)" if left_out else ""
            log.warning("refused %s: key %s is not in %s/%s%s", address.decode(), key.decode(), self._folder, room.decode(), more)
        return [VERSION, request, b"400", b"this key is not allowed here", b"", b""]

    def look(self, now: float) -> bool:
        """Read the allow-list again if it has changed, at most once in LOOK_S; whether it has. One that cannot be read changes nothing."""
        if now < self._next_look:
            return False
        self._next_look = now + LOOK_S
        try:
            if allow_stamp(self._folder) == self._list.stamp:
                return False
            self._list = load_allow_list(self._folder)
        except ConfigError as error:
            log.error("the allow-list of before remains in force: %s", error)
            return False
        self._tell()
        return True

    def _tell(self) -> None:
        for fault in self._list.faults:
            log.error("allow-list: %s", fault)
        log.info("allowed: %s", _count(self._list))

    def close(self) -> None:
        """Close the socket."""
        self.socket.close()


def _count(allowed: AllowList) -> str:
    return ", ".join(f"{len(keys)} {room}" for room, keys in allowed.rooms.items())
