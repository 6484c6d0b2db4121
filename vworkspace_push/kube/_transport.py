"""The pool of connections to one server, on urllib3.

Imported only when a connection is made, so that `kube` is cheap to import. What is
changed of urllib3's pool, and why: one shared TLS context (it would build one per
socket, a megabyte each), no retries and redirects, no proxies from the environment, and
sockets that another thread can cut in every phase, so that nothing waits longer than it
may. Plain requests go over its sockets, but not through http.client.
"""

from __future__ import annotations

import http.client
import os
import queue
import socket
import ssl
import threading
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import unquote, urlsplit

import urllib3
from urllib3.connection import HTTPSConnection
from urllib3.exceptions import (
    ConnectTimeoutError,
    HTTPError,
    NewConnectionError,
    ProxyError,
)

from . import _exchange
from .address import AddressPolicy, resolve

if TYPE_CHECKING:
    from .connection import Settings

# What fails below HTTP, as opposed to a defect of ours.
FAILURES: tuple[type[Exception], ...] = (OSError, HTTPError, http.client.HTTPException)

IDLE_SOCKETS = 8  # kept open between requests; as many as deliveries go at once
# s of silence until the first probe, s between probes, probes: 35 s to notice.
KEEPALIVE = {"TCP_KEEPIDLE": 20, "TCP_KEEPINTVL": 5, "TCP_KEEPCNT": 3}
USER_TIMEOUT = 30_000  # ms for which sent data may stay unacknowledged
_FOR_PROXIES = AddressPolicy(allow_loopback=True)  # an admin's own choice


class Current(threading.local):
    """The exchange that this thread has under way."""

    exchange: Any = None


def open_pool(settings: Settings, current: Current) -> Pool:
    """Return the pool for the server of `settings`.

    :param current: tells the pool's sockets which exchange they serve
    """
    options: dict[str, Any] = {
        "maxsize": IDLE_SOCKETS,
        "socket_options": _socket_options(),
        "ssl_context": _context(settings),
    }
    if settings.tls_server_name:
        options["server_hostname"] = settings.tls_server_name
    if settings.proxy is None:
        manager = urllib3.PoolManager(**options)
    else:
        proxy, headers = _proxy(settings.proxy)
        manager = urllib3.ProxyManager(proxy, proxy_headers=headers, **options)
    connection_class = _connection_class(current, policy=settings.address_policy)
    manager.pool_classes_by_scheme = {"https": _pool_class(connection_class)}
    # The one pool that is needed: its manager would look it up for every request.
    return cast(Pool, manager.connection_from_url(settings.server))


class Pool(urllib3.HTTPSConnectionPool):
    """Connections to one server, kept open between requests."""

    def exchange(
        self,
        method: str,
        target: str,
        *,
        headers: Mapping[str, str],
        body: bytes | None,
        connect_timeout: float,
        read_timeout: float,
        limit: int,
    ) -> _exchange.Answer:
        """Send one request and return its answer, read as a whole.

        :param target: the path with the query
        :param headers: all of them, Host included
        :param limit: bytes, see `_exchange.Answer`
        """
        answer = self.urlopen(
            method,
            target,
            headers=headers,
            body=body,
            timeout=urllib3.Timeout(connect=connect_timeout, read=read_timeout),
            retries=False,
            redirect=False,
            assert_same_host=False,  # a target names none
            limit=limit,
        )
        return cast(_exchange.Answer, answer)

    def open(
        self,
        target: str,
        *,
        headers: Mapping[str, str],
        connect_timeout: float,
        read_timeout: float,
    ) -> urllib3.BaseHTTPResponse:
        """Send a GET and return its response, the body still unread."""
        return self.urlopen(
            "GET",
            target,
            headers=headers,
            timeout=urllib3.Timeout(connect=connect_timeout, read=read_timeout),
            retries=False,
            redirect=False,
            assert_same_host=False,
            preload_content=False,
            decode_content=False,
        )

    def _make_request(  # type: ignore[override]  # as `urlopen` calls it
        self, conn: Any, method: str, url: str, **options: Any
    ) -> urllib3.BaseHTTPResponse:
        """Have a request of `exchange` answered over the connection's socket."""
        if "limit" not in options:
            return super()._make_request(conn, method, url, **options)
        timeout = options["timeout"]
        conn.timeout = timeout.connect_timeout
        self._validate_conn(conn)
        request = _exchange.encode(method, url, options["headers"], options["body"])
        conn.sock.settimeout(timeout.read_timeout)
        conn.begin()
        answer = _exchange.exchange(conn.sock, request, limit=options["limit"])
        if not answer.keeps_alive:
            conn.close()
        conn.end()
        return cast(urllib3.BaseHTTPResponse, answer)

    def _put_conn(self, conn: Any) -> None:
        """Keep it for later; urllib3 would warn of each that is one too many."""
        if self.pool is not None:
            with suppress(queue.Full, AttributeError):  # closed just now
                self.pool.put(conn, block=False)
                return
        if conn is not None:
            conn.close()

    def _validate_conn(self, conn: Any) -> None:
        """Connect; a warning about `insecure` would come with each connection."""
        if conn.is_closed:
            conn.connect()


def _proxy(url: str) -> tuple[str, dict[str, str]]:
    """Return a proxy's URL without its credentials, and these as headers."""
    parts = urlsplit(url)
    bare = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"
    if parts.username is None:
        return bare, {}
    credentials = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
    return bare, dict(urllib3.make_headers(proxy_basic_auth=credentials))


def _context(settings: Settings) -> ssl.SSLContext:
    context = ssl.create_default_context(cadata=settings.ca_pem)
    # On by default since Python 3.13; refuses the CA certificates of many clusters.
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    # Likewise; lets a person trust a server's own certificate without its authority's.
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    if settings.insecure:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    if settings.client_cert_pem and settings.client_key_pem:
        _load_client(context, f"{settings.client_cert_pem}\n{settings.client_key_pem}")
    return context


def _load_client(context: ssl.SSLContext, pem: str) -> None:
    """Load certificate and key from memory; the ssl module itself reads files only.

    :raise ValueError: they cannot be used, or this system has no files in memory
    """
    if not hasattr(os, "memfd_create"):
        raise ValueError(
            "A client certificate needs Linux here: elsewhere its key would be written "
            "to a disk."
        )
    handle = os.memfd_create("client-certificate", os.MFD_CLOEXEC)
    with os.fdopen(handle, "wb") as file:
        file.write(pem.encode())
        file.flush()
        try:
            # Without `password`, OpenSSL would ask on the terminal.
            context.load_cert_chain(f"/proc/self/fd/{handle}", password=lambda: b"")
        except ssl.SSLError:
            raise ValueError(
                "TLS does not accept the client certificate or its key; its key may "
                "be too short or of a kind that is no longer used."
            ) from None


def _socket_options() -> list[tuple[int, int, int]]:
    options = [
        (socket.IPPROTO_TCP, socket.TCP_NODELAY, 1),
        (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    ]
    for name, value in {**KEEPALIVE, "TCP_USER_TIMEOUT": USER_TIMEOUT}.items():
        if hasattr(socket, name):  # not on every platform
            options.append((socket.IPPROTO_TCP, getattr(socket, name), value))
    return options


def _dial(
    target: tuple[str, int],
    *,
    policy: AddressPolicy,
    timeout: float,
    options: Iterable[tuple[Any, ...]],
    exchange: Any,
) -> socket.socket:
    """Connect to the first address of `target` that answers, within one timeout."""
    host, port = target
    deadline = time.monotonic() + timeout
    failure: OSError = TimeoutError()
    for address in resolve(host, port, policy=policy, timeout=timeout):
        if (remaining := deadline - time.monotonic()) <= 0:
            break
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        sock = socket.socket(family, socket.SOCK_STREAM)
        try:
            # A second handle on it: wrapping it in TLS takes this one away.
            exchange.attach(sock.dup(), owned=True)
            for option in options:
                sock.setsockopt(*option)
            sock.settimeout(remaining)
            sock.connect((address, port))
            return sock
        except OSError as exc:
            failure = exc
            sock.close()
    raise failure


def _connection_class(
    current: Current, *, policy: AddressPolicy
) -> type[HTTPSConnection]:
    class Connection(HTTPSConnection):
        """A connection to a checked address, cuttable by the exchange it serves."""

        _parts: list[bytes] | None = None  # of the request that is being put together

        def _new_conn(self) -> socket.socket:
            try:
                return _dial(
                    (self._dns_host, self.port),
                    policy=_FOR_PROXIES if self.proxy else policy,
                    timeout=float(self.timeout or 0),
                    options=self.socket_options or (),
                    exchange=current.exchange,
                )
            except TimeoutError as exc:
                raise ConnectTimeoutError(self, "connect timed out") from exc
            except OSError as exc:
                raise NewConnectionError(self, f"connect failed: {exc}") from exc

        def _tunnel(self) -> None:
            try:
                super()._tunnel()
            except OSError as exc:
                raise ProxyError("The tunnel was not opened.", exc) from exc

        def begin(self) -> None:
            """Let the exchange that is under way be cut here from now on."""
            if self.sock is not None:
                # TLS within a proxy's TLS is no socket itself but holds one.
                plain = getattr(self.sock, "socket", self.sock)
                current.exchange.attach(plain, owned=False)
            current.exchange.sent = True

        def end(self) -> None:
            """Let nothing cut it here any more: the next exchange may be another's."""
            current.exchange.detach()

        def request(self, *args: Any, **kwargs: Any) -> None:
            self.begin()
            self._parts = []
            try:
                super().request(*args, **kwargs)
                request = b"".join(self._parts)
            finally:
                self._parts = None
            self.send(request)

        def send(self, data: Any) -> None:
            """Send a request as a whole: urllib3 would send its body apart."""
            if self._parts is None:
                super().send(data)
            else:
                self._parts.append(data)

    return Connection


def _pool_class(connection_class: type[HTTPSConnection]) -> type[Pool]:
    return type("Pool", (Pool,), {"ConnectionCls": connection_class})
