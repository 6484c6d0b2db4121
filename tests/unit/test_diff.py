"""What differs between two objects, as changes and as lines for a person."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator, Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kube import diff
from kube.diff import ABSENT, Change
from kube.ownership import value_at

PEM = "-----BEGIN PRIVATE KEY-----\nMIIB"

_JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-2, 2)
    | st.floats(allow_nan=False)
    | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from("abcd"), inner, max_size=3)
    ),
    max_leaves=15,
)
_OBJECTS = st.dictionaries(st.sampled_from("abcd"), _JSON, max_size=4)


# === COMPARISON === #


def test_changes_name_the_leaves_in_document_order() -> None:
    old = {
        "spec": {
            "chart": {"version": "1.2.3", "name": "nginx"},
            "values": {"inline": {"gone": {"a": 1, "b": []}}},
            "list": ["x", {"n": 1}],
        }
    }
    new = {
        "spec": {
            "chart": {"version": "1.2.4", "name": "nginx"},
            "values": {"inline": {"new": {"deep": {"er": True}}}},
            "list": ["x", {"n": 2}, "y"],
            "app.example.io/x": None,
        }
    }
    assert diff.changes(old, new) == [
        Change(".spec.chart.version", "1.2.3", "1.2.4"),
        Change(".spec.values.inline.gone.a", 1, ABSENT),
        Change(".spec.values.inline.gone.b", [], ABSENT),
        Change(".spec.values.inline.new.deep.er", ABSENT, True),
        Change(".spec.list[1].n", 1, 2),
        Change(".spec.list[2]", ABSENT, "y"),
        Change(".spec.app.example.io/x", ABSENT, None),
    ]


@pytest.mark.parametrize(
    ("old", "new", "found"),
    [
        (1, "1", [Change(".a", 1, "1")]),
        (1, True, [Change(".a", 1, True)]),
        (1, 1.0, []),
        (None, 0, [Change(".a", None, 0)]),
        ({}, [], [Change(".a", {}, [])]),
        ({}, 1, [Change(".a", {}, 1)]),
        (1, {"b": 2}, [Change(".a", 1, ABSENT), Change(".a.b", ABSENT, 2)]),
        ({"b": 2}, {}, [Change(".a.b", 2, ABSENT), Change(".a", ABSENT, {})]),
        (
            [1, {"c": 2}],
            {"b": 3},
            [
                Change(".a[0]", 1, ABSENT),
                Change(".a[1].c", 2, ABSENT),
                Change(".a.b", ABSENT, 3),
            ],
        ),
    ],
)
def test_change_of_kind_is_a_removal_and_an_addition(
    old: Any, new: Any, found: list[Change]
) -> None:
    assert diff.changes({"a": old}, {"a": new}) == found


@pytest.mark.parametrize("nothing", [None, {}])
def test_nothing_is_an_empty_object(nothing: Any) -> None:
    assert diff.changes(nothing, {"a": {"b": 1}}) == [Change(".a.b", ABSENT, 1)]
    assert diff.changes({"a": {"b": 1}}, nothing) == [Change(".a.b", 1, ABSENT)]
    assert diff.changes(nothing, None) == []


def test_depth_has_no_limit() -> None:
    old: Any = 1
    new: Any = 2
    for _ in range(5_000):
        old, new = {"a": [old]}, {"a": [new]}
    (change,) = diff.changes(old, new)
    assert change == Change(".a[0]" * 5_000, 1, 2)
    (change,) = diff.changes(None, new)
    assert change == Change(".a[0]" * 5_000, ABSENT, 2)


@given(_OBJECTS)
def test_object_does_not_differ_from_itself(obj: dict[str, Any]) -> None:
    assert diff.changes(obj, obj) == []
    assert diff.changes(obj, json.loads(json.dumps(obj))) == []


def _leaves(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the leaves the plain way: by recursion, independent of the comparison."""
    if isinstance(value, dict) and value:
        for key, item in value.items():
            yield from _leaves(item, f"{path}.{key}")
    elif isinstance(value, list) and value:
        for i, item in enumerate(value):
            yield from _leaves(item, f"{path}[{i}]")
    elif path:
        yield path, value


@given(_OBJECTS, _OBJECTS)
def test_changes_lead_from_one_object_to_the_other(
    old: dict[str, Any], new: dict[str, Any]
) -> None:
    leaves = dict(_leaves(old))
    for change in diff.changes(old, new):
        if change.old is not ABSENT:
            before = leaves.pop(change.path)
            assert json.dumps(before) == json.dumps(change.old)
        if change.new is not ABSENT:
            assert change.path not in leaves
            leaves[change.path] = change.new
    assert leaves == dict(_leaves(new))


@given(_OBJECTS, _OBJECTS)
def test_paths_are_those_of_ownership(old: dict[str, Any], new: dict[str, Any]) -> None:
    for change in diff.changes(old, new):
        if change.new is not ABSENT:
            assert value_at(new, change.path) == change.new


def test_absent_stays_itself_in_copies() -> None:
    change = Change(".a", ABSENT, 1)
    assert copy.deepcopy(change).old is ABSENT


# === TEXT === #


def test_each_change_is_one_line() -> None:
    found = [
        Change(".spec.chart.version", "1.2.3", "1.2.4"),
        Change(".spec.replicas", ABSENT, 2),
        Change(".spec.labels", {"größe": [1, None]}, ABSENT),
    ]
    assert diff.render(found).splitlines() == [
        '~ .spec.chart.version: "1.2.3" → "1.2.4"',
        "+ .spec.replicas: 2",
        '- .spec.labels: {"größe":[1,null]}',
    ]
    assert diff.render([]) == ""


def test_lines_and_values_are_bounded() -> None:
    found = [Change(f".{i}", ABSENT, "x" * 1_000) for i in range(12)]
    lines = diff.render(found, max_lines=10, max_value=20).splitlines()
    assert len(lines) == 11
    assert lines[0] == '+ .0: "' + "x" * 18 + "…"
    assert lines[-1] == "… and 2 more"
    assert "more" not in diff.render(found, max_lines=12)


def test_value_that_just_fits_is_not_cut() -> None:
    assert diff.render([Change(".a", ABSENT, "x" * 18)], max_value=20) == (
        '+ .a: "' + "x" * 18 + '"'
    )


@pytest.mark.parametrize(
    "text", ["a\n+ .spec.fake: 1", "a\u2028b", "a\u202eb", "a\x85b", "a\x00b", "\ud800"]
)
def test_no_text_makes_a_line_of_its_own_or_hides(text: str) -> None:
    line = diff.render([Change(f".{text}", text, {text: text})])
    assert len(line.splitlines()) == 1
    assert line.isprintable()
    assert line.encode()


def test_value_nested_beyond_what_json_writes_is_still_a_line() -> None:
    value: Any = 1
    for _ in range(100_000):
        value = [value]
    assert diff.render([Change(".a", ABSENT, value)]) == "+ .a: …"


def test_secrets_are_masked_in_lines() -> None:
    found = [
        Change(".spec.values.inline.auth.password", "old-one", "new-one"),
        Change(".spec.values.inline.auth.token", "", "<set via externalSecret>"),
        Change(".spec.values.inline.tls", ABSENT, {"crt": "c", "key": PEM}),
    ]
    assert diff.render(found).splitlines() == [
        '~ .spec.values.inline.auth.password: "•••" → "•••"',
        '~ .spec.values.inline.auth.token: "" → "<set via externalSecret>"',
        '+ .spec.values.inline.tls: {"crt":"c","key":"•••"}',
    ]


# === SECRETS AND NOISE === #


@pytest.mark.parametrize(
    ("path", "value", "masked"),
    [
        (".a.password", "x", "•••"),
        (".a.rootPassword", "x", "•••"),
        (".a.APIKEY", "x", "•••"),
        (".a.users[0].token", "x", "•••"),
        ('.a.users[name="a.b]"].token', "x", "•••"),
        (".a.passwords", "x", "x"),
        (".a.password", ["x", ["y"], {"z": "z"}], ["•••", ["•••"], {"z": "z"}]),
        (".a.password[1]", "x", "•••"),
        ('.a.password[="x.y"]', "x", "•••"),
        (".a.password", "", ""),
        (".a.password", "<set via externalSecret>", "<set via externalSecret>"),
        (".a.password", 5, 5),
        (".a.password", None, None),
        (".a.password", ABSENT, ABSENT),
        (".a.key", PEM, "•••"),
        (
            ".a",
            {"b": [{"secretKey": "x", "c": PEM}]},
            {"b": [{"secretKey": "•••", "c": "•••"}]},
        ),
        ("", {"token": "x"}, {"token": "•••"}),
        ("", "x", "x"),
    ],
    ids=str,
)
def test_mask_follows_the_rules_of_admission(
    path: str, value: Any, masked: Any
) -> None:
    assert diff.mask(value, path) == masked


def test_mask_leaves_the_value_as_it_is() -> None:
    value = {"a": [{"token": "x"}]}
    diff.mask(value, ".a")
    assert value == {"a": [{"token": "x"}]}


@given(_JSON)
def test_mask_changes_nothing_that_is_no_secret(value: Any) -> None:
    assert diff.mask(value, ".a") == value


def test_clean_object_keeps_what_a_person_compares() -> None:
    live = {
        "apiVersion": "v1",
        "metadata": {
            "name": "web",
            "namespace": "demo",
            "labels": {"a": "b"},
            "annotations": {"c": "d"},
            "finalizers": ["e"],
            "uid": "u-1",
            "resourceVersion": "12",
            "generation": 2,
            "creationTimestamp": "2026-05-28T10:00:00Z",
            "deletionTimestamp": "2026-05-28T10:00:00Z",
            "deletionGracePeriodSeconds": 0,
            "selfLink": "/x",
            "managedFields": [{}],
        },
        "spec": {"x": 1},
        "status": {"y": 2},
    }
    before = copy.deepcopy(live)
    assert diff.clean(live) == {
        "apiVersion": "v1",
        "metadata": {
            "name": "web",
            "namespace": "demo",
            "labels": {"a": "b"},
            "annotations": {"c": "d"},
            "finalizers": ["e"],
        },
        "spec": {"x": 1},
    }
    assert live == before


@pytest.mark.parametrize("obj", [{}, {"metadata": None}, {"spec": 1}])
def test_any_object_can_be_cleaned(obj: Mapping[str, Any]) -> None:
    assert diff.clean(obj) == obj
