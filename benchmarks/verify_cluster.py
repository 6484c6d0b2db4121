"""A healthy cluster with ten namespaces: our checklist, beside what kubectl shows.

Ours is the wall time of `kube.verify.verify`: address, certificate, version, identity,
definitions, every right in every namespace, excess, admission by dry run, expiry. The
rival is `kubectl auth can-i --list` in each namespace, one process after the other: the
rights alone, to be read by a person.
"""

import statistics
import subprocess
import tempfile
import time
from pathlib import Path

from environment.control_plane_build import program
from environment.simulated_operator import SimulatedOperator

from .stack import CLUSTER_ID, import_kube

NAMESPACES = [f"verify-{number}" for number in range(10)]
RUNS = 5
TOKEN_SECONDS = 90 * 86400  # a healthy one does not expire soon


def measure_verify_cluster(stack):
    """Return the figure: median over RUNS, in s."""
    import_kube()
    from kube.resources import CLUSTER

    plane = stack.control_plane
    for name in NAMESPACES:
        plane.create_namespace(name)
    plane.grant(NAMESPACES)
    token = plane.service_account_token(seconds=TOKEN_SECONDS)
    with tempfile.TemporaryDirectory() as folder:
        operator = SimulatedOperator(plane, Path(folder), cluster_id=CLUSTER_ID)
        operator.start()
        try:
            kubeconfig = plane.kubeconfig(
                Path(folder) / "ours", token=token, user="vworkspace-control-plane"
            )
            pairs = [
                (_verify(plane, token), _kubectl(kubeconfig)) for _run in range(RUNS)
            ]
        finally:
            operator.stop()
            # It would say of every other cluster that it is this one.
            plane.request("DELETE", CLUSTER.collection_path(None))
    ours, rival = (statistics.median(side) for side in zip(*pairs, strict=True))
    return {
        "measure": "a cluster with 10 namespaces verified, median",
        "ours": ours,
        "rival": rival,
        "rival_name": "kubectl auth can-i --list in each namespace",
        "ratio": ours / rival,
        "unit": "s",
        "runs": RUNS,
    }


def _verify(plane, token):
    import_kube()
    from kube.connection import Connection, Settings
    from kube.verify import verify

    connection = Connection(
        Settings(server=plane.server, ca_pem=plane.ca_pem), token=lambda: token
    )
    started = time.perf_counter()
    checks = verify(connection, cluster_id=CLUSTER_ID, namespaces=NAMESPACES)
    seconds = time.perf_counter() - started
    connection.close()
    if wrong := [c for c in checks if c.state != "ok"]:
        raise RuntimeError(f"The cluster is not healthy: {wrong}")
    return seconds


def _kubectl(kubeconfig):
    started = time.perf_counter()
    for name in NAMESPACES:
        subprocess.run(
            [
                *(program("kubectl"), "--kubeconfig", kubeconfig),
                *("auth", "can-i", "--list", "-n", name),
            ],
            check=True,
            capture_output=True,
        )
    return time.perf_counter() - started
