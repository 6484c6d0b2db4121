"""The admission webhook: an HTTPS server on loopback, and its registration.

The certificate is made at start, lives in memory and is the registration's CA bundle.
Namespaces and targets come from the watch's cache; before refusing, they are read
anew, so that an object that exists since a moment ago counts.
"""

import contextlib
import ipaddress
import json
import logging
import socket
import ssl
import sys
import tempfile
import threading
import time
import uuid
from base64 import b64encode
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from .admission import review
from .api import ApiError, ApiServer
from .control import ControlFile
from .engine import Engine
from .manifests import WEBHOOK_CONFIGURATION_NAME
from .resources import (
    INSTANCE,
    NAMESPACE,
    OPERATION,
    SYSTEM_NAMESPACE,
    WEBHOOK_CONFIGURATION,
)

WEBHOOK_NAME = "admission.vworkspace.io"
WEBHOOK_TIMEOUT = 5  # s that the API server waits
IDLE_TIMEOUT = 120  # s until an unused connection is closed
MAX_REQUEST = 8 * 1024 * 1024  # bytes: two objects of at most 3 MiB each
EFFECTIVE_WITHIN = 30.0  # s
REMOVAL_TIMEOUT = 1.5  # s

_PATH = "/admit"
_HOST = "127.0.0.1"

_logger = logging.getLogger(__name__)


class Webhook:
    """Serves admission reviews; `port` 0 takes a free one.

    `control` says whether it misbehaves: refuse, hang or error.
    """

    def __init__(
        self,
        api: ApiServer,
        engine: Engine,
        *,
        cluster_id: str,
        control: ControlFile,
        port: int,
    ):
        self._api = api
        self._engine = engine
        self._cluster_id = cluster_id
        self._control = control
        self._probe = f"probe-{uuid.uuid4().hex}"
        context, self._certificate = _make_certificate()
        self._server = _Server((_HOST, port), context=context, answer=self._answer)
        self.port = self._server.server_address[1]

    # === LIFE === #

    def start(self) -> None:
        """Serve, register in place of an older registration, wait until in force.

        Raises ApiError when the API server does not ask this webhook in time.
        """
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        path = WEBHOOK_CONFIGURATION.path(name=WEBHOOK_CONFIGURATION_NAME)
        self._api.apply(path, self._configuration())
        deadline = time.monotonic() + EFFECTIVE_WITHIN
        while not self._is_effective():
            if time.monotonic() > deadline:
                raise ApiError("the API server does not ask the admission webhook")
            time.sleep(0.1)

    def stop(self) -> None:
        """Take the registration back, so that the API server stays usable."""
        path = WEBHOOK_CONFIGURATION.path(name=WEBHOOK_CONFIGURATION_NAME)
        try:
            self._api.delete(path, timeout=REMOVAL_TIMEOUT)
        except ApiError as error:
            _logger.warning(
                "the webhook configuration %s stays behind and blocks writes until the "
                "operator starts again: %s",
                WEBHOOK_CONFIGURATION_NAME,
                error,
            )

    def _configuration(self) -> dict[str, Any]:
        kinds = (INSTANCE, OPERATION)
        return {
            "apiVersion": WEBHOOK_CONFIGURATION.api_version,
            "kind": WEBHOOK_CONFIGURATION.name,
            "metadata": {"name": WEBHOOK_CONFIGURATION_NAME},
            "webhooks": [
                {
                    "name": WEBHOOK_NAME,
                    "admissionReviewVersions": ["v1"],
                    "sideEffects": "None",
                    "failurePolicy": "Fail",
                    "timeoutSeconds": WEBHOOK_TIMEOUT,
                    "clientConfig": {
                        "url": f"https://{_HOST}:{self.port}{_PATH}",
                        "caBundle": b64encode(self._certificate).decode(),
                    },
                    "rules": [
                        {
                            "apiGroups": [kind.api_version.split("/")[0]],
                            "apiVersions": [kind.api_version.split("/")[1]],
                            "operations": ["CREATE", "UPDATE"],
                            "resources": [kind.plural],
                        }
                        for kind in kinds
                    ],
                }
            ],
        }

    def _is_effective(self) -> bool:
        """Dry-run an instance that only this webhook would refuse in these words."""
        namespace = SYSTEM_NAMESPACE
        instance = {
            "apiVersion": INSTANCE.api_version,
            "kind": INSTANCE.name,
            "metadata": {"name": self._probe, "namespace": namespace},
            "spec": {"mode": "placeholder", "appRef": {"catalogId": "probe"}},
        }
        try:
            self._api.create(INSTANCE.path(namespace=namespace), instance, dry_run=True)
        except ApiError as error:
            return error.status == 403 and self._probe in str(error)
        return False

    # === ANSWERING === #

    def _answer(self, request: dict[str, Any]) -> dict[str, Any]:
        """Return the AdmissionReview response to a request.

        Raises RuntimeError when told to answer with an error.
        """
        problems = self._problems(request)
        response: dict[str, Any] = {"uid": request["uid"], "allowed": not problems}
        if problems:
            text = "; ".join(problems)
            name = f"{request['namespace']}/{request.get('name', '')}"
            if self._probe not in name:
                _logger.info("refused %s %s: %s", request["kind"]["kind"], name, text)
            response["status"] = {"code": 403, "reason": "Forbidden", "message": text}
        return response

    def _problems(self, request: dict[str, Any]) -> list[str]:
        name = request["object"]["metadata"].get("name", "")
        if name == self._probe:
            return [f"metadata.name: {name} only asks whether admission is in force"]
        self._misbehave()
        if self._control.current.admission == "refuse":
            return ["metadata.name: the operator refuses everything (simulated)"]
        return self._review(request, live=False) and self._review(request, live=True)

    def _misbehave(self) -> None:
        if self._control.current.admission == "error":
            raise RuntimeError("admission was told to fail")
        patience = time.monotonic() + WEBHOOK_TIMEOUT + 1
        while self._control.current.admission == "hang":
            if time.monotonic() > patience:
                raise RuntimeError("admission was told to hang")
            time.sleep(0.05)

    def _review(self, request: dict[str, Any], *, live: bool) -> list[str]:
        namespace = request["namespace"]
        target = None
        if request["kind"]["kind"] == OPERATION.name:
            name = request["object"]["spec"]["targetRef"]["name"]
            target = self._engine.find(
                INSTANCE, namespace=namespace, name=name, live=live
            )
        return review(
            request,
            cluster_id=self._cluster_id,
            namespace=self._engine.find(NAMESPACE, name=namespace, live=live),
            target=target,
        )


# === HTTPS === #


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(
        self,
        address: tuple[str, int],
        *,
        context: ssl.SSLContext,
        answer: Callable[[dict[str, Any]], dict[str, Any]],
    ):
        self._context = context
        self.answer = answer
        super().__init__(address, _Handler)

    def get_request(self) -> tuple[socket.socket, Any]:
        """Accept; the TLS handshake happens in the connection's own thread."""
        connection, address = super().get_request()
        connection.settimeout(IDLE_TIMEOUT)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        wrapped = self._context.wrap_socket(
            connection, server_side=True, do_handshake_on_connect=False
        )
        return wrapped, address

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Log what went wrong here; a broken connection is the API server's to tell."""
        if not isinstance(sys.exception(), OSError):
            _logger.exception("an admission review failed")


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1  # headers and body leave in one packet
    server: _Server

    def do_POST(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        # The API server adds its timeout as a query.
        if self.path.partition("?")[0] != _PATH or not 0 < length <= MAX_REQUEST:
            self.close_connection = True
            self._reply(404, b"{}")
            return
        try:
            request = json.loads(self.rfile.read(length))["request"]
            answer = self.server.answer(request)
        except (RuntimeError, ApiError) as error:
            self._reply(500, str(error).encode())
            return
        answered = {
            "apiVersion": "admission.k8s.io/v1",
            "kind": "AdmissionReview",
            "response": answer,
        }
        self._reply(200, json.dumps(answered).encode())

    def _reply(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        with contextlib.suppress(OSError):  # the API server lost its patience
            self.wfile.write(body)
            self.wfile.flush()

    def log_message(self, format: str, *arguments: Any) -> None:
        """Requests are told by what comes of them."""


def _make_certificate() -> tuple[ssl.SSLContext, bytes]:
    """Return a TLS context with a new key, and its certificate as PEM."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, WEBHOOK_NAME)])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(days=365))
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address(_HOST))]),
            critical=False,
        )
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(
            x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False
        )
        .sign(key, hashes.SHA256())
    )
    pem = certificate.public_bytes(serialization.Encoding.PEM)
    key_pem = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    # The ssl module reads certificates from files only; the folder is gone at once.
    with tempfile.TemporaryDirectory(prefix="vworkspace-operator-") as folder:
        file = Path(folder) / "webhook.pem"
        file.write_bytes(pem + key_pem)
        context.load_cert_chain(file)
    return context, pem
