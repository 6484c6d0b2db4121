"""Applications whose status changes: what the figures of the status are measured on."""

import json
import time
from concurrent.futures import ThreadPoolExecutor

import urllib3

from environment.processes import wait_until

from .stack import MODEL

TIMEOUT = 300.0  # s
AT_ONCE = 8  # requests to the API server
COLLECTION = "/apis/apps.vworkspace.io/v1alpha1/namespaces/{}/applicationinstances"


class Fleet:
    """Deployed applications in a cluster of their own, and an operator's hand on them.

    :param name: of the cluster, and of its one namespace
    """

    def __init__(self, stack, name, count):
        self._stack = stack
        self.name = name
        self._path = COLLECTION.format(name)
        self.names = [f"{name}-{number}" for number in range(count)]
        self.cluster = stack.register(name, name)
        ids = stack.create_instances(self.cluster, self.names)
        stack.odoo.call(MODEL, "action_deploy", ids)
        wait_until(
            lambda: self._applied(ids) == count,
            what="all applications to be deployed",
            timeout=TIMEOUT,
            process=stack.odoo_process,
        )
        plane = stack.control_plane
        self._pool = urllib3.PoolManager(
            maxsize=AT_ONCE,
            ca_certs=str(plane.ca_file),
            headers={
                "Authorization": f"Bearer {plane.admin_token}",
                "Content-Type": "application/merge-patch+json",
            },
        )

    def close(self):
        """Delete the applications from the cluster; their records stay."""
        self._pool.clear()
        self._stack.control_plane.request("DELETE", self._path)

    def worker(self):
        """Return a watch worker of this cluster alone, not started yet."""
        return self._stack.watch_worker("--clusters", self.name)

    def _applied(self, ids):
        ((count,),) = self._stack.query(
            """SELECT count(*) FROM vworkspace_application_instance
                WHERE id = ANY(%s) AND delivery_state = 'applied'""",
            ids,
        )
        return count

    def report(self, name, number):
        """Write the status that is the `number`th, and return its resourceVersion."""
        answer = self._pool.request(
            "PATCH",
            f"{self._stack.control_plane.server}{self._path}/{name}/status",
            body=json.dumps({"status": status(number)}).encode(),
            retries=False,
        )
        if answer.status != 200:
            raise RuntimeError(answer.data[:500].decode())
        return answer.json()["metadata"]["resourceVersion"]

    def report_all(self, number):
        """Write a status of each, and return the resourceVersions by name."""
        with ThreadPoolExecutor(AT_ONCE) as threads:
            versions = threads.map(lambda name: self.report(name, number), self.names)
            return dict(zip(self.names, versions, strict=True))


def status(number):
    """Return the status of an application that is well at every other time."""
    is_well = number % 2 == 0
    since = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    spoken = [
        ("Ready", True, "Available", "All replicas are available."),
        ("Degraded", not is_well, "Replicas", f"Looked at {number} times."),
        ("Reconciling", False, "Idle", "Nothing is to be done."),
        ("Blocked", False, "Free", ""),
    ]
    return {
        "observedGeneration": 1,
        "conditions": [
            {
                "type": type_,
                "status": str(value),
                "reason": reason,
                "message": message,
                "lastTransitionTime": since,
            }
            for type_, value, reason, message in spoken
        ],
        "endpoints": [{"name": "web", "url": "https://web.example.com/"}],
        "lastReconcileTime": since,
    }
