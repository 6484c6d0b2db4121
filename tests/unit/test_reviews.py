"""The difference between the rights that are there and those that should be."""

from __future__ import annotations

from typing import Any

import pytest

from kube import reviews
from kube.access import Profile, Right
from kube.connection import Connection
from kube.reviews import Rules, missing_and_excess
from tests.unit.fakes import FakeServer

APPS, OPS = "apps.vworkspace.io", "ops.vworkspace.io"
EXPECTED = Profile().in_namespace("shop", gated=True)


def _rules(*rights: Right, urls: tuple[str, ...] = (), complete: bool = True) -> Rules:
    return Rules(frozenset(rights), frozenset(urls), complete)


@pytest.mark.parametrize(
    ("rights", "excess"),
    [
        ([], []),
        (EXPECTED, []),
        (reviews.BASELINE, []),
        ([Right("get", "", "secrets")], ["get secrets"]),
        ([Right("get", APPS, "applicationinstances", "one")], []),
        ([Right("get", "", "secrets", "one")], ["get secrets one"]),
        (
            [Right("patch", APPS, "applicationinstances/status")],
            ["patch applicationinstances/status.apps.vworkspace.io"],
        ),
        (
            [Right("deletecollection", OPS, "operations")],
            ["deletecollection operations.ops.vworkspace.io"],
        ),
        (
            [Right("get", OPS, "applicationinstances")],
            [f"get applicationinstances.{OPS}"],
        ),
        (
            [Right("*", APPS, "applicationinstances")],
            [f"* applicationinstances.{APPS}"],
        ),
        ([Right("get", APPS, "*")], [f"get *.{APPS}"]),
        ([Right("get", "*", "applicationinstances")], ["get applicationinstances.*"]),
        ([Right("*", "*", "*")], ["* *.*"]),
        (
            [
                Right("list", "", "secrets"),
                Right("get", "", "secrets"),
                Right("create", "", "pods"),
            ],
            ["create pods", "get secrets", "list secrets"],
        ),
    ],
)
def test_excess_is_what_is_neither_expected_nor_everybodys(
    rights: list[Right], excess: list[str]
) -> None:
    assert missing_and_excess({}, _rules(*rights), expected=EXPECTED) == ([], excess)


@pytest.mark.parametrize(
    ("url", "public"),
    [
        ("get /api", True),
        ("get /apis/*", True),
        ("get /openapi/v3", True),
        ("get /version/", True),
        ("get /.well-known/openid-configuration", True),
        ("get /metrics", False),
        ("get /apisecrets", False),
        ("post /api", False),
        ("* /healthz", False),
        ("get *", False),
        ("get /logs/*", False),
    ],
)
def test_url_beyond_the_public_ones_is_excess(url: str, public: bool) -> None:
    _, excess = missing_and_excess({}, _rules(urls=(url,)), expected=frozenset())
    assert excess == ([] if public else [url])


def test_missing_is_what_was_denied() -> None:
    answers = {right: right.verb != "delete" for right in EXPECTED}
    missing, excess = missing_and_excess(answers, _rules(), expected=EXPECTED)
    assert missing == [
        "delete applicationinstances.apps.vworkspace.io",
        "delete operations.ops.vworkspace.io",
    ]
    assert excess == []


def test_rules_beyond_others_are_the_rest() -> None:
    here = _rules(Right("get", "", "a"), Right("get", "", "b"), urls=("get /a",))
    everywhere = _rules(Right("get", "", "a"), urls=("get /a", "get /b"))
    assert here.beyond(everywhere) == _rules(Right("get", "", "b"))


# === THE SERVER'S WORDS === #

RULES = "/apis/authorization.k8s.io/v1/selfsubjectrulesreviews"
ACCESS = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews"


def test_rules_are_read(server: FakeServer, connection: Connection) -> None:
    status = {
        "resourceRules": [
            {
                "verbs": ["get", "list"],
                "apiGroups": [""],
                "resources": ["pods", "pods/log"],
                "resourceNames": ["x"],
            }
        ],
        "nonResourceRules": [{"verbs": ["get"], "nonResourceURLs": ["/metrics"]}],
        "incomplete": True,
    }
    server.on(RULES, lambda h: h.reply({"status": status}, status=201))
    assert reviews.list_rules(connection, "shop") == Rules(
        rights=frozenset(
            Right(verb, "", resource, "x")
            for verb in ("get", "list")
            for resource in ("pods", "pods/log")
        ),
        urls=frozenset({"get /metrics"}),
        complete=False,
    )
    assert server.requests[0].body["spec"] == {"namespace": "shop"}


@pytest.mark.parametrize(
    "status", [None, [], {}, {"resourceRules": 5}, {"resourceRules": [5, {"verbs": 1}]}]
)
def test_odd_rules_count_as_none(
    server: FakeServer, connection: Connection, status: Any
) -> None:
    server.on(RULES, lambda h: h.reply({"status": status}, status=201))
    assert not reviews.list_rules(connection, "shop").rights


@pytest.mark.parametrize(
    ("status", "allowed"),
    [
        ({"allowed": True}, True),
        ({"allowed": False}, False),
        ({"allowed": "yes"}, False),
        ({}, False),
        (None, False),
    ],
)
def test_only_a_clear_yes_is_a_right(
    server: FakeServer, connection: Connection, status: Any, allowed: bool
) -> None:
    server.on(ACCESS, lambda h: h.reply({"status": status}, status=201))
    right = Right("create", "", "serviceaccounts/token", "sa")
    assert reviews.is_allowed(connection, right, namespace="shop") is allowed
    assert server.requests[0].body["spec"] == {
        "resourceAttributes": {
            "verb": "create",
            "group": "",
            "resource": "serviceaccounts",
            "subresource": "token",
            "namespace": "shop",
            "name": "sa",
        }
    }
