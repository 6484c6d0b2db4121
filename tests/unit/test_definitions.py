"""The custom resource definitions of environment/crds say what contract §1 says."""

from pathlib import Path
from typing import Any

import pytest
import yaml

CRDS = Path(__file__).parents[2] / "environment" / "crds"


def load(plural: str) -> dict[str, Any]:
    return yaml.safe_load((CRDS / f"{plural}.yaml").read_text())


def version(plural: str) -> dict[str, Any]:
    (only,) = load(plural)["spec"]["versions"]
    return only


def schema(plural: str, path: str = "") -> dict[str, Any]:
    found = version(plural)["schema"]["openAPIV3Schema"]
    for name in filter(None, path.split(".")):
        found = found["items"] if name == "[]" else found["properties"][name]
    return found


@pytest.mark.parametrize(
    ("plural", "group", "kind", "scope", "short"),
    [
        (
            "applicationinstances",
            "apps.vworkspace.io",
            "ApplicationInstance",
            "Namespaced",
            "appinst",
        ),
        ("operations", "ops.vworkspace.io", "Operation", "Namespaced", "op"),
        ("clusters", "ops.vworkspace.io", "Cluster", "Cluster", "cluster"),
    ],
)
def test_names_and_scope(
    plural: str, group: str, kind: str, scope: str, short: str
) -> None:
    definition = load(plural)
    spec = definition["spec"]
    assert definition["metadata"]["name"] == f"{plural}.{group}"
    assert (spec["group"], spec["scope"]) == (group, scope)
    assert (spec["names"]["kind"], spec["names"]["shortNames"]) == (kind, [short])
    assert version(plural)["name"] == "v1alpha1"
    assert version(plural)["served"]
    assert version(plural)["storage"]
    assert version(plural)["subresources"] == {"status": {}}


@pytest.mark.parametrize(
    ("plural", "columns"),
    [
        ("applicationinstances", ["Ready", "Chart", "Version", "Age"]),
        ("operations", ["Phase", "Type", "Engine", "Age"]),
        ("clusters", ["Connected", "Age"]),
    ],
)
def test_printer_columns(plural: str, columns: list[str]) -> None:
    shown = version(plural)["additionalPrinterColumns"]
    assert [column["name"] for column in shown] == columns


@pytest.mark.parametrize(
    ("plural", "path", "required"),
    [
        ("applicationinstances", "spec", {"appRef"}),
        ("applicationinstances", "spec.appRef", {"catalogId"}),
        (
            "applicationinstances",
            "spec.chart",
            {"sourceType", "url", "name", "version"},
        ),
        ("applicationinstances", "spec.release", {"name", "namespace"}),
        ("applicationinstances", "spec.values", {"source"}),
        ("applicationinstances", "spec.values.secretRef", {"name", "key"}),
        ("applicationinstances", "spec.values.configMapRef", {"name", "key"}),
        ("applicationinstances", "status.endpoints.[]", {"name", "url"}),
        ("operations", "spec", {"targetRef", "type", "engine"}),
        ("operations", "spec.targetRef", {"apiVersion", "kind", "name"}),
        ("clusters", "spec", {"clusterId"}),
    ],
)
def test_required_fields(plural: str, path: str, required: set[str]) -> None:
    assert set(schema(plural, path)["required"]) == required


@pytest.mark.parametrize(
    ("plural", "path"),
    [
        ("applicationinstances", "spec.values.inline"),
        ("operations", "spec.parameters"),
        ("operations", "status.outputs"),
    ],
)
def test_free_form_objects_keep_unknown_fields(plural: str, path: str) -> None:
    assert schema(plural, path) | {"description": ""} == {
        "type": "object",
        "description": "",
        "x-kubernetes-preserve-unknown-fields": True,
    }


@pytest.mark.parametrize("plural", ["applicationinstances", "operations", "clusters"])
def test_conditions_are_a_bounded_list_map(plural: str) -> None:
    conditions = schema(plural, "status.conditions")
    assert conditions["x-kubernetes-list-type"] == "map"
    assert conditions["x-kubernetes-list-map-keys"] == ["type"]
    fields = conditions["items"]["properties"]
    assert fields["reason"]["maxLength"] == 1024
    assert fields["message"]["maxLength"] == 32768


@pytest.mark.parametrize("plural", ["applicationinstances", "operations", "clusters"])
def test_there_are_no_cel_rules(plural: str) -> None:
    assert "x-kubernetes-validations" not in (CRDS / f"{plural}.yaml").read_text()


def test_mode_defaults_to_managed() -> None:
    mode = schema("applicationinstances", "spec.mode")
    assert (mode["enum"], mode["default"]) == (["managed", "placeholder"], "managed")
