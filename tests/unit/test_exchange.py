"""One request and its answer on a socket, however they are cut and framed."""

from __future__ import annotations

import contextlib
import gc
import http.client
import io
import socket
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from urllib3.exceptions import ProtocolError

from kube import content
from kube._exchange import MAX_HEADERS, Answer, encode, exchange
from kube.errors import InvalidResponse

REQUEST = b"GET / HTTP/1.1\r\n\r\n"
OK = b"HTTP/1.1 200 OK\r\n"
MIB = 1024 * 1024


class Server:
    """The other end of a socket: sends what a test says, and hangs up."""

    def __init__(self) -> None:
        self.client, self._socket = socket.socketpair()
        self.client.settimeout(5)
        self._thread: threading.Thread | None = None

    def ask(self, *parts: bytes, limit: int = MIB, ends: bool = True) -> Answer:
        """Return the answer that is sent in `parts`.

        :param ends: hang up after it
        """

        def answer() -> None:
            with contextlib.suppress(OSError):  # it was given up
                for part in parts:
                    self._socket.sendall(part)
                if ends:
                    self._socket.shutdown(socket.SHUT_WR)

        self._thread = threading.Thread(target=answer)
        self._thread.start()
        return exchange(self.client, REQUEST, limit=limit)

    def close(self) -> None:
        self.client.close()
        if self._thread:
            self._thread.join(5)
        self._socket.close()


@pytest.fixture
def server() -> Iterator[Server]:
    made = Server()
    yield made
    made.close()


# === ANSWERS === #


def test_an_answer_ends_where_its_length_says(server: Server) -> None:
    answer = server.ask(OK + b"Content-Length: 2\r\n\r\n{}", ends=False)
    assert (answer.status, answer.content) == (200, b"{}")
    assert answer.keeps_alive


def test_an_answer_without_a_body_ends_with_its_headers(server: Server) -> None:
    answer = server.ask(b"HTTP/1.1 204 No Content\r\nX: y\r\n\r\n", ends=False)
    assert (answer.status, answer.content, answer.headers["x"]) == (204, b"", "y")
    assert answer.keeps_alive


def test_an_answer_may_end_with_the_connection(server: Server) -> None:
    answer = server.ask(b"HTTP/1.1 502 Bad Gateway\r\n\r\n<h1>", b"No.")
    assert (answer.status, answer.content) == (502, b"<h1>No.")
    assert not answer.keeps_alive


@pytest.mark.parametrize(
    "header", [b"Connection: close\r\n", b"Connection: Close, x\r\n"]
)
def test_a_connection_that_the_server_closes_is_not_used_again(
    server: Server, header: bytes
) -> None:
    answer = server.ask(OK + header + b"Content-Length: 2\r\n\r\n{}", ends=False)
    assert (answer.content, answer.keeps_alive) == (b"{}", False)


def test_an_old_servers_connection_is_not_used_again(server: Server) -> None:
    answer = server.ask(b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\n{}", ends=False)
    assert (answer.content, answer.keeps_alive) == (b"{}", False)


@pytest.mark.parametrize("rest", [b"{}", b"HTTP/1.1 200 OK\r\n", b"\x00"])
def test_nothing_that_follows_an_answer_is_taken_for_the_next(
    server: Server, rest: bytes
) -> None:
    answer = server.ask(OK + b"Content-Length: 2\r\nA: b\r\n\r\n{}" + rest, ends=False)
    assert (answer.status, answer.content) == (200, b"{}")
    assert dict(answer.headers) == {"Content-Length": "2", "A": "b"}
    assert not answer.keeps_alive


def test_an_interim_answer_is_passed_over(server: Server) -> None:
    interim = b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n"
    answer = server.ask(interim, interim, OK + b"Content-Length: 2\r\n\r\n{}")
    assert (answer.status, answer.content) == (200, b"{}")
    assert "Link" not in answer.headers


def test_a_header_may_come_more_than_once(server: Server) -> None:
    warnings = b'Warning: 299 - "a"\r\nwarning: 299 - "b"\r\n'
    answer = server.ask(OK + warnings + b"Content-Length: 0\r\n\r\n")
    assert answer.headers.getlist("Warning") == ['299 - "a"', '299 - "b"']


def test_a_server_may_answer_before_it_took_the_request(server: Server) -> None:
    refusal = b"HTTP/1.1 413 Too Large\r\nConnection: close\r\n\r\n"
    server._socket.sendall(refusal)
    server._socket.close()
    answer = exchange(server.client, b"x" * MIB, limit=MIB)
    assert answer.status == 413


# === ANSWERS THAT ARE NONE === #


@pytest.mark.parametrize(
    "sent",
    [
        b"",
        b"HTTP/1.1 200",
        OK + b"Content-Length: 3\r\n",
        OK + b"Content-Length: 3\r\n\r\n{}",
        OK + b"Transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n",
        b"HTTP/1.1 100 Continue\r\n\r\n",
    ],
)
def test_an_answer_that_is_cut_off_is_none(server: Server, sent: bytes) -> None:
    with pytest.raises(ProtocolError):
        server.ask(sent)


@pytest.mark.parametrize(
    "sent",
    [
        b"SSH-2.0-OpenSSH_9.2\r\n",
        b"HTTP/9.9 200 OK\r\n\r\n",
        b"HTTP/1.1 099 No\r\nContent-Length: 1\r\n\r\nx",
        OK + b"no header\r\n\r\n",
        OK + b"Content-Length: x\r\n\r\n",
        OK + b"Content-Length: 2\r\nContent-Length: 3\r\n\r\n{}",
        OK + b"Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        OK + b"Transfer-Encoding: chunked\r\n\r\nx\r\n",
        b"HTTP/1.1 101 Switching\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n",
    ],
)
def test_what_is_no_http_is_refused(server: Server, sent: bytes) -> None:
    with pytest.raises(InvalidResponse, match="not HTTP"):
        server.ask(sent)


def test_a_compressed_answer_is_refused_before_it_is_read(server: Server) -> None:
    with pytest.raises(InvalidResponse, match="compressed"):
        server.ask(OK + b"Content-Encoding: gzip\r\nContent-Length: 9\r\n\r\n")


@pytest.mark.parametrize("framing", [b"Content-Length: 99\r\n\r\n", b"\r\n"])
def test_a_large_body_is_given_up(server: Server, framing: bytes) -> None:
    with pytest.raises(InvalidResponse) as caught:
        server.ask(OK + framing + b"x" * 51, limit=50, ends=False)
    assert (caught.value.reason, "50 bytes" in str(caught.value)) == ("TooLarge", True)


def test_a_failures_body_is_bounded_more_tightly(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(content, "MAX_ERROR_BYTES", 50)
    with pytest.raises(InvalidResponse, match="larger"):
        server.ask(b"HTTP/1.1 500 Oh\r\n\r\n" + b"x" * 51, ends=False)


@pytest.mark.parametrize(
    "endless", [b"X: y\r\n", b"y", b"X: y\r\n\r\nHTTP/1.1 100 Continue\r\n"]
)
def test_endless_headers_are_given_up(server: Server, endless: bytes) -> None:
    begin = b"HTTP/1.1 100 Continue\r\nX: "
    count = 2 * MAX_HEADERS // len(endless)
    with pytest.raises(InvalidResponse) as caught:
        server.ask(begin, *[endless] * count, ends=False)
    assert caught.value.reason == "TooLarge"


@pytest.mark.parametrize("trailer", [b"X: y\r\n", b"y"])
def test_endless_trailers_are_given_up(server: Server, trailer: bytes) -> None:
    begin = OK + b"Transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\nX: "
    count = 2 * MAX_HEADERS // len(trailer)
    with pytest.raises(InvalidResponse) as caught:
        server.ask(begin, *[trailer] * count, ends=False)
    assert caught.value.reason == "TooLarge"


def test_a_trailer_is_no_header(server: Server) -> None:
    chunks = b"2\r\n{}\r\n0\r\nAudit-Id: x\r\n\r\n"
    answer = server.ask(OK + b"Transfer-Encoding: chunked\r\n\r\n" + chunks, ends=False)
    assert answer.content == b"{}"
    assert answer.keeps_alive
    assert "Audit-Id" not in answer.headers


def test_small_chunks_of_a_large_body_are_taken(server: Server) -> None:
    chunks = [b"80\r\n" + b"x" * 128 + b"\r\n"] * 16_000
    begin = OK + b"Transfer-Encoding: chunked\r\n\r\n"
    answer = server.ask(begin, *chunks, b"0\r\n\r\n", limit=4 * MIB, ends=False)
    assert len(answer.content) == 128 * 16_000


def test_what_is_refused_is_let_go_of(server: Server) -> None:
    """It holds the request with its token, and what came so far."""
    gc.collect()
    gc.disable()
    try:
        with contextlib.suppress(InvalidResponse):
            server.ask(OK + b"Content-Length: 99\r\n\r\n" + b"x" * 51, limit=50)
        assert [each for each in gc.get_objects() if isinstance(each, Answer)] == []
    finally:
        gc.enable()


# === HOWEVER IT IS CUT === #


def _chunked(body: bytes, sizes: list[int]) -> bytes:
    sent = b""
    while body:
        size = sizes.pop() if sizes else len(body)
        part, body = body[:size], body[size:]
        sent += b"%x\r\n%b\r\n" % (len(part), part)
    return sent + b"0\r\n\r\n"


@given(
    status=st.sampled_from([200, 201, 403, 409, 422, 500, 503]),
    headers=st.lists(
        st.tuples(
            st.sampled_from(["Audit-Id", "Date", "Retry-After", "Warning"]),
            st.text("abc 0-\"'éÿ", max_size=20).map(str.strip),
        ),
        max_size=5,
    ),
    body=st.binary(max_size=300),
    sizes=st.none() | st.lists(st.integers(1, 50), max_size=9),
    cuts=st.lists(st.integers(1, 60), max_size=30),
)
def test_an_answer_is_what_the_standard_librarys_client_makes_of_it(
    status: int,
    headers: list[tuple[str, str]],
    body: bytes,
    sizes: list[int] | None,
    cuts: list[int],
) -> None:
    lines = [f"HTTP/1.1 {status} Whatever", *(f"{k}: {v}" for k, v in headers)]
    if sizes is None:
        lines.append(f"Content-Length: {len(body)}")
        framed = body
    else:
        lines.append("Transfer-Encoding: chunked")
        framed = _chunked(body, list(sizes))
    sent = "\r\n".join((*lines, "", "")).encode("latin-1") + framed

    answer, rest = Answer(MIB), sent
    while rest:
        assert not answer.is_complete
        cut = cuts.pop() if cuts else len(rest)
        answer.feed(rest[:cut])
        rest = rest[cut:]

    expected = http.client.HTTPResponse(_Socket(sent))  # type: ignore[arg-type]
    expected.begin()
    assert answer.is_complete
    assert answer.keeps_alive
    assert answer.status == expected.status
    names = set(expected.headers)
    assert {name: answer.headers.getlist(name) for name in answer.headers} == {
        name: expected.headers.get_all(name) for name in names
    }
    assert answer.content == expected.read()


class _Socket:
    def __init__(self, content: bytes) -> None:
        self._content = content

    def makefile(self, *_args: Any) -> io.BytesIO:
        return io.BytesIO(self._content)


# === REQUESTS === #


def test_a_request_is_sent_with_its_length() -> None:
    sent = encode("PATCH", "/a?b=c", {"Host": "c1", "X": "é"}, b"{}")
    assert sent == (
        b"PATCH /a?b=c HTTP/1.1\r\nHost: c1\r\nX: \xe9\r\nContent-Length: 2\r\n\r\n{}"
    )


def test_only_a_method_that_has_one_says_that_there_is_no_body() -> None:
    assert b"Content-Length: 0" in encode("POST", "/", {}, None)
    assert b"Content-Length" not in encode("GET", "/", {}, None)


@pytest.mark.parametrize(
    ("target", "headers"),
    [
        ("/a b", {}),
        ("/a\r\nX: y", {}),
        ("/ä", {}),
        ("", {}),
        ("/", {"X": "y\r\nZ: secret"}),
        ("/", {"X": "y\nsecret"}),
        ("/", {"X\r": "secret"}),
        ("/", {"X": "\0secret"}),
    ],
)
def test_a_request_carries_nothing_that_would_be_more_than_one(
    target: str, headers: dict[str, str]
) -> None:
    with pytest.raises(ValueError, match="cannot carry") as caught:
        encode("GET", target, headers, None)
    assert "secret" not in str(caught.value)
