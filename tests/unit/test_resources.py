"""Manifests, the checks that admission would make, and what a cluster reports."""

from __future__ import annotations

import copy
import dataclasses
import json
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kube import resources
from kube.resources import APPLICATION_INSTANCE, CLUSTER, OPERATION


def _manifest(**changes: Any) -> dict[str, Any]:
    arguments: dict[str, Any] = {
        "name": "web",
        "namespace": "demo",
        "cluster_id": "c-1",
        "catalog_id": "nginx",
        "chart": {
            "source_type": "oci",
            "url": "oci://registry.example/charts",
            "name": "nginx",
            "version": "1.2.3",
        },
        "release_name": "web",
        "values": {"replicas": 2},
    }
    return resources.application_instance(**(arguments | changes))


def _chart(**changes: Any) -> dict[str, Any]:
    chart = {
        "source_type": "oci",
        "url": "oci://registry.example/charts",
        "name": "nginx",
        "version": "1.2.3",
    }
    return chart | changes


# === KINDS === #


def test_paths_are_those_of_the_api() -> None:
    base = "/apis/apps.vworkspace.io/v1alpha1"
    assert APPLICATION_INSTANCE.path("web", "demo") == (
        f"{base}/namespaces/demo/applicationinstances/web"
    )
    assert APPLICATION_INSTANCE.collection_path(None) == f"{base}/applicationinstances"
    assert OPERATION.collection_path("demo") == (
        "/apis/ops.vworkspace.io/v1alpha1/namespaces/demo/operations"
    )
    assert CLUSTER.path("c1", None) == "/apis/ops.vworkspace.io/v1alpha1/clusters/c1"
    assert CLUSTER.api_version == "ops.vworkspace.io/v1alpha1"


@given(st.text(min_size=1, max_size=20), st.text(min_size=1, max_size=20))
def test_no_name_leaves_its_place_in_the_path(name: str, namespace: str) -> None:
    if name in (".", "..") or namespace in (".", ".."):
        with pytest.raises(ValueError, match="not the name"):
            APPLICATION_INSTANCE.path(name, namespace)
    else:
        path = APPLICATION_INSTANCE.path(name, namespace)
        assert path.count("/") == 7
        assert not set("?#") & set(path)


@pytest.mark.parametrize(("name", "namespace"), [("", "demo"), ("web", None)])
def test_incomplete_address_is_refused(name: str, namespace: str | None) -> None:
    with pytest.raises(ValueError, match=r"\."):
        APPLICATION_INSTANCE.path(name, namespace)


# === MANIFESTS === #


def test_manifest_carries_only_what_we_own() -> None:
    assert _manifest() == {
        "apiVersion": "apps.vworkspace.io/v1alpha1",
        "kind": "ApplicationInstance",
        "metadata": {
            "name": "web",
            "namespace": "demo",
            "labels": {
                "app.vworkspace.io/managed-by": "control-plane",
                "app.vworkspace.io/cluster-id": "c-1",
            },
        },
        "spec": {
            "appRef": {"catalogId": "nginx"},
            "chart": {
                "sourceType": "oci",
                "url": "oci://registry.example/charts",
                "name": "nginx",
                "version": "1.2.3",
            },
            "release": {"name": "web", "namespace": "demo"},
            "values": {"source": "inline", "inline": {"replicas": 2}},
        },
    }


def test_values_arrive_as_written() -> None:
    values = {"remove": None, "list": [None, 1], "empty": {}}
    assert _manifest(values=values)["spec"]["values"]["inline"] == values
    assert _manifest(values=None)["spec"]["values"]["inline"] == {}


def test_placeholder_carries_no_chart_release_or_values() -> None:
    manifest = _manifest(mode="placeholder")
    assert manifest["spec"] == {
        "appRef": {"catalogId": "nginx"},
        "mode": "placeholder",
    }


@pytest.mark.parametrize("source", ["secretRef", "configMapRef"])
def test_values_by_reference_carry_the_matching_sibling_alone(source: str) -> None:
    manifest = _manifest(
        values_source=source, values_ref={"name": "web-values", "key": "values.yaml"}
    )
    assert manifest["spec"]["values"] == {
        "source": source,
        source: {"name": "web-values", "key": "values.yaml"},
    }


@pytest.mark.parametrize(
    ("wanted", "sent"),
    [
        ({"external_secrets": True}, {"externalSecrets": {"enabled": True}}),
        ({"cert_manager": True}, {"certManager": {"enabled": True}}),
        ({"ingress_host": "a.b"}, {"ingress": {"enabled": True, "host": "a.b"}}),
        ({"ingress": True}, {"ingress": {"enabled": True, "host": ""}}),
        ({"ingress": False, "ingress_host": "a.b"}, None),
        ({"external_secrets": False, "cert_manager": False, "ingress_host": ""}, None),
        ({}, None),
        (None, None),
    ],
)
def test_integration_is_sent_when_it_is_switched_on(wanted: Any, sent: Any) -> None:
    assert _manifest(integrations=wanted)["spec"].get("integrations") == sent


def test_capabilities_become_annotations() -> None:
    manifest = _manifest(capabilities={"backup": "velero", "upgrade": "helm"})
    assert manifest["metadata"]["annotations"] == {
        "ops.vworkspace.io/backup": "velero",
        "ops.vworkspace.io/upgrade": "helm",
    }
    assert "annotations" not in _manifest(capabilities={})["metadata"]


def test_signed_manifest_says_whose_it_is_and_the_given_one_stays() -> None:
    manifest = _manifest(capabilities={"backup": "velero"})
    before = copy.deepcopy(manifest)
    signed = resources.signed(manifest, database="db-1", record="instance,7")
    assert signed["metadata"]["annotations"] == {
        "ops.vworkspace.io/backup": "velero",
        "push.vworkspace.io/database": "db-1",
        "push.vworkspace.io/record": "instance,7",
    }
    assert manifest == before
    del signed["metadata"]["annotations"]
    del before["metadata"]["annotations"]
    assert signed == before


def _operation(**changes: Any) -> dict[str, Any]:
    arguments: dict[str, Any] = {
        "name": "backup-1",
        "namespace": "demo",
        "cluster_id": "c-1",
        "target": "web",
        "type_": "Backup",
        "engine": "velero",
        "parameters": {"retention": "720h"},
        "approval_required": True,
    }
    return resources.operation(**(arguments | changes))


def test_operation_names_its_target_in_spec_and_label() -> None:
    assert _operation() == {
        "apiVersion": "ops.vworkspace.io/v1alpha1",
        "kind": "Operation",
        "metadata": {
            "name": "backup-1",
            "namespace": "demo",
            "labels": {
                "app.vworkspace.io/managed-by": "control-plane",
                "app.vworkspace.io/cluster-id": "c-1",
                "app.vworkspace.io/application-instance": "web",
            },
        },
        "spec": {
            "targetRef": {
                "apiVersion": "apps.vworkspace.io/v1alpha1",
                "kind": "ApplicationInstance",
                "name": "web",
            },
            "type": "Backup",
            "engine": "velero",
            "parameters": {"retention": "720h"},
            "approvals": {"required": True},
        },
    }


@pytest.mark.parametrize("parameters", [None, {}])
def test_operation_omits_what_it_does_not_need(parameters: Any) -> None:
    spec = _operation(parameters=parameters, approval_required=False)["spec"]
    assert set(spec) == {"targetRef", "type", "engine"}


# === CHECKS === #


def test_good_manifest_has_no_problems() -> None:
    assert resources.check_application_instance(_manifest()) == []


@pytest.mark.parametrize(
    "version",
    ["0.0.0", "1.2.3-rc.1", "1.2.3+build.5", "10.20.30-alpha-a.b-c+1.2", "1.0.0--"],
)
def test_exact_version_is_accepted(version: str) -> None:
    manifest = _manifest(chart=_chart(version=version))
    assert resources.check_application_instance(manifest) == []


@pytest.mark.parametrize(
    ("version", "text"),
    [
        ("", "Enter"),
        (None, "Enter"),
        (" 1.2.3", "blanks"),
        ("v1.2.3", "leading v"),
        ("latest", "one version"),
        ("^1.2.3", "one version"),
        ("~1.2", "one version"),
        (">=1.0.0 <2.0.0", "one version"),
        ("1.x", "one version"),
        ("1.2.*", "one version"),
        ("1.2", "semantic"),
        ("1.2.3.4", "semantic"),
        ("01.2.3", "semantic"),
        ("1.2.3-01", "semantic"),
        ("1.2.3+", "semantic"),
        ("\u0661.2.3", "semantic"),
        ("1.2.3\n", "blanks"),
    ],
)
def test_inexact_version_is_explained(version: Any, text: str) -> None:
    manifest = _manifest(chart=_chart(version=version))
    (problem,) = resources.check_application_instance(manifest)
    assert problem.field == "spec.chart.version"
    assert text in problem.message


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"name": "Web"}, "metadata.name"),
        ({"name": "a" * 254}, "metadata.name"),
        ({"name": "-a"}, "metadata.name"),
        ({"name": "a..b"}, "metadata.name"),
        ({"name": "a\n"}, "metadata.name"),
        ({"release_name": "a" * 54}, "spec.release.name"),
        ({"release_name": "a.b"}, "spec.release.name"),
        ({"cluster_id": "a b"}, "metadata.labels[app.vworkspace.io/cluster-id]"),
        ({"cluster_id": "a" * 64}, "metadata.labels[app.vworkspace.io/cluster-id]"),
        ({"cluster_id": ""}, "metadata.labels[app.vworkspace.io/cluster-id]"),
        ({"catalog_id": " "}, "spec.appRef.catalogId"),
        ({"chart": _chart(source_type="git")}, "spec.chart.sourceType"),
        ({"chart": _chart(url="https://x.example")}, "spec.chart.url"),
        ({"chart": _chart(url="oci://")}, "spec.chart.url"),
        ({"chart": _chart(url="oci://x y")}, "spec.chart.url"),
        ({"chart": _chart(source_type="helm")}, "spec.chart.url"),
        (
            {"chart": _chart(source_type="helm", url="http://x.example")},
            "spec.chart.url",
        ),
        ({"chart": _chart(name="")}, "spec.chart.name"),
        ({"mode": "paused"}, "spec.mode"),
        ({"values_source": "url"}, "spec.values.source"),
        ({"integrations": {"ingress": True}}, "spec.integrations.ingress.host"),
        (
            {"integrations": {"ingress_host": "Web.example"}},
            "spec.integrations.ingress.host",
        ),
        (
            {"integrations": {"ingress_host": f"{'a' * 64}.example"}},
            "spec.integrations.ingress.host",
        ),
        (
            {"integrations": {"ingress_host": ".".join(["a" * 63] * 4)}},
            "spec.integrations.ingress.host",
        ),
        (
            {"capabilities": {"backup": ""}},
            "metadata.annotations[ops.vworkspace.io/backup]",
        ),
        (
            {"capabilities": {"backup": "a b"}},
            "metadata.annotations[ops.vworkspace.io/backup]",
        ),
        (
            {"capabilities": {"backup": "a" * 64}},
            "metadata.annotations[ops.vworkspace.io/backup]",
        ),
    ],
)
def test_problem_names_its_field(changes: dict[str, Any], field: str) -> None:
    (problem,) = resources.check_application_instance(_manifest(**changes))
    assert problem.field == field
    assert problem.message.endswith(".")


def test_namespace_must_be_one_label_and_the_release_in_it() -> None:
    manifest = _manifest(namespace="a.b")
    manifest["spec"]["release"]["namespace"] = "other"
    fields = {p.field for p in resources.check_application_instance(manifest)}
    assert fields == {"metadata.namespace", "spec.release.namespace"}


def test_values_must_be_a_mapping() -> None:
    manifest = _manifest()
    manifest["spec"]["values"]["inline"] = ["a"]
    (problem,) = resources.check_application_instance(manifest)
    assert problem.field == "spec.values.inline"


@pytest.mark.parametrize(
    "changes",
    [
        {"mode": "placeholder"},
        {"values_source": "secretRef", "values_ref": {"name": "a.b", "key": ".a"}},
        {"values_source": "configMapRef", "values_ref": {"name": "a", "key": "a_B-1"}},
        {"integrations": {"ingress_host": "web.example"}},
        {"capabilities": dict.fromkeys(resources.CAPABILITIES, "helmHookJob")},
    ],
)
def test_every_form_of_a_good_manifest_has_no_problems(changes: dict[str, Any]) -> None:
    assert resources.check_application_instance(_manifest(**changes)) == []


@pytest.mark.parametrize("key", ["chart", "release", "values"])
def test_placeholder_with_what_only_managed_has_is_refused(key: str) -> None:
    manifest = _manifest(mode="placeholder")
    manifest["spec"][key] = {}
    (problem,) = resources.check_application_instance(manifest)
    assert problem.field == f"spec.{key}"


@pytest.mark.parametrize("source", ["secretRef", "configMapRef"])
@pytest.mark.parametrize(
    ("ref", "fields"),
    [
        (None, {"name", "key"}),
        ({"name": "a"}, {"key"}),
        ({"name": "A", "key": "a"}, {"name"}),
        ({"name": "a" * 254, "key": "a"}, {"name"}),
        ({"name": "a", "key": "a/b"}, {"key"}),
        ({"name": "a", "key": "."}, {"key"}),
        ({"name": "a", "key": "..a"}, {"key"}),
        ({"name": "a", "key": "a" * 254}, {"key"}),
    ],
)
def test_reference_names_an_object_and_a_key(
    source: str, ref: Any, fields: set[str]
) -> None:
    manifest = _manifest(values_source=source, values_ref=ref)
    problems = resources.check_application_instance(manifest)
    assert {p.field for p in problems} == {f"spec.values.{source}.{f}" for f in fields}


def test_surplus_values_are_refused() -> None:
    manifest = _manifest()
    manifest["spec"]["values"]["secretRef"] = {"name": "a", "key": "b"}
    (problem,) = resources.check_application_instance(manifest)
    assert problem.field == "spec.values.secretRef"


def test_reference_that_is_missing_is_refused() -> None:
    manifest = _manifest(values_source="secretRef")
    manifest["spec"]["values"] = {"source": "secretRef", "inline": {}}
    fields = {p.field for p in resources.check_application_instance(manifest)}
    assert fields == {
        "spec.values.inline",
        "spec.values.secretRef.name",
        "spec.values.secretRef.key",
    }


def test_good_operation_has_no_problems() -> None:
    assert resources.check_operation(_operation()) == []
    assert resources.check_operation(_operation(parameters=None)) == []


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"name": "Backup"}, "metadata.name"),
        ({"namespace": "a.b"}, "metadata.namespace"),
        ({"cluster_id": ""}, "metadata.labels[app.vworkspace.io/cluster-id]"),
        ({"target": ""}, "spec.targetRef.name"),
        ({"target": "Web"}, "spec.targetRef.name"),
        ({"target": "a" * 64}, "spec.targetRef.name"),
        ({"type_": "backup"}, "spec.type"),
        ({"engine": ""}, "spec.engine"),
        (
            {"parameters": {"valuesPatch": {"auth": {"password": "x"}}}},
            "spec.parameters.valuesPatch.auth.password",
        ),
    ],
)
def test_problem_of_an_operation_names_its_field(
    changes: dict[str, Any], field: str
) -> None:
    (problem,) = resources.check_operation(_operation(**changes))
    assert problem.field == field
    assert problem.message.endswith(".")


def test_parameters_must_be_a_mapping() -> None:
    manifest = _operation()
    manifest["spec"]["parameters"] = ["a"]
    (problem,) = resources.check_operation(manifest)
    assert problem.field == "spec.parameters"


@pytest.mark.parametrize("manifest", [{}, {"spec": 5}, {"metadata": None, "spec": {}}])
def test_any_operation_can_be_checked(manifest: dict[str, Any]) -> None:
    assert resources.check_operation(manifest)


def test_secret_in_the_values_is_named_with_the_way_out() -> None:
    manifest = _manifest(values={"auth": {"password": "hunter2"}})
    (problem,) = resources.check_application_instance(manifest)
    assert problem.field == "spec.values.inline.auth.password"
    assert "externalSecret" in problem.message
    assert "hunter2" not in problem.message


@pytest.mark.parametrize("manifest", [{}, {"spec": 5}, {"metadata": None, "spec": {}}])
def test_any_manifest_can_be_checked(manifest: dict[str, Any]) -> None:
    assert resources.check_application_instance(manifest)


_PEM = "-----BEGIN PRIVATE KEY-----"


@pytest.mark.parametrize(
    ("values", "paths"),
    [
        ({"password": "x"}, ["password"]),
        ({"auth": {"rootPassword": "x"}}, ["auth.rootPassword"]),
        ({"a": [{"TOKEN": "x"}, {"a_Secret": "y"}]}, ["a[0].TOKEN", "a[1].a_Secret"]),
        ({"accessKey": "x", "APIKEY": "x"}, ["accessKey", "APIKEY"]),
        ({"tls": {"key": "-----BEGIN RSA PRIVATE KEY-----\nx"}}, ["tls.key"]),
        ({"list": ["-----BEGIN PRIVATE KEY-----"]}, ["list[0]"]),
        ({"password": "", "secret": "<set via externalSecret>"}, []),
        ({"password": 5, "token": True, "secretKey": None}, []),
        ({"tokens": "x", "tokenName": "x", "passwordFile": "x", "mytoken": "x"}, []),
        ({"cert": "-----BEGIN CERTIFICATE-----"}, []),
        (["x"], []),
        (None, []),
    ],
)
def test_secret_material_is_found_by_the_rules_of_admission(
    values: Any, paths: list[str]
) -> None:
    assert resources.find_secret_material(values) == paths


@given(
    st.recursive(
        st.sampled_from(["", "x", "<set via externalSecret>", _PEM, 5, None, True]),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(st.sampled_from(["a", "password", "token"]), inner)
        ),
    )
)
def test_secret_material_is_found_wherever_it_is(values: Any) -> None:
    def walk(path: str, key: str, value: Any) -> Iterator[str]:
        if isinstance(value, dict):
            for name, item in value.items():
                yield from walk(f"{path}.{name}" if path else name, name, item)
        elif isinstance(value, list):
            for place, item in enumerate(value):
                yield from walk(f"{path}[{place}]", "", item)
        elif isinstance(value, str) and resources.is_secret(key, value):
            yield path

    assert resources.find_secret_material(values) == list(walk("", "", values))


# === READING BACK === #


_NAMES = st.from_regex(r"[a-z0-9]([-a-z0-9]{0,20}[a-z0-9])?", fullmatch=True)
_ENGINES = st.from_regex(r"[A-Za-z0-9]{1,63}", fullmatch=True)
_PRINTABLE = st.text(
    st.characters(exclude_categories=["Cs"], exclude_characters="\x00"), max_size=20
)
_VALUES = st.dictionaries(
    _PRINTABLE,
    st.recursive(
        st.none()
        | st.booleans()
        | st.integers()
        | st.floats(allow_nan=False, allow_infinity=False)
        | _PRINTABLE,
        lambda inner: (
            st.lists(inner, max_size=3) | st.dictionaries(_PRINTABLE, inner, max_size=3)
        ),
        max_leaves=10,
    ),
    max_size=4,
)
_ARGUMENTS = st.fixed_dictionaries(
    {
        "name": _NAMES,
        "namespace": _NAMES,
        "cluster_id": _NAMES,
        "catalog_id": _PRINTABLE,
        "mode": st.sampled_from(resources.MODES),
        "chart": st.fixed_dictionaries(
            {
                "source_type": st.sampled_from(["oci", "helm"]),
                "url": _PRINTABLE,
                "name": _PRINTABLE,
                "version": _PRINTABLE,
            }
        ),
        "release_name": _NAMES,
        "values_source": st.sampled_from(resources.VALUES_SOURCES),
        "values": _VALUES,
        "values_ref": st.fixed_dictionaries({"name": _NAMES, "key": _NAMES}),
        "integrations": st.fixed_dictionaries(
            {},
            optional={
                "external_secrets": st.booleans(),
                "cert_manager": st.booleans(),
                "ingress": st.booleans(),
                "ingress_host": _NAMES,
            },
        ),
        "capabilities": st.dictionaries(
            st.sampled_from(resources.CAPABILITIES), _ENGINES
        ),
    }
)


@given(_ARGUMENTS)
def test_what_we_built_reads_back_without_loss(arguments: dict[str, Any]) -> None:
    manifest = resources.application_instance(**arguments)
    stored = json.loads(json.dumps(manifest))
    read, left_over = resources.read_application_instance(stored)
    assert resources.application_instance(**read) == manifest
    assert left_over == []


def test_live_object_reads_into_the_fields_of_a_form() -> None:
    live = {
        "metadata": {
            "name": "web",
            "namespace": "demo",
            "uid": "u-1",
            "labels": {"app.vworkspace.io/cluster-id": "c-1", "team": "a"},
            "annotations": {
                "ops.vworkspace.io/backup": "velero",
                "ops.vworkspace.io/unknown": "x",
                "note": "of somebody",
            },
        },
        "spec": {
            "mode": "managed",
            "appRef": {"catalogId": "nginx", "tier": "gold"},
            "chart": {
                "sourceType": "oci",
                "url": "oci://x.example",
                "name": "nginx",
                "version": "1.2.3",
            },
            "release": {"name": "web", "namespace": "demo"},
            "values": {
                "source": "secretRef",
                "secretRef": {"name": "v", "key": "values.yaml"},
                "somethingElse": 1,
            },
            "integrations": {
                "externalSecrets": {"enabled": False},
                "certManager": None,
                "ingress": {"enabled": True, "host": "web.example", "class": "x"},
            },
            "extra": {"a": {"b": 1}},
            "nothing": None,
        },
        "status": {"phase": "x"},
    }
    assert resources.read_application_instance(live) == (
        {
            "name": "web",
            "namespace": "demo",
            "cluster_id": "c-1",
            "catalog_id": "nginx",
            "mode": "managed",
            "chart": {
                "source_type": "oci",
                "url": "oci://x.example",
                "name": "nginx",
                "version": "1.2.3",
            },
            "release_name": "web",
            "values_source": "secretRef",
            "values": {},
            "values_ref": {"name": "v", "key": "values.yaml"},
            "integrations": {
                "external_secrets": False,
                "cert_manager": False,
                "ingress": True,
                "ingress_host": "web.example",
            },
            "capabilities": {"backup": "velero"},
        },
        [
            ".spec.appRef.tier",
            ".spec.values.somethingElse",
            ".spec.integrations.ingress.class",
            ".spec.extra",
        ],
    )


def _deep(levels: int) -> dict[str, Any]:
    value: dict[str, Any] = {}
    for _ in range(levels):
        value = {"a": value}
    return value


@pytest.mark.parametrize(
    ("spec", "path"),
    [
        ({"mode": "paused"}, ".spec.mode"),
        ({"chart": {"version": 5}}, ".spec.chart.version"),
        ({"chart": {"sourceType": "git"}}, ".spec.chart.sourceType"),
        ({"chart": {"url": "oci://" + "a" * 3_000}}, ".spec.chart.url"),
        ({"release": {"name": "a\x00"}}, ".spec.release.name"),
        ({"release": {"namespace": "other"}}, ".spec.release.namespace"),
        ({"values": {"source": "inline", "inline": ["a"]}}, ".spec.values.inline"),
        ({"values": {"source": "inline", "inline": _deep(70)}}, ".spec.values.inline"),
        (
            {"values": {"source": "inline", "inline": _deep(100_000)}},
            ".spec.values.inline",
        ),
        (
            {"values": {"source": "inline", "inline": {"a": "x" * 2_000_000}}},
            ".spec.values.inline",
        ),
        (
            {
                "values": {
                    "source": "inline",
                    "inline": dict.fromkeys("ab", "x" * 600_000),
                }
            },
            ".spec.values.inline",
        ),
        (
            {"values": {"source": "inline", "inline": {"a": "\ud800"}}},
            ".spec.values.inline",
        ),
        ({"values": {"source": "url"}}, ".spec.values.source"),
        ({"mode": "placeholder", "chart": {"name": "nginx"}}, ".spec.chart"),
        (
            {"integrations": {"ingress": {"enabled": "yes"}}},
            ".spec.integrations.ingress.enabled",
        ),
        ([], ".spec"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_a_form_cannot_hold_is_named(spec: Any, path: str) -> None:
    obj = {"metadata": {"namespace": "demo"}, "spec": spec}
    read, left_over = resources.read_application_instance(obj)
    assert left_over == [path]
    assert resources.application_instance(**read)


def test_paths_without_a_field_are_bounded() -> None:
    spec = {f"{number}{'a' * 5_000}\x00": 1 for number in range(1_000)}
    _, left_over = resources.read_application_instance({"spec": spec})
    assert len(left_over) == resources.MAX_PATHS
    assert max(map(len, left_over)) <= resources.MAX_PATH


_MEMBERS = st.sampled_from(
    [
        *("metadata", "name", "namespace", "labels", "annotations", "finalizers"),
        *("spec", "mode", "appRef", "catalogId", "chart", "url", "version", "release"),
        *("values", "source", "inline", "secretRef", "key", "integrations", "ingress"),
        *("enabled", "host", "status", "phase", "outputs", "logsRef", "startedAt"),
        "ops.vworkspace.io/backup",
    ]
)
_WORDS = st.sampled_from(["inline", "secretRef", "placeholder", "oci", "a\x00"])


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | _WORDS | st.floats(),
        lambda inner: (
            st.lists(inner, max_size=3) | st.dictionaries(_MEMBERS, inner, max_size=5)
        ),
        max_leaves=30,
    )
)
def test_any_json_can_be_read_and_observed(value: Any) -> None:
    read, left_over = resources.read_application_instance(value)
    again, _ = resources.read_application_instance(
        resources.application_instance(**read)
    )
    assert resources.application_instance(**again) == (
        resources.application_instance(**read)
    )
    assert all(path.startswith(".spec") for path in left_over)
    assert resources.observe(value, "Operation").health


# === OBSERVED STATE === #


def _object(**changes: Any) -> dict[str, Any]:
    obj: dict[str, Any] = {
        "metadata": {
            "uid": "u-1",
            "name": "web",
            "namespace": "demo",
            "resourceVersion": "12",
            "generation": 2,
            "labels": {"a": "b"},
        },
        "spec": {},
        "status": {
            "observedGeneration": 2,
            "conditions": [
                {
                    "type": "Ready",
                    "status": "True",
                    "reason": "Reconciled",
                    "message": "all good",
                    "lastTransitionTime": "2026-05-28T12:00:00.123456789+02:00",
                    "observedGeneration": 2,
                }
            ],
            "endpoints": [
                {"name": "web", "url": "https://web.example", "type": "http"},
                {"name": "bad", "url": "javascript:alert(1)"},
            ],
            "helmReleaseRef": {"name": "web", "namespace": "demo"},
            "lastAppliedChart": {
                "sourceType": "oci",
                "url": "oci://x",
                "name": "nginx",
                "version": "1.2.3",
                "unknown": "dropped",
            },
            "lastReconcileTime": "2026-05-28T10:00:00Z",
        },
    }
    return obj | changes


def test_object_is_read_into_a_typed_value() -> None:
    seen = resources.observe(_object())
    assert (seen.uid, seen.name, seen.namespace) == ("u-1", "web", "demo")
    assert (seen.resource_version, seen.generation) == ("12", 2)
    assert seen.conditions == (
        resources.Condition(
            type="Ready",
            status="True",
            reason="Reconciled",
            message="all good",
            last_transition_time=datetime(2026, 5, 28, 10, 0, 0, 123456, tzinfo=UTC),
            observed_generation=2,
        ),
    )
    assert seen.endpoints == (
        resources.Endpoint(
            name="web", url="https://web.example", type="http", notes=""
        ),
    )
    assert seen.helm_release == "web"
    assert seen.last_applied_chart == {
        "sourceType": "oci",
        "url": "oci://x",
        "name": "nginx",
        "version": "1.2.3",
    }
    assert seen.last_reconcile_time == datetime(2026, 5, 28, 10, tzinfo=UTC)
    assert seen.labels == {"a": "b"}
    assert seen.is_current
    assert seen.health == "ready"


def test_text_is_bounded_and_fit_for_a_database() -> None:
    condition = {
        "type": "Ready",
        "status": "False",
        "reason": "r" * 5_000,
        "message": "\x00\ud800<b>" + "m" * 50_000,
        "lastTransitionTime": "yesterday",
        "observedGeneration": "2",
    }
    obj = _object(status={"conditions": [condition] * 500})
    (seen,) = resources.observe(obj).conditions
    assert (len(seen.reason), len(seen.message)) == (1_024, 32_767)
    assert seen.message.startswith("?<b>")
    assert seen.last_transition_time is None
    assert seen.observed_generation is None


@pytest.mark.parametrize(
    "url",
    [
        "ftp://x",
        "//x",
        "https://",
        "https://x\n.y",
        5,
        "https://x/" + "a" * 3_000,
        None,
    ],
)
def test_endpoint_that_is_no_safe_link_is_left_out(url: Any) -> None:
    obj = _object(status={"endpoints": [{"name": "x", "url": url}]})
    assert resources.observe(obj).endpoints == ()


@pytest.mark.parametrize(
    "generation", [True, -1, 2**31, 10**30, "1", 1.0, None, [1]], ids=str
)
def test_generation_that_no_database_holds_reads_as_absent(generation: Any) -> None:
    obj = _object(status={"observedGeneration": generation})
    assert resources.observe(obj).observed_generation is None


MEMBERS = (
    "metadata",
    "status",
    "conditions",
    "endpoints",
    "type",
    "reason",
    "labels",
    "url",
    "generation",
    "deletionTimestamp",
    "lastAppliedChart",
)
_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=20) | st.floats(),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                [
                    "metadata",
                    "status",
                    "conditions",
                    "endpoints",
                    "type",
                    "reason",
                    "message",
                    "labels",
                    "url",
                    "generation",
                    "observedGeneration",
                    "deletionTimestamp",
                    "lastAppliedChart",
                ]
            ),
            inner,
            max_size=5,
        )
    ),
    max_leaves=20,
)


@given(_JSON)
def test_any_json_can_be_observed(value: Any) -> None:
    seen = resources.observe(value)
    assert seen.health
    json.dumps(dataclasses.asdict(seen), default=str).encode()


def _health(
    *conditions: tuple[str, str], observed: int | None = 2, deleting: bool = False
) -> str:
    obj = _object(
        status={
            "observedGeneration": observed,
            "conditions": [{"type": t, "status": s} for t, s in conditions],
        }
    )
    if deleting:
        obj["metadata"]["deletionTimestamp"] = "2026-05-28T10:00:00Z"
    return resources.health(resources.observe(obj))


@pytest.mark.parametrize(
    ("conditions", "word"),
    [
        ([], "unknown"),
        ([("Ready", "True")], "ready"),
        ([("Ready", "True"), ("Reconciling", "True")], "ready"),
        ([("Ready", "True"), ("Degraded", "True")], "degraded"),
        ([("Ready", "False"), ("Degraded", "True")], "failed"),
        (
            [("Ready", "False"), ("Degraded", "True"), ("Reconciling", "True")],
            "degraded",
        ),
        ([("Degraded", "True"), ("Suspended", "True")], "suspended"),
        ([("Suspended", "True"), ("Blocked", "True")], "blocked"),
        ([("Blocked", "True"), ("Deleting", "True")], "deleting"),
        ([("Ready", "False"), ("Reconciling", "True")], "progressing"),
        ([("Ready", "False"), ("Reconciling", "False")], "failed"),
        ([("Ready", "Unknown")], "unknown"),
        ([("Suspended", "False")], "unknown"),
        ([("SomethingNew", "True")], "unknown"),
        ([("Ready", "maybe")], "unknown"),
    ],
)
def test_health_is_one_word(conditions: list[tuple[str, str]], word: str) -> None:
    assert _health(*conditions) == word


@pytest.mark.parametrize("observed", [1, None])
def test_status_of_an_older_spec_is_never_green(observed: int | None) -> None:
    assert _health(("Ready", "True"), observed=observed) == "unknown"


def test_deletion_shows_before_the_operator_has_seen_it() -> None:
    assert _health(("Ready", "True"), observed=1, deleting=True) == "deleting"


def test_condition_of_an_older_spec_counts_as_absent() -> None:
    obj = _object()
    obj["status"]["conditions"][0]["observedGeneration"] = 1
    assert resources.observe(obj).health == "unknown"


def _observed_operation(**status: Any) -> resources.Observed:
    metadata = {"name": "backup-1", "generation": 2}
    return resources.observe({"metadata": metadata, "status": status}, "Operation")


def test_operation_is_read_into_a_typed_value() -> None:
    seen = _observed_operation(
        phase="Succeeded",
        startedAt="2026-05-28T10:00:00Z",
        finishedAt="2026-05-28T10:05:00+00:00",
        outputs={"backupName": "b-1", "count": 5, "long": "x" * 5_000, "nul": "\x00a"},
        logsRef={"url": "https://logs.example/1"},
    )
    assert (seen.kind, seen.phase) == ("Operation", "Succeeded")
    assert seen.started_at == datetime(2026, 5, 28, 10, tzinfo=UTC)
    assert seen.finished_at == datetime(2026, 5, 28, 10, 5, tzinfo=UTC)
    assert seen.outputs == {"backupName": "b-1", "long": "x" * 2_048, "nul": "a"}
    assert seen.logs_url == "https://logs.example/1"
    assert seen.health == "ready"


def test_outputs_are_bounded_in_number() -> None:
    seen = _observed_operation(outputs={str(i): "x" for i in range(500)})
    assert len(seen.outputs) == 64


@pytest.mark.parametrize("url", ["javascript:alert(1)", "ftp://x", 5, None, "https://"])
def test_log_that_is_no_safe_link_is_left_out(url: Any) -> None:
    assert _observed_operation(logsRef={"url": url}).logs_url == ""


@pytest.mark.parametrize(
    ("ref", "shown"),
    [
        ({"kind": "Job", "namespace": "team", "name": "b-1"}, "Job team/b-1"),
        ({"kind": "Job", "name": "b-1"}, "Job b-1"),
        ({"name": "b-1"}, "b-1"),
        ({"kind": "Job", "namespace": "team"}, ""),
        ({"kind": 5, "namespace": None, "name": "a\x00b"}, "ab"),
        ({"kind": "K" * 999, "name": "n" * 999}, f"{'K' * 253} {'n' * 253}"),
        ("Job team/b-1", ""),
        ({"url": "https://logs.example/1"}, ""),
    ],
)
def test_what_has_the_logs_is_named_within_bounds(ref: Any, shown: str) -> None:
    assert _observed_operation(logsRef=ref).logs_ref == shown


@pytest.mark.parametrize("phase", ["Done", "", None, 5, ["Running"]])
def test_phase_that_is_none_of_the_contract_reads_as_absent(phase: Any) -> None:
    seen = _observed_operation(phase=phase)
    assert (seen.phase, seen.health) == ("", "unknown")


@pytest.mark.parametrize(
    ("phase", "blocked", "word"),
    [
        (None, "False", "unknown"),
        (None, "True", "blocked"),
        ("Pending", "False", "progressing"),
        ("Pending", "True", "blocked"),
        ("Running", "Unknown", "progressing"),
        ("Running", "True", "blocked"),
        ("Succeeded", "True", "ready"),
        ("Failed", "True", "failed"),
        ("Cancelled", "True", "suspended"),
    ],
)
def test_health_of_an_operation_is_its_phase_unless_it_is_held_up(
    phase: str | None, blocked: str, word: str
) -> None:
    conditions = [{"type": "Blocked", "status": blocked}]
    assert _observed_operation(phase=phase, conditions=conditions).health == word


def test_deletion_of_an_operation_shows_whatever_its_phase() -> None:
    obj = {
        "kind": "Operation",
        "metadata": {"deletionTimestamp": "2026-05-28T10:00:00Z"},
        "status": {"phase": "Succeeded"},
    }
    assert resources.observe(obj).health == "deleting"


def test_kind_is_told_where_the_object_does_not_say_it() -> None:
    obj = {"status": {"phase": "Succeeded"}}
    assert resources.observe(obj).health == "unknown"
    assert resources.observe(obj, "Operation").health == "ready"
    assert resources.observe(obj | {"kind": "Operation"}).kind == "Operation"


def test_annotations_and_finalizers_are_bounded() -> None:
    obj = _object()
    obj["metadata"]["annotations"] = {f"a{i}": "x" * 500 for i in range(100)}
    obj["metadata"]["finalizers"] = ["example.io/hold", 5] * 100
    seen = resources.observe(obj)
    assert len(seen.annotations) == 64
    assert {len(text) for text in seen.annotations.values()} == {253}
    assert seen.finalizers == ("example.io/hold",) * 32


def test_our_annotations_are_not_crowded_out() -> None:
    obj = _object()
    ours = {resources.DATABASE_ANNOTATION: "db", resources.RECORD_ANNOTATION: "r,1"}
    obj["metadata"]["annotations"] = {f"a{i}": "x" for i in range(100)} | ours
    assert ours.items() <= resources.observe(obj).annotations.items()


# === VERSIONS === #


@given(st.integers(1, 2**70), st.integers(1, 2**70))
def test_versions_compare_as_numbers(a: int, b: int) -> None:
    assert resources.newer(str(a), str(b)) is (a > b)


@pytest.mark.parametrize("than", [None, ""])
def test_anything_is_newer_than_nothing(than: str | None) -> None:
    assert resources.newer("1", than)


@given(st.text(max_size=5), st.text(min_size=1, max_size=5))
def test_odd_versions_have_an_order(a: str, b: str) -> None:
    assert not (resources.newer(a, b) and resources.newer(b, a or "0"))
