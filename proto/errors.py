"""The exception tree of hltfarm.

    HltfarmError
    ├── InputError                 the caller gave something unusable; retrying the same input cannot help
    │   ├── ConfigError            a menu, a run configuration, an option
    │   ├── ConditionsError        a detector description or a conditions file
    │   ├── SampleError            a sample file or data directory: missing, truncated, corrupt
    │   └── LayoutError            an SoA column: name, dtype, length, device or ownership does not fit
    ├── WireError                  a frame that breaks the wire format (see `code`); the peer gets an error frame
    ├── AccessError                a token, a key or a role that does not allow what was asked for
    ├── LimitError                 an event or a setting beyond a configured capacity
    ├── BackendError               no such backend here, a compiler or a device failed; another machine may do
    └── StateError                 a command that is illegal in the present state; legal again after a transition

`retryable` says whether the identical call can succeed later without a change by the caller.
Messages name the thing, the value and the way out.
"""

from __future__ import annotations

from enum import IntEnum


class HltfarmError(Exception):
    """Root of every error that hltfarm raises on purpose."""

    retryable = False


class InputError(HltfarmError):
    """The caller gave something unusable."""


class ConfigError(InputError):
    """A menu, a run configuration or an option that does not validate."""


class ConditionsError(InputError):
    """A detector description or conditions file that is missing, short or inconsistent."""


class SampleError(InputError):
    """A sample file or data directory that is missing, truncated or corrupt."""


class LayoutError(InputError):
    """A structure-of-arrays column whose name, dtype, length, device or owner does not fit."""


class WireCode(IntEnum):
    """Reasons for which a frame is refused; the numbers are part of the wire format."""

    TRUNCATED = 1
    BAD_MAGIC = 2
    UNKNOWN_VERSION = 3
    UNKNOWN_TYPE = 4
    BAD_CRC = 5
    OVERSIZE = 6
    UNKNOWN_PAYLOAD = 7
    MALFORMED_PAYLOAD = 8
    NO_CREDIT = 9
    NOT_RUNNING = 10
    WRONG_RUN = 11
    NO_HELLO = 12
    NOT_ALLOWED = 13


class WireError(HltfarmError):
    """A frame that breaks the wire format."""

    def __init__(self, code: WireCode, message: str) -> None:
        super().__init__(message)
        self.code = code


class AccessError(HltfarmError):
    """A token, a key or a role that does not allow what was asked for."""


class LimitError(HltfarmError):
    """An event or a setting beyond a configured capacity."""


class BackendError(HltfarmError):
    """A backend that is not available here, or that failed."""


class StateError(HltfarmError):
    """A command that is illegal in the present state."""

    retryable = True

    def __init__(self, message: str, legal: tuple[str, ...] = ()) -> None:
        super().__init__(message)
        self.legal = legal
