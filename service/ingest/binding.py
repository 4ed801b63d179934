"""Sockets of an ingest get their endpoints."""

from __future__ import annotations

import os

import zmq

from hltfarm.proto.errors import ConfigError


def bind(socket: zmq.Socket[bytes], peers: str, url: str) -> str:
    """Bind and return the endpoint as it is (port * becomes a number). `peers`: who connects; also the name of the option."""
    try:
        socket.bind(url)
    except zmq.ZMQError as error:
        option = f"--{peers}" + (" of the ingest, --ingest of the farm" if peers == "clients" else "")
        raise ConfigError(
            f"cannot listen on {url} for {peers}: {os.strerror(error.errno or 0)}; give another endpoint ({option})"
        ) from error
    return bytes(socket.getsockopt(zmq.LAST_ENDPOINT)).rstrip(b"\0").decode()
