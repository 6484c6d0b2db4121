"""What the connector may do in a cluster, and what a server says of itself and of us.

The manifests grant exactly the rights of contract §5 and nothing else. RBAC cannot
select namespaces by label, hence one Role and RoleBinding for each.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .connection import Connection
from .errors import InvalidResponse, NotFound, bounded
from .resources import APPLICATION_INSTANCE, CLUSTER, OPERATION, Resource

SERVICE_ACCOUNT = "vworkspace-control-plane"
OPERATOR_NAMESPACE = "vworkspace-system"
CLUSTER_ROLE = "vworkspace-control-plane-clusters"

_RBAC = "rbac.authorization.k8s.io"
_WRITE = ["create", "get", "list", "watch", "patch", "update", "delete"]
_READ = ["get", "list", "watch"]


# === RIGHTS TO GRANT === #


def rbac_manifests(
    *,
    namespaces: Sequence[str],
    service_account: str = SERVICE_ACCOUNT,
    service_account_namespace: str = OPERATOR_NAMESPACE,
) -> list[dict[str, Any]]:
    """Return what a cluster's admin applies to grant the rights of contract §5.

    :param namespaces: the gated ones that the connector may write to
    """
    subject = {
        "kind": "ServiceAccount",
        "name": service_account,
        "namespace": service_account_namespace,
    }
    account = {
        "apiVersion": "v1",
        "kind": "ServiceAccount",
        "metadata": {"name": service_account, "namespace": service_account_namespace},
    }
    manifests: list[dict[str, Any]] = [account]
    for namespace in namespaces:
        name = {"name": service_account, "namespace": namespace}
        rules = [_rule(APPLICATION_INSTANCE, _WRITE), _rule(OPERATION, _WRITE)]
        manifests += _role_and_binding("Role", name, rules, subject)
    return manifests + _role_and_binding(
        "ClusterRole", {"name": CLUSTER_ROLE}, [_rule(CLUSTER, _READ)], subject
    )


def _rule(resource: Resource, verbs: list[str]) -> dict[str, Any]:
    return {
        "apiGroups": [resource.group],
        "resources": [resource.plural],
        "verbs": list(verbs),
    }


def _role_and_binding(
    kind: str,
    metadata: Mapping[str, str],
    rules: list[dict[str, Any]],
    subject: Mapping[str, str],
) -> list[dict[str, Any]]:
    return [
        {
            "apiVersion": f"{_RBAC}/v1",
            "kind": kind,
            "metadata": dict(metadata),
            "rules": rules,
        },
        {
            "apiVersion": f"{_RBAC}/v1",
            "kind": f"{kind}Binding",
            "metadata": dict(metadata),
            "roleRef": {"apiGroup": _RBAC, "kind": kind, "name": metadata["name"]},
            "subjects": [dict(subject)],
        },
    ]


# === INSPECTION === #


@dataclass(frozen=True)
class Report:
    """What a server said of itself and of us."""

    server_version: str  # such as "v1.37.2"
    username: str
    groups: tuple[str, ...]
    served: tuple[str, ...]  # our kinds that it serves
    missing: tuple[str, ...]  # our kinds that it does not


def inspect(connection: Connection) -> Report:
    """Ask a server for its version, for who we are, and for our kinds.

    :raise Unauthorized: the token is not accepted
    :raise KubeError: the server cannot be reached or is not an API server
    """
    version = _server_version(connection)
    user = _user(connection)
    kinds = [APPLICATION_INSTANCE, OPERATION, CLUSTER]
    plurals = {
        api_version: _served_plurals(connection, api_version)
        for api_version in dict.fromkeys(kind.api_version for kind in kinds)
    }
    served = [k.kind for k in kinds if k.plural in plurals[k.api_version]]
    groups = user.get("groups")
    return Report(
        server_version=version,
        username=bounded(user.get("username"), 253),
        groups=tuple(
            bounded(group, 253)
            for group in (groups if isinstance(groups, list) else ())
        ),
        served=tuple(served),
        missing=tuple(k.kind for k in kinds if k.kind not in served),
    )


def _server_version(connection: Connection) -> str:
    data = connection.request("GET", "/version").data
    version = bounded(_member(data, "gitVersion"), 64)
    if not version:
        raise InvalidResponse("The server does not tell a Kubernetes version.")
    return version


def _user(connection: Connection) -> Mapping[str, Any]:
    api_version = "authentication.k8s.io/v1"
    review = connection.request(
        "POST",
        f"/apis/{api_version}/selfsubjectreviews",
        body={"apiVersion": api_version, "kind": "SelfSubjectReview"},
    ).data
    user = _member(_member(review, "status"), "userInfo")
    return user if isinstance(user, dict) else {}


def _served_plurals(connection: Connection, api_version: str) -> frozenset[str]:
    try:
        data = connection.request("GET", f"/apis/{api_version}").data
    except NotFound:
        return frozenset()
    resources = _member(data, "resources")
    entries = resources if isinstance(resources, list) else []
    return frozenset(str(_member(entry, "name")) for entry in entries)


def _member(data: Any, key: str) -> Any:
    return data.get(key) if isinstance(data, dict) else None
