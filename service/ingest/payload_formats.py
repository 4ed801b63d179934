"""Payloads in formats of others: a function of the site turns each into a FED table before it takes its slot (docs/wire-format.md).

Everything behind it - workers, error stream, output files, checksums - sees format 1 alone. It runs in the ingest's only thread: its
time is taken from all events of the ingest, so that what is expensive belongs into the source.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from hltfarm.proto import framing, wire
from hltfarm.proto.errors import ConfigError, WireCode, WireError
from hltfarm.proto.framing import Buffer

#: Takes the payload as it came (uint8, read-only, valid during the call only) and returns the FED table (uint8). What it raises refuses
#: the event.
Converter = Callable[[NDArray[np.uint8]], NDArray[np.uint8]]
#: Numbers below are this project's.
FIRST, LAST = 128, 65535
_TEXT = re.compile(r"(\d+)=([\w.]+):(\w+)")


class PayloadFormats:
    """Formats that an ingest takes: the FED table, and those that have a converter."""

    def __init__(self, converters: Mapping[int, Converter] | None = None) -> None:
        self._converters = dict(converters or {})
        self._known = ", ".join([f"{wire.FED_TABLE} (FED table)", *(str(number) for number in sorted(self._converters))])

    def fed_table(self, header: wire.EventHeader, body: Buffer, most: int) -> tuple[wire.EventHeader, Buffer]:
        """The event as it would have come in format 1. `most`: bytes that a slot holds. Raises WireError for what cannot be taken."""
        if header.payload_format == wire.FED_TABLE:
            return header, body
        convert = self._converters.get(header.payload_format)
        if convert is None:
            raise WireError(WireCode.UNKNOWN_PAYLOAD, f"payload format {header.payload_format}; known is {self._known}")
        try:
            table = np.ascontiguousarray(convert(np.frombuffer(body, np.uint8)), np.uint8)
        except Exception as error:
            text = " ".join(str(error).split())[:200]
            raise WireError(
                WireCode.MALFORMED_PAYLOAD, f"payload of format {header.payload_format}: {type(error).__name__}: {text}"
            ) from error
        if table.nbytes > most:
            raise WireError(
                WireCode.OVERSIZE,
                f"format {header.payload_format}: the FED table has {table.nbytes} bytes, the limit is {most}",
            )
        data = table.data
        return header._replace(payload_format=wire.FED_TABLE, body_bytes=table.nbytes, body_crc=framing.checksum(data)), data


def load_converters(texts: Sequence[str]) -> dict[int, Converter]:
    """Converters of texts such as "128=my_format:to_fed_table". ConfigError for those that are none."""
    found: dict[int, Converter] = {}
    for text in texts:
        match = _TEXT.fullmatch(text)
        if match is None:
            raise ConfigError(f"--payload-format {text!r}: give NUMBER=MODULE:FUNCTION, such as 128=my_format:to_fed_table")
        number = int(match[1])
        if not FIRST <= number <= LAST or number in found:
            raise ConfigError(f"--payload-format {text!r}: give each of the numbers {FIRST} to {LAST} at most once")
        try:
            function = getattr(importlib.import_module(match[2]), match[3])
        except (ImportError, AttributeError) as error:
            raise ConfigError(f"--payload-format {text!r}: {error} (is it installed, or its folder in PYTHONPATH?)") from error
        if not callable(function):
            raise ConfigError(f"--payload-format {text!r}: {match[3]} cannot be called")
        found[number] = function
    return found
