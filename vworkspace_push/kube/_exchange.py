"""One request and its answer on a connected socket: HTTP/1.1 with httptools.

For plain requests, whose answers are read as a whole. http.client reads headers as an
e-mail's and opens a file for each answer, which costs more than the rest of an apply.

Whatever comes is bounded while it is read: headers, body, and what a server sends
beyond its answer, which ends the connection's use.
"""

from __future__ import annotations

import errno
import re
from collections.abc import Mapping
from typing import Any

import httptools
from urllib3 import HTTPHeaderDict
from urllib3.exceptions import ProtocolError

from .content import check_encoding, check_size
from .errors import InvalidResponse

RECORD = 16 * 1024  # bytes read at once: TLS has no larger record
MAX_HEADERS = 64 * 1024  # bytes, with what frames chunks
CHUNK_SHARE = 8  # bytes of a body for which another one may frame its chunks
_TARGET = re.compile(r"[\x21-\x7e]+")
# As urllib3: a server may answer before it took the whole request, and hang up.
_ANSWERED_EARLY = (errno.EPIPE, errno.ECONNRESET)


class Answer:
    """What a server answered; httptools calls its `on_…` while it comes in.

    :param limit: bytes of the body; of an answer that is not 2xx, at most 1 MiB
    """

    def __init__(self, limit: int) -> None:
        self.status = 0
        self.headers = HTTPHeaderDict()
        self.content = b""
        self.is_complete = False
        self.keeps_alive = False  # whether the connection can take another request
        self._limit = limit
        self._parts: list[bytes] = []
        self._size = 0  # of the body
        self._others = 0  # bytes of headers, chunks and trailers
        self._has_headers = False
        self._parser: Any = httptools.HttpResponseParser(self)

    def feed(self, data: bytes) -> None:
        """Take what was received.

        :raise InvalidResponse: it is no HTTP, too large, or compressed
        """
        self._others += len(data)
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as exc:
            if not self.is_complete:
                raise _refusal(exc) from None
            self.keeps_alive = False  # what follows was not asked for
        if self._others > MAX_HEADERS + self._size // CHUNK_SHARE:
            raise InvalidResponse(
                f"The server's answer has more than {MAX_HEADERS:,} bytes of headers.",
                reason="TooLarge",
            )

    def end(self) -> None:
        """Take the connection's end, which is also the end of some answers.

        :raise ProtocolError: this one goes on
        """
        framed = "Content-Length" in self.headers or "Transfer-Encoding" in self.headers
        if not self._has_headers or framed:
            raise ProtocolError("The connection ended before the answer did.")
        self._complete()

    def close(self) -> None:
        self._parser = None  # it holds this

    def _complete(self) -> None:
        self.is_complete = True
        self.content = b"".join(self._parts)
        self._parts.clear()

    # === CALLED BY THE PARSER === #

    def on_message_begin(self) -> None:
        if self.is_complete:
            self.keeps_alive = False

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self._has_headers:  # a trailer is none
            self.headers.add(name.decode("latin-1"), value.decode("latin-1"))

    def on_headers_complete(self) -> None:
        if self.is_complete:
            return
        self.status = self._parser.get_status_code()
        if self.status < 100:
            raise _no_http()
        if self.status >= 200:
            self._has_headers = True
            check_encoding(self)

    def on_body(self, data: bytes) -> None:
        if self.is_complete:
            return
        self._parts.append(data)
        self._size += len(data)
        self._others -= len(data)
        check_size(self._size, status=self.status, limit=self._limit)

    def on_message_complete(self) -> None:
        if self.status < 200:  # on the way, such as 100 Continue
            self.headers.clear()
        elif not self.is_complete:
            self._complete()
            self.keeps_alive = self._parser.should_keep_alive()


def _refusal(exc: Exception) -> InvalidResponse:
    """Return why the parser gave up: what was raised here, or no HTTP."""
    cause = exc.__context__
    return cause if isinstance(cause, InvalidResponse) else _no_http()


def _no_http() -> InvalidResponse:
    return InvalidResponse("The server's answer is not HTTP.")


def encode(
    method: str, target: str, headers: Mapping[str, str], body: bytes | None
) -> bytes:
    """Return a request as it is sent.

    :raise ValueError: a part of it would be more than that; the text quotes nothing
    """
    lines = [f"{method} {target} HTTP/1.1"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    if body is not None or method in ("PATCH", "POST", "PUT"):
        lines.append(f"Content-Length: {len(body or b'')}")
    breaks = len(lines) + 1
    head = "\r\n".join((*lines, "", ""))
    if (
        not _TARGET.fullmatch(target)
        or not head.count("\n") == head.count("\r") == breaks
        or "\0" in head
    ):
        raise ValueError("The request has a character that HTTP cannot carry.")
    return head.encode("latin-1") + (body or b"")


def exchange(sock: Any, request: bytes, *, limit: int) -> Answer:
    """Send a request and return its answer, whole.

    :param sock: with the timeout for each read set
    :param limit: as for `Answer`
    :raise InvalidResponse: what comes is no HTTP, too large, or compressed
    :raise OSError: of the socket
    :raise ProtocolError: the connection ended before the answer did
    """
    was_taken = True
    try:
        sock.sendall(request)
    except OSError as exc:
        if exc.errno not in _ANSWERED_EARLY:
            raise
        was_taken = False
    answer = Answer(limit)
    try:
        while not answer.is_complete:
            if data := sock.recv(RECORD):
                answer.feed(data)
            else:
                answer.end()
    finally:
        answer.close()
    answer.keeps_alive = answer.keeps_alive and was_taken
    return answer
