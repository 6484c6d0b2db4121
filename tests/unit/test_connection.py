"""One connection against a server that misbehaves in every way that it can."""

from __future__ import annotations

import base64
import dataclasses
import logging
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from kube import errors
from kube.address import check_server
from kube.certificates import check_ca
from kube.connection import Cancellation, Connection, Settings
from tests.unit.conftest import TOKEN
from tests.unit.fakes import Certificate, FakeServer, Handler, make_certificate
from tests.waiting import eventually

PATH = "/apis/x"


def _ok(handler: Handler) -> None:
    handler.reply({"ok": True})


def _thread(target: Callable[[], Any]) -> threading.Thread:
    thread = threading.Thread(target=target, daemon=True)
    thread.start()
    return thread


def _failure(call: Callable[[], Any]) -> errors.KubeError:
    with pytest.raises(errors.KubeError) as caught:
        call()
    return caught.value


# === REQUESTS === #


def test_request_sends_what_it_was_given(
    server: FakeServer, connection: Connection
) -> None:
    server.on(
        PATH,
        lambda h: h.reply({"a": 1}, status=201, headers={"Warning": '299 - "old"'}),
    )
    response = connection.request(
        "PATCH",
        PATH,
        query={"fieldManager": "m"},
        body={"b": "☃😀"},
        content_type="application/apply-patch+yaml",
    )
    assert (response.status, response.data) == (201, {"a": 1})
    assert response.warnings == ("old",)
    assert response.headers["content-type"] == "application/json"
    (request,) = server.requests
    assert (request.method, request.query) == ("PATCH", "fieldManager=m")
    assert request.body == {"b": "☃😀"}
    assert request.headers["Authorization"] == f"Bearer {TOKEN}"
    assert request.headers["Content-Type"] == "application/apply-patch+yaml"
    assert request.headers["User-Agent"] == "vworkspace-odoo"


def test_path_prefix_of_the_server_is_kept(
    server: FakeServer, settings: Settings
) -> None:
    server.on("/k8s/c1/version", _ok)
    prefixed = dataclasses.replace(settings, server=f"{server.url}/k8s/c1/")
    Connection(prefixed, token=lambda: TOKEN).request("GET", "/version")
    assert server.requests[0].path == "/k8s/c1/version"


def test_sockets_are_reused_after_success_and_after_errors(
    server: FakeServer, connection: Connection
) -> None:
    server.on(PATH, _ok, lambda h: h.reply({}, status=500), _ok)
    connection.request("GET", PATH)
    _failure(lambda: connection.request("GET", PATH))
    connection.request("GET", PATH)
    assert server.accepted == 1


def test_token_is_asked_for_at_each_request(
    server: FakeServer, settings: Settings
) -> None:
    server.on(PATH, _ok)
    tokens = iter(["first", "second"])
    connection = Connection(settings, token=lambda: next(tokens))
    connection.request("GET", PATH)
    connection.request("GET", PATH)
    sent = [request.headers["Authorization"] for request in server.requests]
    assert sent == ["Bearer first", "Bearer second"]


@pytest.mark.parametrize("token", ["", "a b", "a\nb", "tökén", "a\r\nX: y"])
def test_malformed_token_is_refused_unsent_and_unquoted(
    server: FakeServer, settings: Settings, token: str
) -> None:
    connection = Connection(settings, token=lambda: token)
    error = _failure(lambda: connection.request("GET", PATH))
    assert isinstance(error, errors.Unauthorized)
    assert not token or token not in f"{error!r}{error}"
    assert not server.requests


def test_redirect_is_not_followed(server: FakeServer, connection: Connection) -> None:
    server.on(PATH, lambda h: h.reply(status=302, headers={"Location": "/elsewhere"}))
    error = _failure(lambda: connection.request("GET", PATH))
    assert (type(error), error.reason) == (errors.InvalidResponse, "Redirect")
    assert [request.path for request in server.requests] == [PATH]


def test_nothing_is_retried(server: FakeServer, connection: Connection) -> None:
    server.on(PATH, lambda h: h.reply({}, status=429, headers={"Retry-After": "9"}))
    error = _failure(lambda: connection.request("GET", PATH))
    assert (type(error), error.retry_after) == (errors.Throttled, 9.0)
    assert len(server.requests) == 1


def test_proxies_of_the_environment_are_ignored(
    server: FakeServer, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:1")
    server.on(PATH, _ok)
    Connection(settings, token=lambda: TOKEN).request("GET", PATH)


def test_web_page_is_named_and_not_quoted(
    server: FakeServer, connection: Connection
) -> None:
    server.on(PATH, lambda h: h.reply(b"<h1>Log in</h1>", content_type="text/html"))
    error = _failure(lambda: connection.request("GET", PATH))
    assert isinstance(error, errors.InvalidResponse)
    assert "Log in" not in str(error)


def test_large_answer_is_given_up(server: FakeServer, settings: Settings) -> None:
    server.on(PATH, lambda h: h.reply(b" " * 300_000))
    small = dataclasses.replace(settings, max_response_bytes=200_000)
    connection = Connection(small, token=lambda: TOKEN)
    error = _failure(lambda: connection.request("GET", PATH))
    assert (type(error), error.reason) == (errors.InvalidResponse, "TooLarge")


def test_compressed_answer_is_refused(
    server: FakeServer, connection: Connection
) -> None:
    server.on(PATH, lambda h: h.reply(b"x", headers={"Content-Encoding": "gzip"}))
    error = _failure(lambda: connection.request("GET", PATH))
    assert "compressed" in str(error)


# === TIMES === #


def test_silent_server_runs_into_the_read_timeout(
    server: FakeServer, settings: Settings
) -> None:
    server.on(PATH, lambda h: h.hold())
    hasty = dataclasses.replace(settings, read_timeout=0.2)
    connection = Connection(hasty, token=lambda: TOKEN)
    error = _failure(lambda: connection.request("GET", PATH))
    assert (type(error), error.reason) == (errors.Unreachable, "ReadTimeout")
    assert error.unsettled  # it took the request


def test_dripping_server_runs_into_the_total_timeout(
    server: FakeServer, connection: Connection
) -> None:
    def drip(handler: Handler) -> None:
        handler.wfile.write(b"HTTP/1.1 200 OK\r\nX-Endless: ")
        while not handler.server.closing.wait(0.05):
            handler.wfile.write(b"H")
            handler.wfile.flush()

    server.on(PATH, drip)
    started = time.monotonic()
    error = _failure(lambda: connection.request("GET", PATH, timeout=0.4))
    assert (type(error), error.reason) == (errors.Unreachable, "ReadTimeout")
    assert time.monotonic() - started < 2


def test_cut_answer_is_unreachable(server: FakeServer, connection: Connection) -> None:
    def cut(handler: Handler) -> None:
        handler.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{")
        handler.close_connection = True

    server.on(PATH, cut)
    error = _failure(lambda: connection.request("GET", PATH))
    assert (type(error), error.reason) == (errors.Unreachable, "ConnectionCut")
    assert error.unsettled


def test_connection_cut_in_its_handshake_has_carried_nothing(
    certificate: Certificate,
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def hang_up() -> None:
            sock, _ = listener.accept()
            sock.recv(10)
            sock.close()

        _thread(hang_up)
        url = f"https://127.0.0.1:{listener.getsockname()[1]}"
        settings = Settings(server=url, ca_pem=certificate.pem)
        connection = Connection(settings, token=lambda: TOKEN)
        error = _failure(lambda: connection.request("GET", PATH))
    assert (type(error), error.reason) == (errors.Unreachable, "ConnectionCut")
    assert not error.unsettled


def test_refused_connection_says_so(certificate: Certificate) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    settings = Settings(server=f"https://127.0.0.1:{port}", ca_pem=certificate.pem)
    error = _failure(
        lambda: Connection(settings, token=lambda: "t").request("GET", "/")
    )
    assert error.reason == "ConnectionRefused"
    assert not error.unsettled


@pytest.fixture
def full(certificate: Certificate) -> Iterator[Settings]:
    """An address whose connections hang: its queue of new ones is full."""
    with socket.create_server(("127.0.0.1", 0), backlog=0) as listener:
        address = listener.getsockname()
        waiting = []
        for _ in range(3):
            sock = socket.socket()
            sock.setblocking(False)
            sock.connect_ex(address)
            waiting.append(sock)
        yield Settings(
            server=f"https://127.0.0.1:{address[1]}",
            ca_pem=certificate.pem,
            connect_timeout=0.3,
        )
        for sock in waiting:
            sock.close()


def test_hanging_connect_runs_into_the_connect_timeout(full: Settings) -> None:
    connection = Connection(full, token=lambda: TOKEN)
    error = _failure(lambda: connection.request("GET", PATH))
    assert (type(error), error.reason) == (errors.Unreachable, "ConnectTimeout")


def test_hanging_connect_is_cut_by_close(full: Settings) -> None:
    slow = dataclasses.replace(full, connect_timeout=30.0)
    connection = Connection(slow, token=lambda: TOKEN)
    found: list[errors.KubeError] = []
    thread = _thread(
        lambda: found.append(_failure(lambda: connection.request("GET", PATH)))
    )
    eventually(lambda: _is_dialling(connection), what="a dial", equals=True)
    connection.close()
    thread.join(1)
    assert not thread.is_alive()
    assert found[0].reason == "Cancelled"


def _is_dialling(connection: Connection) -> bool:
    return any(c._socket is not None for c in list(connection._exchanges))


# === TLS === #


def _tls_failure(server: FakeServer, settings: Settings) -> errors.KubeError:
    server.on(PATH, _ok)
    connection = Connection(settings, token=lambda: TOKEN)
    error = _failure(lambda: connection.request("GET", PATH))
    assert not server.requests
    return error


def test_other_ca_is_refused(server: FakeServer, tmp_path: Path) -> None:
    other = make_certificate(tmp_path, name="other")
    error = _tls_failure(server, Settings(server=server.url, ca_pem=other.pem))
    assert isinstance(error, errors.TlsFailed)
    assert "not signed by" in str(error)
    assert error.hint


def test_other_name_is_refused(server: FakeServer, settings: Settings) -> None:
    named = dataclasses.replace(settings, tls_server_name="other.example")
    assert "other names" in str(_tls_failure(server, named))


@pytest.mark.parametrize(
    ("days", "host", "text"), [(-1, "127.0.0.1", "expired"), (1, "a.example", "names")]
)
def test_unfit_certificate_is_refused(
    tmp_path: Path, days: int, host: str, text: str
) -> None:
    unfit = make_certificate(tmp_path, days=days, host=host)
    server = FakeServer(unfit)
    try:
        settings = Settings(server=server.url, ca_pem=unfit.pem)
        assert text in str(_tls_failure(server, settings))
    finally:
        server.stop()


def test_tls_server_name_is_what_the_certificate_must_carry(tmp_path: Path) -> None:
    named = make_certificate(tmp_path, host="api.example")
    server = FakeServer(named)
    try:
        server.on(PATH, _ok)
        settings = Settings(
            server=server.url, ca_pem=named.pem, tls_server_name="api.example"
        )
        Connection(settings, token=lambda: TOKEN).request("GET", PATH)
    finally:
        server.stop()


def test_server_without_tls_is_named(certificate: Certificate) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def answer() -> None:
            sock, _ = listener.accept()
            sock.recv(10)
            sock.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
            sock.close()

        _thread(answer)
        url = f"https://127.0.0.1:{listener.getsockname()[1]}"
        settings = Settings(server=url, ca_pem=certificate.pem)
        connection = Connection(settings, token=lambda: TOKEN)
        error = _failure(lambda: connection.request("GET", PATH))
    assert (type(error), error.reason) == (errors.TlsFailed, "NotTls")
    assert not error.unsettled


# === STREAMS === #


def test_stream_yields_events_however_they_are_cut(
    server: FakeServer, connection: Connection
) -> None:
    lines = b'{"type":"ADDED","object":{"n":"\xc3\xbc"}}\n\n{"type":"X","object":{}}\n'

    def drip(handler: Handler) -> None:
        handler.begin_stream()
        for i in range(0, len(lines), 7):
            handler.send_chunk(lines[i : i + 7])
        handler.send_chunk(b"")

    server.on(PATH, drip)
    with connection.stream(PATH, query={"watch": "true"}, read_timeout=5) as stream:
        events = list(stream)
    assert events == [
        {"type": "ADDED", "object": {"n": "ü"}},
        {"type": "X", "object": {}},
    ]
    assert server.requests[0].query == "watch=true"


def test_silent_stream_is_inactive(server: FakeServer, connection: Connection) -> None:
    def silent(handler: Handler) -> None:
        handler.begin_stream()
        handler.hold()

    server.on(PATH, silent)
    with connection.stream(PATH, query={}, read_timeout=0.2) as stream:
        error = _failure(lambda: list(stream))
    assert (type(error), error.reason) == (errors.Unreachable, "Inactive")


@pytest.mark.parametrize("owner", ["stream", "connection", "cancellation"])
def test_stream_ends_at_once_when_another_thread_closes_it(
    server: FakeServer, connection: Connection, owner: str
) -> None:
    def one_event(handler: Handler) -> None:
        handler.begin_stream()
        handler.send_event("ADDED", {})
        handler.hold()

    server.on(PATH, one_event)
    cancellation = Cancellation()
    got_one = threading.Event()
    with connection.stream(
        PATH, query={}, read_timeout=30, cancellation=cancellation
    ) as stream:
        thread = _thread(lambda: [got_one.set() for _ in stream])
        assert got_one.wait(5)
        {
            "stream": stream.close,
            "connection": connection.close,
            "cancellation": cancellation.cancel,
        }[owner]()
        thread.join(1)
        assert not thread.is_alive()


def test_cut_stream_is_unreachable(server: FakeServer, connection: Connection) -> None:
    def cut(handler: Handler) -> None:
        handler.begin_stream()
        handler.wfile.write(b'ff\r\n{"type"')
        handler.close_connection = True

    server.on(PATH, cut)
    with connection.stream(PATH, query={}, read_timeout=5) as stream:
        error = _failure(lambda: list(stream))
    assert (type(error), error.reason) == (errors.Unreachable, "ConnectionCut")


@pytest.mark.parametrize("line", [b"[]\n", b"nonsense\n", b'{"type":"ADDED"}\n'])
def test_line_that_is_not_an_event_is_refused(
    server: FakeServer, connection: Connection, line: bytes
) -> None:
    def send(handler: Handler) -> None:
        handler.begin_stream()
        handler.send_chunk(line)
        handler.hold()

    server.on(PATH, send)
    with connection.stream(PATH, query={}, read_timeout=5) as stream:
        assert isinstance(_failure(lambda: list(stream)), errors.InvalidResponse)


def test_endless_line_is_given_up(server: FakeServer, settings: Settings) -> None:
    def endless(handler: Handler) -> None:
        handler.begin_stream()
        while not handler.server.closing.is_set():
            handler.send_chunk(b"x" * 10_000)

    server.on(PATH, endless)
    small = dataclasses.replace(settings, max_response_bytes=100_000)
    connection = Connection(small, token=lambda: TOKEN)
    with connection.stream(PATH, query={}, read_timeout=5) as stream:
        error = _failure(lambda: list(stream))
    assert isinstance(error, errors.InvalidResponse)


def test_refused_stream_raises_when_it_is_opened(
    server: FakeServer, connection: Connection
) -> None:
    server.on(PATH, lambda h: h.reply({}, status=401))
    error = _failure(lambda: connection.stream(PATH, query={}, read_timeout=5))
    assert isinstance(error, errors.Unauthorized)


# === CANCELLATION AND CLOSING === #


def test_cancelled_before_it_began_ends_at_once(
    server: FakeServer, connection: Connection
) -> None:
    server.on(PATH, lambda h: h.hold())
    cancellation = Cancellation()
    cancellation.cancel()
    error = _failure(lambda: connection.request("GET", PATH, cancellation=cancellation))
    assert error.reason == "Cancelled"


def test_close_ends_requests_under_way(
    server: FakeServer, connection: Connection
) -> None:
    server.on(PATH, lambda h: h.hold())
    found: list[errors.KubeError] = []
    thread = _thread(
        lambda: found.append(_failure(lambda: connection.request("GET", PATH)))
    )
    server.wait_for(lambda: bool(server.requests), what="the request")
    connection.close()
    thread.join(1)
    assert found[0].reason == "Cancelled"
    again = _failure(lambda: connection.request("GET", PATH))
    assert (again.reason, again.retryable) == ("Closed", True)


def test_cancellation_of_a_finished_request_harms_no_other(
    server: FakeServer, connection: Connection
) -> None:
    server.on(PATH, _ok)
    cancellation = Cancellation()
    connection.request("GET", PATH, cancellation=cancellation)
    cancellation.cancel()
    connection.request("GET", PATH)
    assert server.accepted == 1


def test_connection_shows_its_server_and_logs_no_token(
    server: FakeServer, connection: Connection, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    server.on(PATH, _ok)
    connection.request("GET", PATH)
    assert repr(connection) == f"<Connection {server.url}>"
    assert TOKEN not in caplog.text


# === SETTINGS === #


@pytest.mark.parametrize(
    ("url", "normal"),
    [
        ("https://c1:6443", "https://c1:6443"),
        ("  HTTPS://C1.Example/  ", "https://c1.example"),
        ("https://10.0.0.1/k8s/clusters/c-1/", "https://10.0.0.1/k8s/clusters/c-1"),
        ("https://[::1]:6443", "https://[::1]:6443"),
        ("https://bücher.example", "https://xn--bcher-kva.example"),
    ],
)
def test_server_is_normalised(url: str, normal: str) -> None:
    assert check_server(url) == normal
    assert check_server(normal) == normal


@pytest.mark.parametrize(
    ("url", "text"),
    [
        ("", "Enter"),
        ("c1:6443", "https://"),
        ("http://c1", "https://"),
        ("https://", "host"),
        ("https://:6443", "host"),
        ("https://user:secret@c1", "user name"),
        ("https://c1?x=1", "after|follows"),
        ("https://c1#x", "follows"),
        ("https://c1:99999", "port"),
        ("https://c1:x", "port"),
        ("https://c1/../x", "path"),
        ("https://c1/%2e%2e", "path"),
        ("https://c1 /x", "blanks"),
        ("https://c1\n.evil", "blanks"),
        ("https://c1\\@evil", "blanks"),
        ("https://[::1", "malformed"),
        ("https://" + "a" * 64 + ".example", "malformed"),
    ],
)
def test_unusable_server_is_refused_with_a_sentence(url: str, text: str) -> None:
    with pytest.raises(ValueError, match=text) as caught:
        check_server(url)
    assert "secret" not in str(caught.value)
    assert str(caught.value).endswith(".")


def test_ca_is_normalised(certificate: Certificate) -> None:
    pem = certificate.pem
    messy = f"# a comment\r\n{pem.replace(chr(10), chr(13) + chr(10))}\n\n{pem}"
    assert check_ca(messy) == pem
    assert check_ca(base64.b64encode(pem.encode()).decode()) == pem
    assert check_ca(pem) == pem


@pytest.mark.parametrize(
    ("pem", "text"),
    [
        ("", "Enter"),
        ("hello", "not a certificate"),
        ("aGVsbG8=", "not a certificate"),
        ("-----BEGIN PRIVATE KEY-----\nx\n-----END PRIVATE KEY-----", "private key"),
        (
            "-----BEGIN CERTIFICATE REQUEST-----\nx\n-----END CERTIFICATE REQUEST-----",
            "certificate request",
        ),
        ("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----", "damaged"),
        ("-----BEGIN CERTIFICATE-----\nü!\n-----END CERTIFICATE-----", "damaged"),
        ("x" * 300_000, "256 KiB"),
    ],
)
def test_unusable_ca_is_refused_with_a_sentence(pem: str, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        check_ca(pem)


def test_settings_are_checked_and_hide_the_certificate(
    certificate: Certificate,
) -> None:
    settings = Settings(server="https://C1/", ca_pem=certificate.pem)
    assert settings.server == "https://c1"
    assert "BEGIN" not in repr(settings)
    with pytest.raises(ValueError, match="https"):
        Settings(server="http://c1", ca_pem=None)
