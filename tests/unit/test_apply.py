"""The verbs against scripted answers; the real server has its own tests."""

from __future__ import annotations

from typing import Any

import pytest

from kube import apply as verbs
from kube import errors
from kube.connection import Connection
from kube.resources import APPLICATION_INSTANCE as INSTANCE
from tests.unit.fakes import Answer, FakeServer, status

PATH = INSTANCE.path("web", "demo")
COLLECTION = INSTANCE.collection_path("demo")
MANIFEST = {
    "apiVersion": INSTANCE.api_version,
    "kind": INSTANCE.kind,
    "metadata": {"name": "web", "namespace": "demo"},
    "spec": {"chart": {"version": "1.0.0"}},
}
STORED = {
    **MANIFEST,
    "metadata": {
        "name": "web",
        "namespace": "demo",
        "uid": "u-1",
        "resourceVersion": "7",
        "generation": 3,
        "managedFields": [
            {"manager": "other", "operation": "Apply", "time": "2026-05-28T10:00:00Z"}
        ],
    },
    "spec": {"chart": {"version": "9.9.9"}},
}
CONFLICT = status(
    409,
    "Conflict",
    "Apply failed",
    causes=[
        {
            "reason": "FieldManagerConflict",
            "message": 'conflict with "other"',
            "field": ".spec.chart.version",
        }
    ],
)


def _json(body: Any, code: int = 200) -> Answer:
    return lambda handler: handler.reply(body, status=code)


def test_created_object_comes_back_whole(
    server: FakeServer, connection: Connection
) -> None:
    server.on(PATH, _json(STORED, 201))
    applied = verbs.apply(connection, INSTANCE, MANIFEST, uid=None)
    assert (applied.uid, applied.resource_version, applied.generation) == (
        "u-1",
        "7",
        3,
    )
    assert applied.created
    assert applied.object == STORED
    (request,) = server.requests
    assert (request.method, request.body) == ("PATCH", MANIFEST)
    assert request.query == "fieldManager=vworkspace-odoo&fieldValidation=Strict"
    assert request.headers["Content-Type"] == "application/apply-patch+yaml"


def test_known_uid_guards_the_apply_and_leaves_the_manifest_alone(
    server: FakeServer, connection: Connection
) -> None:
    server.on(PATH, _json(STORED))
    applied = verbs.apply(
        connection, INSTANCE, MANIFEST, uid="u-1", force=True, dry_run=True
    )
    assert not applied.created
    (request,) = server.requests
    assert request.body["metadata"]["uid"] == "u-1"
    assert request.query.endswith("&force=true&dryRun=All")
    assert "uid" not in MANIFEST["metadata"]


def test_conflict_is_completed_by_one_read(
    server: FakeServer, connection: Connection
) -> None:
    server.on(PATH, _json(CONFLICT, 409), _json(STORED))
    with pytest.raises(errors.Conflict) as caught:
        verbs.apply(connection, INSTANCE, MANIFEST, uid="u-1")
    (conflict,) = caught.value.conflicts
    assert (conflict.manager, conflict.our_value) == ("other", "1.0.0")
    assert conflict.live_value == "9.9.9"
    assert conflict.since is not None
    assert [request.method for request in server.requests] == ["PATCH", "GET"]


def test_conflict_survives_a_failed_read(
    server: FakeServer, connection: Connection
) -> None:
    server.on(PATH, _json(CONFLICT, 409), _json({}, 503))
    with pytest.raises(errors.Conflict) as caught:
        verbs.apply(connection, INSTANCE, MANIFEST, uid="u-1")
    (conflict,) = caught.value.conflicts
    assert (conflict.our_value, conflict.live_value) == ("1.0.0", None)


@pytest.mark.parametrize("answer", [[], {}, {"metadata": {"uid": 5}}, None])
def test_answer_that_is_no_object_is_refused(
    server: FakeServer, connection: Connection, answer: Any
) -> None:
    server.on(PATH, _json(answer))
    with pytest.raises(errors.InvalidResponse):
        verbs.apply(connection, INSTANCE, MANIFEST, uid=None)


def test_delete_puts_its_guard_into_the_body(
    server: FakeServer, connection: Connection
) -> None:
    server.on(PATH, _json({"kind": "Status", "status": "Success"}))
    assert verbs.delete(connection, INSTANCE, "web", "demo", uid="u-1") is None
    (request,) = server.requests
    assert (request.method, request.query) == ("DELETE", "")
    assert request.body == {
        "apiVersion": "v1",
        "kind": "DeleteOptions",
        "preconditions": {"uid": "u-1"},
        "propagationPolicy": "Background",
    }


def test_delete_returns_what_finalizers_hold(
    server: FakeServer, connection: Connection
) -> None:
    server.on(PATH, _json(STORED))
    assert verbs.delete(connection, INSTANCE, "web", "demo", uid="u-1") == STORED


def test_delete_of_a_gone_object_is_done(
    server: FakeServer, connection: Connection
) -> None:
    body = status(404, "NotFound", "not found", kind="applicationinstances")
    server.on(PATH, _json(body, 404))
    assert verbs.delete(connection, INSTANCE, "web", "demo", uid="u-1") is None


def test_missing_definition_does_not_read_as_deleted(
    server: FakeServer, connection: Connection
) -> None:
    with pytest.raises(errors.NotFound) as caught:
        verbs.delete(connection, INSTANCE, "web", "demo", uid="u-1")
    assert caught.value.what == "definition"


# === LISTS === #


def _page(*uids: str, following: str = "", version: str = "50") -> Answer:
    metadata = {"resourceVersion": version} | (
        {"continue": following} if following else {}
    )
    items = [{"metadata": {"uid": uid}} for uid in uids]
    return _json({"kind": f"{INSTANCE.kind}List", "metadata": metadata, "items": items})


def _uids(items: list[dict[str, Any]]) -> list[str]:
    return [item["metadata"]["uid"] for item in items]


def test_list_joins_its_pages(server: FakeServer, connection: Connection) -> None:
    server.on(COLLECTION, _page("a", "b", following="t1"), _page("c"))
    items, version = verbs.list_all(connection, INSTANCE, namespace="demo", page_size=2)
    assert (_uids(items), version) == (["a", "b", "c"], "50")
    queries = [request.query for request in server.requests]
    assert queries == ["limit=2", "limit=2&continue=t1"]


def test_list_restarts_once_when_its_view_expired(
    server: FakeServer, connection: Connection
) -> None:
    expired = _json(status(410, "Expired", "too old"), 410)
    server.on(
        COLLECTION,
        _page("a", following="t1"),
        expired,
        _page("a", "b", version="60"),
    )
    items, version = verbs.list_all(connection, INSTANCE, namespace="demo")
    assert (_uids(items), version) == (["a", "b"], "60")
    server.on(COLLECTION, expired)
    with pytest.raises(errors.Expired):
        verbs.list_all(connection, INSTANCE, namespace="demo")


def test_list_without_items_is_empty(
    server: FakeServer, connection: Connection
) -> None:
    body = {
        "kind": f"{INSTANCE.kind}List",
        "metadata": {"resourceVersion": "5"},
        "items": None,
    }
    server.on(COLLECTION, _json(body))
    assert verbs.list_all(connection, INSTANCE, namespace="demo") == ([], "5")


@pytest.mark.parametrize(
    "body",
    [
        {},
        [],
        {"items": []},
        {"kind": "PodList", "metadata": {"resourceVersion": "1"}, "items": []},
        {"kind": "ApplicationInstanceList", "metadata": {}, "items": []},
        {
            "kind": "ApplicationInstanceList",
            "metadata": {"resourceVersion": "1"},
            "items": [{"metadata": {}}],
        },
        {
            "kind": "ApplicationInstanceList",
            "metadata": {"resourceVersion": "1"},
            "items": {},
        },
    ],
)
def test_list_that_may_be_incomplete_is_never_returned(
    server: FakeServer, connection: Connection, body: Any
) -> None:
    server.on(COLLECTION, _json(body))
    with pytest.raises(errors.InvalidResponse):
        verbs.list_all(connection, INSTANCE, namespace="demo")


def test_endless_list_is_given_up(
    server: FakeServer, connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(verbs, "MAX_PAGES", 3)
    server.on(COLLECTION, _page("a", following="again"))
    with pytest.raises(errors.InvalidResponse, match="end"):
        verbs.list_all(connection, INSTANCE, namespace="demo")
    assert len(server.requests) == 3
