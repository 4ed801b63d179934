"""Bearer tokens of the HTTP API: a YAML file that holds their digests, never the tokens themselves.

    tokens:
      - {name: night-shift, role: operator, sha256: "<64 hexadecimal digits>", expires: 2027-01-31}

A token has 256 random bits, so a plain SHA-256 of it cannot be turned back, and nobody can try them all.
"""

from __future__ import annotations

import hashlib
import hmac
import logging
import os
import re
import secrets
import shutil
import stat
from datetime import UTC, date, datetime
from enum import IntEnum
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from hltfarm.proto.errors import ConfigError
from hltfarm.workers.menu.yaml_source import read

log = logging.getLogger(__name__)
PREFIX = "hlt_"  # lets scanners of repositories and logs recognise a token
TOKEN_BYTES = 32
LARGEST_FILE = 1 << 17
NAME = r"^[A-Za-z0-9][A-Za-z0-9._@-]{0,63}$"


class Role(IntEnum):
    """What a token may do; a higher role may do all that a lower one may."""

    VIEWER = 1  # look
    OPERATOR = 2  # steer runs, workers, menus and models
    ADMIN = 3  # bring in code and data (models), change who may do what

    @classmethod
    def of(cls, name: str) -> Role:
        """The role of this name, in small letters. Raises ConfigError."""
        try:
            return cls[name.upper()]
        except KeyError:
            raise ConfigError(f"role {name!r}: choose one of {', '.join(role.label for role in cls)}") from None

    @property
    def label(self) -> str:
        """Its name, in small letters."""
        return self.name.lower()


def _role(value: str) -> str:
    try:
        return Role.of(value).label
    except ConfigError as error:
        raise ValueError(str(error)) from None


class Entry(BaseModel):
    """One token of the file: its digest, and whom it stands for. It ends at `expires`; a time without zone is UTC, a day its beginning."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    name: str = Field(pattern=NAME)
    role: Annotated[str, AfterValidator(_role)]
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    expires: datetime | date | None = None

    @property
    def end(self) -> datetime | None:
        """The moment from which the token is refused."""
        if self.expires is None:
            return None
        moment = self.expires if isinstance(self.expires, datetime) else datetime(self.expires.year, self.expires.month, self.expires.day)
        return moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)


class _File(BaseModel):
    model_config = ConfigDict(extra="forbid")
    tokens: list[Entry] = Field(max_length=1000)


class Tokens:
    """A set of tokens. Immutable."""

    def __init__(self, entries: list[Entry]) -> None:
        self.entries = tuple(entries)
        self._digests = tuple(bytes.fromhex(entry.sha256) for entry in entries)

    def __len__(self) -> int:
        return len(self.entries)

    def find(self, token: str) -> Entry | None:
        """The entry of a token, expired or not; None for a token that is not in the file.

        Every entry is compared, each in constant time, so that the time tells nothing about the digests.
        """
        digest = hashlib.sha256(token.encode(errors="surrogateescape")).digest()
        found = None
        for entry, known in zip(self.entries, self._digests, strict=True):
            if hmac.compare_digest(digest, known):
                found = entry
        return found


def parse_tokens(text: str, name: str) -> Tokens:
    """Tokens of a file's text; `name` says which file in errors. Raises ConfigError."""
    source = read(text)
    if source.faults:
        fault = source.faults[0]
        raise ConfigError(f"tokens file {name}, line {fault.line}: {fault.text}")
    if source.data is None:
        return Tokens([])
    try:
        entries = _File.model_validate(source.data).tokens
    except ValidationError as error:
        raise ConfigError(f"tokens file {name}: {_first(error)}") from None
    for what in ("name", "sha256"):
        values = [getattr(entry, what) for entry in entries]
        twice = sorted({value for value in values if values.count(value) > 1})
        if twice:
            raise ConfigError(f"tokens file {name}: {what} {twice[0]!r} stands there twice")
    return Tokens(entries)


def _first(error: ValidationError) -> str:
    fault = error.errors(include_input=False, include_url=False)[0]
    return f"{'.'.join(str(part) for part in fault['loc']) or 'the document'}: {fault['msg']}"


def _stat(path: Path) -> os.stat_result:
    try:
        return path.stat()
    except OSError as error:
        raise ConfigError(f"tokens file {path}: {error.strerror}") from error


def load_tokens(path: Path) -> Tokens:
    """Tokens of a file. Raises ConfigError if it cannot be used, or others than its owner and group may read it, or its group change it."""
    status = _stat(path)
    check_mode(path, status.st_mode)
    if status.st_size > LARGEST_FILE:
        raise ConfigError(f"tokens file {path}: {status.st_size} bytes; no more than {LARGEST_FILE} are read")
    try:
        return parse_tokens(path.read_text(encoding="utf-8"), str(path))
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"tokens file {path}: {error}") from error


def check_mode(path: Path, mode: int) -> None:
    """Raises ConfigError for a tokens file that others may read or change."""
    if mode & (stat.S_IRWXO | stat.S_IWGRP):
        raise ConfigError(f"tokens file {path} has mode {stat.S_IMODE(mode):04o}: others may read or change it; run chmod 600 {path}")


class TokensFile:
    """The tokens of a file, read again when it changes. A file that cannot be used keeps the tokens that were read last.

    `problem` says why the last reading failed, None if it did not. Raises ConfigError if the first reading fails.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.problem: str | None = None
        self._seen = self._look()
        self._tokens = load_tokens(path)

    def _look(self) -> tuple[int, ...] | None:
        try:
            status = self.path.stat()
        except OSError:
            return None
        return status.st_mtime_ns, status.st_ctime_ns, status.st_size, status.st_ino

    def current(self) -> Tokens:
        """The tokens that count now."""
        seen = self._look()
        if seen != self._seen:
            self._seen = seen
            try:
                self.reload()
            except ConfigError as error:
                log.error("the tokens of before remain valid: %s", error)
        return self._tokens

    def reload(self) -> Tokens:
        """Read the file now. Raises ConfigError if it cannot be used; the tokens of before then remain."""
        try:
            self._tokens = load_tokens(self.path)
        except ConfigError as error:
            self.problem = str(error)
            raise
        self.problem = None
        log.info("%d tokens read from %s", len(self._tokens), self.path)
        return self._tokens


def new_token(name: str, role: Role, expires: datetime | None = None) -> tuple[str, dict[str, Any]]:
    """A fresh token, and the entry for the file. Raises ConfigError for a name that the file would not take."""
    token = PREFIX + secrets.token_urlsafe(TOKEN_BYTES)
    entry = {"name": name, "role": role.label, "sha256": hashlib.sha256(token.encode()).hexdigest()}
    if expires is not None:
        entry["expires"] = expires.astimezone(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
    try:
        Entry.model_validate(entry)
    except ValidationError as error:
        raise ConfigError(f"token {name!r}: {_first(error)}; a name has letters, digits and . _ @ -, 64 at most") from None
    return token, entry


def entry_text(entry: dict[str, Any]) -> str:
    """An entry as a line of the file's list."""
    return "  - {" + ", ".join(f'{key}: "{value}"' for key, value in entry.items()) + "}"


def add_entry(path: Path, entry: dict[str, Any]) -> None:
    """Add an entry to a tokens file, which is made with mode 0600 if it is not there. What it holds, comments too, stays.

    The new text takes the place of the old in one step. Raises ConfigError for a file that cannot be used, or has the name already.
    """
    text = ""
    if path.exists():
        load_tokens(path)
        text = path.read_text(encoding="utf-8")
    if not re.search(r"^tokens:\s*(#.*)?$", text, re.MULTILINE):
        if text.strip() and parse_tokens(text, str(path)).entries:
            raise ConfigError(f"tokens file {path}: its entries do not stand in lines of their own; add by hand: {entry_text(entry)}")
        text = "# Digests of the tokens of the API: docs/security.md\ntokens:\n"
    whole = text if text.endswith("\n") else text + "\n"
    whole += entry_text(entry) + "\n"
    parse_tokens(whole, str(path))
    part = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with open(descriptor, "w", encoding="utf-8") as file:
            file.write(whole)
            file.flush()
            os.fsync(file.fileno())
        if path.exists():
            shutil.copymode(path, part)
        part.replace(path)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise ConfigError(f"tokens file {path} cannot be written: {error.strerror}") from error
