"""Which addresses an upstream may have, so that nobody can point the gateway at what only it can reach (SSRF).

Two checks. `check_url` reads what a person typed, when it is saved. `resolve` looks at the addresses that a name
has when a connection is about to be made, and only what it returns is ever connected to: a name that answers
differently the second time (DNS rebinding) gains nothing.
"""

from __future__ import annotations

import asyncio
import ipaddress
import re
import socket
from urllib.parse import urlsplit

IPAddress = ipaddress.IPv4Address | ipaddress.IPv6Address


class AddressRefused(Exception):
    """This address may not be an upstream. The text is a sentence for the person who typed it."""


def _networks(text: str) -> tuple[ipaddress.IPv4Network | ipaddress.IPv6Network, ...]:
    return tuple(ipaddress.ip_network(each) for each in text.split())


# Somebody's own machines: fine when the connection says `allow_private`.
PRIVATE = _networks("10.0.0.0/8 100.64.0.0/10 127.0.0.0/8 172.16.0.0/12 192.168.0.0/16 198.18.0.0/15 ::1/128 fc00::/7")

# Where clouds answer with credentials to whoever asks from inside. Some stand inside private ranges.
METADATA = _networks(
    "169.254.0.0/16 168.63.129.16/32 100.100.100.200/32 192.0.0.192/32 fd00:ec2::/32 fd20:ce::254/128 fe80::/10"
)

# Nothing that answers HTTP for a client lives here (IANA special-purpose registries), or it leads to the above by
# translation (NAT64, 6to4, Teredo).
NOWHERE = _networks(
    "0.0.0.0/8 192.0.0.0/24 192.0.2.0/24 192.88.99.0/24 198.51.100.0/24 203.0.113.0/24 224.0.0.0/4 240.0.0.0/4"
    " ::/96 ::ffff:0:0:0/96 64:ff9b::/96 64:ff9b:1::/48 100::/64 2001::/23 2001:db8::/32 2002::/16 3fff::/20 5f00::/16"
    " fec0::/10 ff00::/8"
)

METADATA_NAMES = frozenset(
    {"metadata", "metadata.google.internal", "metadata.goog", "instance-data", "instance-data.ec2.internal"}
)

_HOST_NAME = re.compile(r"(?=.{1,253}\Z)(?!.*-\.)[a-z0-9_]([a-z0-9_.-]*[a-z0-9])?\Z", re.IGNORECASE)
_NUMERIC = re.compile(r"(0x[0-9a-f]*|[0-9]+)\Z", re.IGNORECASE)
_UNSAFE = re.compile(r"[\x00-\x20\x7f\\@#<>\"'`{}|^]")


def check_ip(address: str | IPAddress, allow_private: bool) -> None:
    """Raise AddressRefused unless this IP address may be connected to."""
    try:
        ip = ipaddress.ip_address(address)
    except ValueError:
        raise AddressRefused(f"{address} is not an IP address.") from None
    if isinstance(ip, ipaddress.IPv6Address):
        if ip.scope_id is not None:
            raise AddressRefused(f"{ip} is a link-local address.")
        ip = ip.ipv4_mapped or ip
    if any(ip in network for network in METADATA):
        raise AddressRefused(f"{ip} is a link-local or cloud metadata address. It can never be an upstream.")
    if any(ip in network for network in PRIVATE):
        if allow_private:
            return
        raise AddressRefused(f"{ip} is in a private network, which this connection does not allow.")
    if any(ip in network for network in NOWHERE):
        raise AddressRefused(f"{ip} is in a reserved range. It can never be an upstream.")


def check_url(url: str, allow_private: bool) -> None:
    """Raise AddressRefused unless `url` could be an upstream's base URL. Looks nothing up."""
    if not url.isascii() or _UNSAFE.search(url):
        raise AddressRefused(
            "The base URL may have no white space, backslash, user name, fragment or character outside ASCII."
        )
    try:
        parts = urlsplit(url)
        host, _port = parts.hostname, parts.port
    except ValueError as error:
        raise AddressRefused(f"The base URL cannot be read: {error}.") from None
    if parts.scheme not in ("http", "https"):
        raise AddressRefused("The base URL must start with https:// or http://.")
    if parts.query:
        raise AddressRefused("The base URL may have no query.")
    if not host:
        raise AddressRefused("The base URL has no host.")
    check_host(host, allow_private)


def check_host(host: str, allow_private: bool) -> None:
    """Raise AddressRefused unless `host` (a name or an IP literal, without brackets) may be tried."""
    if ":" in host or _NUMERIC.match(host.rstrip(".").rsplit(".", 1)[-1]):
        # The resolver would read 127.1, 0x7f000001 or 0177.0.0.1 as an address. Only the usual spelling is one here.
        check_ip(host, allow_private)
        return
    name = host.rstrip(".").lower()
    if not _HOST_NAME.match(name) or ".." in name:
        raise AddressRefused(f"{host!r} is not a host name.")
    if name in METADATA_NAMES:
        raise AddressRefused(f"{name} is a cloud metadata service. It can never be an upstream.")
    if not allow_private and (name == "localhost" or name.endswith(".localhost")):
        raise AddressRefused(f"{name} is this machine, which this connection does not allow.")


async def resolve(host: str, port: int, allow_private: bool) -> list[str]:
    """The addresses of `host` that may be connected to, in the resolver's order; never empty.

    Raises AddressRefused when it has addresses but none may be used, OSError when it has none.
    """
    check_host(host, allow_private)
    try:
        return [str(ipaddress.ip_address(host))]
    except ValueError:
        pass
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return allowed([str(each[4][0]) for each in found], host, allow_private)


def allowed(addresses: list[str], host: str, allow_private: bool) -> list[str]:
    """Those of `addresses` that may be connected to. Raises AddressRefused when there are none."""
    good: list[str] = []
    refused: AddressRefused | None = None
    for address in dict.fromkeys(addresses):
        try:
            check_ip(address, allow_private)
        except AddressRefused as error:
            refused = error
        else:
            good.append(address)
    if not good:
        raise AddressRefused(f"{host}: {refused or 'it has no address.'}")
    return good
