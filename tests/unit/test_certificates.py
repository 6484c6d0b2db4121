"""What certificates say, whether a key fits one, and what a server presents."""

from __future__ import annotations

import datetime
import hashlib
import socket
import ssl
import threading
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from kube import errors
from kube.address import AddressPolicy
from kube.certificates import (
    bundle_info,
    certificate_info,
    check_client_certificate,
    fetch_certificates,
)
from tests.unit.fakes import Certificate, FakeServer, make_certificate

LOOPBACK = AddressPolicy(allow_loopback=True)


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    return make_certificate(tmp_path_factory.mktemp("other"), name="other")


def _fingerprint(pem: str) -> str:
    digest = hashlib.sha256(ssl.PEM_cert_to_DER_cert(pem)).hexdigest().upper()
    return ":".join(digest[i : i + 2] for i in range(0, 64, 2))


def test_certificate_says_who_and_how_long(certificate: Certificate) -> None:
    info = certificate_info(f"a comment\n{certificate.pem}")
    assert (info.subject, info.issuer) == ("CN=good", "CN=good")
    assert info.dns_names == ("127.0.0.1",)
    assert info.is_ca
    assert info.sha256 == _fingerprint(certificate.pem)
    assert info.not_after - info.not_before == datetime.timedelta(days=11)
    assert info.not_after.tzinfo is not None
    assert "BEGIN" not in repr(info)


def test_bundle_is_read_in_its_order(
    certificate: Certificate, other: Certificate
) -> None:
    found = bundle_info(other.pem + certificate.pem)
    assert [info.subject for info in found] == ["CN=other", "CN=good"]


@pytest.mark.parametrize(
    ("pem", "text"),
    [
        ("", "not a certificate"),
        ("hello", "not a certificate"),
        ("-----BEGIN PRIVATE KEY-----\nx\n-----END PRIVATE KEY-----", "not a cert"),
        ("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----", "damaged"),
        ("-----BEGIN CERTIFICATE-----\nü\n-----END CERTIFICATE-----", "damaged"),
    ],
)
def test_what_is_no_certificate_is_refused(pem: str, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        certificate_info(pem)


# === CLIENT CERTIFICATES === #


def test_key_that_fits_is_accepted(certificate: Certificate) -> None:
    info = check_client_certificate(certificate.pem, certificate.key_pem)
    assert info == certificate_info(certificate.pem)


def test_key_as_openssl_writes_it_is_accepted(certificate: Certificate) -> None:
    """With the curve's parameters in a block of their own, before the key."""
    key = serialization.load_pem_private_key(certificate.key_pem.encode(), None)
    old = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.TraditionalOpenSSL,
        serialization.NoEncryption(),
    ).decode()
    curve = "-----BEGIN EC PARAMETERS-----\nBggqhkjOPQMBBw==\n-----END EC PARAMETERS"
    assert check_client_certificate(certificate.pem, f"{curve}-----\n{old}")


def _encrypted() -> str:
    return (
        ec.generate_private_key(ec.SECP256R1())
        .private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(b"x"),
        )
        .decode()
    )


@pytest.mark.parametrize(
    ("cert", "key", "text"),
    [
        ("", "", "Enter a client certificate"),
        ("good", "", "Enter the private key"),
        ("", "good", "Enter the client certificate"),
        ("good", "other", "does not belong"),
        ("good", "encrypted", "encrypted"),
        ("good", "text", "not one private key"),
        ("good", "both", "not one private key"),
        ("good", "damaged", "damaged"),
        ("text", "good", "not a certificate"),
        ("good and its key", "good", "apart from"),
        ("large", "good", "64 KiB"),
    ],
)
def test_pair_that_does_not_fit_is_refused_without_the_key(
    certificate: Certificate, other: Certificate, cert: str, key: str, text: str
) -> None:
    good = certificate.key_pem
    certificates = {
        "good": certificate.pem,
        "text": "hello",
        "good and its key": certificate.pem + good,
        "large": "x" * 70_000,
    }
    keys = {
        "good": good,
        "other": other.key_pem,
        "encrypted": _encrypted(),
        "text": "hello",
        "both": good + other.key_pem,
        "damaged": "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----",
    }
    with pytest.raises(ValueError, match=text) as caught:
        check_client_certificate(certificates.get(cert, ""), keys.get(key, ""))
    assert good.splitlines()[1] not in str(caught.value)


# === WHAT A SERVER PRESENTS === #


def test_certificate_of_a_server_is_fetched_without_trust(
    server: FakeServer, certificate: Certificate
) -> None:
    found = fetch_certificates(server.url, policy=LOOPBACK, timeout=5)
    assert [info.pem for info in found] == [certificate.pem]
    assert not server.requests


def test_whole_chain_is_shown(
    tmp_path: Path, certificate: Certificate, other: Certificate
) -> None:
    """The intermediate certificates are those that people compare."""
    both = tmp_path / "both.pem"
    both.write_text(certificate.pem + other.pem + certificate.key_pem)
    server = FakeServer(Certificate(pem=certificate.pem, path=both))
    try:
        found = fetch_certificates(server.url, policy=LOOPBACK, timeout=5)
    finally:
        server.stop()
    assert [info.pem for info in found] == [certificate.pem, other.pem]


def test_refused_address_is_not_fetched_from(server: FakeServer) -> None:
    with pytest.raises(errors.AddressRefused):
        fetch_certificates(server.url, policy=AddressPolicy(), timeout=5)
    assert server.accepted == 0


def test_silent_server_is_given_up() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"https://127.0.0.1:{listener.getsockname()[1]}"
        with pytest.raises(errors.Unreachable):
            fetch_certificates(url, policy=LOOPBACK, timeout=0.2)


def test_server_without_tls_is_named() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def answer() -> None:
            sock, _ = listener.accept()
            sock.recv(10)
            sock.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
            sock.close()

        threading.Thread(target=answer, daemon=True).start()
        url = f"https://127.0.0.1:{listener.getsockname()[1]}"
        with pytest.raises(errors.TlsFailed) as caught:
            fetch_certificates(url, policy=LOOPBACK, timeout=5)
    assert caught.value.reason == "NotTls"
