"""The HTTP server around the control application: its socket, its patience, and an end that somebody else decides on."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import Iterator

import h11
import uvicorn
from fastapi import FastAPI
from uvicorn.protocols.http.h11_impl import H11Protocol

from hltfarm.proto.errors import BackendError, ConfigError

CLOSING_S = 2  # time that open requests get when the server ends
HEADERS_S = 10.0  # time to send the head of a request; too low cuts off bad links, too high lets a few idle peers hold all connections
HEADER_BYTES = 32 << 10  # of one request
CONNECTIONS = 256  # beyond them requests are answered with 503


def listen(address: str) -> socket.socket:
    """A listening socket at HOST:PORT (port 0: a free one). Raises ConfigError if that is no address or it is taken."""
    host, separator, port = address.rpartition(":")
    host = host.strip("[]")
    if not separator or not host or not port.isdecimal() or int(port) > 65535:
        raise ConfigError(f"HTTP address {address!r}: give HOST:PORT, such as 127.0.0.1:8080")
    try:
        family = socket.getaddrinfo(host, int(port), type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((host, int(port)), family=family, backlog=128)
    except OSError as error:
        why = os.strerror(error.errno) if error.errno is not None and error.errno > 0 else error.strerror  # create_server adds the address
        raise ConfigError(f"cannot listen on {address}: {why}; give another address with --http HOST:PORT") from error


def url_of(listening: socket.socket) -> str:
    """The address as a URL."""
    host, port = listening.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


class ImpatientProtocol(H11Protocol):
    """uvicorn's protocol, with an end to the wait for the head of a request, and for the rest of one that has been answered.

    uvicorn itself waits for ever: peers that send a byte now and then (slow loris) would hold every connection.
    """

    headers_s = HEADERS_S
    _impatience: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override] # as uvicorn's
        super().connection_made(transport)
        self._impatience = self.loop.call_later(self.headers_s, self._lose_patience)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if not self._waits():
            self._be_patient()
        elif self._impatience is None:
            self._impatience = self.loop.call_later(self.headers_s, self._lose_patience)

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._be_patient()  # uvicorn's own timer of idle connections runs from here to the next byte

    def connection_lost(self, exc: Exception | None) -> None:
        self._be_patient()
        super().connection_lost(exc)

    def _waits(self) -> bool:
        """Whether nothing goes on but that the peer sends, or should."""
        return self.conn.their_state is h11.IDLE or (self.cycle is not None and bool(self.cycle.response_complete))

    def _be_patient(self) -> None:
        if self._impatience is not None:
            self._impatience.cancel()
            self._impatience = None

    def _lose_patience(self) -> None:
        self._impatience = None
        if self._waits():
            self.transport.abort()


class ControlServer(uvicorn.Server):
    """uvicorn without signal handlers: set `should_exit` to end it. `headers_s`: as HEADERS_S."""

    def __init__(self, app: FastAPI, *, headers_s: float = HEADERS_S, connections: int = CONNECTIONS) -> None:
        super().__init__(
            uvicorn.Config(
                app,
                http=type("Protocol", (ImpatientProtocol,), {"headers_s": headers_s}),
                log_config=None,
                access_log=False,
                lifespan="on",
                timeout_graceful_shutdown=CLOSING_S,
                ws="none",
                server_header=False,
                h11_max_incomplete_event_size=HEADER_BYTES,
                limit_concurrency=connections,
            )
        )

    async def serve(self, sockets: list[socket.socket] | None = None) -> None:
        """See uvicorn. Raises BackendError for an application that does not start, which ends the process there."""
        try:
            await super().serve(sockets)
        except SystemExit:
            raise BackendError("the control plane did not start; the log says why") from None

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Signals belong to the process, not to the server."""
        yield
