"""One API server: JSON in, JSON out, within limits, interruptible.

A `Connection` is thread-safe and keeps sockets open between requests. It never
retries, redirects, or reads the environment; it trusts nothing that it receives:
times, sizes and nesting are bounded, and whatever fails leaves as a `KubeError`.
The token is asked for at each request, so a renewed one is used at once.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass, field
from types import TracebackType
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode, urlsplit

from .address import AddressPolicy, check_proxy, check_server
from .certificates import check_ca, check_client_certificate
from .content import (
    CHUNK,
    check_encoding,
    encode_json,
    parse_json,
    parse_warnings,
    read_bounded,
)
from .deadlines import DEADLINES, Deadline
from .errors import (
    InvalidResponse,
    KubeError,
    Unauthorized,
    Unreachable,
    audit_id,
    from_response,
    from_transport,
)

if TYPE_CHECKING:
    import socket

MIB = 1024 * 1024
USER_AGENT = "vworkspace-odoo"
_LOOPBACK_TOO = AddressPolicy(allow_loopback=True)


# === SETTINGS === #


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How to reach one API server.

    :param server: https URL, with an optional path prefix
    :param ca_pem: CA certificates; None trusts what the system trusts
    :param tls_server_name: name expected in the certificate, if not the URL's host
    :param client_cert_pem: certificate to show to the server (mTLS), or None
    :param client_key_pem: its private key; it stays in memory
    :param insecure: accept any certificate, for a cluster of tests alone
    :param address_policy: what the URL's host may be; through a proxy it is not looked
        at, since the proxy resolves the name
    :param proxy: http(s) URL of a proxy, with user name and password if it asks for
        them; None connects directly, whatever the environment says
    :param connect_timeout: s for the connection, TLS included
    :param read_timeout: s without a byte until an answer is given up
    :param max_response_bytes: of one answer, and of one event of a stream
    :raise ValueError: one of them cannot be used; the text says why
    """

    server: str
    ca_pem: str | None = field(repr=False)
    tls_server_name: str | None = None
    client_cert_pem: str | None = field(default=None, repr=False)
    client_key_pem: str | None = field(default=None, repr=False)
    insecure: bool = False
    address_policy: AddressPolicy = _LOOPBACK_TOO
    proxy: str | None = field(default=None, repr=False)
    connect_timeout: float = 5.0
    read_timeout: float = 15.0
    max_response_bytes: int = 32 * MIB

    def __post_init__(self) -> None:
        object.__setattr__(self, "server", check_server(self.server))
        if self.ca_pem is not None:
            object.__setattr__(self, "ca_pem", check_ca(self.ca_pem))
        if self.client_cert_pem or self.client_key_pem:
            check_client_certificate(
                self.client_cert_pem or "", self.client_key_pem or ""
            )
        if self.proxy is not None:
            object.__setattr__(self, "proxy", check_proxy(self.proxy))


# === CONNECTION === #


@dataclass(frozen=True)
class Response:
    """A 2xx answer."""

    status: int
    data: Any  # JSON
    headers: Mapping[str, str]  # by name, in any case
    warnings: tuple[str, ...]  # what the server remarks, meant for people

    @property
    def audit_id(self) -> str:
        """What the cluster's audit log knows the request by; "" if it keeps none."""
        return audit_id(self.headers.get("audit-id"))


class Cancellation:
    """Ends one exchange from another thread: under way, or before it begins.

    Cutting the socket wakes a thread that is blocked on it, in every phase except
    name resolution.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._socket: socket.socket | None = None
        self._owned = False
        self.cancelled = False
        self.sent = False  # whether something of the request may have left

    def cancel(self) -> None:
        """Cut the exchange; it ends with an error (a stream: without)."""
        with self._lock:
            self.cancelled = True
            self._cut()

    def attach(self, sock: socket.socket, *, owned: bool) -> None:
        """Name the socket in use from now on; close it here later if `owned`."""
        with self._lock:
            self._release()
            self._socket, self._owned = sock, owned
            if self.cancelled:
                self._cut()

    def detach(self) -> None:
        """Forget the socket: the exchange is over, and others may use it now."""
        with self._lock:
            self._release()

    def _cut(self) -> None:
        import socket

        if self._socket is not None:
            # Of the plain socket: SSLSocket's own would drop the TLS state under the
            # feet of the thread that reads.
            with suppress(OSError):
                socket.socket.shutdown(self._socket, socket.SHUT_RDWR)

    def _release(self) -> None:
        if self._socket is not None and self._owned:
            self._socket.close()
        self._socket = None


class Connection:
    """A reusable connection to one API server.

    :param token: called at each request, in its thread, for the bearer token; what it
        raises passes through unchanged. It may be empty with a client certificate
    :param user_agent: shown in the server's audit log
    """

    def __init__(
        self,
        settings: Settings,
        *,
        token: Callable[[], str],
        user_agent: str = USER_AGENT,
    ) -> None:
        from . import _transport

        self._settings = settings
        self._token = token
        self._user_agent = user_agent
        self._failures = _transport.FAILURES
        self._current = _transport.Current()
        self._pool = _transport.open_pool(settings, self._current)
        parts = urlsplit(settings.server)
        self._host, self._prefix = parts.netloc, parts.path
        self._lock = threading.Lock()
        self._exchanges: set[Cancellation] = set()
        self._closed = False

    def __repr__(self) -> str:
        return f"<Connection {self._settings.server}>"

    @property
    def server(self) -> str:
        return self._settings.server

    @property
    def settings(self) -> Settings:
        return self._settings

    @property
    def closed(self) -> bool:
        """Whether `close` was called: no request succeeds any more."""
        return self._closed

    def request(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        body: Any = None,
        content_type: str = "application/json",
        timeout: float | None = None,
        cancellation: Cancellation | None = None,
    ) -> Response:
        """Send one request and return its 2xx answer.

        :param path: below the server's URL, begins with "/", percent-encoded
        :param body: sent as JSON unless None
        :param timeout: s for the whole exchange; the sum of the settings' by default
        :param cancellation: lets another thread end the exchange
        :raise KubeError: one of its kinds for everything else
        """
        settings = self._settings
        budget = timeout or settings.connect_timeout + settings.read_timeout
        content = None if body is None else encode_json(body)
        headers = self._headers(content_type if content is not None else None)
        with self._exchange(cancellation or Cancellation(), budget):
            answer = self._pool.exchange(
                method,
                self._target(path, query),
                headers=headers,
                body=content,
                connect_timeout=min(settings.connect_timeout, budget),
                read_timeout=min(settings.read_timeout, budget),
                limit=settings.max_response_bytes,
            )
        if not 200 <= answer.status < 300:
            raise from_response(answer.status, answer.headers, answer.content)
        return Response(
            status=answer.status,
            data=parse_json(answer.content),
            headers=answer.headers,
            warnings=parse_warnings(answer.headers.getlist("Warning")),
        )

    def stream(
        self,
        path: str,
        *,
        query: Mapping[str, str],
        read_timeout: float,
        cancellation: Cancellation | None = None,
    ) -> Stream:
        """Open a stream of JSON lines, as a watch is.

        :param read_timeout: s without a byte until the stream counts as dead
        :param cancellation: lets another thread end it, the opening included
        :raise KubeError: the server refuses it, or cannot be reached
        """
        settings = self._settings
        cancellation = cancellation or Cancellation()
        budget = settings.connect_timeout + settings.read_timeout
        headers = self._headers()
        with self._exchange(cancellation, budget, keep=True):
            raw = self._pool.open(
                self._target(path, query),
                headers=headers,
                connect_timeout=settings.connect_timeout,
                read_timeout=read_timeout,
            )
            if not 200 <= raw.status < 300:
                raise from_response(raw.status, raw.headers, self._read(raw))
            check_encoding(raw)
        return Stream(
            raw,
            server=settings.server,
            max_line=settings.max_response_bytes,
            cancellation=cancellation,
            failures=self._failures,
            on_close=self._forget,
        )

    def close(self) -> None:
        """End all that is under way and close all sockets; further requests fail."""
        with self._lock:
            self._closed = True
            exchanges = list(self._exchanges)
        for cancellation in exchanges:
            cancellation.cancel()
        self._pool.close()

    def _target(self, path: str, query: Mapping[str, str] | None) -> str:
        target = f"{self._prefix}{path}"
        return f"{target}?{urlencode(query)}" if query else target

    def _headers(self, content_type: str | None = None) -> dict[str, str]:
        headers = {
            "Host": self._host,
            "Accept": "application/json",
            "Accept-Encoding": "identity",
            "User-Agent": self._user_agent,
        }
        if token := self.bearer_token():
            headers["Authorization"] = f"Bearer {token}"
        return {**headers, "Content-Type": content_type} if content_type else headers

    def bearer_token(self) -> str:
        """Return the token that a request would carry now, empty if it needs none.

        http.client would quote a malformed one in its error, hence the check here.

        :raise Unauthorized: there is none, or it is malformed
        """
        token = self._token()
        if not token and self._settings.client_cert_pem:
            return ""
        if not token:
            raise Unauthorized("There is no token for this cluster.")
        if not re.fullmatch(r"[\x21-\x7e]+", token):
            raise Unauthorized(
                "The token contains blanks, line breaks or characters that no token "
                "has; copy it again."
            )
        return token

    @contextmanager
    def _exchange(
        self, cancellation: Cancellation, budget: float, *, keep: bool = False
    ) -> Iterator[None]:
        """Run one exchange so that close() and the deadline can cut it.

        A socket's timeout bounds one read; the deadline bounds their sum, headers that
        come a byte at a time included. With `keep`, a success stays cancellable.
        """
        self._remember(cancellation)
        self._current.exchange = cancellation
        deadline = DEADLINES.add(budget, cancellation.cancel)
        succeeded = False
        try:
            yield
            succeeded = True
        except self._failures as exc:
            error = self._explain(exc, cancellation, deadline)
            error.unsettled = cancellation.sent
            raise error from None
        finally:
            deadline.lift()
            self._current.exchange = None
            if not (succeeded and keep):
                self._forget(cancellation)

    def _explain(
        self, exc: BaseException, cancellation: Cancellation, deadline: Deadline
    ) -> KubeError:
        server = self._settings.server
        if deadline.has_passed:
            return Unreachable(
                f"{server} did not complete its answer in time.", reason="ReadTimeout"
            )
        if cancellation.cancelled:
            return Unreachable(
                f"The request to {server} was ended.", reason="Cancelled"
            )
        return from_transport(exc, server=server)

    def _remember(self, cancellation: Cancellation) -> None:
        with self._lock:
            if self._closed:
                raise Unreachable(
                    f"The connection to {self._settings.server} is closed.",
                    reason="Closed",
                )
            self._exchanges.add(cancellation)

    def _forget(self, cancellation: Cancellation) -> None:
        cancellation.detach()
        with self._lock:
            self._exchanges.discard(cancellation)

    def _read(self, raw: Any) -> bytes:
        """Return the body of a stream that is refused."""
        try:
            return read_bounded(raw, limit=self._settings.max_response_bytes)
        except BaseException:
            raw.close()  # what was not read would answer the next request
            raise


class Stream(AbstractContextManager["Stream"]):
    """Decoded events of one watch, in the server's order.

    Iterating ends when the server ends the stream, or at once when another thread
    calls `close`.

    :raise Unreachable: reason "Inactive" when nothing came for the read timeout,
        another when the connection was cut
    :raise InvalidResponse: a line that is too long or not an event
    """

    def __init__(
        self,
        raw: Any,
        *,
        server: str,
        max_line: int,
        cancellation: Cancellation,
        failures: tuple[type[Exception], ...],
        on_close: Callable[[Cancellation], None],
    ) -> None:
        self._raw = raw
        self._server = server
        self._max_line = max_line
        self._cancellation = cancellation
        self._failures = failures
        self._on_close = on_close

    def __iter__(self) -> Iterator[dict[str, Any]]:
        for line in self._lines():
            event = parse_json(line)
            if not isinstance(event, dict) or not isinstance(event.get("object"), dict):
                raise InvalidResponse("The watch sent something that is not an event.")
            yield event
            if self._cancellation.cancelled:
                return

    def __exit__(
        self,
        kind: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._on_close(self._cancellation)
        self._raw.close()

    def close(self) -> None:
        """End the iteration at once; may be called from any thread."""
        self._cancellation.cancel()

    def _lines(self) -> Iterator[bytes]:
        pending: list[bytes] = []
        size = 0
        for chunk in self._chunks():
            *complete, rest = chunk.split(b"\n")
            for part in complete:
                line = b"".join((*pending, part))
                pending, size = [], 0
                if line.strip():
                    yield line
            pending.append(rest)
            size += len(rest)
            if size > self._max_line:
                raise InvalidResponse(
                    f"The watch sent an event of more than {self._max_line:,} bytes."
                )

    def _chunks(self) -> Iterator[bytes]:
        while not self._cancellation.cancelled:
            try:
                chunk = self._raw.read1(CHUNK, decode_content=False)
            except self._failures as exc:
                if self._cancellation.cancelled:
                    return
                raise self._explain(exc) from None
            if not chunk:
                return
            yield chunk

    def _explain(self, exc: BaseException) -> KubeError:
        error = from_transport(exc, server=self._server)
        if error.reason == "ReadTimeout":
            return Unreachable(
                f"{self._server} sent nothing on the watch for too long.",
                reason="Inactive",
            )
        return error
