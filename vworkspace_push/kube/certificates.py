"""Certificates: what they say, whether they fit, and what a server presents.

What is said here of a certificate is for people to compare and to be warned by.
Whether a server is trusted is decided by TLS alone, when a connection is made.
"""

from __future__ import annotations

import base64
import binascii
import re
import socket
import ssl
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_pem_private_key,
)

from .address import AddressPolicy, host_and_port, resolve
from .errors import bounded, from_transport

MAX_CA_BYTES = 256 * 1024
MAX_CLIENT_BYTES = 64 * 1024  # of a client certificate or its key
MAX_CHAIN = 10  # certificates that a server presents
MAX_NAMES = 100
MAX_NAME = 500  # characters of a subject or issuer

_PEM = re.compile(r"-----BEGIN ([A-Z0-9 ]+)-----(.*?)-----END \1-----", re.DOTALL)


# === AUTHORITIES === #


def check_ca(pem: str) -> str:
    """Return a bundle of CA certificates as PEM, each once, without text between.

    The base64 of such a bundle, as a kubeconfig holds it, is accepted as well.

    :raise ValueError: with one sentence that says what to change
    """
    if len(pem) > MAX_CA_BYTES:
        raise ValueError("The CA certificate is larger than 256 KiB.")
    text = pem if "-----BEGIN" in pem else _from_base64(pem)
    if not text.strip():
        raise ValueError("Enter the CA certificate of the cluster.")
    if "PRIVATE KEY" in text:
        raise ValueError(
            "This contains a private key, which must not leave its machine; enter the "
            "CA certificate alone."
        )
    blocks = _PEM.findall(text)
    if not blocks:
        raise ValueError(
            "This is not a certificate; copy all from -----BEGIN CERTIFICATE----- to "
            "-----END CERTIFICATE-----."
        )
    for label, _body in blocks:
        if label != "CERTIFICATE":
            raise ValueError(f"This is a {label.lower()}; enter a CA certificate.")
    bodies = dict.fromkeys("".join(body.split()) for _label, body in blocks)
    bundle = "".join(_certificate(body) for body in bodies)
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cadata=bundle)
    except (ssl.SSLError, ValueError, TypeError):
        raise ValueError("The CA certificate is damaged; copy it again.") from None
    return bundle


def _certificate(body: str) -> str:
    lines = (body[i : i + 64] for i in range(0, len(body), 64))
    return "\n".join(
        ("-----BEGIN CERTIFICATE-----", *lines, "-----END CERTIFICATE-----", "")
    )


def _from_base64(text: str) -> str:
    try:
        decoded = base64.b64decode("".join(text.split()), validate=True).decode("ascii")
    except (binascii.Error, ValueError):
        return text
    return decoded if "-----BEGIN" in decoded else text


# === WHAT A CERTIFICATE SAYS === #


@dataclass(frozen=True, kw_only=True)
class CertificateInfo:
    """What one certificate says of itself."""

    subject: str  # as RFC 4514 writes it, such as "CN=kube-apiserver"
    issuer: str
    not_before: datetime  # aware
    not_after: datetime  # aware
    sha256: str  # of the whole certificate, "AA:BB:…"
    is_ca: bool
    dns_names: tuple[str, ...]  # and IP addresses, as the certificate lists them
    pem: str = field(repr=False)


def certificate_info(pem: str) -> CertificateInfo:
    """Return what the first certificate in `pem` says of itself.

    :raise ValueError: there is none, or it is damaged; one sentence
    """
    return bundle_info(pem)[0]


def bundle_info(pem: str) -> tuple[CertificateInfo, ...]:
    """Return what each certificate in `pem` says of itself, at least one.

    :raise ValueError: there is none, or one is damaged; one sentence
    """
    return tuple(_info(certificate) for certificate in _load(pem))


def _load(pem: str) -> list[x509.Certificate]:
    blocks = [
        _certificate("".join(body.split()))
        for label, body in _PEM.findall(pem)
        if label == "CERTIFICATE"
    ]
    if not blocks:
        raise ValueError(
            "This is not a certificate; copy all from -----BEGIN CERTIFICATE----- to "
            "-----END CERTIFICATE-----."
        )
    try:
        return [x509.load_pem_x509_certificate(block.encode()) for block in blocks]
    except ValueError:
        raise ValueError("The certificate is damaged; copy it again.") from None


def _info(certificate: x509.Certificate) -> CertificateInfo:
    digest = certificate.fingerprint(hashes.SHA256())
    return CertificateInfo(
        subject=_name(certificate, "subject"),
        issuer=_name(certificate, "issuer"),
        not_before=certificate.not_valid_before_utc,
        not_after=certificate.not_valid_after_utc,
        sha256=":".join(f"{byte:02X}" for byte in digest),
        is_ca=_is_ca(certificate),
        dns_names=_names(certificate),
        pem=certificate.public_bytes(Encoding.PEM).decode("ascii"),
    )


def _name(certificate: x509.Certificate, which: str) -> str:
    try:
        name: x509.Name = getattr(certificate, which)
        return bounded(name.rfc4514_string(), MAX_NAME)
    except ValueError:  # in a form that X.509 does not know
        return "(unreadable)"


def _is_ca(certificate: x509.Certificate) -> bool:
    try:
        constraints = certificate.extensions.get_extension_for_class(
            x509.BasicConstraints
        )
    except (x509.ExtensionNotFound, x509.DuplicateExtension, ValueError):
        return False
    return constraints.value.ca


def _names(certificate: x509.Certificate) -> tuple[str, ...]:
    try:
        alternatives = certificate.extensions.get_extension_for_class(
            x509.SubjectAlternativeName
        ).value
    except (x509.ExtensionNotFound, x509.DuplicateExtension, ValueError):
        return ()
    names = [
        *alternatives.get_values_for_type(x509.DNSName),
        *map(str, alternatives.get_values_for_type(x509.IPAddress)),
    ]
    return tuple(bounded(name, 253) for name in names[:MAX_NAMES])


# === CLIENT CERTIFICATES === #


def check_client_certificate(cert_pem: str, key_pem: str) -> CertificateInfo:
    """Return what a client certificate says, if the key is the one that fits it.

    :param cert_pem: the certificate, with those between it and its CA behind it
    :param key_pem: its private key, not encrypted
    :raise ValueError: with one sentence that says what to change, never with the key
    """
    if not cert_pem.strip() and not key_pem.strip():
        raise ValueError("Enter a client certificate and its key.")
    if not cert_pem.strip():
        raise ValueError("Enter the client certificate that belongs to the key.")
    if not key_pem.strip():
        raise ValueError("Enter the private key that belongs to the certificate.")
    if max(len(cert_pem), len(key_pem)) > MAX_CLIENT_BYTES:
        raise ValueError("The client certificate or its key is larger than 64 KiB.")
    if "PRIVATE KEY" in cert_pem:
        raise ValueError("Enter the private key apart from the client certificate.")
    certificate = _load(cert_pem)[0]
    if _public_key_of(key_pem) != _public_key(certificate):
        raise ValueError(
            "The private key does not belong to the client certificate; enter the one "
            "that was made with it."
        )
    return _info(certificate)


def _public_key(certificate: x509.Certificate) -> bytes:
    try:
        return certificate.public_key().public_bytes(
            Encoding.DER, PublicFormat.SubjectPublicKeyInfo
        )
    except (ValueError, UnsupportedAlgorithm):
        raise ValueError("The client certificate has an unknown kind of key.") from None


def _public_key_of(key_pem: str) -> bytes:
    blocks = [
        match.group()
        for match in _PEM.finditer(key_pem)
        if match.group(1).endswith("PRIVATE KEY")
    ]
    if len(blocks) != 1:
        raise ValueError(
            "This is not one private key; copy all from -----BEGIN … PRIVATE KEY----- "
            "to -----END … PRIVATE KEY-----."
        )
    try:
        key = load_pem_private_key(blocks[0].encode(), password=None)
    except TypeError:
        raise ValueError(
            "The private key is encrypted; enter it without a passphrase, as "
            '"openssl pkey -in key.pem" prints it.'
        ) from None
    except (ValueError, UnsupportedAlgorithm):
        raise ValueError("The private key is damaged; copy it again.") from None
    return key.public_key().public_bytes(
        Encoding.DER, PublicFormat.SubjectPublicKeyInfo
    )


# === WHAT A SERVER PRESENTS === #


def fetch_certificates(
    server: str,
    *,
    tls_server_name: str | None = None,
    policy: AddressPolicy,
    timeout: float,
) -> tuple[CertificateInfo, ...]:
    """Return the certificates that a server presents, its own first, unverified.

    Nothing is sent but a TLS greeting. A proxy is not used.

    :param server: a URL that `check_server` returned
    :param tls_server_name: name to ask for, if not the URL's host
    :param timeout: s for all of it
    :raise KubeError: it cannot be reached, or does not speak TLS
    """
    deadline = time.monotonic() + timeout
    host, port = host_and_port(server)
    addresses = resolve(host, port, policy=policy, timeout=timeout)
    try:
        with _connect(addresses, port, deadline=deadline) as plain:
            chain = _handshake(plain, name=tls_server_name or host)
    except OSError as exc:
        raise from_transport(exc, server=server) from None
    try:
        return tuple(_info(x509.load_der_x509_certificate(der)) for der in chain)
    except ValueError:
        raise from_transport(ssl.SSLError(), server=server) from None


def _connect(addresses: Sequence[str], port: int, *, deadline: float) -> socket.socket:
    failure: OSError = TimeoutError()
    for address in addresses:
        if (remaining := deadline - time.monotonic()) <= 0:
            break
        try:
            return socket.create_connection((address, port), timeout=remaining)
        except OSError as exc:
            failure = exc
    raise failure


def _handshake(plain: socket.socket, *, name: str) -> list[bytes]:
    """Return what the server presents, as DER."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    with context.wrap_socket(plain, server_hostname=name) as wrapped:
        own = wrapped.getpeercert(binary_form=True) or b""
        if hasattr(wrapped, "get_unverified_chain"):  # since Python 3.13
            return [bytes(der) for der in wrapped.get_unverified_chain()][:MAX_CHAIN]
        # Before, it is there, but only on what SSLSocket wraps.
        inner = getattr(wrapped, "_sslobj", None)
        chain = inner.get_unverified_chain() if inner is not None else None
        return [
            ssl.PEM_cert_to_DER_cert(found.public_bytes()) for found in chain or ()
        ][:MAX_CHAIN] or [own]
