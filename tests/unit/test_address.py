"""Addresses: which are refused, however they are written, and the checked one is used.

Names resolve by a table here: no test asks a DNS server.
"""

from __future__ import annotations

import dataclasses
import socket
import threading
from typing import Any

import pytest

from kube import errors
from kube.address import AddressPolicy, check_proxy, refusal, resolve
from kube.connection import Connection, Settings
from tests.unit.conftest import TOKEN
from tests.unit.fakes import FakeServer

STRICT = AddressPolicy()
LOOPBACK = AddressPolicy(allow_loopback=True)


class Names:
    """Stands in for the system's resolver."""

    def __init__(self) -> None:
        self.table: dict[str, list[list[str]]] = {}

    def answer(self, name: str, *answers: list[str]) -> None:
        """Set the answers of a name, in order; the last one stays."""
        self.table[name] = list(answers)

    def getaddrinfo(self, host: str, port: int, **options: Any) -> list[Any]:
        answers = self.table.get(host)
        if answers is None:
            raise socket.gaierror(socket.EAI_NONAME, "unknown")
        addresses = answers.pop(0) if len(answers) > 1 else answers[0]
        return [(0, 0, 0, "", (address, port)) for address in addresses]


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> Names:
    found = Names()
    monkeypatch.setattr(socket, "getaddrinfo", found.getaddrinfo)
    return found


@pytest.mark.parametrize(
    ("address", "kind"),
    [
        ("169.254.169.254", "metadata"),
        ("169.254.170.2", "metadata"),
        ("100.100.100.200", "metadata"),
        ("168.63.129.16", "metadata"),
        ("fd00:ec2::254", "metadata"),
        ("169.254.1.1", "link-local"),
        ("fe80::1", "link-local"),
        ("fe80::1%1", "link-local"),
        ("224.0.0.1", "multicast"),
        ("ff02::1", "multicast"),
        ("0.0.0.0", "unspecified"),  # noqa: S104 nothing binds to it
        ("0.1.2.3", "unspecified"),
        ("::", "unspecified"),
        ("255.255.255.255", "broadcast"),
        ("240.0.0.1", "reserved"),
        ("::169.254.169.254", "reserved"),
        ("::ffff:169.254.169.254", "metadata"),
        ("::ffff:0.0.0.0", "unspecified"),
        ("2002:a9fe:a9fe::1", "metadata"),
        ("64:ff9b::a9fe:a9fe", "metadata"),
        ("64:ff9b::7f00:1", "this machine"),
        ("2001:0:1:2:3:4:5601:5601", "metadata"),
        ("127.0.0.1", "this machine"),
        ("127.8.9.1", "this machine"),
        ("::1", "this machine"),
        ("::ffff:127.0.0.1", "this machine"),
        ("nonsense", "not an address"),
    ],
)
def test_address_is_refused_by_its_kind(address: str, kind: str) -> None:
    assert kind in refusal(address, policy=STRICT)


@pytest.mark.parametrize(
    "address",
    [
        "10.0.0.1",
        "172.16.0.1",
        "192.168.1.1",
        "100.64.0.1",
        "203.0.113.9",
        "fd12::1",
        "2a00:1450::1",
        "::ffff:10.0.0.1",
        "64:ff9b::a00:1",
    ],
)
def test_address_of_a_network_is_accepted(address: str) -> None:
    assert refusal(address, policy=STRICT) == ""


@pytest.mark.parametrize("address", ["127.0.0.1", "::1", "::ffff:127.0.0.1"])
def test_loopback_is_accepted_where_it_is_allowed(address: str) -> None:
    assert refusal(address, policy=LOOPBACK) == ""


@pytest.mark.parametrize("address", ["169.254.169.254", "0.0.0.0", "fe80::1"])  # noqa: S104
def test_allowing_loopback_allows_nothing_else(address: str) -> None:
    assert refusal(address, policy=LOOPBACK)


def _refused(host: str) -> errors.KubeError:
    with pytest.raises(errors.AddressRefused) as caught:
        resolve(host, 443, policy=STRICT, timeout=5)
    assert not caught.value.retryable
    return caught.value


@pytest.mark.parametrize(
    "host", ["2852039166", "0xa9fea9fe", "169.254.43518", "0251.0376.0251.0376"]
)
def test_other_ways_to_write_an_address_are_seen_through(host: str) -> None:
    assert "metadata" in str(_refused(host))


def test_one_refused_address_refuses_the_name(names: Names) -> None:
    names.answer("c1.example", ["10.0.0.1", "169.254.169.254"])
    error = _refused("c1.example")
    assert "c1.example leads to 169.254.169.254" in str(error)
    assert error.hint


def test_addresses_come_in_order_and_once(names: Names) -> None:
    names.answer("c1.example", ["10.0.0.2", "fd12::1", "10.0.0.2"])
    found = resolve("c1.example", 443, policy=STRICT, timeout=5)
    assert found == ("10.0.0.2", "fd12::1")


@pytest.mark.parametrize("host", ["unknown.example", "a..b", "x" * 70 + ".example"])
def test_unknown_name_says_so(host: str, names: Names) -> None:
    with pytest.raises(errors.Unreachable) as caught:
        resolve(host, 443, policy=STRICT, timeout=5)
    assert caught.value.reason == "NameUnknown"


def test_hanging_resolver_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    released = threading.Event()
    monkeypatch.setattr(
        socket, "getaddrinfo", lambda *_args, **_options: released.wait(10) and []
    )
    with pytest.raises(errors.Unreachable) as caught:
        resolve("c1.example", 443, policy=STRICT, timeout=0.05)
    released.set()
    assert caught.value.reason == "NameTimeout"


# === CONNECTIONS === #


def _connection(settings: Settings, **changes: Any) -> Connection:
    return Connection(dataclasses.replace(settings, **changes), token=lambda: TOKEN)


def test_refused_address_is_never_connected_to(
    server: FakeServer, settings: Settings
) -> None:
    connection = _connection(settings, address_policy=STRICT)
    with pytest.raises(errors.AddressRefused):
        connection.request("GET", "/x")
    assert server.accepted == 0


def test_checked_address_is_the_one_that_is_connected_to(
    server: FakeServer, settings: Settings, names: Names
) -> None:
    """A second answer for the name, as DNS rebinding gives it, is not asked for."""
    server.on("/x", lambda h: h.reply({}))
    names.answer("c1.example", ["127.0.0.1"], ["169.254.169.254"])
    port = server.server_address[1]
    url = f"https://c1.example:{port}"
    connection = _connection(settings, server=url, tls_server_name="127.0.0.1")
    connection.request("GET", "/x")
    assert server.requests[0].headers["Host"] == f"c1.example:{port}"
    connection.request("GET", "/x")
    assert server.accepted == 1


def test_rebound_name_is_refused_when_it_is_connected_to_again(
    server: FakeServer, settings: Settings, names: Names
) -> None:
    server.on("/x", lambda h: h.reply({}, headers={"Connection": "close"}))
    names.answer("c1.example", ["127.0.0.1"], ["169.254.169.254"])
    url = f"https://c1.example:{server.server_address[1]}"
    connection = _connection(settings, server=url, tls_server_name="127.0.0.1")
    connection.request("GET", "/x")
    with pytest.raises(errors.AddressRefused):
        connection.request("GET", "/x")


def test_next_address_is_tried_when_one_does_not_answer(
    server: FakeServer, settings: Settings, names: Names
) -> None:
    server.on("/x", lambda h: h.reply({}))
    names.answer("c1.example", ["127.0.0.2", "127.0.0.1"])
    url = f"https://c1.example:{server.server_address[1]}"
    connection = _connection(settings, server=url, tls_server_name="127.0.0.1")
    assert connection.request("GET", "/x").status == 200


# === PROXIES === #


@pytest.mark.parametrize(
    ("url", "normal"),
    [
        ("http://proxy:3128", "http://proxy:3128"),
        (" HTTP://Proxy:3128/ ", "http://proxy:3128"),
        ("https://ada:s3cret@proxy", "https://ada:s3cret@proxy"),
        ("http://[fd12::1]:3128", "http://[fd12::1]:3128"),
    ],
)
def test_proxy_is_normalised(url: str, normal: str) -> None:
    assert check_proxy(url) == normal


@pytest.mark.parametrize(
    "url",
    [
        "",
        "proxy:3128",
        "socks5://proxy",
        "http://",
        "http://ada:s3cret@p/path",
        "http://ada:s3cret@p?x",
        "http://ada:s3cret@p:x",
        "http://ada:s3cret@p q",
    ],
)
def test_unusable_proxy_is_refused_with_a_sentence(url: str) -> None:
    with pytest.raises(ValueError, match=r"^The .*\.$|^Remove .*\.$") as caught:
        check_proxy(url)
    assert "s3cret" not in str(caught.value)
