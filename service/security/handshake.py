"""Why a connection does not come about: libzmq's events of the handshake, in words.

libzmq keeps silent about a refused handshake; without this a client with a wrong key would wait for ever.
"""

from __future__ import annotations

import zmq
from zmq.utils.monitor import recv_monitor_message

from hltfarm.proto.errors import AccessError
from hltfarm.service.security.keys import ClientCurve

_REFUSED = zmq.EVENT_HANDSHAKE_FAILED_AUTH
_PROTOCOL = zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL
_OTHER = zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL


class Handshake:
    """Watches the handshakes of a socket that is about to connect. `trouble`: what is probably wrong, to be added to a message."""

    def __init__(self, socket: zmq.Socket[bytes], url: str, curve: ClientCurve | None, trouble: str = "") -> None:
        self.trouble = trouble  # known from an attempt before
        self._socket = socket
        self._url = url
        self._curve = curve
        self._monitor: zmq.Socket[bytes] = socket.get_monitor_socket(_REFUSED | _PROTOCOL | _OTHER)

    def check(self) -> None:
        """Read what has happened. Raises AccessError if the other side refused the key, or speaks CURVE where this side does not."""
        while self._monitor.poll(0):
            event = recv_monitor_message(self._monitor)
            if event["event"] == _REFUSED:
                own = self._curve.own.public.decode() if self._curve is not None else "none"
                raise AccessError(f"{self._url} refuses the key {own}: its public file must be in the allow-list there")
            if event["event"] == _PROTOCOL and int(event["value"]) == zmq.PROTOCOL_ERROR_ZMTP_MECHANISM_MISMATCH:
                if self._curve is None:
                    raise AccessError(f"{self._url} asks for keys (CURVE): give the key of this side and the public key of the ingest")
                raise AccessError(f"{self._url} does not speak CURVE: connect without keys")
            self.trouble = "; the handshake failed" + (
                ": is the public key of the ingest the right one?" if self._curve is not None else ""
            )

    def close(self) -> None:
        """End the watch; before the socket is closed."""
        self._socket.disable_monitor()
        self._monitor.close(linger=0)
