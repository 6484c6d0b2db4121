"""Addresses: what may be entered as one, and what may be connected to.

An address in a form makes this machine connect to it, so that it could be used to
reach what only this machine reaches. A name is therefore resolved here, all that it
resolves to is checked, and the connection is made to the very address that was
checked: a second resolution could answer something else (DNS rebinding).
"""

from __future__ import annotations

import ipaddress
import queue
import re
import socket
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from urllib.parse import SplitResult, urlsplit

from .errors import AddressRefused, Unreachable

Address = ipaddress.IPv4Address | ipaddress.IPv6Address

HTTPS_PORT = 443
MAX_ADDRESSES = 32  # of one name


# === URLS === #


def check_server(url: str) -> str:
    """Return the URL of an API server in its normal form.

    :raise ValueError: with one sentence that says what to change
    """
    url = url.strip()
    if not url:
        raise ValueError("Enter the address of the API server.")
    if re.search(r"[\s\x00-\x1f\x7f\\]", url) or len(url) > 2_048:
        raise ValueError("The address must be one URL without blanks.")
    if "://" not in url:
        raise ValueError("The address must begin with https://.")
    try:
        parts = urlsplit(url)
        host, port = _host(parts), parts.port
    except ValueError:
        raise ValueError("The host or the port in the address is malformed.") from None
    if parts.scheme != "https":
        raise ValueError("The address must begin with https://: a token is sent to it.")
    if not host or port == 0:
        raise ValueError("The address must name a host, such as https://10.0.0.1:6443.")
    if "@" in parts.netloc:
        raise ValueError("Remove the user name from the address; a token is used.")
    if "?" in url or "#" in url:
        raise ValueError("Remove what follows ? or # from the address.")
    if not re.fullmatch(r"(/[A-Za-z0-9._~-]+)*/*", parts.path) or "/.." in parts.path:
        raise ValueError("Remove unusual characters from the path in the address.")
    return f"https://{_authority(host, port)}{parts.path.rstrip('/')}"


def check_proxy(url: str) -> str:
    """Return the URL of an HTTP proxy in its normal form.

    It may hold a user name and a password, which no error text repeats.

    :raise ValueError: with one sentence that says what to change
    """
    url = url.strip()
    if re.search(r"[\s\x00-\x1f\x7f\\]", url) or len(url) > 2_048:
        raise ValueError("The proxy must be one URL without blanks.")
    try:
        parts = urlsplit(url)
        host, port = _host(parts), parts.port
    except ValueError:
        raise ValueError("The host or the port of the proxy is malformed.") from None
    if parts.scheme not in ("http", "https"):
        raise ValueError("The proxy must begin with http:// or https://.")
    if not host or port == 0:
        raise ValueError("The proxy must name a host, such as http://proxy:3128.")
    if parts.path not in ("", "/") or "?" in url or "#" in url:
        raise ValueError("Remove what follows the host and port of the proxy.")
    credentials, at, _host_and_port = parts.netloc.rpartition("@")
    return f"{parts.scheme}://{credentials}{at}{_authority(host, port)}"


def host_and_port(server: str) -> tuple[str, int]:
    """Return where the server of a checked URL is: a name or an address, and a port."""
    parts = urlsplit(server)
    return parts.hostname or "", parts.port or HTTPS_PORT


def _host(parts: SplitResult) -> str:
    """Return the host as IDNA has it: what is resolved and compared with names."""
    host = parts.hostname or ""
    return host if ":" in host else host.encode("idna").decode("ascii")


def _authority(host: str, port: int | None) -> str:
    host = f"[{host}]" if ":" in host else host
    return host if port is None else f"{host}:{port}"


# === RESOLUTION === #


@dataclass(frozen=True, kw_only=True)
class AddressPolicy:
    """What may be connected to, beyond what never is.

    :param allow_loopback: this machine itself
    """

    allow_loopback: bool = False


def resolve(
    host: str, port: int, *, policy: AddressPolicy, timeout: float
) -> tuple[str, ...]:
    """Return the IP addresses of `host`, each fit to be connected to.

    :param host: a name, or an address
    :param timeout: s; the system's resolver itself knows no limit
    :raise AddressRefused: any of its addresses is refused: a name that leads to both
        kinds is not an API server's
    :raise Unreachable: the name does not resolve
    """
    found = _look_up(host, port, timeout=timeout)
    addresses = tuple(dict.fromkeys(str(entry[4][0]) for entry in found))
    for address in addresses[:MAX_ADDRESSES]:
        if why := refusal(address, policy=policy):
            named = address if host == address else f"{host} leads to {address}, which"
            raise AddressRefused(
                f"{named} is {why}: no connection is made to it.",
                hint=_LOOPBACK_HINT if why == _LOOPBACK else None,
            )
    return addresses[:MAX_ADDRESSES]


def _look_up(host: str, port: int, *, timeout: float) -> list[Any]:
    """Ask the system's resolver, in a thread that is left behind if it hangs."""
    answers: queue.SimpleQueue[list[Any] | Exception] = queue.SimpleQueue()

    def ask() -> None:
        try:
            answers.put(socket.getaddrinfo(host, port, type=socket.SOCK_STREAM))
        except (OSError, ValueError) as exc:  # ValueError: not a name at all
            answers.put(exc)

    threading.Thread(target=ask, name="resolve", daemon=True).start()
    try:
        answer = answers.get(timeout=timeout)
    except queue.Empty:
        raise Unreachable(
            f"The name {host} was not resolved to an address in time.",
            reason="NameTimeout",
            hint="Check that this machine's DNS servers answer.",
        ) from None
    if isinstance(answer, Exception) or not answer:
        raise Unreachable(
            f"The name {host} does not resolve to an address.",
            reason="NameUnknown",
            hint="Check the spelling, and that this machine's DNS knows the name.",
        )
    return answer


# === POLICY === #

_LOOPBACK = "this machine itself"
_LOOPBACK_HINT = (
    "Use the address that the cluster has in the network; an address of this machine "
    "itself must be allowed by a setting."
)

# What cloud machines can ask about themselves, credentials included.
_METADATA = frozenset(
    map(
        ipaddress.ip_address,
        (
            "169.254.169.254",
            "169.254.170.2",
            "100.100.100.200",
            "168.63.129.16",
            "192.0.0.192",
            "fd00:ec2::254",
            "fd20:ce::254",
        ),
    )
)
_THIS_NETWORK = ipaddress.ip_network("0.0.0.0/8")
_NAT64 = ipaddress.ip_network("64:ff9b::/96")

_REFUSED: tuple[tuple[Callable[[Address], bool], str], ...] = (
    (lambda address: address in _METADATA, "the metadata service of a cloud"),
    (lambda address: address.is_unspecified, "an unspecified address"),
    (lambda address: address in _THIS_NETWORK, "an unspecified address"),
    (lambda address: address.is_link_local, "a link-local address"),
    (lambda address: address.is_multicast, "a multicast address"),
    (
        lambda address: address.is_reserved and not address.is_loopback,
        "a reserved or broadcast address",
    ),
)


def refusal(address: str, *, policy: AddressPolicy) -> str:
    """Return what kind of address it is if it is refused, else an empty text.

    :param address: an IP address; in one that carries another one (IPv4-mapped, 6to4,
        NAT64, Teredo) the carried one is judged
    """
    try:
        found = _innermost(ipaddress.ip_address(address))
    except ValueError:
        return "not an address"
    for fits, what in _REFUSED:
        if fits(found):
            return what
    return _LOOPBACK if found.is_loopback and not policy.allow_loopback else ""


def _innermost(address: Address) -> Address:
    if isinstance(address, ipaddress.IPv4Address):
        return address
    if address.ipv4_mapped:
        return address.ipv4_mapped
    if address.sixtofour:
        return address.sixtofour
    if address.teredo:
        return address.teredo[1]
    if address in _NAT64:
        return ipaddress.IPv4Address(int(address) & 0xFFFF_FFFF)
    return address
