"""Fixtures of the unit tests: a scripted HTTPS server, and a connection to it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from kube.connection import Connection, Settings
from tests.unit.fakes import Certificate, FakeServer, make_certificate

TOKEN = "t0ken-that-nobody-may-see"


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    return make_certificate(tmp_path_factory.mktemp("tls"))


@pytest.fixture
def server(certificate: Certificate) -> Iterator[FakeServer]:
    fake = FakeServer(certificate)
    yield fake
    fake.stop()


@pytest.fixture
def settings(server: FakeServer, certificate: Certificate) -> Settings:
    return Settings(server=server.url, ca_pem=certificate.pem)


@pytest.fixture
def connection(settings: Settings) -> Iterator[Connection]:
    made = Connection(settings, token=lambda: TOKEN)
    yield made
    made.close()
