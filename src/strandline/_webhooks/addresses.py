"""Which addresses a webhook may have: public ones, whatever they are written as. Pure."""

from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from typing import Final

_TUNNELS: Final = tuple(
    map(
        ip_network,
        (
            "64:ff9b::/96",  # NAT64 (RFC 6052): another network's idea of an IPv4 address
            "64:ff9b:1::/48",  # NAT64 of a local network (RFC 8215)
            "2001::/32",  # Teredo
            "2002::/16",  # 6to4
            "192.0.0.0/24",  # protocol assignments, some of which are other networks' (RFC 6890)
            "192.88.99.0/24",  # relays of 6to4
        ),
    )
)


def is_public(text: str) -> bool:
    """Return whether an address is one that anybody on the internet can reach, and not one of a tunnel to others."""
    try:
        address: IPv4Address | IPv6Address = ip_address(text)
    except ValueError:
        return False
    if isinstance(address, IPv6Address):
        if address.scope_id is not None:
            return False
        if address.ipv4_mapped is not None:
            address = address.ipv4_mapped
    if any(address in network for network in _TUNNELS if network.version == address.version):
        return False
    if isinstance(address, IPv6Address) and address.is_site_local:
        return False
    wrong = address.is_multicast or address.is_reserved or address.is_link_local or address.is_unspecified
    return address.is_global and not wrong
