"""A real Odoo server in a process of its own, which tests may kill."""

import contextlib
import re

import pytest

from environment import demo
from environment.odoo import START_TIMEOUT, WATCH_READY_LINE
from environment.processes import free_port
from tests.conftest import CLUSTER_ID
from tests.faults.client import OdooClient
from tests.live_objects import delete_object, list_objects
from tests.waiting import eventually

DATABASE = "faults"
INSTANCE = "vworkspace.application.instance"
OPERATION = "vworkspace.operation"
BACKUP = {"capability": "backup", "engine": "velero"}
NOISE = (" ERROR ", " CRITICAL ", "Traceback")
PAGES = " werkzeug: "  # a line for each page, of which a test reads hundreds
ENTRY = re.compile(r"^(?=\d{4}-\d\d-\d\d )", re.MULTILINE)  # of a log, begins here
CRON_THREADS = 3  # of each server
READ_LOG = pytest.StashKey()  # a function that returns what a test had logged
FAILED = pytest.StashKey()  # whether a part of the test failed
LOG_SHOWN = 8000  # characters of it, with a failure


@pytest.fixture(scope="session")
def odoo_config(odoo_install, postgres, work):
    return odoo_install.config_file(
        work / "faults" / "odoo.conf",
        postgres=postgres,
        data_dir=postgres.directory.parent / "odoo",
        http_port=free_port(),
        gevent_port=free_port(),
        extra={"max_cron_threads": CRON_THREADS},
    )


@pytest.fixture(scope="session")
def odoo_server(odoo_config, odoo_install, postgres, template_database, odoo_log):
    """An Odoo server with its cron threads, on a database of its own."""
    odoo_install.copy_database(postgres, template_database, DATABASE)
    server = odoo_install.server(odoo_config, DATABASE, log=odoo_log)
    server.start()
    yield server
    server.stop()


@pytest.fixture
def second_server(odoo_server, odoo_config, odoo_install, postgres, odoo_log):
    """Another Odoo on the same database, as on another machine."""
    config = odoo_install.config_file(
        odoo_config.with_name("second.conf"),  # beside the keys, which they share
        postgres=postgres,
        data_dir=postgres.directory.parent / "odoo",
        http_port=free_port(),
        gevent_port=free_port(),
        extra={"max_cron_threads": CRON_THREADS},
    )
    server = odoo_install.server(config, DATABASE, log=odoo_log)
    server.start()
    yield server
    server.stop()


@pytest.fixture
def watch_worker(odoo_server, odoo_config, odoo_install, odoo_log):
    """The watch worker of the server's database."""
    worker = odoo_install.watch_worker(odoo_config, DATABASE, log=odoo_log)
    worker.start()
    worker.wait_for_output(WATCH_READY_LINE, timeout=START_TIMEOUT)
    yield worker
    worker.stop()


@pytest.fixture(scope="session")
def odoo_log(work):
    """What all of these processes write to."""
    return work / "logs" / "faults-odoo.log"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    """Show with a failure what the Odoos logged during the test."""
    report = yield
    item.stash[FAILED] = item.stash.get(FAILED, False) or report.failed
    if report.failed and (read := item.stash.get(READ_LOG, None)):
        entries = [entry for entry in ENTRY.split(read()) if PAGES not in entry]
        report.sections.append(("Odoo's log", "".join(entries)[-LOG_SHOWN:]))
    return report


@pytest.fixture(autouse=True)
def quiet_log(odoo_log, request):
    """Fail a test in which an Odoo's log has an error.

    A test that provokes one names it: ``@pytest.mark.expect_log("part of its text")``.
    """
    marker = request.node.get_closest_marker("expect_log")
    expected = marker.args if marker else ()
    size = odoo_log.stat().st_size if odoo_log.exists() else 0

    def read():
        with odoo_log.open(errors="replace") as file:
            file.seek(size)
            return file.read()

    request.node.stash[READ_LOG] = read
    yield
    logged = read()
    request.node.stash[READ_LOG] = lambda: logged  # the file may be gone by then
    entries = ENTRY.split(logged)
    noise = [entry for entry in entries if any(word in entry for word in NOISE)]
    surprising = [
        entry for entry in noise if not any(text in entry for text in expected)
    ]
    assert surprising == []


@pytest.fixture
def nothing_to_heal(odoo_server, postgres):
    """Fail a test in which the cron mended what streams should have brought."""

    def healed():
        connection = postgres.connect(DATABASE)
        with contextlib.closing(connection), connection.cursor() as cr:
            cr.execute("SELECT sum(differences) FROM vworkspace_watch_lease")
            return cr.fetchone()[0] or 0

    before = healed()
    yield
    assert healed() == before


@pytest.fixture
def client(odoo_server):
    client = OdooClient(odoo_server.url, DATABASE)
    client.log_in("admin", "admin")
    return client


@pytest.fixture
def connection(postgres, odoo_server):
    """A connection to the server's database, past the server."""
    connection = postgres.connect(DATABASE)
    connection.autocommit = True
    yield connection
    connection.close()


@pytest.fixture(scope="session")
def cluster_ids(control_plane, odoo_server):
    """Register and activate the control plane, as an admin would; return its ids."""
    client = OdooClient(odoo_server.url, DATABASE)
    client.log_in("admin", "admin")
    values = {
        "name": "Faults",
        "cluster_id": CLUSTER_ID,
        "server_url": control_plane.server,
        "ca_certificate": control_plane.ca_pem,
        "token": control_plane.service_account_token(),
    }
    ids = client.call("vworkspace.cluster", "create", [values])
    demo.activate(client.call, ids[0])
    return ids


@pytest.fixture
def make_instances(client, cluster_ids, namespace, connection, control_plane, request):
    """Return a function that makes drafts in the test's namespace.

    What a test leaves that failed is taken away: the others compare everything.
    """
    places = client.call(
        "vworkspace.cluster.namespace",
        "create",
        [{"cluster_id": cluster_ids[0], "name": namespace}],
    )

    def make(count, **values):
        return client.call(
            INSTANCE,
            "create",
            [
                {
                    "name": f"wiki-{number}",
                    "cluster_id": cluster_ids[0],
                    "namespace_id": places[0],
                    "catalog_id": "wiki",
                    "chart_url": "oci://registry.example.com/charts",
                    "chart_name": "wiki",
                    "chart_version": "1.4.2",
                    "values_yaml": "replicas: 1\n",
                    **values,
                }
                for number in range(count)
            ],
        )

    yield make
    if request.node.stash[FAILED]:
        for obj in list_objects(control_plane, namespace):
            delete_object(control_plane, namespace, obj["metadata"]["name"])
        with connection.cursor() as cr:
            cr.execute(
                """UPDATE vworkspace_application_instance
                      SET delivery_state = 'deleted', uid = NULL, health = NULL,
                          is_drifted = FALSE, heal_mode = 'off', next_attempt_at = NULL
                    WHERE namespace_id = ANY(%s)""",
                [places],
            )


def make_backup(call, instance_id):
    """Deliver a backup of an application that exists; return its id and name.

    :param call: of a client
    """
    (template,) = call(
        "vworkspace.operation.template", "search", [("name", "=", "backup.velero")]
    )
    values = {"target_id": instance_id, "template_id": template}
    ids = call(OPERATION, "create", [values])
    call(OPERATION, "action_deploy", ids)
    eventually(
        lambda: call(OPERATION, "read", ids, ["delivery_state"])[0]["delivery_state"],
        what="the operation to be applied",
        equals="applied",
    )
    return ids[0], call(OPERATION, "read", ids, ["name"])[0]["name"]


@pytest.fixture
def records(connection, postgres):
    return Records(connection, postgres)


class Records:
    """What a test asks the database itself, and how it spares itself a minute."""

    def __init__(self, connection, postgres):
        self._connection = connection
        self._postgres = postgres
        self._cron_id = self.query(
            """SELECT res_id FROM ir_model_data
                WHERE module = 'vworkspace_push' AND name = 'ir_cron_deliver'"""
        )[0][0]

    def query(self, statement, *parameters):
        with self._connection.cursor() as cr:
            cr.execute(statement, parameters)
            return cr.fetchall() if cr.description else []

    def states(self, ids):
        rows = self.query(
            """SELECT delivery_state FROM vworkspace_application_instance
                WHERE id = ANY(%s) ORDER BY id""",
            ids,
        )
        return [state for (state,) in rows]

    def run_due_cron(self):
        """Let a server's own cron thread run now what waits for its time."""
        self.query("UPDATE vworkspace_delivery_lane SET retry_at = NULL")
        for column in ("next_attempt_at", "next_heal_at"):
            eventually(
                lambda column=column: self._make_due(column),
                what=f"{column} to be past everywhere",
            )
        # In whole seconds, as Odoo keeps it: a run in the same second takes a time with
        # a fraction for one that lies ahead, and leaves it as it is.
        self.query(
            """UPDATE ir_cron
                  SET nextcall = date_trunc('second', now() AT TIME ZONE 'UTC')
                WHERE id IN (SELECT res_id FROM ir_model_data
                              WHERE module = 'vworkspace_push'
                                AND model = 'ir.cron')"""
        )
        # A server that has just started serves pages before its cron threads listen.
        eventually(
            lambda: self._wake() or self._cron_has_begun(),
            what="a cron thread to wake up",
        )

    def cron_has_run(self):
        """Tell whether the deliveries' cron ended since it was last made due."""
        return self.query(
            "SELECT nextcall > now() AT TIME ZONE 'UTC' FROM ir_cron WHERE id = %s",
            self._cron_id,
        )[0][0]

    def lane_is_open(self):
        """Tell whether deliveries to a cluster are held back."""
        return bool(
            self.query("SELECT 1 FROM vworkspace_delivery_lane WHERE failures > 0")
        )

    def hold(self, ids):
        """Lock rows until the connection that is returned gets closed."""
        holder = self._postgres.connect(DATABASE)
        with holder.cursor() as cr:
            cr.execute(
                """SELECT 1 FROM vworkspace_application_instance
                    WHERE id = ANY(%s) FOR NO KEY UPDATE""",
                [ids],
            )
        return holder

    def _make_due(self, column):
        """Bring these times forward; return whether none lies ahead any more."""
        ahead = f"""SELECT id FROM vworkspace_application_instance
                     WHERE {column} > now() AT TIME ZONE 'UTC'"""  # noqa: S608
        # Not to wait for what users and deliveries lock, in another order.
        self.query(
            f"""UPDATE vworkspace_application_instance
                   SET {column} = now() AT TIME ZONE 'UTC'
                 WHERE id IN ({ahead} FOR NO KEY UPDATE SKIP LOCKED)"""  # noqa: S608
        )
        return not self.query(ahead)

    def _cron_has_begun(self):
        # As the cron threads lock it: a trigger that is being added, whose foreign key
        # locks the row as well, is no sign that one of them runs it.
        idle = self.query(
            "SELECT 1 FROM ir_cron WHERE id = %s FOR NO KEY UPDATE SKIP LOCKED",
            self._cron_id,
        )
        return not idle or self.cron_has_run()

    def _wake(self):
        waker = self._postgres.connect("postgres")  # where Odoo's cron threads listen
        waker.autocommit = True
        with waker.cursor() as cr:
            cr.execute("SELECT pg_notify('cron_trigger', %s)", [DATABASE])
        waker.close()
