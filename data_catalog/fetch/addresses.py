"""Which network addresses may be connected to: the public ones, and loopback where that is asked for."""

import ipaddress
import socket
from collections.abc import Callable, Collection, Sequence

from data_catalog.fetch.urls import FetchError, Target

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Resolver = Callable[[str, int], Sequence[str]]

USUAL_PORTS = frozenset({80, 443})

_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")  # how IPv4-only hosts look from networks that have IPv6 only
# Not all versions of Python know them for what they are: 6to4 relays, the dummy address of IPv4, documentation.
_NOT_PUBLIC = tuple(map(ipaddress.ip_network, ("192.88.99.0/24", "192.0.0.8/32", "3fff::/20")))


def resolve(host: str, port: int) -> list[str]:
    """Return the addresses of a host by the system's resolver, in its order, each once."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))


def is_public(address: Address) -> bool:
    """Tell whether an address is globally routable unicast; of IPv6, also the IPv4 address that it carries."""
    if isinstance(address, ipaddress.IPv6Address):
        inner = _embedded(address)
        if inner is not None and not is_public(inner):
            return False
        if address.ipv4_mapped is not None or address in _NAT64:
            return True
        # 6to4 and Teredo are retired, and Python's versions disagree on them.
        tunnel = address.sixtofour is not None or address.teredo is not None
        if address.is_site_local or address.scope_id is not None or tunnel:
            return False
    if any(address in network for network in _NOT_PUBLIC):
        return False
    return address.is_global and not (address.is_multicast or address.is_reserved or address.is_unspecified)


def is_loopback(address: Address) -> bool:
    """Tell whether an address is in 127.0.0.0/8 or ::1, also in their IPv4-mapped form."""
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        return address.ipv4_mapped.is_loopback
    return address.is_loopback


def checked_addresses(
    target: Target, *, allow_loopback: bool, resolver: Resolver = resolve, ports: Collection[int] = USUAL_PORTS
) -> list[str]:
    """Look the host up once and return its addresses, provided that every one of them may be connected to.

    Raises:
        FetchError: `dns`, `private_address`, or `port` (one that is not in `ports`, on a host that is not an allowed
            loopback address).
    """
    port_allowed = target.port in ports
    if not port_allowed and not allow_loopback:
        raise FetchError("port", str(target.port))
    addresses = _look_up(target, resolver)
    for address in addresses:
        if allow_loopback and is_loopback(address):
            continue
        if not is_public(address):
            raise FetchError("private_address", str(address))
        if not port_allowed:
            raise FetchError("port", str(target.port))
    return [str(address) for address in addresses]


def _look_up(target: Target, resolver: Resolver) -> list[Address]:
    try:
        addresses = [ipaddress.ip_address(name) for name in resolver(target.host, target.port)]
    except TimeoutError as error:
        raise FetchError("dns", f"no answer about {target.host} in time") from error
    except (OSError, ValueError) as error:  # UnicodeError, of over-long labels, is a ValueError
        raise FetchError("dns", f"no address for {target.host}") from error
    if not addresses:
        raise FetchError("dns", f"no address for {target.host}")
    return addresses


def _embedded(address: ipaddress.IPv6Address) -> ipaddress.IPv4Address | None:
    if address.ipv4_mapped is not None:
        return address.ipv4_mapped
    if address in _NAT64:
        return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    return None
