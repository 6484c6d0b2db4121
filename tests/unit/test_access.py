"""The rights to grant, and what a server says of itself and of us."""

from __future__ import annotations

from typing import Any

import pytest

from kube import access, errors
from kube.connection import Connection
from tests.unit.fakes import Answer, FakeServer

REVIEWS = "/apis/authentication.k8s.io/v1/selfsubjectreviews"
APPS = "/apis/apps.vworkspace.io/v1alpha1"
OPS = "/apis/ops.vworkspace.io/v1alpha1"


def _json(body: Any, code: int = 200) -> Answer:
    return lambda handler: handler.reply(body, status=code)


@pytest.fixture
def cluster(server: FakeServer) -> FakeServer:
    user = {"username": "system:serviceaccount:vworkspace-system:x", "groups": ["a"]}
    server.on("/version", _json({"gitVersion": "v1.37.2"}))
    server.on(REVIEWS, _json({"status": {"userInfo": user}}, 201))
    server.on(
        APPS,
        _json(
            {
                "resources": [
                    {"name": "applicationinstances"},
                    {"name": "applicationinstances/status"},
                ]
            }
        ),
    )
    server.on(OPS, _json({"resources": [{"name": "operations"}, {"name": "clusters"}]}))
    return server


def test_report_says_who_and_what(cluster: FakeServer, connection: Connection) -> None:
    assert access.inspect(connection) == access.Report(
        server_version="v1.37.2",
        username="system:serviceaccount:vworkspace-system:x",
        groups=("a",),
        served=("ApplicationInstance", "Operation", "Cluster"),
        missing=(),
    )


def test_missing_definitions_are_collected(
    cluster: FakeServer, connection: Connection
) -> None:
    cluster.on(APPS)
    cluster.on(OPS, _json({"resources": [{"name": "clusters"}]}))
    report = access.inspect(connection)
    assert report.served == ("Cluster",)
    assert report.missing == ("ApplicationInstance", "Operation")


def test_refused_token_is_raised(cluster: FakeServer, connection: Connection) -> None:
    cluster.on(REVIEWS, _json({}, 401))
    with pytest.raises(errors.Unauthorized):
        access.inspect(connection)


@pytest.mark.parametrize("answer", [{}, [], {"gitVersion": 5}])
def test_other_service_is_told_from_an_api_server(
    cluster: FakeServer, connection: Connection, answer: Any
) -> None:
    cluster.on("/version", _json(answer))
    with pytest.raises(errors.InvalidResponse):
        access.inspect(connection)


def test_manifests_grant_the_contract_and_nothing_else() -> None:
    manifests = access.rbac_manifests(namespaces=["one", "two"])
    assert [(m["kind"], m["metadata"].get("namespace")) for m in manifests] == [
        ("ServiceAccount", "vworkspace-system"),
        ("Role", "one"),
        ("RoleBinding", "one"),
        ("Role", "two"),
        ("RoleBinding", "two"),
        ("ClusterRole", None),
        ("ClusterRoleBinding", None),
    ]
    write = ["create", "get", "list", "watch", "patch", "update", "delete"]
    assert manifests[1]["rules"] == [
        {
            "apiGroups": ["apps.vworkspace.io"],
            "resources": ["applicationinstances"],
            "verbs": write,
        },
        {
            "apiGroups": ["ops.vworkspace.io"],
            "resources": ["operations"],
            "verbs": write,
        },
    ]
    assert manifests[5]["rules"] == [
        {
            "apiGroups": ["ops.vworkspace.io"],
            "resources": ["clusters"],
            "verbs": ["get", "list", "watch"],
        }
    ]


def test_bindings_point_at_their_role_and_at_the_account() -> None:
    manifests = access.rbac_manifests(
        namespaces=["one"],
        service_account="sa",
        service_account_namespace="ns",
    )
    for role, binding in (manifests[1:3], manifests[3:5]):
        assert binding["roleRef"]["kind"] == role["kind"]
        assert binding["roleRef"]["name"] == role["metadata"]["name"]
        assert binding["subjects"] == [
            {"kind": "ServiceAccount", "name": "sa", "namespace": "ns"}
        ]
