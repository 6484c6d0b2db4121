"""What the figures are measured on: the same parts as the demo and the tests."""

import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path

from environment.control_plane import ControlPlane
from environment.demo import activate
from environment.odoo import OdooInstall
from environment.paths import ADDON
from environment.postgres import Postgres
from environment.processes import free_port
from environment.rpc import Rpc

DATABASE = "bench"
CLUSTER_ID = "bench-cluster"
NAMESPACE = "bench"


class Stack:
    """PostgreSQL as in production (durable), the API server, and an Odoo server."""

    def __enter__(self):
        with ExitStack() as stack:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            folder.chmod(0o755)
            postgres = Postgres(folder / "postgres", durable=True)
            stack.callback(postgres.stop)
            postgres.start()
            self.control_plane = ControlPlane(folder / "control-plane")
            stack.callback(self.control_plane.stop)
            self.control_plane.start()
            self.control_plane.install_definitions()
            self.control_plane.create_namespace(NAMESPACE)
            self.control_plane.grant([NAMESPACE])
            odoo = OdooInstall.ensure()
            odoo.prepare_database(postgres, DATABASE, demo=False)
            config = odoo.config_file(
                folder / "odoo" / "odoo.conf",
                postgres=postgres,
                data_dir=folder / "odoo",
                http_port=free_port(),
                gevent_port=free_port(),
            )
            server = odoo.server(config, DATABASE, log=folder / "odoo.log")
            stack.callback(server.stop)
            server.start()
            self.odoo = Rpc(server.url, DATABASE, login="admin", password="admin")  # noqa: S106
            self.cluster = self._register()
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *exc):
        self._stack.close()

    def _register(self):
        cluster = self.odoo.call(
            "vworkspace.cluster",
            "create",
            {
                "name": "Bench",
                "cluster_id": CLUSTER_ID,
                "server_url": self.control_plane.server,
                "ca_certificate": self.control_plane.ca_pem,
                "token": self.control_plane.service_account_token(),
                "namespace_ids": [(0, 0, {"name": NAMESPACE})],
            },
        )
        activate(self.odoo.call, cluster)
        return cluster


def import_kube():
    """Make `kube` importable: it is pure, and the addon's package imports Odoo."""
    if str(ADDON) not in sys.path:
        sys.path.append(str(ADDON))
