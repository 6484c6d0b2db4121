"""The demo's content, entered into Odoo as its admin would enter it.

Speaks to the running Odoo over the web client's own RPC, so that the demo proves the
path that a person takes. Run again, it finds what is there and refreshes the address
and the token of the cluster alone.
"""

from collections.abc import Callable
from typing import Any

from .control_plane import ControlPlane
from .processes import wait_until
from .progress import Failure
from .rpc import Rpc

CLUSTER_ID = "demo-cluster"
LOGIN = PASSWORD = "admin"  # noqa: S105 - Odoo's own for a new database
GATED_NAMESPACES = ("demo", "staging")
PLAIN_NAMESPACE = "plain"
INSTANCE = "hello"
TOKEN_LIFETIME = 30 * 86400  # s; renewed by each run
VERIFICATION_TIMEOUT = 60.0  # s

INSTANCE_VALUES = {
    "name": INSTANCE,
    "catalog_id": "podinfo",
    "chart_source_type": "oci",
    "chart_url": "oci://registry.example.com/charts",
    "chart_name": "podinfo",
    "chart_version": "6.9.2",
    "release_name": INSTANCE,
    "values_yaml": "replicaCount: 1\nui:\n  message: Hello from Odoo\n",
}


def fill(url: str, database: str, control_plane: ControlPlane) -> None:
    """Register the demo cluster and deploy the first instance, if they are missing.

    :param url: of the running Odoo
    :raise Failure: with Odoo's own words
    """
    odoo = Rpc(url, database, login=LOGIN, password=PASSWORD)
    cluster = _cluster(odoo, control_plane)
    namespaces = odoo.call("vworkspace.cluster", "read", [cluster], ["namespace_ids"])
    namespace = odoo.call(
        "vworkspace.cluster.namespace",
        "search",
        [
            ("name", "=", GATED_NAMESPACES[0]),
            ("id", "in", namespaces[0]["namespace_ids"]),
        ],
    )[0]
    _instance(odoo, cluster, namespace)


def _cluster(odoo: Rpc, control_plane: ControlPlane) -> int:
    connection = {
        "server_url": control_plane.server,
        "ca_certificate": control_plane.ca_pem,
        "token": control_plane.service_account_token(seconds=TOKEN_LIFETIME),
    }
    model = "vworkspace.cluster"
    found = odoo.call(model, "search", [("cluster_id", "=", CLUSTER_ID)])
    if found:
        odoo.call(model, "write", found, connection)
    else:
        names = [(0, 0, {"name": name}) for name in GATED_NAMESPACES]
        new = {"name": "Demo", "cluster_id": CLUSTER_ID, "namespace_ids": names}
        found = odoo.call(model, "create", [{**new, **connection}])
    activate(odoo.call, found[0])
    return int(found[0])


def activate(call: Callable[..., Any], cluster: int) -> None:
    """Have a cluster's new credential verified, and activate it.

    :param call: calls a public method: model, method, arguments
    :raise Failure: the verification fails; with what it saw
    """
    model = "vworkspace.cluster"
    call(model, "action_verify", [cluster])
    wait_until(
        lambda: _read(call, cluster, "verification_state") not in ("none", "running"),
        what="the verification of the cluster",
        timeout=VERIFICATION_TIMEOUT,
    )
    if _read(call, cluster, "verification_state") != "passed":
        failed = [("cluster_id", "=", cluster), ("state", "=", "failed")]
        seen = call(
            "vworkspace.cluster.check", "search_read", failed, ["title", "seen"]
        )
        raise Failure(f"The cluster's verification failed: {seen}")
    call(model, "action_activate", [cluster])


def _read(call: Callable[..., Any], cluster: int, field: str) -> Any:
    return call("vworkspace.cluster", "read", [cluster], [field])[0][field]


def _instance(odoo: Rpc, cluster: int, namespace: int) -> None:
    model = "vworkspace.application.instance"
    known = [("cluster_id", "=", cluster), ("name", "=", INSTANCE)]
    if odoo.call(model, "search", known):
        return
    values = {**INSTANCE_VALUES, "cluster_id": cluster, "namespace_id": namespace}
    created = odoo.call(model, "create", [values])
    odoo.call(model, "action_deploy", created)
