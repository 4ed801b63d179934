"""Log lines of every process: one line each, `time level logger message key=value ...`, times in UTC."""

from __future__ import annotations

import json
import logging
import sys
from datetime import UTC, datetime
from typing import TextIO

_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "color_message"}


class LineFormatter(logging.Formatter):
    """Formats a record on one line; extra fields follow as key=value, quoted as JSON where they are not plain words."""

    def format(self, record: logging.LogRecord) -> str:
        """One line; a traceback becomes part of it."""
        time = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        name = record.name.removeprefix("hltfarm.")
        parts = [time, record.levelname, name, _plain(" ".join(record.getMessage().splitlines()))]
        parts += [f"{key}={_value(value)}" for key, value in vars(record).items() if key not in _STANDARD]
        if record.exc_info:
            parts.append(f"traceback={json.dumps(self.formatException(record.exc_info))}")
        return " ".join(parts)


def _plain(text: str) -> str:
    """Without characters that a terminal would act on: names of clients and paths of requests come from strangers."""
    if text.isprintable():
        return text
    return "".join(character if character.isprintable() else character.encode("unicode_escape").decode() for character in text)


def _value(value: object) -> str:
    text = value if isinstance(value, str) else json.dumps(value, default=str)
    return text if text and text.isprintable() and not any(character in text for character in ' "=') else json.dumps(text)


def log_to(stream: TextIO | None = None, level: int = logging.INFO) -> None:
    """Send the log of this process to a stream (stderr)."""
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(LineFormatter())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)
