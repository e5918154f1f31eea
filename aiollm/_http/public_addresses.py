"""Public addresses: the ones to which a URL from a stranger may lead."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address

# Own tables, because Python's `is_global` differs between versions and counts multicast as global.
# The source is IANA's registries of special-purpose addresses, November 2026.
_PRIVATE_V4 = tuple(
    map(
        IPv4Network,
        (
            "0.0.0.0/8",  # this host
            "10.0.0.0/8",
            "100.64.0.0/10",  # behind a carrier's NAT; Alibaba's metadata too
            "127.0.0.0/8",
            "168.63.129.16/32",  # Azure's agent: a public number that never leaves the machine
            "169.254.0.0/16",  # link-local, where clouds keep their metadata
            "172.16.0.0/12",
            "192.0.0.0/24",  # protocol assignments; Oracle's metadata too
            "192.0.2.0/24",  # documentation
            "192.88.99.0/24",  # relays of 6to4
            "192.168.0.0/16",
            "198.18.0.0/15",  # benchmarks
            "198.51.100.0/24",  # documentation
            "203.0.113.0/24",  # documentation
            "224.0.0.0/4",  # multicast
            "240.0.0.0/4",  # reserved, and broadcast
        ),
    )
)
_GLOBAL_V6 = IPv6Network("2000::/3")
"""All that is global unicast; everything else is local, multicast, reserved or translated."""
_PRIVATE_V6 = tuple(
    map(
        IPv6Network,
        (
            "2001::/23",  # protocol assignments; Teredo, which holds an IPv4 address, too
            "2001:db8::/32",  # documentation
            "2002::/16",  # 6to4, which holds an IPv4 address
            "3fff::/20",  # documentation
        ),
    )
)
_TRANSLATED = (IPv6Network("::ffff:0:0/96"), IPv6Network("64:ff9b::/96"))
"""Where the last 32 bits are an IPv4 address: mapped by the system, or sent through a NAT64. In a
network without IPv4, DNS answers with the latter for every name that has only an IPv4 address."""


def is_public(text: str) -> bool:
    """Return whether `text` is an address of the public internet, written in full.

    Short and numeric forms, such as `127.1`, are not: the system would read them in its own way.
    """
    try:
        address = ip_address(text)
    except ValueError:
        return False
    if isinstance(address, IPv6Address) and any(address in each for each in _TRANSLATED):
        address = IPv4Address(int(address) & 0xFFFFFFFF)
    if isinstance(address, IPv4Address):
        return not any(address in each for each in _PRIVATE_V4)
    if address.scope_id is not None or address not in _GLOBAL_V6:
        return False
    return not any(address in each for each in _PRIVATE_V6)
