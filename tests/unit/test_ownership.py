"""Conflicts and managedFields as the API server writes them."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kube import ownership

LIVE = {
    "metadata": {
        "labels": {"app.vworkspace.io/cluster-id": "c1", "app": "x"},
        "managedFields": [
            "nonsense",
            {
                "manager": "vworkspace-odoo",
                "operation": "Apply",
                "time": "2026-01-01T00:00:00Z",
                "fieldsV1": {"f:spec": {"f:size": {}}},
            },
            {
                "manager": "flux",
                "operation": "Apply",
                "time": "2026-02-03T04:05:06Z",
            },
            {
                "manager": "operator",
                "operation": "Update",
                "subresource": "status",
                "time": "2026-03-01T00:00:00Z",
            },
        ],
    },
    "spec": {
        "size": "L",
        "env": [{"name": "Y", "value": "no"}, {"name": "X", "value": "live"}],
        "ports": [{"port": 80, "protocol": "TCP", "open": True}],
        "set": ["a", "b"],
        "list": ["zero", "one"],
    },
}


def _status(*causes: Any) -> dict[str, Any]:
    return {"details": {"causes": list(causes)}}


@pytest.mark.parametrize(
    ("message", "manager", "operation", "version", "subresource", "since"),
    [
        ('conflict with "flux"', "flux", "Apply", None, None, None),
        (
            'conflict with "kubectl-edit" using apps.vworkspace.io/v1alpha1',
            "kubectl-edit",
            "Update",
            "apps.vworkspace.io/v1alpha1",
            None,
            None,
        ),
        (
            (
                'conflict with "op" with subresource "status" using v1 at '
                "2026-05-28T10:00:00Z"
            ),
            "op",
            "Update",
            "v1",
            "status",
            datetime(2026, 5, 28, 10, tzinfo=UTC),
        ),
        (r'conflict with "a \"b\""', 'a "b"', "Apply", None, None, None),
        ("words of a later version", "", "Apply", None, None, None),
    ],
)
def test_conflict_is_read_from_its_message(
    message: str,
    manager: str,
    operation: str,
    version: str | None,
    subresource: str | None,
    since: datetime | None,
) -> None:
    cause = {"reason": "FieldManagerConflict", "message": message, "field": ".spec.x"}
    assert ownership.parse_conflicts(_status(cause)) == (
        ownership.FieldConflict(
            field=".spec.x",
            manager=manager,
            operation=operation,
            api_version=version,
            subresource=subresource,
            since=since,
        ),
    )


def test_other_causes_are_no_conflicts() -> None:
    cause = {"reason": "FieldValueInvalid", "field": "spec.x", "message": "no"}
    assert ownership.parse_conflicts(_status(cause, None, 3)) == ()
    assert ownership.parse_conflicts({"details": 7}) == ()
    assert ownership.parse_conflicts({}) == ()


def test_conflict_gets_both_values_and_the_time_of_the_rival() -> None:
    cause = {
        "reason": "FieldManagerConflict",
        "message": 'conflict with "flux"',
        "field": ".spec.size",
    }
    (conflict,) = ownership.complete_conflicts(
        ownership.parse_conflicts(_status(cause)),
        manifest={"spec": {"size": "S"}},
        live=LIVE,
    )
    assert (conflict.our_value, conflict.live_value) == ("S", "L")
    assert conflict.since == datetime(2026, 2, 3, 4, 5, 6, tzinfo=UTC)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        (".spec.size", "L"),
        ('.spec.env[name="X"].value', "live"),
        ('.spec.ports[port=80,protocol="TCP"].open', True),
        ('.spec.set[="b"]', "b"),
        (".spec.list[1]", "one"),
        (".metadata.labels.app.vworkspace.io/cluster-id", "c1"),
        (".metadata.labels.app", "x"),
        (".spec.absent.deeper", None),
        ('.spec.env[name="Z"].value', None),
        (".spec.list[9]", None),
        (".spec.size[0]", None),
        ("nonsense", None),
        (".spec.env[", None),
    ],
)
def test_value_is_found_by_the_path_of_a_conflict(field: str, value: Any) -> None:
    assert ownership.value_at(LIVE, field) == value


def test_our_entry_is_the_one_that_we_applied() -> None:
    entry = ownership.our_entry(LIVE)
    assert entry is not None
    assert ownership.field_set(entry["fieldsV1"]) == {".spec.size"}
    assert ownership.our_entry({}) is None


def test_field_set_writes_paths_as_conflicts_do() -> None:
    fields = {
        "f:metadata": {"f:labels": {"f:app.vworkspace.io/cluster-id": {}}},
        "f:spec": {
            "f:env": {'k:{"name":"X"}': {".": {}, "f:value": {}}},
            "f:ports": {'k:{"protocol":"TCP","port":80}': {"f:open": {}}},
            "f:set": {'v:"b"': {}},
            "f:list": {"i:1": {}},
        },
    }
    assert ownership.field_set(fields) == {
        ".metadata.labels.app.vworkspace.io/cluster-id",
        '.spec.env[name="X"]',
        '.spec.env[name="X"].value',
        '.spec.ports[port=80,protocol="TCP"].open',
        '.spec.set[="b"]',
        ".spec.list[1]",
    }


_NAMES = st.text(alphabet="ab.[]\"='/", min_size=1, max_size=6)
_TREES = st.recursive(
    st.integers() | st.text(max_size=3),
    lambda inner: st.dictionaries(_NAMES, inner, min_size=1, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(_NAMES, _TREES, min_size=1, max_size=3))
def test_every_path_of_a_field_set_leads_to_a_value(obj: dict[str, Any]) -> None:
    def fields(value: Any) -> dict[str, Any]:
        if not isinstance(value, dict):
            return {}
        return {f"f:{name}": fields(item) for name, item in value.items()}

    for path in ownership.field_set(fields(obj)):
        assert ownership.value_at(obj, path) is not None


@given(st.text(max_size=40))
def test_any_path_is_survived(path: str) -> None:
    ownership.value_at(LIVE, path)
    ownership.value_at(LIVE, f".spec.env[{path}].value")
