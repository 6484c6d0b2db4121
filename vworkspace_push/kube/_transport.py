"""The pool of connections to one server, built on the kubernetes client's own.

Imported only when a connection is made: `kubernetes` takes 0.6 s and 37 MiB. What is
changed of it, and why: one shared TLS context (urllib3 would build one per socket, a
megabyte each), no retries and redirects, no proxies from the environment, and sockets
that another thread can cut in every phase, so that nothing waits longer than it may.
"""

from __future__ import annotations

import http.client
import socket
import ssl
import threading
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import urllib3
from kubernetes import client
from urllib3.connection import HTTPSConnection
from urllib3.exceptions import (
    ConnectTimeoutError,
    HTTPError,
    NameResolutionError,
    NewConnectionError,
)

if TYPE_CHECKING:
    from .connection import Settings

# What fails below HTTP, as opposed to a defect of ours.
FAILURES: tuple[type[Exception], ...] = (OSError, HTTPError, http.client.HTTPException)

IDLE_SOCKETS = 8  # kept open between requests
# s of silence until the first probe, s between probes, probes: 35 s to notice.
KEEPALIVE = {"TCP_KEEPIDLE": 20, "TCP_KEEPINTVL": 5, "TCP_KEEPCNT": 3}
USER_TIMEOUT = 30_000  # ms for which sent data may stay unacknowledged


class Current(threading.local):
    """The exchange that this thread has under way."""

    exchange: Any = None


def open_pool(settings: Settings, current: Current) -> urllib3.PoolManager:
    """Return the pool for the server of `settings`.

    :param current: tells the pool's sockets which exchange they serve
    """
    configuration = client.Configuration(host=settings.server)
    configuration.proxy = None  # the constructor read it from the environment
    configuration.retries = False
    configuration.tls_server_name = settings.tls_server_name
    configuration.connection_pool_maxsize = IDLE_SOCKETS
    configuration.socket_options = _socket_options()
    pool: urllib3.PoolManager = client.ApiClient(configuration).rest_client.pool_manager
    for name in ("ca_certs", "ca_cert_data", "cert_file", "key_file", "cert_reqs"):
        pool.connection_pool_kw.pop(name, None)
    pool.connection_pool_kw["ssl_context"] = _context(settings.ca_pem)
    pool.pool_classes_by_scheme = {"https": _pool_class(current)}
    return pool


def send(
    pool: urllib3.PoolManager,
    method: str,
    url: str,
    *,
    headers: Mapping[str, str],
    body: bytes | None,
    connect_timeout: float,
    read_timeout: float,
) -> urllib3.BaseHTTPResponse:
    """Send one request and return its response, the body still unread."""
    return pool.urlopen(
        method,
        url,
        headers=headers,
        body=body,
        timeout=urllib3.Timeout(connect=connect_timeout, read=read_timeout),
        retries=False,
        redirect=False,
        preload_content=False,
        decode_content=False,
    )


def _context(ca_pem: str | None) -> ssl.SSLContext:
    context = ssl.create_default_context(cadata=ca_pem)
    # On by default since Python 3.13; refuses the CA certificates of many clusters.
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    return context


def _socket_options() -> list[tuple[int, int, int]]:
    options = [
        (socket.IPPROTO_TCP, socket.TCP_NODELAY, 1),
        (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    ]
    for name, value in {**KEEPALIVE, "TCP_USER_TIMEOUT": USER_TIMEOUT}.items():
        if hasattr(socket, name):  # not on every platform
            options.append((socket.IPPROTO_TCP, getattr(socket, name), value))
    return options


def _pool_class(current: Current) -> type[urllib3.HTTPSConnectionPool]:
    class Connection(HTTPSConnection):
        """A connection that shows its socket to the exchange that it serves."""

        def _new_conn(self) -> socket.socket:
            try:
                return self._dial()
            except socket.gaierror as exc:
                raise NameResolutionError(self.host, self, exc) from exc
            except TimeoutError as exc:
                raise ConnectTimeoutError(self, "connect timed out") from exc
            except OSError as exc:
                raise NewConnectionError(self, f"connect failed: {exc}") from exc

        def _dial(self) -> socket.socket:
            """Connect to the first address that answers, within one timeout."""
            deadline = time.monotonic() + float(self.timeout or 0)
            addresses = socket.getaddrinfo(
                self._dns_host, self.port, type=socket.SOCK_STREAM
            )
            failure: OSError = TimeoutError()
            for family, kind, protocol, _name, address in addresses:
                if (remaining := deadline - time.monotonic()) <= 0:
                    break
                sock = socket.socket(family, kind, protocol)
                try:
                    # A second handle on it: wrapping it in TLS takes this one away.
                    current.exchange.attach(sock.dup(), owned=True)
                    for option in self.socket_options or ():
                        sock.setsockopt(*option)
                    sock.settimeout(remaining)
                    sock.connect(address)
                    return sock
                except OSError as exc:
                    failure = exc
                    sock.close()
            raise failure

        def request(self, *args: Any, **kwargs: Any) -> None:
            if self.sock is not None:
                current.exchange.attach(self.sock, owned=False)
            super().request(*args, **kwargs)

    class Pool(urllib3.HTTPSConnectionPool):
        ConnectionCls = Connection

    return Pool
