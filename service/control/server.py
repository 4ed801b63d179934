"""The HTTP server around the control application: its socket, and an end that somebody else decides on."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator

import uvicorn
from fastapi import FastAPI

from hltfarm.proto.errors import ConfigError

CLOSING_S = 2  # time that open requests get when the server ends


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
        raise ConfigError(f"cannot listen on {address}: {error.strerror}") from error


def url_of(listening: socket.socket) -> str:
    """The address as a URL."""
    host, port = listening.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


class ControlServer(uvicorn.Server):
    """uvicorn without signal handlers: set `should_exit` to end it."""

    def __init__(self, app: FastAPI) -> None:
        super().__init__(
            uvicorn.Config(app, log_config=None, access_log=False, lifespan="on", timeout_graceful_shutdown=CLOSING_S, ws="none")
        )

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Signals belong to the process, not to the server."""
        yield
