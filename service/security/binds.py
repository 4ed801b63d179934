"""Addresses that only this machine reaches, and those that need protection: the rule of safe defaults."""

from __future__ import annotations

import ipaddress

from hltfarm.proto.errors import ConfigError

#: Names that mean the loopback interface, for HTTP and for ZeroMQ (where an interface's name may stand in place of a host).
LOOPBACK_NAMES = frozenset({"localhost", "lo"})


def loopback(host: str) -> bool:
    """Whether a host is surely this machine alone. Other names are not looked up: what they mean may change."""
    host = host.strip("[]").partition("%")[0]
    if host in LOOPBACK_NAMES:
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def local_endpoint(url: str) -> bool:
    """Whether a ZeroMQ endpoint is reached from this machine alone: ipc, inproc, or tcp on the loopback interface."""
    scheme, _, rest = url.partition("://")
    if scheme != "tcp":
        return scheme in ("ipc", "inproc")
    return loopback(rest.rpartition(":")[0])


def check_http(address: str, *, tokens: bool, insecure: bool) -> None:
    """Raises ConfigError for an HTTP address (HOST:PORT) that others reach, where nobody is asked for a token."""
    host, separator, _ = address.rpartition(":")
    if separator and not (tokens or insecure or loopback(host)):  # what is no address at all is somebody else's to say
        raise ConfigError(
            f"--http {address}: others than this machine could steer the farm. Give --tokens FILE (`hltfarm token new` writes one), listen"
            " on 127.0.0.1, or, where something else protects the address, say --insecure"
        )


def check_endpoint(option: str, url: str, *, curve: bool, insecure: bool) -> None:
    """Raises ConfigError for a ZeroMQ endpoint that others reach, where nobody is asked for a key."""
    if option == "--workers" and not (insecure or local_endpoint(url)):
        raise ConfigError(
            f"{option} {url}: workers share the memory of the ingest's machine, so that nobody else has to reach this address. Use ipc://"
            " or 127.0.0.1, or, where something else protects the address, say --insecure"
        )
    if not (curve or insecure or local_endpoint(url)):
        raise ConfigError(
            f"{option} {url}: anybody who reaches this address could talk to the ingest. Give --curve-key FILE and --allow DIR"
            " (`hltfarm keys new` writes keys), use 127.0.0.1 or ipc://, or, where something else protects the address, say --insecure"
        )
