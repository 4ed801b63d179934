"""CURVE keys of ZeroMQ peers: key files, what a socket needs of them, and the list of those who may come.

A pair of keys is two files as pyzmq and czmq write them: NAME.key, to be handed out, and NAME.key_secret, which stays where it was made
(mode 0600). An allow-list is a folder with a room for each kind of peer, in which there are the public keys of those who may come:

    ALLOW/clients/readout-1.key      data sources
    ALLOW/control/control.key        control planes
    ALLOW/consumers/monitor.key      consumers of accepted events
"""

from __future__ import annotations

import os
import re
import stat
import struct
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import zmq
import zmq.auth
from zmq.utils import z85

from hltfarm.proto.errors import BackendError, ConfigError

ROOMS = ("clients", "control", "consumers")
HANDSHAKE_MS = 10_000  # who has not finished the handshake by then is cut off
LARGEST_FILE = 1 << 14
MOST_KEYS = 10_000  # of a room
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}\Z")
_SECRET_SUFFIX = ".key_secret"


@dataclass(frozen=True, slots=True)
class KeyPair:
    """A peer's own keys, in Z85 (40 characters). The secret one is never shown."""

    public: bytes
    secret: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class ClientCurve:
    """What one who connects needs: the public key of the other side, and his own pair."""

    server: bytes
    own: KeyPair

    def apply(self, socket: zmq.Socket[Any]) -> None:
        """Make the socket speak CURVE with that peer alone. Before it connects."""
        require_curve()
        socket.curve_serverkey = self.server
        socket.curve_publickey = self.own.public
        socket.curve_secretkey = self.own.secret


@dataclass(frozen=True, slots=True)
class ServerCurve:
    """What one who listens needs: his own pair, and the folder of those who may come."""

    own: KeyPair
    allow: Path

    def apply(self, socket: zmq.Socket[bytes], room: str) -> None:
        """Make the socket speak CURVE, and ask the gate of its context about everybody. Before it is bound."""
        require_curve()
        socket.curve_server = True
        socket.curve_secretkey = self.own.secret
        socket.zap_domain = room.encode()
        socket.setsockopt(zmq.HANDSHAKE_IVL, HANDSHAKE_MS)


def require_curve() -> None:
    """Raises BackendError where ZeroMQ was built without CURVE."""
    if not zmq.has("curve"):
        raise BackendError("this build of ZeroMQ has no CURVE (libsodium); install pyzmq from its wheel")


def new_keys(name: str, folder: Path) -> tuple[Path, Path]:
    """Make a pair of keys; the paths of the public and the secret file. Raises ConfigError for a name that is taken or unusable."""
    require_curve()
    if not NAME.match(name):
        raise ConfigError(f"name of a key {name!r}: give letters, digits and . _ -, 64 at most")
    public, secret = folder / f"{name}.key", folder / f"{name}{_SECRET_SUFFIX}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder, prefix=".new-") as workshop:  # of mode 0700: nobody reads the secret on its way
            zmq.auth.create_certificates(workshop, name)
            (Path(workshop) / secret.name).chmod(0o600)
            (Path(workshop) / public.name).chmod(0o644)
            for target in (secret, public):
                os.link(Path(workshop) / target.name, target)  # fails where there is one already
    except FileExistsError as error:
        raise ConfigError(
            f"{error.filename2}: there is such a key already, perhaps in use; choose another name, or remove it by hand"
        ) from None
    except OSError as error:
        raise ConfigError(f"keys in {folder}: {error.strerror}") from error
    return public, secret


def load_public(path: Path) -> bytes:
    """The public key of a file (of a secret file, too). Raises ConfigError."""
    return _load(path)[0]


def load_secret(path: Path) -> KeyPair:
    """A pair of keys from its secret file. Raises ConfigError if it is none, or if others than its owner may read it.

    The group may where the file is of root and this process is not: root has handed it to this process in that way (a mounted secret).
    """
    try:
        status = path.stat()
    except OSError as error:
        raise ConfigError(f"key file {path}: {error.strerror}") from error
    public, secret = _load(path)
    if secret is None:  # before the mode: a public file may be read by others, and is often given for the secret one
        raise ConfigError(f"key file {path} holds no secret key; give the file NAME{_SECRET_SUFFIX}")
    mode = status.st_mode
    if mode & forbidden(status.st_uid, os.geteuid()):
        raise ConfigError(f"key file {path} has mode {stat.S_IMODE(mode):04o}: others may read the secret; run chmod 600 {path}")
    require_curve()
    if zmq.curve_public(secret) != public:
        raise ConfigError(f"key file {path}: its public key is not that of its secret key")
    return KeyPair(public, secret)


def forbidden(owner: int, user: int) -> int:
    """Mode bits that a file with a secret may not have, given its owner and who reads it."""
    handed = owner == 0 and user != 0
    return stat.S_IRWXO | (stat.S_IWGRP | stat.S_IXGRP if handed else stat.S_IRWXG)


def _load(path: Path) -> tuple[bytes, bytes | None]:
    try:
        size = path.stat().st_size
        if size > LARGEST_FILE:
            raise ConfigError(f"key file {path}: {size} bytes; no more than {LARGEST_FILE} are read")
        public, secret = zmq.auth.load_certificate(path)
    except OSError as error:
        raise ConfigError(f"key file {path}: {error.strerror or error}") from error
    except (ValueError, IndexError) as error:
        raise ConfigError(f"key file {path} holds no public key") from error
    for key in (public, secret):
        if key is not None and not _is_key(key):
            raise ConfigError(f"key file {path}: a key has 40 characters of Z85")
    return public, secret


def _is_key(text: bytes) -> bool:
    if len(text) != 40:
        return False
    try:
        return len(z85.decode(text)) == 32
    except (KeyError, struct.error):
        return False


@dataclass(frozen=True, slots=True)
class AllowList:
    """Names by public key (Z85), for each room. `stamp` says which files they come from; `faults` which could not be read."""

    rooms: Mapping[str, Mapping[bytes, str]]
    stamp: tuple[tuple[str, int, int, int], ...]
    faults: tuple[str, ...]

    def name(self, room: str, key: bytes) -> str | None:
        """Whose key it is; None for somebody who may not come in there."""
        return self.rooms[room].get(key)


def allow_stamp(folder: Path) -> tuple[tuple[str, int, int, int], ...]:
    """What tells one state of an allow-list from another. Raises ConfigError if the folder cannot be read."""
    found = []
    for room in ROOMS:
        for path in _keys(folder / room):
            try:
                status = path.stat()
            except FileNotFoundError:
                continue
            found.append((f"{room}/{path.name}", status.st_mtime_ns, status.st_size, status.st_ino))
    return tuple(found)


def _keys(room: Path) -> list[Path]:
    try:
        paths = sorted(path for path in room.iterdir() if path.suffix == ".key")
    except FileNotFoundError:
        return []
    except OSError as error:
        raise ConfigError(f"allow-list {room}: {error.strerror}") from error
    if len(paths) > MOST_KEYS:
        raise ConfigError(f"allow-list {room}: {len(paths)} keys; no more than {MOST_KEYS} are read")
    return paths


def load_allow_list(folder: Path) -> AllowList:
    """The allow-list of a folder. Files without a key are told of in `faults`. Raises ConfigError for an unusable folder."""
    if not any((folder / room).is_dir() for room in ROOMS):
        raise ConfigError(f"allow-list {folder}: there is no folder {folder / ROOMS[0]} with the public keys of those who may come")
    stamp = allow_stamp(folder)
    rooms: dict[str, dict[bytes, str]] = {room: {} for room in ROOMS}
    faults = []
    for place, *_ in stamp:
        room, _, name = place.partition("/")
        try:
            rooms[room][load_public(folder / place)] = name.removesuffix(".key")
        except ConfigError as error:
            faults.append(str(error))
    return AllowList(rooms, stamp, tuple(faults))
