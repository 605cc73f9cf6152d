"""Who a client is behind a proxy, and by which name and scheme it came: believed only of proxies that are trusted."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from starlette.types import Scope

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
PAIR = re.compile(r'(?:^|;)\s*(for|host|proto)=("(?:[^"\\]|\\.)*"|[^;,\s"]+)', re.IGNORECASE)
ELEMENT = re.compile(r'(?:[^,"]|"(?:[^"\\]|\\.)*")+')
SUBSCRIBER = 64  # bits of an IPv6 address that one subscriber has: the others are theirs to choose


class Proxies:
    """Proxies before the server that are believed.

    Args:
        networks: addresses and networks of theirs.
        header: `x-forwarded` for X-Forwarded-For, -Host and -Proto, `forwarded` for Forwarded of RFC 7239. Only the one
            is read: a proxy passes on whatever a client writes into the other.
    """

    def __init__(self, networks: Sequence[str] = (), header: str = "x-forwarded") -> None:
        self.networks = [ipaddress.ip_network(network) for network in networks]
        self.header = header

    def seen_through(self, scope: Scope) -> Scope:
        """Put what trusted proxies say of a request into its client, scheme and Host.

        The client is the last address in the list of hops that is no trusted proxy: what stands before it was written
        by the client itself, or by others.
        """
        given = scope["client"][0] if scope.get("client") else ""
        address = parsed(given)
        if address is None or not self._trusts(address):
            return scope
        hops, host, scheme = self._forwarded(scope) if self.header == "forwarded" else self._x_forwarded(scope)
        for hop in reversed(hops):
            named = parsed(hop)
            if named is None:
                break
            address = named
            if not self._trusts(address):
                break
        headers = [(name, value) for name, value in scope["headers"] if not (host and name == b"host")]
        if host:
            headers.append((b"host", host.encode("latin-1")))
        scheme = scheme.lower() if scheme.lower() in ("http", "https") else scope["scheme"]
        return {**scope, "client": (str(address), 0), "headers": headers, "scheme": scheme}

    def _trusts(self, address: Address) -> bool:
        return any(address in network for network in self.networks)

    def _x_forwarded(self, scope: Scope) -> tuple[list[str], str, str]:
        """Hops in their order, and host and scheme as the nearest proxy says."""

        def listed(name: bytes) -> list[str]:
            return [part.strip() for part in values(scope, name).split(",") if part.strip()]

        host, scheme = listed(b"x-forwarded-host"), listed(b"x-forwarded-proto")
        return listed(b"x-forwarded-for"), host[-1] if host else "", scheme[-1] if scheme else ""

    def _forwarded(self, scope: Scope) -> tuple[list[str], str, str]:
        elements = [
            {name.lower(): re.sub(r"\\(.)", r"\1", value.strip('"')) for name, value in PAIR.findall(element.strip())}
            for element in ELEMENT.findall(values(scope, b"forwarded"))
        ]
        last = elements[-1] if elements else {}
        return [element.get("for", "") for element in elements], last.get("host", ""), last.get("proto", "")


def values(scope: Scope, name: bytes) -> str:
    """All values of a header, as one."""
    return ",".join(value.decode("latin-1") for known, value in scope["headers"] if known == name)


def parsed(hop: str) -> Address | None:
    """Read an address, with or without a port; None for anything else, such as `unknown`."""
    match = re.fullmatch(r"\[([^\]]+)\](?::\d+)?|(\d+\.\d+\.\d+\.\d+)(?::\d+)?|([0-9a-f:.]+)", hop, re.ASCII | re.I)
    try:
        address = ipaddress.ip_address(next(part for part in match.groups() if part)) if match else None
    except ValueError:
        return None
    return (address.ipv4_mapped or address) if isinstance(address, ipaddress.IPv6Address) else address


def subscriber(address: str) -> str:
    """Whose limits an address uses up: its own, or in IPv6, where one client has many addresses, its network's."""
    known = parsed(address)
    if isinstance(known, ipaddress.IPv6Address) and not known.is_loopback:
        return str(ipaddress.ip_network((known, SUBSCRIBER), strict=False))
    return str(known or address)
