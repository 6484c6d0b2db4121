"""What `odoo vworkspace_watch` can be asked for, on the real command."""

import os
import re
import signal
import subprocess
import time
from contextlib import contextmanager

import pytest
import requests

from environment.odoo import WATCH_READY_LINE
from environment.processes import free_port
from tests.conftest import CLUSTER_ID
from tests.integration.conftest import activate, retire, spoil
from tests.live_objects import degraded_status, patch_status, ready_status
from tests.waiting import eventually

READY_TIMEOUT = 60.0  # s
COMMAND_TIMEOUT = 90.0  # s
STOP = 5.0  # s from SIGTERM to the end
AT_ONCE = 1.0  # s
OTHER = "other-cluster"


# === USAGE === #


def test_an_unknown_cluster_is_named(command, cluster):
    done = command("--once", "--clusters", f"{CLUSTER_ID},no-such-cluster")

    assert done.returncode == 1
    assert "No cluster no-such-cluster in" in done.stderr
    assert CLUSTER_ID not in done.stderr
    assert "Traceback" not in done.stderr


def test_a_database_without_the_addon_is_said_in_one_sentence(command, cluster):
    done = command("--status", database="postgres")

    assert done.returncode == 1
    assert "does not exist" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_port_that_is_taken_is_said_in_one_sentence(command, cluster, make_worker):
    port = free_port()
    make_worker(metrics_port=port)

    done = command("--metrics-port", str(port))

    assert done.returncode == 1
    assert f"127.0.0.1:{port}" in done.stderr
    assert "--metrics-port" in done.stderr


# === ONCE === #


def test_once_brings_everything_and_ends(
    database, command, deployed, control_plane, namespace
):
    patch_status(control_plane, namespace, ready_status())

    done = command("--once")

    assert done.returncode == 0, done.stderr
    assert database.read(deployed, "health") == "ready"
    assert database.sql("SELECT 1 FROM vworkspace_watch_worker") == []


def test_once_of_one_cluster_leaves_the_others_alone(
    database, command, deployed, other_cluster, control_plane, namespace
):
    patch_status(control_plane, namespace, degraded_status())
    before = database.read(deployed, "health")

    done = command("--once", "--clusters", OTHER)

    assert done.returncode == 0, done.stderr
    assert database.read(deployed, "health") == before


def test_once_says_which_cluster_it_did_not_reach(database, command, lost_cluster):
    done = command("--once")

    assert done.returncode == 1
    lines = [
        line for line in done.stderr.splitlines() if line.startswith(database.name)
    ]
    assert len(lines) == 1
    assert f"{database.name}: {OTHER}: " in lines[0]


# === STATUS === #


def test_status_tells_who_watches_what(database, command, deployed, make_worker):
    worker = make_worker()
    watches(database, deployed)

    rows = eventually(
        lambda: [r for r in status(command) if r[0] == CLUSTER_ID and r[1] != "nobody"],
        what="the cluster in the table",
        timeout=READY_TIMEOUT,
    )

    assert f":{worker.pid}:" in rows[0][1]
    watching, streams = map(int, rows[0][2].split("/"))
    assert 0 < watching <= streams
    assert rows[0][5].endswith(" ago")


def test_status_without_a_worker_says_that_nobody_watches(command, cluster):
    (row,) = [row for row in status(command) if row[0] == CLUSTER_ID]

    assert row[1] == "nobody"


def test_status_tells_a_clusters_words_on_one_line_and_harmlessly(
    database, command, cluster
):
    words = "It said:\x1b[31m\nno\r\u202e " + "x" * 500
    database.sql(
        """INSERT INTO vworkspace_watch_lease (cluster_id, epoch, message)
                VALUES (%s, 0, %s)
           ON CONFLICT (cluster_id) DO UPDATE SET message = EXCLUDED.message""",
        *(cluster.id, words),
    )

    (row,) = [row for row in status(command) if row[0] == CLUSTER_ID]

    assert row[-1].startswith("It said: [31m no xxx")
    assert row[-1].endswith("x…")


# === HEALTH AND METRICS === #


def test_health_and_metrics_tell_of_a_worker_at_work(
    database, deployed, make_worker, control_plane, namespace
):
    port = free_port()
    make_worker(metrics_port=port)
    assert get(port, "/readyz").text == "ok\n"
    assert get(port, "/healthz").text == "ok\n"

    patch_status(control_plane, namespace, ready_status())
    shows_health(database, deployed, "ready")

    labels = f'{{cluster="{CLUSTER_ID}",db="{database.name}"}}'
    shown = get(port, "/metrics").text
    assert f"vworkspace_watch_events_total{labels}" in shown
    assert f'vworkspace_watch_leases{{db="{database.name}"}} 1.0' in shown
    assert f'vworkspace_watch_pending_deliveries{{db="{database.name}"}} 0.0' in shown
    assert f"vworkspace_watch_differences{labels} 0.0" in shown


# === SIGNALS AND CLUSTERS === #


def test_a_second_signal_ends_it_at_once(cluster, make_worker, locked_leases):
    worker = make_worker()
    with locked_leases():
        worker.send(signal.SIGTERM)
        worker.wait_for_output("SIGTERM: stopping", timeout=STOP)
        asked = time.monotonic()

        worker.send(signal.SIGTERM)

        eventually(lambda: not worker.running, what="its end", timeout=STOP)
        assert time.monotonic() - asked < AT_ONCE
        assert worker.returncode == 128 + signal.SIGTERM


def test_it_ends_in_time_though_the_database_keeps_it_waiting(
    cluster, make_worker, locked_leases
):
    worker = make_worker()
    with locked_leases():
        asked = time.monotonic()

        worker.send(signal.SIGTERM)

        eventually(lambda: not worker.running, what="its end", timeout=2 * STOP)
        assert time.monotonic() - asked <= STOP
        assert worker.returncode == 0


def test_a_worker_of_one_cluster_takes_no_other(
    database, cluster, deployed, other_cluster, make_worker, control_plane, namespace
):
    make_worker("--clusters", CLUSTER_ID)

    patch_status(control_plane, namespace, ready_status())
    shows_health(database, deployed, "ready")

    held = database.sql(
        "SELECT cluster_id FROM vworkspace_watch_lease WHERE holder IS NOT NULL"
    )
    assert held == [(cluster.id,)]


def test_one_process_watches_several_databases(
    database, odoo_install, postgres, deployed, make_worker, control_plane, namespace
):
    twin = f"{database.name}_twin"
    odoo_install.copy_database(postgres, "template_vworkspace", twin)
    port = free_port()
    worker = make_worker(databases=f"{twin},{database.name}", metrics_port=port)
    eventually(
        lambda: worker.output().count(WATCH_READY_LINE),
        what="both databases to be watched",
        equals=2,
        timeout=READY_TIMEOUT,
    )

    patch_status(control_plane, namespace, ready_status())
    shows_health(database, deployed, "ready")
    assert f'vworkspace_watch_leases{{db="{twin}"}} 0.0' in get(port, "/metrics").text


# === FIXTURES === #


@pytest.fixture
def command(database, odoo_install):
    """Return a function that runs the command to its end."""

    def run(*options, database=database.name):
        return subprocess.run(
            odoo_install.command("vworkspace_watch", "-d", database, *options),
            env=odoo_install.environment(database_config),
            cwd="/",
            capture_output=True,
            text=True,
            timeout=COMMAND_TIMEOUT,
            check=False,
        )

    database_config = database.config
    return run


@pytest.fixture
def make_worker(database, odoo_install, work, cluster):
    """Return a function that starts a worker and waits until it watches."""
    started = []

    def make(*options, databases=database.name, metrics_port=0):
        worker = odoo_install.watch_worker(
            database.config,
            databases,
            *options,
            log=work / "logs" / f"watch-command-{os.urandom(4).hex()}.log",
            metrics_port=metrics_port,
        )
        started.append(worker)
        worker.start()
        worker.wait_for_output(WATCH_READY_LINE, timeout=READY_TIMEOUT)
        return worker

    yield make
    for worker in started:
        worker.stop()
        print(worker.log.read_text())  # seen with a failure
    database.sql("DELETE FROM vworkspace_watch_worker")
    database.sql("UPDATE vworkspace_watch_lease SET holder = NULL, expires_at = NULL")


@pytest.fixture
def locked_leases(database, postgres):
    """Return a context in which nobody can read or write a lease."""

    @contextmanager
    def locked():
        connection = postgres.connect(database.name)
        try:
            with connection.cursor() as cr:
                cr.execute("LOCK TABLE vworkspace_watch_lease")
            yield
        finally:
            connection.close()

    return locked


@pytest.fixture
def deployed(database, make_instance, deploy):
    instance = make_instance()
    deploy(instance)
    return instance


@pytest.fixture
def other_cluster(database, control_plane):
    """The same server once more, under another identifier, with no namespace."""
    with database.transaction() as env:
        other = env["vworkspace.cluster"].create(
            {
                "name": "Other",
                "cluster_id": OTHER,
                "server_url": control_plane.server,
                "ca_certificate": control_plane.ca_pem,
                "token": control_plane.service_account_token(),
            }
        )
    activate(database, other)
    yield other
    retire(database, other)
    # Its identifier is free for the next test.
    database.sql(
        "UPDATE vworkspace_cluster SET cluster_id = cluster_id || id WHERE id = %s",
        other.id,
    )


@pytest.fixture
def lost_cluster(database, other_cluster):
    """A cluster whose server is not there any more."""
    spoil(
        database,
        other_cluster,
        token=None,
        server_url=f"https://127.0.0.1:{free_port()}",
    )
    return other_cluster


# === HELPERS === #


def get(port, path):
    with requests.Session() as session:
        session.trust_env = False
        return session.get(f"http://127.0.0.1:{port}{path}", timeout=10)


def status(command):
    """Return the rows of the table, each split at its columns."""
    done = command("--status")
    assert done.returncode == 0, done.stderr
    lines = [line for line in done.stdout.splitlines() if line]
    return [re.split(r" {2,}", line) for line in lines[1:]]


def watches(database, instance):
    eventually(
        lambda: database.sql(
            "SELECT 1 FROM vworkspace_watch_stream WHERE state = 'watching'"
        ),
        what="streams",
    )


def shows_health(database, instance, health):
    eventually(
        lambda: database.read(instance, "health"),
        what=f"the record to be {health}",
        equals=health,
    )
