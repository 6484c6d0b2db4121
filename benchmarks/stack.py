"""What the figures are measured on: the same parts as the demo and the tests."""

import tempfile
from contextlib import ExitStack
from pathlib import Path

import requests

from environment.control_plane import ControlPlane
from environment.odoo import OdooInstall
from environment.postgres import Postgres
from environment.processes import free_port

DATABASE = "bench"
CLUSTER_ID = "bench-cluster"
NAMESPACE = "bench"
TIMEOUT = (5.0, 120.0)  # s


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
            self.odoo = Rpc(server.url)
            self.cluster = self._register()
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *exc):
        self._stack.close()

    def _register(self):
        return self.odoo.call(
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


class Rpc:
    """A web client's session, as admin."""

    def __init__(self, url):
        self._url = url
        self._session = requests.Session()
        self._session.trust_env = False
        self._post(
            "/web/session/authenticate",
            {"db": DATABASE, "login": "admin", "password": "admin"},
        )

    def call(self, model, method, *args):
        return self._post(
            f"/web/dataset/call_kw/{model}/{method}",
            {"model": model, "method": method, "args": args, "kwargs": {}},
        )

    def _post(self, path, params):
        answer = self._session.post(
            f"{self._url}{path}",
            json={"jsonrpc": "2.0", "method": "call", "params": params},
            timeout=TIMEOUT,
        ).json()
        if "error" in answer:
            raise RuntimeError(answer["error"]["data"]["message"])
        return answer["result"]
