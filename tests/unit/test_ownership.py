"""Conflicts and managedFields as the API server writes them."""

from __future__ import annotations

import json
from copy import deepcopy
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


# === OWNERS AND DRIFT === #

APPLIED = {
    "f:spec": {
        "f:size": {},
        "f:env": {'k:{"name":"X"}': {".": {}, "f:name": {}, "f:value": {}}},
        "f:deep": {".": {}, "f:a.b": {}, "f:c": {}},
        "f:list": {},
    },
}


def _live(spec: dict[str, Any], *entries: tuple[str, Any], **more: Any) -> Any:
    """Return an object; entries: manager (an agent updates, ours applies), fields."""
    managed = [
        {
            "manager": manager,
            "operation": "Apply" if manager == "vworkspace-odoo" else "Update",
            "apiVersion": "v1",
            "fieldsType": "FieldsV1",
            "time": "2026-02-03T04:05:06Z",
            "fieldsV1": fields,
            **more,
        }
        for manager, fields in entries
    ]
    metadata = {"uid": "u-1", "resourceVersion": "7", "managedFields": managed}
    return {"metadata": metadata, "spec": spec}


SPEC = {
    "size": "S",
    "env": [{"name": "Y", "value": "no"}, {"name": "X", "value": "1"}],
    "deep": {"a.b": 1, "c": None},
    "list": ["x"],
}
OURS = _live(SPEC, ("vworkspace-odoo", APPLIED))


def _names(managers: tuple[ownership.Manager, ...]) -> list[str]:
    return [manager.name for manager in managers]


def test_owned_fields_are_the_same_text_in_whatever_order_they_come() -> None:
    turned = {"f:spec": dict(reversed(APPLIED["f:spec"].items()))}
    text = ownership.owned_fields(OURS)
    assert ownership.owned_fields(_live({}, ("vworkspace-odoo", turned))) == text
    assert json.loads(text) == APPLIED
    assert ": " not in text


@pytest.mark.parametrize(
    "obj",
    [
        {},
        _live({}, ("other", APPLIED)),
        _live({}, ("vworkspace-odoo", APPLIED), subresource="status"),
        _live({}, ("vworkspace-odoo", APPLIED), operation="Update"),
        _live({}, ("vworkspace-odoo", "nonsense")),
    ],
)
def test_fields_of_others_are_not_ours(obj: Any) -> None:
    assert ownership.owned_fields(obj) == ""


def test_owners_come_with_the_values_at_their_leaves() -> None:
    obj = _live(
        {**SPEC, "empty": {}, "atomic": {"x": 1}},
        ("vworkspace-odoo", APPLIED),
        (
            "rival",
            {
                "f:spec": {
                    ".": {},
                    "f:size": {},
                    "f:empty": {".": {}, "f:gone": {}},
                    "f:atomic": {},
                    "f:absent": {},
                    "f:deep": {},
                }
            },
        ),
    )
    found = {owned.field: owned for owned in ownership.owners(obj)}
    assert {field: owned.value for field, owned in found.items()} == {
        ".spec.atomic": {"x": 1},
        ".spec.deep.a.b": 1,
        ".spec.deep.c": None,
        ".spec.empty": {},
        '.spec.env[name="X"].name': "X",
        '.spec.env[name="X"].value': "1",
        ".spec.list": ["x"],
        ".spec.size": "S",
    }
    assert list(found) == sorted(found)
    assert _names(found[".spec.size"].managers) == ["vworkspace-odoo", "rival"]
    assert found[".spec.size"].ours
    assert not found[".spec.empty"].ours
    manager = found[".spec.empty"].managers[0]
    assert manager.since == datetime(2026, 2, 3, 4, 5, 6, tzinfo=UTC)


def test_owners_find_the_items_of_lists_and_sets() -> None:
    fields = {
        "f:ports": {'k:{"port":80,"protocol":"TCP"}': {"f:open": {}}},
        "f:set": {'v:"b"': {}},
        "f:list": {"i:1": {}},
        "f:odd": {"k:{": {}, "v:{": {}, "i:x": {}, "i:-1": {}, "x": {}, "f:1": {}},
    }
    spec = {**LIVE["spec"], "odd": ["a", "b"]}
    found = ownership.owners(_live(spec, ("rival", {"f:spec": fields})))
    assert {owned.field: owned.value for owned in found} == {
        ".spec.list[1]": "one",
        '.spec.ports[port=80,protocol="TCP"].open': True,
        '.spec.set[="b"]': "b",
    }


def test_report_of_owners_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ownership, "MAX_OWNED", 3)
    spec = {f"x{number}": number for number in range(9)}
    fields = {"f:spec": {f"f:{name}": {} for name in spec}}
    obj = _live(spec, ("a" * 999 + "\x00", fields))
    found = ownership.owners(obj)
    assert len(found) == 3
    assert len(found[0].managers[0].name) == ownership.MAX_MANAGER
    stored = json.dumps(fields)
    assert len(ownership.drift(stored, _live(spec))) == 3


@pytest.mark.parametrize("applied", ["", "{", "[]", "3", '"x"', "[" * 99_999])
def test_malformed_record_of_what_was_applied_is_no_drift(applied: str) -> None:
    assert ownership.drift(applied, OURS) == ()


def test_what_we_still_own_is_no_drift_whoever_shares_it() -> None:
    shared = _live(SPEC, ("rival", APPLIED), ("vworkspace-odoo", APPLIED))
    assert ownership.drift(json.dumps(APPLIED), shared) == ()


def test_lost_subtree_is_drift_of_its_leaves() -> None:
    left = {"f:spec": {"f:size": {}, "f:env": APPLIED["f:spec"]["f:env"]}}
    theirs = {"f:spec": {"f:deep": {"f:c": {}}, "f:list": {}}}
    spec = {**SPEC, "deep": {"c": 9}}
    lost = ownership.drift(
        ownership.owned_fields(OURS),
        _live(spec, ("vworkspace-odoo", left), ("rival", theirs)),
    )
    assert [
        (one.field, one.live_value, one.present, _names(one.managers)) for one in lost
    ] == [
        (".spec.deep.a.b", None, False, []),
        (".spec.deep.c", 9, True, ["rival"]),
        (".spec.list", ["x"], True, ["rival"]),
    ]


def test_removed_list_item_is_drift_of_its_fields() -> None:
    left = {"f:spec": {k: v for k, v in APPLIED["f:spec"].items() if k != "f:env"}}
    spec = {**SPEC, "env": SPEC["env"][:1]}
    lost = ownership.drift(
        ownership.owned_fields(OURS), _live(spec, ("vworkspace-odoo", left))
    )
    assert [(one.field, one.present) for one in lost] == [
        ('.spec.env[name="X"].name', False),
        ('.spec.env[name="X"].value', False),
    ]


def test_owner_of_an_emptied_map_does_not_have_what_was_in_it() -> None:
    lost = ownership.drift(
        json.dumps({"f:spec": {"f:deep": {"f:c": {}}}}),
        _live({"deep": {}}, ("rival", {"f:spec": {"f:deep": {}}})),
    )
    assert [(one.field, one.managers) for one in lost] == [(".spec.deep.c", ())]


@pytest.mark.parametrize(
    ("field", "fields", "expected"),
    [
        (".spec.size", {"f:size": {}}, ["rival"]),
        (".spec.size", {"f:list": {}}, []),
        (".spec.deep", {"f:deep": {"f:c": {}}}, ["rival"]),
        (".spec.deep.a.b", {"f:deep": {"f:a.b": {}}}, ["rival"]),
        # the whole of it, unless that is a container whose parts have owners
        (".spec.atomic.x", {"f:atomic": {}}, ["rival"]),
        (".spec.deep.a.b", {"f:deep": {}}, []),
        (".spec.deep.a.b", {"f:deep": {".": {}}}, []),
        # a name that begins alike
        (".spec.size.more", {"f:size": {}}, []),
        (".spec.atomic.absent", {"f:atomic": {}}, []),
    ],
)
def test_others_keep_a_field_that_they_own_around_or_within(
    field: str, fields: dict[str, Any], expected: list[str]
) -> None:
    spec = {**SPEC, "atomic": {"x": 1}}
    obj = _live(spec, ("vworkspace-odoo", APPLIED), ("rival", {"f:spec": fields}))
    assert _names(ownership.other_owners(obj, field)) == expected


# === DECISIONS === #

MANIFEST = {
    "apiVersion": "v1",
    "kind": "X",
    "metadata": {
        "name": "web",
        "namespace": "demo",
        "labels": {"app.example.io/id": "c1"},
    },
    "spec": {
        "size": "S",
        "deep": {"only": {"a.b": 1}, "set": ["a", "b"]},
        "env": [{"name": "X", "value": "1"}, {"name": "Y", "value": "2"}],
        "empty": {},
    },
}


@pytest.mark.parametrize(
    ("fields", "path", "expected"),
    [
        ([".spec.size"], ".spec.size", None),
        ([".spec.deep.only.a.b"], ".spec.deep", {"set": ["a", "b"]}),
        (['.spec.deep.set[="a"]', '.spec.deep.set[="b"]'], ".spec.deep.set", None),
        (['.spec.deep.set[="a"]'], ".spec.deep.set", ["b"]),
        (['.spec.env[name="X"].value'], ".spec.env[0]", {"name": "X"}),
        (['.spec.env[name="X"]'], ".spec.env", [{"name": "Y", "value": "2"}]),
        ([".spec.env[0]", ".spec.env[1]"], ".spec.env", None),
        ([".metadata.labels.app.example.io/id"], ".metadata.labels", None),
        ([".spec.size"], ".spec.empty", {}),  # empty before
        ([".metadata.name", ".metadata.namespace", ".kind"], "", MANIFEST),
        ([".metadata", ".spec", ".apiVersion", ""], "", MANIFEST),
        ([".spec.nothing", "x", ".spec.env[9]", ".spec.size.x"], "", MANIFEST),
        ([".spec." + "x" * 2_000], "", MANIFEST),
    ],
)
def test_manifest_without_fields_leaves_no_empty_container(
    fields: list[str], path: str, expected: Any
) -> None:
    before = deepcopy(MANIFEST)
    assert ownership.value_at(ownership.without(MANIFEST, fields), path) == expected
    assert before == MANIFEST


def test_spec_stays_when_all_of_it_is_given_up() -> None:
    fields = [f".spec.{name}" for name in MANIFEST["spec"]]
    assert ownership.without(MANIFEST, fields)["spec"] == {}


@pytest.mark.parametrize(
    "field",
    [
        ".spec.size",
        ".spec.deep.only.a.b",
        ".spec.deep.only.new",
        ".spec.empty.one.two",
        ".spec.new.one",
        '.spec.env[name="Y"].value',
        '.spec.env[name="Y"].new',
        '.spec.deep.set[="b"]',
        ".metadata.labels.app.example.io/id",
        ".metadata.labels.other.example.io/id",
        ".metadata.annotations.other.example.io/id",
    ],
)
def test_value_is_put_where_its_path_leads(field: str) -> None:
    before = deepcopy(MANIFEST)
    value = {"live": [1]}
    changed = ownership.with_value(MANIFEST, field, value)
    assert before == MANIFEST
    value["live"].append(2)
    if "set[" in field:
        assert changed["spec"]["deep"]["set"] == ["a", {"live": [1]}]
    else:
        assert ownership.value_at(changed, field) == {"live": [1]}


def test_new_label_is_one_name_with_dots() -> None:
    for kind in ("labels", "annotations"):
        field = f".metadata.{kind}.a.example.io/id"
        changed = ownership.with_value(MANIFEST, field, "x")
        assert changed["metadata"][kind]["a.example.io/id"] == "x"


@pytest.mark.parametrize(
    "field",
    [
        "",
        "spec",
        ".",
        ".spec.",
        ".spec.size.below",
        '.spec.env[name="Z"].value',
        '.spec.env[name="Z"]',
        ".spec.env.name",
        ".spec.new[0]",
        ".spec..x",
        ".spec." + "x" * 2_000,
    ],
)
def test_value_without_a_place_is_refused(field: str) -> None:
    with pytest.raises(ValueError, match="no place"):
        ownership.with_value(MANIFEST, field, 1)


# === EMPTIED MAPS === #


def _owned_by(**trees: Any) -> dict[str, Any]:
    """Return an object whose `spec` has a map `a` with one entry, owned as given."""
    return {
        "metadata": {
            "uid": "u-1",
            "resourceVersion": "7",
            "managedFields": [
                {"manager": name.replace("_", "-"), "operation": "Apply", "fieldsV1": t}
                for name, t in trees.items()
            ],
        },
        "spec": {"a": {"b": 1}, "x/y~z": {"b": 1}},
    }


OWNED = {"f:spec": {"f:a": {".": {}, "f:b": {}}, "f:x/y~z": {"f:b": {}}}}


def test_map_in_which_we_own_everything_is_emptied() -> None:
    live = _owned_by(vworkspace_odoo=OWNED)
    manifest = {"spec": {"a": {}, "x/y~z": {}, "new": {}}}
    routes = ownership.emptied(manifest, live)
    assert set(routes) == {("spec", "a"), ("spec", "x/y~z")}
    assert ownership.emptying(live, routes) == (
        {"op": "test", "path": "/metadata/uid", "value": "u-1"},
        {"op": "test", "path": "/metadata/resourceVersion", "value": "7"},
        {"op": "replace", "path": "/spec/a", "value": {}},
        {"op": "replace", "path": "/spec/x~1y~0z", "value": {}},
    )


@pytest.mark.parametrize(
    "live",
    [
        _owned_by(vworkspace_odoo=OWNED, other={"f:spec": {"f:a": {"f:b": {}}}}),
        _owned_by(other=OWNED),
        _owned_by(vworkspace_odoo={"f:spec": {"f:a": {".": {}}}}),
        {"metadata": {}, "spec": {"a": {}}},
        {"metadata": {}, "spec": {"a": "text"}},
        {},
    ],
)
def test_map_in_which_somebody_else_owns_something_is_not_emptied(live: Any) -> None:
    assert ownership.emptied({"spec": {"a": {}}}, live) == ()


@pytest.mark.parametrize(
    ("manifest", "applied", "expected"),
    [
        ({"spec": {"a": {}}}, json.dumps(OWNED), True),
        ({"spec": {"a": {"b": 2}}}, json.dumps(OWNED), False),
        ({"spec": {"new": {}}}, json.dumps(OWNED), False),
        ({"spec": {"new": {}}}, None, True),
        ({"spec": {"new": {}}}, "no JSON", True),
        ({"spec": {"list": [{}]}}, None, False),
    ],
)
def test_what_we_owned_tells_whether_a_map_may_be_emptied(
    manifest: dict[str, Any], applied: str | None, expected: bool
) -> None:
    assert ownership.may_empty(manifest, applied) is expected


def test_transplant_copies_what_is_at_the_routes_alone() -> None:
    source, target = {"a": {"b": {"c": 1}}, "d": 1}, {"a": {"b": {}, "e": 2}}
    result = ownership.transplant(source, target, [("a", "b")])
    assert result == {"a": {"b": {"c": 1}, "e": 2}}
    assert target == {"a": {"b": {}, "e": 2}}


# === ADOPTION === #

WANTED = {
    "apiVersion": "v1",
    "metadata": {"name": "web", "labels": {"app": "x"}},
    "spec": {
        "size": "L",
        "env": [{"name": "X", "value": "2"}],
        "set": ["b"],
        "deep": {"c": 1},
    },
}


def _adopted(obj: Any) -> tuple[list[Any], tuple[tuple[str, str], ...]]:
    found = ownership.adoption(obj, WANTED)
    assert found is not None
    assert [step["op"] for step in found.patch] == ["test", "test", "replace"]
    assert [step["value"] for step in found.patch[:2]] == ["u-1", "7"]
    return found.patch[2]["value"], found.moved


def test_adoption_moves_what_the_manifest_contains() -> None:
    theirs = {
        "f:metadata": {"f:labels": {".": {}, "f:app": {}, "f:team": {}}},
        "f:spec": {
            ".": {},
            "f:size": {},
            "f:env": {
                'k:{"name":"X"}': {".": {}, "f:name": {}, "f:value": {}, "f:more": {}},
                'k:{"name":"Y"}': {".": {}, "f:name": {}},
            },
            "f:set": {'v:"a"': {}, 'v:"b"': {}},
        },
    }
    obj = _live({"size": "S"}, ("vworkspace-agent", theirs))
    (kept, ours), moved = _adopted(obj)
    assert kept["manager"] == "vworkspace-agent"
    assert kept["fieldsV1"] == {
        "f:metadata": {"f:labels": {"f:team": {}}},
        "f:spec": {
            "f:env": {
                'k:{"name":"X"}': {"f:more": {}},
                'k:{"name":"Y"}': {".": {}, "f:name": {}},
            },
            "f:set": {'v:"a"': {}},
        },
    }
    assert ours == {
        "manager": "vworkspace-odoo",
        "operation": "Apply",
        "apiVersion": "v1",
        "fieldsType": "FieldsV1",
        "time": "2026-02-03T04:05:06Z",
        "fieldsV1": {
            "f:metadata": {"f:labels": {".": {}, "f:app": {}}},
            "f:spec": {
                ".": {},
                "f:size": {},
                "f:env": {'k:{"name":"X"}': {".": {}, "f:name": {}, "f:value": {}}},
                "f:set": {'v:"b"': {}},
            },
        },
    }
    assert moved == tuple(
        (field, "vworkspace-agent")
        for field in (
            ".metadata.labels.app",
            '.spec.env[name="X"].name',
            '.spec.env[name="X"].value',
            '.spec.set[="b"]',
            ".spec.size",
        )
    )


def test_adoption_joins_several_managers_and_our_own_entry() -> None:
    obj = _live(
        {},
        ("kubectl-client-side-apply", {"f:spec": {"f:size": {}}}),
        ("vworkspace-odoo", {"f:spec": {"f:deep": {}}}),
        ("vworkspace-operator", {"f:spec": {"f:deep": {"f:c": {}}, "f:x": {}}}),
        ("rival", {"f:spec": {"f:size": {}}}),
    )
    entries, moved = _adopted(obj)
    assert {entry["manager"]: entry["fieldsV1"] for entry in entries} == {
        "vworkspace-operator": {"f:spec": {"f:x": {}}},
        "rival": {"f:spec": {"f:size": {}}},
        "vworkspace-odoo": {
            "f:spec": {"f:size": {}, "f:deep": {".": {}, "f:c": {}}},
        },
    }
    assert len(entries) == 3
    assert moved == (
        (".spec.deep.c", "vworkspace-operator"),
        (".spec.size", "kubectl-client-side-apply"),
    )


def test_adoption_survives_a_malformed_entry_of_ours() -> None:
    theirs = {"f:spec": {"f:size": {}, "f:deep": {"f:c": None}}}
    obj = _live(
        {},
        ("vworkspace-agent", theirs),
        ("vworkspace-odoo", {"f:spec": {"f:size": None, "f:deep": 3}}),
    )
    ((ours,), moved) = _adopted(obj)
    assert ours["fieldsV1"] == {
        "f:spec": {"f:size": {}, "f:deep": {".": {}, "f:c": {}}}
    }
    assert len(moved) == 2


@pytest.mark.parametrize(
    "obj",
    [
        {"metadata": {}},
        _live({}, ("rival", {"f:spec": {"f:size": {}}})),
        _live({}, ("vworkspace-odoo", {"f:spec": {"f:size": {}}})),
        _live({}, ("vworkspace-agent", {"f:spec": {"f:other": {}}})),
        _live({}, ("vworkspace-agent", "nonsense")),
        _live(
            {},
            ("vworkspace-operator", {"f:spec": {"f:size": {}}}),
            subresource="status",
        ),
    ],
)
def test_nothing_to_adopt_is_no_patch(obj: Any) -> None:
    assert ownership.adoption(obj, WANTED) is None


_KEYS = st.sampled_from(["f:a", "f:b", "f:c.d", 'k:{"name":"X"}', 'v:"x"', "i:0", "."])
_FIELDS = st.recursive(
    st.just({}), lambda inner: st.dictionaries(_KEYS, inner, max_size=3), max_leaves=9
)
_VALUES = st.recursive(
    st.none() | st.sampled_from(["x", 1]),
    lambda inner: (
        st.dictionaries(st.sampled_from(["a", "b", "c.d", "name"]), inner, max_size=3)
        | st.lists(inner | st.just({"name": "X"}), max_size=2)
    ),
    max_leaves=9,
)


def _owned(*trees: Any) -> frozenset[str]:
    return frozenset[str]().union(*(ownership.field_set(tree) for tree in trees))


@given(_FIELDS, _FIELDS, _VALUES)
def test_adoption_loses_no_owner_and_is_done_at_once(
    theirs: Any, ours: Any, value: Any
) -> None:
    theirs, ours = ({"f:spec": {"f:a": fields}} for fields in (theirs, ours))
    wanted = {"apiVersion": "v1", "spec": {"a": value}}
    obj = _live({}, ("vworkspace-agent", theirs), ("vworkspace-odoo", ours))
    found = ownership.adoption(obj, wanted)
    if found is None:
        paths = ownership.field_set(theirs)
        assert all(ownership.value_at(wanted, path) is None for path in paths)
        return
    entries = found.patch[2]["value"]
    assert _owned(*(e["fieldsV1"] for e in entries)) == _owned(theirs, ours)
    assert _owned(ours) <= _owned(entries[-1]["fieldsV1"])
    after = deepcopy(obj)
    after["metadata"]["managedFields"] = entries
    assert ownership.adoption(after, wanted) is None


@given(_FIELDS, _VALUES, st.text(max_size=20))
def test_any_tree_is_survived(fields: Any, value: Any, field: str) -> None:
    obj = _live({"a": value}, ("rival", {"f:spec": {"f:a": fields}}))
    ownership.owners(obj)
    ownership.drift(json.dumps(fields), obj)
    for path in (field, f".spec.a{field}", ".spec.a.b[0]"):
        ownership.other_owners(obj, path)
        ownership.without(obj, [path])


@given(_FIELDS, _VALUES)
def test_every_owned_field_leads_to_its_value(fields: Any, value: Any) -> None:
    obj = _live({"a": value}, ("rival", {"f:spec": {"f:a": fields}}))
    for owned in ownership.owners(obj):
        assert ownership.value_at(obj, owned.field) == owned.value
        assert _names(ownership.other_owners(obj, owned.field)) == ["rival"]
