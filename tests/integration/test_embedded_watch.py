"""Odoo servers that watch by themselves: one process with threads, and several."""

import os
import signal
from contextlib import closing

import pytest

from environment.processes import free_port
from tests.faults.client import OdooClient
from tests.live_objects import degraded_status, get_object, patch_status, ready_status
from tests.waiting import eventually

NOISE = (" WARNING ", " ERROR ", " CRITICAL ", "Traceback")
ANSWERED_AT_END = 8.0  # s from SIGTERM to the server's end
CRON_TIMEOUT = 60.0  # s; the first run may load modules
CRON = "vworkspace_push.ir_cron_status"
LOG_SHOWN = 8000  # characters
SETTING = "VWORKSPACE_PUSH_EMBEDDED_WATCH"


def test_a_server_watches_only_where_that_is_switched_on(
    database, make_server, deployed
):
    make_server(workers=0)

    run_status_cron(database)

    assert watchers(database) == []


@pytest.mark.parametrize("workers", [0, 2], ids=["threads", "prefork"])
class TestEmbedded:
    """In either kind of server."""

    def test_a_request_starts_no_worker(
        self, database, make_server, deployed, workers, sleeping_cron
    ):
        server = make_server(workers=workers, **{SETTING: "1"})
        with database.transaction() as env:
            cron = env.ref(CRON).id

        client_of(server, database).call("ir.cron", "method_direct_trigger", [cron])

        assert watchers(database) == []

    def test_one_worker_watches_and_ends_with_the_server(
        self, database, make_server, deployed, control_plane, namespace, workers
    ):
        server = make_server(workers=workers, **{SETTING: "1"})
        run_status_cron(database)
        run_status_cron(database)
        assert len(watchers(database)) == 1

        patch_status(control_plane, namespace, ready_status())
        shows_health(database, deployed, "ready")
        patch_status(control_plane, namespace, degraded_status())
        shows_health(database, deployed, "degraded")

        server.process.send(signal.SIGTERM)
        eventually(
            lambda: not server.process.running,
            what="the server to end",
            timeout=ANSWERED_AT_END,
        )
        assert watchers(database) == []
        assert lease_holders(database) == set()

    def test_deliveries_leave_from_it(
        self, database, make_server, make_instance, control_plane, namespace, workers
    ):
        server = make_server(workers=workers, **{SETTING: "1"})
        instance = make_instance(name=f"served-{workers}")

        client_of(server, database).call(instance._name, "action_deploy", instance.ids)

        eventually(
            lambda: database.read(instance, "delivery_state"),
            what="the delivery",
            equals="applied",
        )
        assert get_object(control_plane, namespace, f"served-{workers}")


def test_after_a_cron_process_was_killed_another_one_watches(
    database, make_server, deployed, control_plane, namespace
):
    make_server(workers=2, **{SETTING: "1"})
    run_status_cron(database)
    ((holder, pid),) = watchers(database)

    os.kill(pid, signal.SIGKILL)
    forget_watchers(database)
    run_status_cron(database)

    ((successor, _pid),) = watchers(database)
    assert successor != holder
    patch_status(control_plane, namespace, ready_status())
    shows_health(database, deployed, "ready")


# === FIXTURES === #


@pytest.fixture
def make_server(database, odoo_install, postgres, work):
    """Return a function that starts a server on the module's database."""
    started = []

    def make(*, workers, **env):
        number = len(list((work / "odoo").glob("embedded-*.conf")))
        config = odoo_install.config_file(
            work / "odoo" / f"embedded-{number}.conf",
            postgres=postgres,
            data_dir=postgres.directory.parent / "odoo",
            http_port=free_port(),
            gevent_port=free_port(),
        )
        server = odoo_install.server(
            config,
            database.name,
            log=work / "logs" / f"embedded-{number}.log",
            workers=workers,
            env=env,
        )
        started.append(server)
        server.start()
        return server

    yield make
    # A cron in the midst of its work would find its cursor closed by the server's end.
    # Whoever runs one has its row locked, and nobody begins one whose row is.
    connection = postgres.connect(database.name)
    with closing(connection), connection.cursor() as cr:
        cr.execute("SELECT FROM ir_cron FOR NO KEY UPDATE")
        for server in started:
            server.stop()
    for server in started:
        print(server.process.log.read_text()[-LOG_SHOWN:])  # seen with a failure
    forget_watchers(database)
    lines = [
        line
        for server in started
        for line in server.process.log.read_text().splitlines()
        if any(word in line for word in NOISE)
    ]
    assert lines == []


@pytest.fixture
def deployed(database, make_instance, deploy):
    instance = make_instance()
    deploy(instance)
    return instance


@pytest.fixture
def sleeping_cron(database):
    """The status cron does not run by itself."""
    set_active(database, False)
    yield
    set_active(database, True)


# === HELPERS === #


def set_active(database, active):
    with database.transaction() as env:
        env.ref(CRON).active = active


def client_of(server, database):
    client = OdooClient(server.url, database.name)
    client.log_in("admin", "admin")
    return client


def run_status_cron(database):
    """Have a server's own cron process run it now, and wait for its end."""
    with database.transaction() as env:
        cron = env.ref(CRON)
        # Not long ago: Odoo counts on from there, minute by minute.
        cron.nextcall = env.cr.now().replace(microsecond=0)
    eventually(
        lambda: wake_crons(database) or has_run(database, cron),
        what="a server to run the status cron",
        timeout=CRON_TIMEOUT,
    )


def has_run(database, cron):
    return database.sql(
        "SELECT nextcall > now() AT TIME ZONE 'UTC' FROM ir_cron WHERE id = %s", cron.id
    )[0][0]


def wake_crons(database):
    from odoo import sql_db

    with sql_db.db_connect("postgres").cursor() as cr:
        cr.execute("SELECT pg_notify('cron_trigger', %s)", [database.name])


def watchers(database):
    """Return holder and process of each worker that says it is alive."""
    return database.sql("SELECT holder, pid FROM vworkspace_watch_worker")


def lease_holders(database):
    rows = database.sql(
        "SELECT holder FROM vworkspace_watch_lease WHERE holder IS NOT NULL"
    )
    return {holder for (holder,) in rows}


def forget_watchers(database):
    """Let what a killed worker left expire now."""
    database.sql("DELETE FROM vworkspace_watch_worker")
    database.sql("UPDATE vworkspace_watch_lease SET holder = NULL, expires_at = NULL")


def shows_health(database, instance, health):
    eventually(
        lambda: database.read(instance, "health"),
        what=f"the record to be {health}",
        equals=health,
    )
