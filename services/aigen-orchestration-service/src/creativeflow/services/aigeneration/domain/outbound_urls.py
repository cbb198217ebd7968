"""Rules for outbound URLs from callers and workers: syntax and allowed networks."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

URL_MAX = 2000
Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

_LABEL = re.compile(r"[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?")
_AUTHORITY = re.compile(r"(?P<host>[a-z0-9._-]+|\[[0-9a-f:.]+\])(:(?P<port>[0-9]{1,5}))?")
_DEFAULT_PORTS = {"https": 443, "http": 80}
_HOST_MAX = 253
_PORT_MAX = 65_535
_NAT64 = ip_network("64:ff9b::/96")
_METADATA = frozenset(
    ip_address(known)
    for known in (
        "169.254.169.254",
        "169.254.170.2",
        "169.254.170.23",
        "168.63.129.16",
        "100.100.100.200",
        "192.0.0.192",
        "fd00:ec2::254",
        "fd00:ec2::23",
        "fd20:ce::254",
    )
)
"""Metadata addresses of clouds, never called, even if a rule allows their network."""


class UnfitAddressError(Exception):
    """A URL that must not be called; `code` is for programs, the text for the user who sent it."""

    def __init__(self, code: str, sentence: str) -> None:
        super().__init__(sentence)
        self.code = code


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """A parsed URL; `host` is a lower-case name or an IP address."""

    scheme: str
    host: str
    port: int
    target: str

    @property
    def literal(self) -> Address | None:
        """The host as IP address, None for a name."""
        try:
            return ip_address(self.host)
        except ValueError:
            return None

    @property
    def host_header(self) -> str:
        """The value of the Host header."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == _DEFAULT_PORTS[self.scheme] else f"{host}:{self.port}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """The networks that an operator allows.

    In `networks`, which are refused otherwise, any port and plain http are allowed. `settings` is
    the prefix of the settings that allow them.
    """

    networks: Sequence[Network] = ()
    ports: frozenset[int] = field(default=frozenset({80, 443, 8443}))
    allow_http: bool = False
    settings: str = "AIGEN_WEBHOOK"

    def check(self, place: Place, address: Address) -> None:
        """Check that a URL may be called at this address.

        Raises:
            UnfitAddressError: it may not; the message names the setting that would allow it.
        """
        meant = embedded(address)
        listed = any(
            meant in network for network in self.networks if network.version == meant.version
        )
        if meant in _METADATA or not (listed or is_public(meant)):
            raise UnfitAddressError(
                "private_address",
                "This leads into a private or special network, which is not called. Use a public"
                " address, or have the operator list the network in"
                f" {self.settings}_ALLOWED_NETWORKS.",
            )
        if place.scheme != "https" and not (self.allow_http or listed):
            raise UnfitAddressError(
                "https_required",
                "Use https. Plain http is called only where the operator sets"
                f" {self.settings}_ALLOW_HTTP.",
            )
        if place.port not in self.ports and not listed:
            ports = ", ".join(str(port) for port in sorted(self.ports))
            raise UnfitAddressError(
                "port_not_allowed",
                f"Use one of the ports {ports}. The operator allows others in"
                f" {self.settings}_PORTS.",
            )


def embedded(address: Address) -> Address:
    """Return the IPv4 address embedded in an IPv6 address (mapped, 6to4, NAT64), otherwise the
    address itself.
    """
    if isinstance(address, IPv4Address):
        return address
    if address in _NAT64:
        return IPv4Address(address.packed[-4:])
    return address.ipv4_mapped or address.sixtofour or address


def is_public(address: Address) -> bool:
    """Return whether an address is public."""
    special = (
        address.is_multicast or address.is_reserved or address.is_loopback or address.is_link_local
    )
    if isinstance(address, IPv6Address):
        special = special or address.is_site_local
    return address.is_global and not special


def read_url(url: str) -> Place:
    """Parse a URL strictly, so that no other parser can read it differently.

    Raises:
        UnfitAddressError: it is malformed or ambiguous.
    """
    if (
        not url.isascii()
        or not url.isprintable()
        or re.search(r'[\s\\<>"^`{|}]', url)
        or len(url) > URL_MAX
    ):
        raise _unreadable(
            "Use plain ASCII without spaces; write names of other scripts in their xn-- form."
        )
    scheme, separator, rest = url.partition("://")
    if not separator or scheme.lower() not in _DEFAULT_PORTS:
        raise UnfitAddressError("unknown_scheme", "Use an address that begins with https://.")
    if "#" in url:
        raise UnfitAddressError(
            "fragment_not_allowed", "Leave out everything from # on; it never reaches a receiver."
        )
    authority = re.split(r"[/?]", rest, maxsplit=1)[0]
    if "@" in authority:
        raise UnfitAddressError(
            "userinfo_not_allowed", "Leave out user and password; calls are proven by signatures."
        )
    match = _AUTHORITY.fullmatch(authority.lower())
    if match is None:
        raise _unreadable("The host is not spelt plainly. Use a name such as hooks.example.com.")
    port = int(match["port"]) if match["port"] else _DEFAULT_PORTS[scheme.lower()]
    if not 0 < port <= _PORT_MAX:
        raise UnfitAddressError("invalid_port", f"Use a port from 1 to {_PORT_MAX}.")
    target = rest[len(authority) :]
    return Place(
        scheme=scheme.lower(),
        host=_host(match["host"]),
        port=port,
        target=target if target.startswith("/") else f"/{target}",
    )


def _host(host: str) -> str:
    try:
        if host.startswith("["):
            return str(IPv6Address(host[1:-1]))
        labels = host.split(".")
        if re.fullmatch(r"[0-9]+|0x[0-9a-f]*", labels[-1]):
            return str(
                IPv4Address(host)
            )  # strict: four decimals, no leading zeros, no shortened forms
    except ValueError:
        raise UnfitAddressError(
            "ambiguous_address",
            "Write an IP address in its usual form, such as 203.0.113.7, or use a name.",
        ) from None
    if len(host) > _HOST_MAX or not all(_LABEL.fullmatch(label) for label in labels):
        raise _unreadable("The host is not spelt plainly. Use a name such as hooks.example.com.")
    return host


def _unreadable(sentence: str) -> UnfitAddressError:
    return UnfitAddressError("invalid_url", sentence)
