"""Where the ingests of one farm listen for clients: one rule, so that a client needs the first endpoint and their number.

tcp://HOST:7400   ->  tcp://HOST:7400, tcp://HOST:7401, ...
ipc:///run/farm   ->  ipc:///run/farm, ipc:///run/farm-1, ...
"""

from __future__ import annotations

import re

from hltfarm.proto.errors import ConfigError

_ENDPOINT = re.compile(r"tcp://[^\s:/]+:(\d{1,5}|\*)|tcp://\[[0-9A-Fa-f:.%\w]+\]:(\d{1,5}|\*)|ipc://\S+")


def check_syntax(option: str, url: str) -> None:
    """Raises ConfigError for what is no endpoint to listen on."""
    if not _ENDPOINT.fullmatch(url):
        raise ConfigError(f"{option} {url!r} is no endpoint; give tcp://HOST:PORT, such as tcp://127.0.0.1:7400, or ipc://PATH")


def client_endpoints(first: str, ingests: int) -> tuple[str, ...]:
    """Endpoints of all ingests of a farm, given that of the first. Raises ConfigError where they cannot be counted up."""
    if ingests == 1:
        return (first,)
    scheme, separator, rest = first.partition("://")
    if scheme == "ipc" and separator and rest:
        return (first, *(f"{first}-{index}" for index in range(1, ingests)))
    host, colon, port = rest.rpartition(":")
    if scheme != "tcp" or not colon or not port.isdecimal() or not 0 < int(port) <= 65536 - ingests:
        raise ConfigError(f"endpoint {first!r}: {ingests} ingests listen at consecutive ports; give tcp://HOST:PORT, or ipc://PATH")
    return tuple(f"tcp://{host}:{int(port) + index}" for index in range(ingests))
