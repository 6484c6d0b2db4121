"""What the figures are measured on: the same parts as the demo and the tests."""

import secrets
import select
import sys
import tempfile
import time
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
MODEL = "vworkspace.application.instance"
SILENCE = 0.5  # s without a commit until it is looked all the same
CREATED_AT_ONCE = 250  # records of one call: each call stays far below its time limit

VALUES = """\
replicaCount: 2
image:
  repository: registry.example.com/shop/web
  tag: "{tag}"
  pullPolicy: IfNotPresent
service:
  type: ClusterIP
  port: 8080
  annotations:
    prometheus.io/scrape: "true"
    prometheus.io/port: "9090"
resources:
  requests: {{cpu: 100m, memory: 128Mi}}
  limits: {{cpu: 500m, memory: 256Mi}}
autoscaling:
  enabled: true
  minReplicas: 2
  maxReplicas: 6
  targetCPUUtilizationPercentage: 75
livenessProbe:
  httpGet: {{path: /healthz, port: http}}
  initialDelaySeconds: 10
readinessProbe:
  httpGet: {{path: /readyz, port: http}}
  periodSeconds: 5
env:
  - {{name: LOG_LEVEL, value: info}}
  - {{name: DATABASE_HOST, value: postgres.shop.svc}}
  - {{name: CACHE_URL, value: "redis://redis.shop.svc:6379/0"}}
persistence:
  enabled: true
  size: 10Gi
  storageClass: standard
nodeSelector:
  kubernetes.io/arch: amd64
tolerations:
  - {{key: workload, operator: Equal, value: shop, effect: NoSchedule}}
podLabels:
  team: shop
  cost-centre: "4711"
"""


class Stack:
    """PostgreSQL as in production (durable), the API server, and an Odoo server."""

    def __enter__(self):
        with ExitStack() as stack:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            folder.chmod(0o755)
            self.postgres = postgres = Postgres(folder / "postgres", durable=True)
            stack.callback(postgres.stop)
            postgres.start()
            self.control_plane = ControlPlane(folder / "control-plane")
            stack.callback(self.control_plane.stop)
            self.control_plane.start()
            self.control_plane.install_definitions()
            odoo = OdooInstall.ensure()
            odoo.prepare_database(postgres, DATABASE, demo=False)
            config = odoo.config_file(
                folder / "odoo" / "odoo.conf",
                postgres=postgres,
                data_dir=folder / "odoo",
                http_port=free_port(),
                gevent_port=free_port(),
            )
            self.odoo_log = folder / "odoo.log"
            server = odoo.server(config, DATABASE, log=self.odoo_log)
            stack.callback(server.stop)
            server.start()
            self.odoo_process = server.process
            self._install, self._config, self._folder = odoo, config, folder
            self.odoo = Rpc(server.url, DATABASE, login="admin", password="admin")  # noqa: S106
            self.cluster = self.register(CLUSTER_ID, NAMESPACE)
            self._rows = postgres.connect(DATABASE)
            self._rows.autocommit = True
            stack.callback(self._rows.close)
            self._commits = postgres.connect("postgres")
            self._commits.autocommit = True
            stack.callback(self._commits.close)
            with self._commits.cursor() as cursor:
                cursor.execute("LISTEN imbus")  # the channel of Odoo's bus
            # It does the worker's work wherever none is at work.
            self.switch_off("ir_cron_status")
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *exc):
        self._stack.close()

    def watch_worker(self, *options):
        """Return a watch worker of the database, not started yet."""
        log = self._folder / "watch.log"
        return self._install.watch_worker(self._config, DATABASE, *options, log=log)

    def switch_off(self, cron):
        """Have one of the addon's crons not run any more."""
        known = [("module", "=", "vworkspace_push"), ("name", "=", cron)]
        (row,) = self.odoo.call("ir.model.data", "search_read", known, ["res_id"])
        # Past Odoo, which refuses it while the cron runs; this waits for its end.
        self.execute("UPDATE ir_cron SET active = FALSE WHERE id = %s", row["res_id"])

    def dsn(self):
        """Return how another program connects to Odoo's database."""
        return self._rows.dsn

    def query(self, query, *values):
        """Return the rows of a query on Odoo's database, past Odoo."""
        with self._rows.cursor() as cursor:
            cursor.execute(query, values)
            return cursor.fetchall()

    def execute(self, statement, *values):
        """Run a statement without an answer on Odoo's database, past Odoo."""
        with self._rows.cursor() as cursor:
            cursor.execute(statement, values or None)

    def wait_for_commits(self, condition, *, what, timeout):
        """Wait until `condition()` holds, which Odoo's commits bring about.

        It looks whenever Odoo tells open views of one, which disturbs what is measured
        less than to look all the time.

        :param timeout: s
        :raise RuntimeError: it does not hold in time
        """
        deadline = time.monotonic() + timeout
        while not condition():
            if time.monotonic() > deadline or not self.odoo_process.running:
                raise RuntimeError(f"Waited in vain for {what}.")
            select.select([self._commits], [], [], SILENCE)
            self._commits.poll()
            self._commits.notifies.clear()

    def register(self, cluster_id, namespace, *, server=None):
        """Register the control plane as a cluster, and return the record's id.

        :param server: another way to it than its own address
        """
        plane = self.control_plane
        plane.create_namespace(namespace)
        plane.grant([namespace])
        cluster = self.odoo.call(
            "vworkspace.cluster",
            "create",
            {
                "name": cluster_id,
                "cluster_id": cluster_id,
                "server_url": server or plane.server,
                "ca_certificate": plane.ca_pem,
                "token": plane.service_account_token(),
                "namespace_ids": [(0, 0, {"name": namespace})],
            },
        )
        activate(self.odoo.call, cluster)
        return cluster

    def create_instances(self, cluster, names):
        """Create draft applications in a cluster's namespace and return their ids."""
        (namespace,) = self.odoo.call(
            "vworkspace.cluster.namespace", "search", [("cluster_id", "=", cluster)]
        )
        drafts = [
            {
                "name": name,
                "cluster_id": cluster,
                "namespace_id": namespace,
                "catalog_id": "bench",
                "chart_url": "oci://registry.example.com/charts",
                "chart_name": "bench",
                "chart_version": "1.0.0",
                "values_yaml": values(),
            }
            for name in names
        ]
        created = []
        for start in range(0, len(drafts), CREATED_AT_ONCE):
            part = drafts[start : start + CREATED_AT_ONCE]
            created += self.odoo.call(MODEL, "create", part)
        return created


def values():
    """Return a values document of a usual size, 1 KB, unlike any before."""
    return VALUES.format(tag=secrets.token_hex(8))


def import_kube():
    """Make `kube` importable: it is pure, and the addon's package imports Odoo."""
    if str(ADDON) not in sys.path:
        sys.path.append(str(ADDON))
