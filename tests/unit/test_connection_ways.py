"""The ways to a server: with a client certificate, through a proxy, without trust."""

from __future__ import annotations

import dataclasses
import os
import socket
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from environment.certificates import make_certificates
from kube import errors
from kube.connection import Connection, Settings
from tests.unit.conftest import TOKEN
from tests.unit.fakes import (
    Certificate,
    FakeProxy,
    FakeServer,
    Handler,
    make_certificate,
)

PATH = "/apis/x"


def _ok(handler: Handler) -> None:
    handler.reply({"ok": True})


def _connection(
    settings: Settings, *, token: str = TOKEN, **changes: Any
) -> Connection:
    return Connection(dataclasses.replace(settings, **changes), token=lambda: token)


# === CLIENT CERTIFICATES === #


@pytest.fixture
def client(tmp_path: Path) -> Certificate:
    return make_certificate(tmp_path, name="client")


def test_client_certificate_is_shown(
    server: FakeServer, settings: Settings, client: Certificate
) -> None:
    server.ask_for_certificates_of(client)
    server.on(PATH, _ok)
    made = _connection(
        settings, client_cert_pem=client.pem, client_key_pem=client.key_pem
    )
    made.request("GET", PATH)
    assert server.requests[0].headers["Authorization"] == f"Bearer {TOKEN}"


def test_client_certificate_may_be_all_that_is_shown(
    server: FakeServer, settings: Settings, client: Certificate
) -> None:
    server.ask_for_certificates_of(client)
    server.on(PATH, _ok)
    made = _connection(
        settings, token="", client_cert_pem=client.pem, client_key_pem=client.key_pem
    )
    made.request("GET", PATH)
    assert "Authorization" not in server.requests[0].headers


def test_missing_client_certificate_is_no_crash(
    server: FakeServer, settings: Settings, client: Certificate
) -> None:
    server.ask_for_certificates_of(client)
    with pytest.raises(errors.KubeError):
        _connection(settings).request("GET", PATH)


def test_client_key_is_never_in_a_file(
    server: FakeServer,
    settings: Settings,
    client: Certificate,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setenv("TMPDIR", str(folder))
    handles = set(os.listdir("/proc/self/fd"))
    made = _connection(
        settings, client_cert_pem=client.pem, client_key_pem=client.key_pem
    )
    assert not list(folder.iterdir())
    assert not {
        fd
        for fd in set(os.listdir("/proc/self/fd")) - handles
        if os.path.exists(f"/proc/self/fd/{fd}")
        and "client-certificate" in os.readlink(f"/proc/self/fd/{fd}")
    }
    key_line = client.key_pem.splitlines()[1]
    assert key_line not in repr(made.settings) + repr(made)


@pytest.mark.parametrize(
    ("cert", "key", "text"),
    [(True, False, "private key"), (False, True, "certificate")],
)
def test_half_a_client_certificate_is_refused(
    client: Certificate, cert: bool, key: bool, text: str
) -> None:
    with pytest.raises(ValueError, match=text):
        Settings(
            server="https://c1",
            ca_pem=None,
            client_cert_pem=client.pem if cert else None,
            client_key_pem=client.key_pem if key else None,
        )


# === TRUST === #


def test_accepted_certificate_is_trusted_without_its_authority(tmp_path: Path) -> None:
    """As servers present theirs alone, it is all that a person can accept."""
    make_certificates(tmp_path)
    own, key = ((tmp_path / f"server.{end}").read_text() for end in ("crt", "key"))
    (tmp_path / "both.pem").write_text(own + key)
    server = FakeServer(Certificate(pem=own, path=tmp_path / "both.pem"))
    try:
        server.on(PATH, _ok)
        _connection(Settings(server=server.url, ca_pem=own)).request("GET", PATH)
    finally:
        server.stop()


def test_any_certificate_is_accepted_when_that_is_asked_for(
    server: FakeServer, tmp_path: Path
) -> None:
    other = make_certificate(tmp_path, name="other", days=-1, host="a.example")
    server.on(PATH, _ok)
    settings = Settings(server=server.url, ca_pem=other.pem, insecure=True)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert _connection(settings).request("GET", PATH).status == 200


# === PROXIES === #


@pytest.fixture
def proxy(server: FakeServer) -> Iterator[FakeProxy]:
    made = FakeProxy(server)
    yield made
    made.stop()


def test_proxy_is_told_the_name_and_its_own_password_alone(
    server: FakeServer, settings: Settings, proxy: FakeProxy
) -> None:
    """The name is resolved by the proxy: here nobody knows it."""
    server.on(PATH, _ok)
    made = _connection(
        settings,
        server="https://hidden.example:6443",
        tls_server_name="127.0.0.1",
        proxy=f"http://ada:s3cret%21@{proxy.address}",
    )
    made.request("GET", PATH)
    (lines,) = proxy.requests
    assert lines[0].startswith("CONNECT hidden.example:6443 ")
    assert "proxy-authorization: Basic YWRhOnMzY3JldCE=" in lines
    assert TOKEN not in str(lines)
    assert "Proxy-Authorization" not in server.requests[0].headers
    assert "s3cret" not in repr(made.settings)


def test_proxy_of_the_environment_is_not_used(
    server: FakeServer,
    settings: Settings,
    proxy: FakeProxy,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    server.on(PATH, _ok)
    monkeypatch.setenv("HTTPS_PROXY", f"http://{proxy.address}")
    _connection(settings).request("GET", PATH)
    assert not proxy.requests


def test_set_proxy_is_used_whatever_the_environment_excludes(
    server: FakeServer,
    settings: Settings,
    proxy: FakeProxy,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    server.on(PATH, _ok)
    monkeypatch.setenv("NO_PROXY", "*")
    _connection(settings, proxy=f"http://{proxy.address}").request("GET", PATH)
    assert proxy.requests


def test_tls_to_a_proxy_goes_around_tls_to_the_server(
    server: FakeServer,
    settings: Settings,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    own = make_certificate(tmp_path, name="proxy")
    monkeypatch.setenv("SSL_CERT_FILE", str(own.path))
    server.on(PATH, _ok)
    proxy = FakeProxy(server, certificate=own)
    try:
        made = _connection(settings, proxy=f"https://{proxy.address}")
        made.request("GET", PATH)
        made.request("GET", PATH)
        assert len(proxy.requests) == 1
    finally:
        proxy.stop()


def test_request_through_a_proxy_is_cut_by_close(
    server: FakeServer, settings: Settings, proxy: FakeProxy
) -> None:
    server.on(PATH, lambda h: h.hold())
    made = _connection(settings, proxy=f"http://{proxy.address}")
    found: list[errors.KubeError] = []

    def ask() -> None:
        with pytest.raises(errors.KubeError) as caught:
            made.request("GET", PATH)
        found.append(caught.value)

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    server.wait_for(lambda: bool(server.requests), what="the request")
    made.close()
    thread.join(1)
    assert found[0].reason == "Cancelled"


def test_refusing_proxy_is_named(
    server: FakeServer, settings: Settings, proxy: FakeProxy
) -> None:
    proxy.refusal = "407 Proxy Authentication Required"
    made = _connection(settings, proxy=f"http://ada:s3cret@{proxy.address}")
    with pytest.raises(errors.Unreachable) as caught:
        made.request("GET", PATH)
    assert caught.value.reason == "ProxyFailed"
    assert "HTTP 407" in str(caught.value)
    assert "s3cret" not in str(caught.value)


def test_absent_proxy_is_named(settings: Settings) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    made = _connection(settings, proxy=f"http://127.0.0.1:{port}")
    with pytest.raises(errors.Unreachable) as caught:
        made.request("GET", PATH)
    assert caught.value.reason == "ProxyFailed"
