"""The private PostgreSQL serves where it should, and recovers from a crash."""

import pytest

from environment.postgres import Postgres


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pg")
    server = Postgres(folder, durable=False)
    try:
        server.start()
        yield server
    finally:
        server.stop()
        server.forget()


def test_database_is_created_copied_and_dropped(server):
    server.create_database("one")
    connection = server.connect("one")
    with connection, connection.cursor() as cursor:
        cursor.execute("CREATE TABLE kept AS SELECT 7 AS value")
    server.create_database("two", template="one")  # although "one" is in use
    copy = server.connect("two")
    with copy.cursor() as cursor:
        cursor.execute("SELECT value FROM kept")
        assert cursor.fetchone() == (7,)
    server.drop_database("two")  # although it is in use
    assert server.has_database("one")
    assert not server.has_database("two")


def test_server_starts_again_after_a_crash_with_sessions_open(server):
    server.create_database("survivor")
    server.connect("survivor")
    server.kill()
    server.start()
    assert server.has_database("survivor")


def test_nothing_listens_on_the_network(server):
    connection = server.connect("postgres")
    with connection.cursor() as cursor:
        cursor.execute("SHOW listen_addresses")
        assert cursor.fetchone() == ("",)
    assert server.home.stat().st_mode & 0o077 == 0


def test_long_folder_gets_a_short_socket(tmp_path):
    deep = tmp_path / ("d" * 60) / ("e" * 60)
    assert len(str(Postgres(deep, durable=False).socket_dir)) < 80
