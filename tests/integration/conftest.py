"""Odoo inside the test process, on a copy of the template database per module.

Tests commit for real: post-commit hooks, crons and second processes see what a user's
request would leave behind.
"""

import json
import logging
import os
import sys
from contextlib import contextmanager

import pytest

from tests.conftest import CLUSTER_ID


class OdooDatabase:
    """One database of the Odoo in this process."""

    def __init__(self, name, config):
        self.name = name
        self.config = config
        from odoo.modules.registry import Registry

        self.registry = Registry(name)

    @contextmanager
    def transaction(self, login="admin"):
        """Yield an environment of that user; commit at the end, as a request would."""
        import odoo.api

        with self.registry.cursor() as cr:
            users = odoo.api.Environment(cr, odoo.SUPERUSER_ID, {})["res.users"]
            user = users.search([("login", "=", login)])
            # As in a session: the companies that are ticked, here all of the user's.
            context = {"allowed_company_ids": user.company_ids.ids}
            yield odoo.api.Environment(cr, user.id, context)

    def call(self, login, model, method, *args, **kwargs):
        """Call a public method as a client of the RPC interface would."""
        from odoo.service.model import call_kw

        with self.transaction(login) as env:
            return call_kw(env[model], method, args, kwargs)

    def read(self, record, *fields):
        """Return the record's fields as committed, read in a new transaction."""
        with self.transaction() as env:
            (values,) = env[record._name].browse(record.ids).read(fields)
        return values if len(fields) > 1 else values[fields[0]]

    def run_cron(self, name):
        """Run one of the addon's crons now, as the scheduler would."""
        with self.transaction() as env:
            env.ref(f"vworkspace_push.{name}").method_direct_trigger()

    def sql(self, query, *parameters):
        """Run a statement in a transaction of its own; return its rows, if any."""
        with self.registry.cursor() as cr:
            cr.execute(query, parameters or None)
            return cr.fetchall() if cr.description else []


@pytest.fixture(scope="session")
def odoo_in_process(odoo_install, postgres, template_database, work):
    """Make Odoo importable and configured in this process; return its configuration."""
    path = odoo_install.config_file(
        work / "odoo" / "in-process.conf",
        postgres=postgres,
        data_dir=postgres.directory.parent / "odoo",
        http_port=0,
        gevent_port=0,
    )
    sys.path.insert(0, str(odoo_install.source))
    os.environ.update(
        {
            key: value
            for key, value in odoo_install.environment(path).items()
            if key.startswith("VWORKSPACE_")
        }
    )
    from odoo.tools import config

    config.parse_config(["-c", str(path)], setup_logging=False)
    logging.getLogger("odoo").setLevel(logging.INFO)
    return path


@pytest.fixture(scope="module")
def database(odoo_in_process, odoo_install, postgres, template_database, request):
    """A copy of the template database for one module of tests."""
    name = request.module.__name__.rpartition(".")[2]
    odoo_install.copy_database(postgres, template_database, name)
    made = OdooDatabase(name, odoo_in_process)
    yield made
    from odoo.modules.registry import Registry
    from odoo.sql_db import close_db

    Registry.delete(name)
    close_db(name)
    postgres.drop_database(name)


def activate(database, cluster):
    """Verify a cluster's new credential and activate it, as cron and admin do."""
    from odoo.addons.vworkspace_push import verification

    database.call("admin", cluster._name, "action_verify", cluster.ids)
    verification.verify_cluster(database.registry, cluster.id)
    database.call("admin", cluster._name, "action_activate", cluster.ids)


def replace_token(database, cluster, token):
    """Replace a cluster's credential, as an admin does."""
    database.call("admin", cluster._name, "write", cluster.ids, {"token": token})
    activate(database, cluster)


def retire(database, cluster):
    """Revoke an active cluster's credential and archive the cluster."""
    for step in ("action_revoke", "action_erase_unverified"):
        database.call("admin", cluster._name, step, cluster.ids)
    database.call("admin", cluster._name, "write", cluster.ids, {"active": False})


WRONG_TOKEN = "not-a-token-of-this-cluster"


def spoil(database, cluster, *, token=WRONG_TOKEN, **columns):
    """Let an active cluster's credential and settings turn out to be wrong.

    It happens behind the registration's back, which would not have let them in.

    :param token: what the active credential holds from now on; None: leave it
    :param columns: of the cluster, and what they hold from now on
    """
    from odoo.addons.vworkspace_push import sealing

    with database.transaction() as env:
        cluster_sudo = env[cluster._name].browse(cluster.ids).sudo()
        credential_sudo = cluster_sudo.active_credential_id
        parts = {"token": token} if token else credential_sudo._open()
        for column, value in columns.items():
            env.cr.execute(
                f"UPDATE vworkspace_cluster SET {column} = %s WHERE id = %s",  # noqa: S608
                [value, cluster.id],
            )
        env.invalidate_all()
        sealed = sealing.seal(json.dumps(parts), credential_sudo._place())
        credential_sudo._write_sealed(sealed)
        cluster_sudo._connection_changed()


@pytest.fixture(scope="module")
def cluster(database, control_plane):
    """An active cluster, registered as an admin would do it."""
    with database.transaction() as env:
        registered = env["vworkspace.cluster"].create(
            {
                "name": "Test",
                "cluster_id": CLUSTER_ID,
                "server_url": control_plane.server,
                "ca_certificate": control_plane.ca_pem,
                "token": control_plane.service_account_token(),
            }
        )
    activate(database, registered)
    return registered


@pytest.fixture
def make_cluster(database, control_plane, namespace):
    """Return a function that makes further active clusters, archived afterwards."""
    made = []

    def make():
        with database.transaction() as env:
            cluster = env["vworkspace.cluster"].create(
                {
                    "name": f"Another {len(made)} for {namespace}",
                    "cluster_id": f"cluster-{len(made)}-of-{namespace}",
                    "server_url": control_plane.server,
                    "ca_certificate": control_plane.ca_pem,
                    "token": control_plane.service_account_token(),
                    "namespace_ids": [(0, 0, {"name": namespace})],
                }
            )
        activate(database, cluster)
        made.append(cluster)
        return cluster

    yield make
    for cluster in made:
        retire(database, cluster)


@pytest.fixture
def namespace_record(database, cluster, namespace):
    with database.transaction() as env:
        return env["vworkspace.cluster.namespace"].create(
            {"cluster_id": cluster.id, "name": namespace}
        )


@pytest.fixture
def make_instance(database, cluster, namespace_record):
    """Return a function that makes a draft application in the test's namespace."""

    def make(name="wiki", **values):
        with database.transaction() as env:
            return env["vworkspace.application.instance"].create(
                {
                    "name": name,
                    "cluster_id": cluster.id,
                    "namespace_id": namespace_record.id,
                    "catalog_id": "wiki",
                    "chart_url": "oci://registry.example.com/charts",
                    "chart_name": "wiki",
                    "chart_version": "1.4.2",
                    "values_yaml": "replicas: 1\n",
                    **values,
                }
            )

    return make


@pytest.fixture
def deploy(database):
    """Return a function that deploys as a user's request does: act, then commit."""

    def run(record, login="admin"):
        database.call(login, record._name, "action_deploy", record.ids)

    return run


class _Unexpected(logging.Handler):
    """Collects what Odoo or the addon says at WARNING and above."""

    def __init__(self):
        super().__init__(logging.WARNING)
        self.records = []

    def emit(self, record):
        self.records.append(f"{record.name}: {record.getMessage()}")


@pytest.fixture(autouse=True)
def quiet_log(request):
    """Fail a test in which Odoo's log has a warning or an error.

    A test that provokes one names it: ``@pytest.mark.expect_log("part of its text")``.
    """
    marker = request.node.get_closest_marker("expect_log")
    expected = marker.args if marker else ()
    handler = _Unexpected()
    logger = logging.getLogger("odoo")
    logger.addHandler(handler)
    yield
    logger.removeHandler(handler)
    surprising = [
        line for line in handler.records if not any(text in line for text in expected)
    ]
    assert surprising == []


class Clock:
    """A monotonic clock that stands until a test moves it."""

    now = 1000.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def lose_answers(monkeypatch):
    """Return a context in which nobody hears what the API server created."""
    from odoo.addons.vworkspace_push.kube._transport import Pool

    real_exchange = Pool.exchange

    def exchange(pool, *arguments, **keywords):
        answer = real_exchange(pool, *arguments, **keywords)
        if answer.status == 201:
            raise TimeoutError
        return answer

    @contextmanager
    def losing():
        with monkeypatch.context() as patched:
            patched.setattr(Pool, "exchange", exchange)
            yield

    return losing
