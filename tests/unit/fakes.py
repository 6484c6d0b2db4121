"""A small HTTPS server on 127.0.0.1, for faults that a real API server cannot produce.

Tests script it: each request takes the next answer of its path, and the last one
stays. An answer is a function that gets the request's handler and does as it likes.
"""

from __future__ import annotations

import contextlib
import datetime
import ipaddress
import json
import select
import socket
import ssl
import threading
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from socketserver import StreamRequestHandler, ThreadingTCPServer
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

Answer = Callable[["Handler"], None]


@dataclass(frozen=True)
class Certificate:
    """A self-signed certificate, which is its own CA."""

    pem: str
    path: Path  # certificate and key together

    @property
    def key_pem(self) -> str:
        return self.path.read_text().removeprefix(self.pem)


def make_certificate(
    folder: Path, *, name: str = "good", days: int = 1, host: str = "127.0.0.1"
) -> Certificate:
    """Write a certificate for `host` that is valid until `days` from now."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.datetime.now(datetime.UTC)
    try:
        alternative: x509.GeneralName = x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        alternative = x509.DNSName(host)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=10))
        .not_valid_after(now + datetime.timedelta(days=days))
        .add_extension(x509.SubjectAlternativeName([alternative]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    pem = certificate.public_bytes(serialization.Encoding.PEM)
    key_pem = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    path = folder / f"{name}.pem"
    path.write_bytes(pem + key_pem)
    return Certificate(pem=pem.decode(), path=path)


@dataclass(frozen=True)
class Request:
    """What the server was asked."""

    method: str
    path: str
    query: str
    headers: dict[str, str]
    body: Any


class Handler(BaseHTTPRequestHandler):
    """Hands each request to the scripted answer for its path."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: FakeServer
    asked: Request  # the one to answer

    def answer(self) -> None:
        path, _, query = self.path.partition("?")
        length = int(self.headers.get("Content-Length") or 0)
        body = self.rfile.read(length)
        self.asked = Request(
            method=self.command,
            path=path,
            query=query,
            headers=dict(self.headers.items()),
            body=json.loads(body) if body else None,
        )
        self.server.take(self.asked)(self)

    do_GET = do_POST = do_PATCH = do_DELETE = answer

    def reply(
        self,
        body: Any = b"",
        *,
        status: int = 200,
        headers: dict[str, str] | None = None,
        content_type: str = "application/json",
    ) -> None:
        """Send one complete response; anything but bytes is sent as JSON."""
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(content)))
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)

    def begin_stream(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()

    def send_chunk(self, content: bytes) -> None:
        self.wfile.write(f"{len(content):x}\r\n".encode() + content + b"\r\n")
        self.wfile.flush()

    def send_event(self, type_: str, obj: dict[str, Any]) -> None:
        event = {"type": type_, "object": obj}
        self.send_chunk(json.dumps(event).encode() + b"\n")

    def hold(self) -> None:
        """Keep the connection open, silent, until the server closes."""
        self.close_connection = True
        self.server.closing.wait(30)

    def log_message(self, format: str, *args: Any) -> None:
        """Keep the tests' output clean."""


class FakeServer(ThreadingHTTPServer):
    """Serves scripted answers and remembers what it was asked."""

    daemon_threads = True
    block_on_close = False

    def __init__(self, certificate: Certificate) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate.path)
        self._context = context
        self.url = f"https://127.0.0.1:{self.server_address[1]}"
        self.closing = threading.Event()
        self.requests: list[Request] = []
        self.accepted = 0
        self.otherwise: Answer = _missing  # for paths without answers
        self._answers: dict[str, list[Answer]] = defaultdict(list)
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self.serve_forever, args=(0.02,))
        self._thread.start()

    def ask_for_certificates_of(self, ca: Certificate) -> None:
        """Refuse clients without a certificate that `ca` signed."""
        self._context.load_verify_locations(cadata=ca.pem)
        self._context.verify_mode = ssl.CERT_REQUIRED

    def finish_request(self, request: Any, client_address: Any) -> None:
        with self._changed:
            self.accepted += 1
            self._changed.notify_all()
        try:
            wrapped = self._context.wrap_socket(request, server_side=True)
        except OSError:
            return
        try:
            super().finish_request(wrapped, client_address)
        finally:
            with contextlib.suppress(OSError):
                wrapped.close()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that hangs up is what most tests are about."""

    def on(self, path: str, *answers: Answer) -> None:
        """Set the answers of a path, in order."""
        self._answers[path] = list(answers)

    def take(self, request: Request) -> Answer:
        with self._changed:
            self.requests.append(request)
            answers = self._answers[request.path]
            answer = (
                answers.pop(0) if len(answers) > 1 else (answers or [self.otherwise])[0]
            )
            self._changed.notify_all()
        return answer

    def wait_for(self, condition: Callable[[], bool], *, what: str) -> None:
        """Wait until `condition` holds after a request or connection."""
        with self._changed:
            if not self._changed.wait_for(condition, timeout=5):
                raise AssertionError(f"waited 5 s for {what}; saw {self.requests}")

    def stop(self) -> None:
        self.closing.set()
        self.shutdown()
        self.server_close()
        self._thread.join(5)


class Tunnel(StreamRequestHandler):
    """Answers one CONNECT and passes on what comes after it."""

    server: FakeProxy

    def handle(self) -> None:
        lines = [self.rfile.readline().decode().strip()]
        while lines[-1]:
            lines.append(self.rfile.readline().decode().strip())
        self.server.requests.append(lines[:-1])
        if self.server.refusal:
            self.wfile.write(f"HTTP/1.1 {self.server.refusal}\r\n\r\n".encode())
            return
        self.wfile.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
        with socket.create_connection(self.server.target) as target:
            self.pump(target)

    def pump(self, target: socket.socket) -> None:
        other = {self.connection: target, target: self.connection}
        while True:
            pending = getattr(self.connection, "pending", lambda: 0)()
            ready = [self.connection] if pending else select.select(other, [], [])[0]
            for sock in ready:
                if not (content := sock.recv(65_536)):
                    return
                other[sock].sendall(content)


class FakeProxy(ThreadingTCPServer):
    """A proxy on 127.0.0.1 that leads to one server, whatever it is asked for."""

    daemon_threads = True
    block_on_close = False

    def __init__(
        self, target: FakeServer, *, certificate: Certificate | None = None
    ) -> None:
        super().__init__(("127.0.0.1", 0), Tunnel)
        self.target = ("127.0.0.1", target.server_address[1])
        self.refusal = ""  # such as "407 Proxy Authentication Required"
        self.requests: list[list[str]] = []  # their lines
        self.address = f"127.0.0.1:{self.server_address[1]}"
        if certificate:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(certificate.path)
            self.socket = context.wrap_socket(self.socket, server_side=True)
        self._thread = threading.Thread(target=self.serve_forever, args=(0.02,))
        self._thread.start()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that hangs up is what some tests are about."""

    def stop(self) -> None:
        self.shutdown()
        self.server_close()
        self._thread.join(5)


def _missing(handler: Handler) -> None:
    handler.reply(b"404 page not found\n", status=404, content_type="text/plain")


def status(code: int, reason: str, message: str, **details: Any) -> dict[str, Any]:
    """Return a Status as an API server sends it."""
    body = {
        "kind": "Status",
        "apiVersion": "v1",
        "metadata": {},
        "status": "Failure",
        "message": message,
        "code": code,
    }
    return body | ({"reason": reason} if reason else {}) | {"details": details}
