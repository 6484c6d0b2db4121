"""What the connector may do in a cluster, and what a server says of itself and of us.

The manifests grant exactly the rights of contract §5 and nothing else, and a `Profile`
states the same as single rights, to compare with what a credential really has. RBAC
cannot select namespaces by label, hence one Role and RoleBinding for each.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import yaml

from .connection import Connection
from .errors import InvalidResponse, NotFound, bounded
from .resources import APPLICATION_INSTANCE, CLUSTER, GATE_LABEL, OPERATION, Resource

SERVICE_ACCOUNT = "vworkspace-control-plane"
OPERATOR_NAMESPACE = "vworkspace-system"
CLUSTER_ROLE = "vworkspace-control-plane-clusters"
READ_ROLE = "vworkspace-control-plane-read"
RENEWAL_ROLE = "vworkspace-control-plane-renewal"
TOKEN_SECRET = "vworkspace-control-plane-token"  # noqa: S105 the name of a Secret

_RBAC = "rbac.authorization.k8s.io"
_WRITE = ["create", "get", "list", "watch", "patch", "update", "delete"]
_READ = ["get", "list", "watch"]


# === RIGHTS === #


class Right(NamedTuple):
    """One verb on one kind of object; "*" is any."""

    verb: str
    group: str
    resource: str  # plural, with its subresource: "pods/exec"
    name: str = ""  # of the one object that it is about, empty for all

    def __str__(self) -> str:
        resource = f"{self.resource}.{self.group}" if self.group else self.resource
        return f"{self.verb} {resource}{f' {self.name}' if self.name else ''}"


@dataclass(frozen=True, kw_only=True)
class Profile:
    """The rights that the connector should have: contract §5 and what is opted in.

    :param cluster_read: it may read our objects in all namespaces
    :param self_renewal: it may renew its own token
    """

    cluster_read: bool = False
    self_renewal: bool = False
    service_account: str = SERVICE_ACCOUNT
    service_account_namespace: str = OPERATOR_NAMESPACE

    @property
    def cluster_wide(self) -> frozenset[Right]:
        """What it may do in all namespaces, and to objects without one."""
        resources = [CLUSTER]
        if self.cluster_read:
            resources += [APPLICATION_INSTANCE, OPERATION]
        return _rights(resources, _READ)

    def in_namespace(self, namespace: str, *, gated: bool) -> frozenset[Right]:
        """Return what it may do in a namespace by a Role there.

        :param gated: the connector may write to it
        """
        rights: frozenset[Right] = frozenset()
        if gated:
            rights |= _rights([APPLICATION_INSTANCE, OPERATION], _WRITE)
        if self.self_renewal and namespace == self.service_account_namespace:
            rights |= {self.renewal}
        return rights

    @property
    def renewal(self) -> Right:
        return Right("create", "", "serviceaccounts/token", self.service_account)


def _rights(resources: Iterable[Resource], verbs: Iterable[str]) -> frozenset[Right]:
    return frozenset(
        Right(verb, resource.group, resource.plural)
        for resource in resources
        for verb in verbs
    )


# === RIGHTS TO GRANT === #


def rbac_manifests(
    *,
    namespaces: Sequence[str],
    service_account: str = SERVICE_ACCOUNT,
    service_account_namespace: str = OPERATOR_NAMESPACE,
    cluster_read: bool = False,
    self_renewal: bool = False,
) -> list[dict[str, Any]]:
    """Return what a cluster's admin applies to grant the rights of contract §5.

    :param namespaces: the gated ones that the connector may write to
    :param cluster_read: let it read our objects in all namespaces as well
    :param self_renewal: let it renew its own token, which includes tokens that live
        for years, unless the API server limits them
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
    manifests += _role_and_binding(
        "ClusterRole", {"name": CLUSTER_ROLE}, [_rule(CLUSTER, _READ)], subject
    )
    if cluster_read:
        rules = [_rule(APPLICATION_INSTANCE, _READ), _rule(OPERATION, _READ)]
        manifests += _role_and_binding(
            "ClusterRole", {"name": READ_ROLE}, rules, subject
        )
    if self_renewal:
        name = {"name": RENEWAL_ROLE, "namespace": service_account_namespace}
        manifests += _role_and_binding(
            "Role", name, [_renewal_rule(service_account)], subject
        )
    return manifests


def to_yaml(manifests: Iterable[Mapping[str, Any]]) -> str:
    """Return manifests as one YAML text of several documents, as kubectl reads it."""
    return "---\n".join(
        yaml.dump(dict(manifest), Dumper=_PlainDumper, sort_keys=False)
        for manifest in manifests
    )


class _PlainDumper(yaml.SafeDumper):
    """Writes what occurs twice twice: aliases are hard to read."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


class Command(NamedTuple):
    """One thing that a cluster's admin does with kubectl."""

    title: str
    command: str


def commands(
    *,
    namespaces: Sequence[str],
    service_account: str = SERVICE_ACCOUNT,
    service_account_namespace: str = OPERATOR_NAMESPACE,
    hours: int = 720,
    long_lived: bool = False,
    file: str = "vworkspace-rights.yaml",
) -> list[Command]:
    """Return what a cluster's admin runs: gate, grant, and print a token.

    :param namespaces: to label as gated
    :param hours: lifetime of a bound token
    :param long_lived: a token that lives until its Secret is deleted, instead
    :param file: in which the manifests were saved
    :raise ValueError: a name is none that Kubernetes knows; it would be run by a shell
    """
    for name in (*namespaces, service_account, service_account_namespace, file):
        if not re.fullmatch(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,252})", name):
            raise ValueError(f"{name!r} is not a name in Kubernetes.")
    key, value = GATE_LABEL
    found = [
        Command(
            "Let the connector work in these namespaces",
            f"kubectl label namespace {' '.join(namespaces)} {key}={value}",
        ),
        Command("Grant the rights", f"kubectl apply -f {file}"),
    ]
    where = f"--namespace {service_account_namespace}"
    if not long_lived:
        command = f"kubectl create token {service_account} {where} --duration={hours}h"
        return [*found, Command(f"Print a token for {hours} hours", command)]
    manifest = to_yaml([_token_secret(service_account, service_account_namespace)])
    return [
        *found,
        Command(
            "Make a token without an end",
            f"kubectl apply -f - <<'EOF'\n{manifest}EOF",
        ),
        Command(
            "Print it",
            f"kubectl get secret {TOKEN_SECRET} {where} "
            "-o jsonpath='{.data.token}' | base64 --decode",
        ),
    ]


def _token_secret(service_account: str, namespace: str) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {
            "name": TOKEN_SECRET,
            "namespace": namespace,
            "annotations": {"kubernetes.io/service-account.name": service_account},
        },
        "type": "kubernetes.io/service-account-token",
    }


def _rule(resource: Resource, verbs: list[str]) -> dict[str, Any]:
    return {
        "apiGroups": [resource.group],
        "resources": [resource.plural],
        "verbs": list(verbs),
    }


def _renewal_rule(service_account: str) -> dict[str, Any]:
    return {
        "apiGroups": [""],
        "resources": ["serviceaccounts/token"],
        "resourceNames": [service_account],
        "verbs": ["create"],
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

KINDS = (APPLICATION_INSTANCE, OPERATION, CLUSTER)
MAX_VERSIONS = 16


@dataclass(frozen=True)
class User:
    """Who a server says that we are."""

    name: str
    groups: tuple[str, ...]


@dataclass(frozen=True)
class ServedKind:
    """One of our kinds, as a server has it."""

    resource: Resource
    versions: tuple[str, ...]  # of its group, the server's favourite first
    served: bool  # in the version that we use


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
    user = server_user(connection)
    plurals = {
        api_version: _served_plurals(connection, api_version)
        for api_version in dict.fromkeys(kind.api_version for kind in KINDS)
    }
    served = [k.kind for k in KINDS if k.plural in plurals[k.api_version]]
    return Report(
        server_version=version,
        username=user.name,
        groups=user.groups,
        served=tuple(served),
        missing=tuple(k.kind for k in KINDS if k.kind not in served),
    )


def server_user(connection: Connection) -> User:
    """Ask a server who we are.

    :raise Unauthorized: the credential is not accepted
    """
    api_version = "authentication.k8s.io/v1"
    review = connection.request(
        "POST",
        f"/apis/{api_version}/selfsubjectreviews",
        body={"apiVersion": api_version, "kind": "SelfSubjectReview"},
    ).data
    user = _member(_member(review, "status"), "userInfo")
    groups = _member(user, "groups")
    return User(
        name=bounded(_member(user, "username"), 253),
        groups=tuple(
            bounded(group, 253)
            for group in (groups if isinstance(groups, list) else ())
        ),
    )


def served_kinds(connection: Connection) -> tuple[ServedKind, ...]:
    """Ask a server for our kinds and the versions of their groups."""
    groups = dict.fromkeys(kind.group for kind in KINDS)
    versions = {group: _versions(connection, group) for group in groups}
    plurals = {
        api_version: _served_plurals(connection, api_version)
        for api_version in dict.fromkeys(kind.api_version for kind in KINDS)
    }
    return tuple(
        ServedKind(
            resource=kind,
            versions=versions[kind.group],
            served=kind.plural in plurals[kind.api_version],
        )
        for kind in KINDS
    )


def _server_version(connection: Connection) -> str:
    data = connection.request("GET", "/version").data
    version = bounded(_member(data, "gitVersion"), 64)
    if not version:
        raise InvalidResponse("The server does not tell a Kubernetes version.")
    return version


def _versions(connection: Connection, group: str) -> tuple[str, ...]:
    try:
        data = connection.request("GET", f"/apis/{group}").data
    except NotFound:
        return ()
    versions = _member(data, "versions")
    entries = versions[:MAX_VERSIONS] if isinstance(versions, list) else []
    return tuple(bounded(_member(entry, "version"), 63) for entry in entries)


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
