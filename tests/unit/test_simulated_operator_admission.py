"""The simulated operator's admission rules, one table per kind (contract §2, §4)."""

import copy
from typing import Any

import pytest

from environment.operator.admission import find_secrets, review

CAPABILITIES = {
    "ops.vworkspace.io/backup": "velero",
    "ops.vworkspace.io/restore": "velero",
    "ops.vworkspace.io/upgrade": "helm",
    "ops.vworkspace.io/migration": "helmHookJob",
    "ops.vworkspace.io/runcommand": "job",
    "ops.vworkspace.io/runbook": "workflow",
}
GATED = {"metadata": {"name": "demo", "labels": {"managed-by": "vworkspace"}}}
PLAIN = {"metadata": {"name": "demo"}}
INSTANCE = {
    "metadata": {
        "name": "shop",
        "namespace": "demo",
        "labels": {"app.vworkspace.io/cluster-id": "here"},
        "annotations": CAPABILITIES,
    },
    "spec": {
        "mode": "managed",
        "appRef": {"catalogId": "nginx"},
        "chart": {
            "sourceType": "oci",
            "url": "oci://registry.example/charts",
            "name": "nginx",
            "version": "1.2.3",
        },
        "release": {"name": "shop", "namespace": "demo"},
        "values": {"source": "inline", "inline": {"replicas": 2}},
    },
}
OPERATION = {
    "metadata": {"name": "backup-1", "namespace": "demo"},
    "spec": {
        "targetRef": {
            "apiVersion": "apps.vworkspace.io/v1alpha1",
            "kind": "ApplicationInstance",
            "name": "shop",
        },
        "type": "Backup",
        "engine": "velero",
        "parameters": {"retention": "30d"},
    },
}
PLACEHOLDER = {
    **INSTANCE,
    "spec": {"mode": "placeholder", "appRef": {"catalogId": "nginx"}},
}


def changed(obj: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """Return a copy with dotted paths set; None removes one."""
    obj = copy.deepcopy(obj)
    for path, value in changes.items():
        *parents, leaf = path.split(".")
        where = obj
        for parent in parents:
            where = where.setdefault(parent, {})
        if value is None:
            del where[leaf]
        else:
            where[leaf] = value
    return obj


def ask(
    kind: str,
    new: dict[str, Any],
    *,
    old: dict[str, Any] | None = None,
    namespace: dict[str, Any] | None = GATED,
    target: dict[str, Any] | None = INSTANCE,
) -> list[str]:
    request = {
        "kind": {"kind": kind},
        "namespace": "demo",
        "object": new,
        "oldObject": old,
    }
    return review(request, cluster_id="here", namespace=namespace, target=target)


def ask_instance(changes: dict[str, Any], **more: Any) -> list[str]:
    return ask("ApplicationInstance", changed(INSTANCE, changes), **more)


def ask_operation(changes: dict[str, Any], **more: Any) -> list[str]:
    return ask("Operation", changed(OPERATION, changes), **more)


# --- application instances ------------------------------------------------------------


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"spec.mode": None},
        {"metadata.labels": None},
        {"spec.chart.version": "1.2.3-rc.1+build.5"},
        {"spec.chart.sourceType": "helm", "spec.chart.url": "https://charts.example"},
        {
            "spec.values": {
                "source": "secretRef",
                "secretRef": {"name": "v", "key": "k"},
            }
        },
        {"spec.values.inline": {}},
        {"spec.values.inline": {"password": "", "token": "<set via externalSecret>"}},
        {"spec.integrations": {"ingress": {"enabled": False}}},
        {"spec.integrations": {"ingress": {"enabled": True, "host": "a.example"}}},
    ],
)
def test_admits_a_correct_instance(changes: dict[str, Any]) -> None:
    assert ask_instance(changes) == []


@pytest.mark.parametrize(
    ("changes", "fields"),
    [
        (
            {"metadata.labels": {"app.vworkspace.io/cluster-id": "there"}},
            ["metadata.labels[app.vworkspace.io/cluster-id]"],
        ),
        ({"spec.release.namespace": "other"}, ["spec.release.namespace"]),
        ({"spec.release": None}, ["spec.release"]),
        (
            {"spec.chart": None, "spec.values": None},
            ["spec.chart", "spec.values"],
        ),
        ({"spec.chart.sourceType": "git"}, ["spec.chart.sourceType"]),
        ({"spec.chart.url": "https://charts.example"}, ["spec.chart.url"]),
        ({"spec.chart.url": "oci://"}, ["spec.chart.url"]),
        ({"spec.chart.sourceType": "helm"}, ["spec.chart.url"]),
        ({"spec.chart.version": "latest"}, ["spec.chart.version"]),
        ({"spec.chart.version": "1.2"}, ["spec.chart.version"]),
        ({"spec.chart.version": "v1.2.3"}, ["spec.chart.version"]),
        ({"spec.chart.version": "^1.2.3"}, ["spec.chart.version"]),
        ({"spec.chart.version": "1.2.3\n"}, ["spec.chart.version"]),
        ({"spec.chart.version": "01.2.3"}, ["spec.chart.version"]),
        ({"spec.values.inline": None}, ["spec.values.inline"]),
        (
            {"spec.values.secretRef": {"name": "v", "key": "k"}},
            ["spec.values.secretRef"],
        ),
        (
            {"spec.values.source": "configMapRef"},
            ["spec.values.configMapRef", "spec.values.inline"],
        ),
        (
            {"spec.values.inline": {"db": {"rootPassword": "x"}}},
            ["spec.values.inline.db.rootPassword"],
        ),
        (
            {"spec.integrations": {"ingress": {"enabled": True}}},
            ["spec.integrations.ingress.host"],
        ),
        (
            {"spec.mode": "placeholder"},
            ["spec.chart", "spec.release", "spec.values"],
        ),
    ],
)
def test_refuses_an_instance_and_names_the_fields(
    changes: dict[str, Any], fields: list[str]
) -> None:
    assert [problem.split(": ")[0] for problem in ask_instance(changes)] == fields


@pytest.mark.parametrize("namespace", [PLAIN, None])
def test_refuses_a_namespace_without_the_gate(namespace: dict[str, Any] | None) -> None:
    (found,) = ask_instance({}, namespace=namespace)
    assert found.startswith('metadata.namespace: namespace "demo" is not managed')
    assert found.endswith("the label managed-by=vworkspace")


@pytest.mark.parametrize(
    ("value", "paths"),
    [
        ({"adminPassword": "x"}, ["v.adminPassword"]),
        ({"CLIENT_SECRET": "x"}, ["v.CLIENT_SECRET"]),
        ({"AccessKey": "x", "secretkey": "x"}, ["v.AccessKey", "v.secretkey"]),
        ({"apikey": "x", "TOKEN": "x"}, ["v.apikey", "v.TOKEN"]),
        ({"a": [{"token": "x"}]}, ["v.a[0].token"]),
        ({"password": ["", "x"]}, ["v.password[1]"]),
        ({"tls": "-----BEGIN EC PRIVATE KEY-----\nMA=="}, ["v.tls"]),
        ({"tls": "-----BEGIN PRIVATE KEY-----\nMA=="}, ["v.tls"]),
        ({"tls": "-----BEGIN CERTIFICATE-----\nMA=="}, []),
        ({"password": 5, "secret": True, "token": None}, []),
        ({"passwordFile": "/x", "tokenTtl": "1h", "myApiKey": "x"}, []),
        ({"existingSecret": ""}, []),
        ({"secret": {"name": "x"}}, []),
    ],
)
def test_finds_secret_material(value: dict[str, Any], paths: list[str]) -> None:
    assert list(find_secrets(value, path="v")) == paths


def test_never_quotes_a_secret() -> None:
    problems = ask_instance({"spec.values.inline": {"password": "hunter2"}})
    assert problems
    assert "hunter2" not in "".join(problems)


@pytest.mark.parametrize(
    ("field", "value"), [("name", "other"), ("namespace", "other")]
)
def test_release_is_immutable(field: str, value: str) -> None:
    old = changed(INSTANCE, {f"spec.release.{field}": value})
    problems = ask_instance({}, old=old)
    assert problems == [f'spec.release.{field}: immutable; it is "other"']


def test_becomes_a_placeholder_only_before_a_release_may_exist() -> None:
    started = changed(INSTANCE, {"status.observedGeneration": 1})
    assert ask("ApplicationInstance", PLACEHOLDER, old=INSTANCE) == []
    assert ask("ApplicationInstance", PLACEHOLDER, old=started) == [
        "spec.mode: cannot become placeholder once a release may exist"
    ]


def test_a_placeholder_can_become_managed() -> None:
    assert ask_instance({}, old=PLACEHOLDER) == []


def test_a_deletion_can_be_finished_whatever_became_of_the_namespace() -> None:
    deleted = changed(INSTANCE, {"metadata.deletionTimestamp": "2026-01-01T00:00:00Z"})
    edited = changed(deleted, {"spec.chart.version": "1.2.4"})
    kind = "ApplicationInstance"
    assert ask(kind, deleted, old=deleted, namespace=PLAIN) == []
    assert ask(kind, edited, old=deleted, namespace=PLAIN) != []


# --- operations -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("type", "engine", "parameters"),
    [
        ("Backup", "velero", {}),
        ("Backup", "velero", {"retention": "30d", "storageLocation": "s3"}),
        (
            "Restore",
            "velero",
            {"backupName": "b", "namespaceMapping": {"a": "b"}, "restorePVs": True},
        ),
        ("Upgrade", "helm", {"targetVersion": "2.0.0", "valuesPatch": {"a": 1}}),
        ("Migration", "helmHookJob", {"hookName": "h", "image": "i"}),
        (
            "RunCommand",
            "job",
            {"image": "i", "command": ["a"], "args": [], "activeDeadlineSeconds": 1},
        ),
        ("Runbook", "workflow", {"template": "t"}),
    ],
)
def test_admits_each_operation_template(
    type: str, engine: str, parameters: dict[str, Any]
) -> None:
    spec = {"spec.type": type, "spec.engine": engine, "spec.parameters": parameters}
    assert ask_operation(spec) == []


def test_a_missing_approval_does_not_refuse() -> None:
    assert ask_operation({"spec.approvals": {"required": True}}) == []


def run_command(parameters: dict[str, Any]) -> dict[str, Any]:
    return {
        "spec.type": "RunCommand",
        "spec.engine": "job",
        "spec.parameters": parameters,
    }


def restore(parameters: dict[str, Any]) -> dict[str, Any]:
    return {"spec.type": "Restore", "spec.parameters": parameters}


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"spec.engine": "volsync"}, "spec.engine: there is no operation of type"),
        ({"spec.parameters": {"x": "1"}}, "spec.parameters.x: unknown"),
        ({"spec.parameters": {"retention": 30}}, "spec.parameters.retention: must be"),
        (restore({}), "spec.parameters.backupName: required"),
        (restore({"backupName": ""}), "spec.parameters.backupName: must not be empty"),
        (
            restore({"backupName": "b", "namespaceMapping": {"a": 1}}),
            "spec.parameters.namespaceMapping: every item",
        ),
        (
            restore({"backupName": "b", "restorePVs": "yes"}),
            "spec.parameters.restorePVs: must be of type boolean",
        ),
        (
            run_command({"image": "i", "command": "ls"}),
            "spec.parameters.command: must be of type array",
        ),
        (
            run_command({"image": "i", "activeDeadlineSeconds": 0}),
            "spec.parameters.activeDeadlineSeconds: must be at least 1",
        ),
        (
            run_command({"image": "i", "activeDeadlineSeconds": True}),
            "spec.parameters.activeDeadlineSeconds: must be of type integer",
        ),
        ({"spec.targetRef.kind": "Deployment"}, "spec.targetRef: must name"),
    ],
)
def test_refuses_an_operation_and_names_the_field(
    changes: dict[str, Any], problem: str
) -> None:
    (found,) = ask_operation(changes)
    assert found.startswith(problem)


def test_refuses_a_target_that_does_not_exist() -> None:
    (found,) = ask_operation({}, target=None)
    assert found.startswith(
        'spec.targetRef.name: there is no ApplicationInstance "shop'
    )


@pytest.mark.parametrize("annotations", [{}, {"ops.vworkspace.io/backup": "volsync"}])
def test_refuses_a_target_without_the_capability(annotations: dict[str, str]) -> None:
    target = changed(INSTANCE, {"metadata.annotations": annotations})
    (found,) = ask_operation({}, target=target)
    assert "lacks the capability annotation ops.vworkspace.io/backup=velero" in found


@pytest.mark.parametrize(
    ("allowed", "admitted"),
    [("Backup", True), ("Restore, Backup", True), ("Restore", False), ("", False)],
)
def test_a_namespace_can_limit_the_types(allowed: str, admitted: bool) -> None:
    annotations = {"ops.vworkspace.io/allowed-types": allowed}
    namespace = changed(GATED, {"metadata.annotations": annotations})
    assert (ask_operation({}, namespace=namespace) == []) is admitted


@pytest.mark.parametrize(
    ("field", "value"),
    [("targetRef.name", "other"), ("type", "Restore"), ("engine", "helm")],
)
def test_what_an_operation_is_cannot_change(field: str, value: str) -> None:
    old = changed(OPERATION, {f"spec.{field}": value})
    assert f"spec.{field.split('.')[0]}: immutable" in ask_operation({}, old=old)


@pytest.mark.parametrize(
    ("phase", "admitted"), [("Pending", True), ("Running", False), ("Failed", False)]
)
def test_parameters_are_fixed_once_started(phase: str, admitted: bool) -> None:
    old = changed(OPERATION, {"status.phase": phase})
    problems = ask_operation({"spec.parameters": {"retention": "7d"}}, old=old)
    assert (problems == []) is admitted


def test_an_operation_outlives_its_target() -> None:
    assert ask_operation({}, old=OPERATION, target=None) == []
