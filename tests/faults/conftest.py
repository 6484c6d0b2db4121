"""A real Odoo server in a process of its own, which tests may kill."""

from types import SimpleNamespace

import pytest

from environment import demo
from environment.processes import free_port
from tests.conftest import CLUSTER_ID
from tests.faults.client import OdooClient

DATABASE = "faults"
INSTANCE = "vworkspace.application.instance"
NOISE = (" ERROR ", " CRITICAL ", "Traceback")


@pytest.fixture(scope="session")
def odoo_config(odoo_install, postgres, work):
    return odoo_install.config_file(
        work / "faults" / "odoo.conf",
        postgres=postgres,
        data_dir=postgres.directory.parent / "odoo",
        http_port=free_port(),
        gevent_port=free_port(),
    )


@pytest.fixture(scope="session")
def odoo_server(odoo_config, odoo_install, postgres, template_database, work):
    """An Odoo server with its cron thread, on a database of its own."""
    odoo_install.copy_database(postgres, template_database, DATABASE)
    log = work / "logs" / "faults-odoo.log"
    server = odoo_install.server(odoo_config, DATABASE, log=log)
    server.start()
    yield server
    server.stop()
    lines = log.read_text().splitlines()
    assert [line for line in lines if any(word in line for word in NOISE)] == []


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
def make_instances(client, cluster_ids, namespace):
    """Return a function that makes drafts in the test's namespace."""
    places = client.call(
        "vworkspace.cluster.namespace",
        "create",
        [{"cluster_id": cluster_ids[0], "name": namespace}],
    )

    def make(count):
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
                }
                for number in range(count)
            ],
        )

    return make


@pytest.fixture
def records(connection, postgres):
    """What a test asks the database itself, and how it spares itself a minute."""

    def states(ids):
        with connection.cursor() as cr:
            cr.execute(
                """SELECT delivery_state FROM vworkspace_application_instance
                    WHERE id = ANY(%s) ORDER BY id""",
                [ids],
            )
            return [state for (state,) in cr.fetchall()]

    def run_due_cron():
        """Let the server's own cron thread run now what is due within a minute."""
        with connection.cursor() as cr:
            cr.execute(
                """UPDATE vworkspace_application_instance
                      SET next_attempt_at = now() AT TIME ZONE 'UTC'
                    WHERE next_attempt_at IS NOT NULL"""
            )
            cr.execute(
                """UPDATE ir_cron SET nextcall = now() AT TIME ZONE 'UTC'
                    WHERE id IN (SELECT res_id FROM ir_model_data
                                  WHERE module = 'vworkspace_push'
                                    AND model = 'ir.cron')"""
            )
        waker = postgres.connect("postgres")  # where Odoo's cron threads listen
        waker.autocommit = True
        with waker.cursor() as cr:
            cr.execute("SELECT pg_notify('cron_trigger', %s)", [DATABASE])
        waker.close()

    def hold(ids):
        """Lock rows until the connection that is returned gets closed."""
        holder = postgres.connect(DATABASE)
        with holder.cursor() as cr:
            cr.execute(
                """SELECT 1 FROM vworkspace_application_instance
                    WHERE id = ANY(%s) FOR NO KEY UPDATE""",
                [ids],
            )
        return holder

    return SimpleNamespace(states=states, run_due_cron=run_due_cron, hold=hold)
