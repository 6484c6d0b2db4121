"""The rights to grant, and what a server says of itself and of us."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

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


def _granted(manifests: list[dict[str, Any]], *, kind: str, name: str) -> set[str]:
    """Return the rights that the role `name` grants, as text."""
    (role,) = (
        m for m in manifests if (m["kind"], m["metadata"]["name"]) == (kind, name)
    )
    return {
        str(access.Right(verb, group, resource, object_name))
        for rule in role["rules"]
        for verb in rule["verbs"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for object_name in rule.get("resourceNames", [""])
    }


def test_reading_everywhere_and_renewal_are_granted_only_when_asked_for() -> None:
    manifests = access.rbac_manifests(
        namespaces=[], cluster_read=True, self_renewal=True
    )
    assert len(access.rbac_manifests(namespaces=[])) == len(manifests) - 4
    assert _granted(manifests, kind="ClusterRole", name=access.READ_ROLE) == {
        f"{verb} {what}"
        for verb in ("get", "list", "watch")
        for what in (
            "applicationinstances.apps.vworkspace.io",
            "operations.ops.vworkspace.io",
        )
    }
    assert _granted(manifests, kind="Role", name=access.RENEWAL_ROLE) == {
        "create serviceaccounts/token vworkspace-control-plane"
    }


@pytest.mark.parametrize("opted_in", [False, True])
def test_profile_states_what_the_manifests_grant(opted_in: bool) -> None:
    options = {"cluster_read": opted_in, "self_renewal": opted_in}
    manifests = access.rbac_manifests(namespaces=["shop"], **options)
    profile = access.Profile(**options)
    everywhere = _granted(manifests, kind="ClusterRole", name=access.CLUSTER_ROLE)
    home = set()
    if opted_in:
        everywhere |= _granted(manifests, kind="ClusterRole", name=access.READ_ROLE)
        home = _granted(manifests, kind="Role", name=access.RENEWAL_ROLE)
    here = _granted(manifests, kind="Role", name=access.SERVICE_ACCOUNT)
    assert set(map(str, profile.cluster_wide)) == everywhere
    assert set(map(str, profile.in_namespace("shop", gated=True))) == here
    system = access.OPERATOR_NAMESPACE
    assert set(map(str, profile.in_namespace(system, gated=False))) == home


def test_manifests_are_printed_as_yaml_without_aliases() -> None:
    manifests = access.rbac_manifests(namespaces=["one", "two"], self_renewal=True)
    text = access.to_yaml(manifests)
    assert list(yaml.safe_load_all(text)) == manifests
    assert "&" not in text
    assert text.startswith("apiVersion: v1\nkind: ServiceAccount\n")


def test_commands_label_grant_and_print_a_token() -> None:
    label, apply, token = access.commands(namespaces=["one", "two"], hours=48)
    assert label.command == "kubectl label namespace one two managed-by=vworkspace"
    assert apply.command == "kubectl apply -f vworkspace-rights.yaml"
    assert token.command == (
        "kubectl create token vworkspace-control-plane --namespace vworkspace-system "
        "--duration=48h"
    )


def test_long_lived_token_is_that_of_a_secret() -> None:
    made = access.commands(namespaces=["one"], long_lived=True)[2].command
    assert "kubernetes.io/service-account-token" in made
    assert made.endswith("\nEOF")
    assert "kubernetes.io/service-account.name: vworkspace-control-plane" in made


@pytest.mark.parametrize("name", ["a b", "a;id", "$(id)", "-n", "", "a\nb"])
def test_no_command_is_made_of_a_name_that_a_shell_would_run(name: str) -> None:
    with pytest.raises(ValueError, match="not a name"):
        access.commands(namespaces=[name])
