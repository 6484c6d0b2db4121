"""Manifests, the checks that admission would make, and what a cluster reports."""

from __future__ import annotations

import dataclasses
import json
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


def test_secret_in_the_values_is_named_with_the_way_out() -> None:
    manifest = _manifest(values={"auth": {"password": "hunter2"}})
    (problem,) = resources.check_application_instance(manifest)
    assert problem.field == "spec.values.inline.auth.password"
    assert "externalSecret" in problem.message
    assert "hunter2" not in problem.message


@pytest.mark.parametrize("manifest", [{}, {"spec": 5}, {"metadata": None, "spec": {}}])
def test_any_manifest_can_be_checked(manifest: dict[str, Any]) -> None:
    assert resources.check_application_instance(manifest)


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


# === VERSIONS AND SLIMMING === #


@given(st.integers(1, 2**70), st.integers(1, 2**70))
def test_versions_compare_as_numbers(a: int, b: int) -> None:
    assert resources.newer(str(a), str(b)) is (a > b)


@pytest.mark.parametrize("than", [None, ""])
def test_anything_is_newer_than_nothing(than: str | None) -> None:
    assert resources.newer("1", than)


@given(st.text(max_size=5), st.text(min_size=1, max_size=5))
def test_odd_versions_have_an_order(a: str, b: str) -> None:
    assert not (resources.newer(a, b) and resources.newer(b, a or "0"))


def test_slim_object_keeps_identity_and_status() -> None:
    obj = _object(spec={"big": 1})
    obj["metadata"]["managedFields"] = [{}]
    slim = resources.slim(obj)
    assert resources.observe(slim) == resources.observe(obj)
    assert "spec" not in slim
    assert "managedFields" not in slim["metadata"]
    assert "managedFields" in obj["metadata"]
