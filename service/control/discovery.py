"""Ingests found by name: SRV records, or the addresses of a host name.

_control._tcp.SERVICE    the targets and ports of its SRV records; in Kubernetes, a port `control` of a headless service: each pod under a
                         name of its own, which it keeps when it is started again
HOST:PORT                the addresses of HOST, each at that port; an ingest that comes back under another address is another one
"""

from __future__ import annotations

import asyncio
import re
import socket
from collections.abc import Awaitable, Callable

from hltfarm.proto.errors import BackendError, ConfigError

_SRV = re.compile(r"_[A-Za-z0-9-]{1,62}(\._tcp)(\.[A-Za-z0-9_-]{1,63})+\.?")
_HOST = re.compile(r"([A-Za-z0-9][A-Za-z0-9_-]{0,62}(?:\.[A-Za-z0-9_-]{1,63})*\.?):(\d{1,5})")
Resolve = Callable[[str], Awaitable[set[str]]]
TIMEOUT_S = 2.0


class LookupFailedError(BackendError):
    """The name service did not answer, or not in time."""

    retryable = True


def check_name(name: str) -> None:
    """Raises ConfigError for what can be no name to find ingests by."""
    if _SRV.fullmatch(name):
        return
    match = _HOST.fullmatch(name)
    if match is None or not 0 < int(match.group(2)) < 65536:
        raise ConfigError(f"--ingest-dns {name!r}: give an SRV name such as _control._tcp.hltfarm-ingest, or HOST:PORT")


async def resolve(name: str) -> set[str]:
    """Endpoints under a name; none where it has no records. Raises LookupFailedError."""
    return await (_services(name) if _SRV.fullmatch(name) else _addresses(name))


async def _services(name: str) -> set[str]:
    import dns.asyncresolver
    import dns.exception
    import dns.resolver

    try:
        answer = await dns.asyncresolver.Resolver().resolve(name, "SRV", search=True, lifetime=TIMEOUT_S)
    except (dns.resolver.NXDOMAIN, dns.resolver.NoAnswer):
        return set()
    except (dns.exception.DNSException, OSError) as error:
        raise LookupFailedError(f"the name {name} cannot be looked up: {error}") from error
    there = [record for record in answer if len(record.target) > 1]  # ".": there is no such service
    found = {f"{record.target.to_text(omit_final_dot=True)}:{record.port}" for record in there}
    if odd := sorted(target for target in found if _HOST.fullmatch(target) is None):
        raise LookupFailedError(f"the name {name} leads to {odd[0]!r}, which is no host and port")
    return {f"tcp://{target}" for target in found}


async def _addresses(name: str) -> set[str]:
    host, _, port = name.rpartition(":")
    try:
        async with asyncio.timeout(TIMEOUT_S):
            found = await asyncio.get_running_loop().getaddrinfo(host, int(port), family=socket.AF_INET, type=socket.SOCK_STREAM)
    except socket.gaierror as error:
        if error.errno in (socket.EAI_NONAME, socket.EAI_NODATA):
            return set()
        raise LookupFailedError(f"the name {name} cannot be looked up: {error.strerror}") from error
    except TimeoutError:
        raise LookupFailedError(f"the name {name} was not looked up within {TIMEOUT_S:g} s") from None
    return {f"tcp://{address[0]!s}:{port}" for *_, address in found}
