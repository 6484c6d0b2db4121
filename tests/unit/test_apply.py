"""The verbs against scripted answers; the real server has its own tests."""

from __future__ import annotations

from dataclasses import replace
from typing import Any
from urllib.parse import parse_qsl

import pytest

from kube import apply as verbs
from kube import errors
from kube.connection import Connection, Settings
from kube.resources import APPLICATION_INSTANCE as INSTANCE
from tests.unit.fakes import Answer, FakeServer, Handler, status

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
    assert request.method == "PATCH"
    # A version that no object has: where there is one, the server refuses.
    assert request.body == {
        **MANIFEST,
        "metadata": {**MANIFEST["metadata"], "resourceVersion": "1"},
    }
    assert request.query == "fieldManager=vworkspace-odoo&fieldValidation=Ignore"
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
    assert request.body["metadata"] == {**MANIFEST["metadata"], "uid": "u-1"}
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


STALE = status(409, "Conflict", "the object has been modified")
GONE = status(404, "NotFound", "not found", kind="applicationinstances")
INVALID = status(422, "Invalid", "the server rejected our request")


def test_version_is_sent_with_the_uid(
    server: FakeServer, connection: Connection
) -> None:
    server.on(PATH, _json(STORED))
    verbs.apply(connection, INSTANCE, MANIFEST, uid="u-1", resource_version="6")
    (request,) = server.requests
    assert request.body["metadata"]["resourceVersion"] == "6"


def test_audit_id_is_kept_of_answers_and_of_errors(
    server: FakeServer, connection: Connection
) -> None:
    def with_id(text: str, body: Any, code: int) -> Answer:
        headers = {"Audit-Id": text}
        return lambda handler: handler.reply(body, status=code, headers=headers)

    server.on(PATH, with_id("a-1", STORED, 200))
    applied = verbs.apply(connection, INSTANCE, MANIFEST, uid="u-1")
    assert applied.audit_id == "a-1"
    server.on(PATH, with_id("b" * 99 + "\xe9", STALE, 409), _json(STORED))
    with pytest.raises(errors.StaleVersion) as stale:
        verbs.apply(connection, INSTANCE, MANIFEST, uid="u-1")
    assert stale.value.audit_id == "b" * 64
    server.on(PATH, with_id("c\t\xe9d", STALE, 409), _json(STORED))
    with pytest.raises(errors.AlreadyExists) as exists:
        verbs.apply(connection, INSTANCE, MANIFEST, uid=None)
    assert (exists.value.audit_id, exists.value.http_status) == ("cd", 409)


@pytest.mark.parametrize("refusal", [STALE, CONFLICT])
def test_first_delivery_tells_what_is_there(
    server: FakeServer, connection: Connection, refusal: Any
) -> None:
    server.on(PATH, _json(refusal, 409), _json(STORED))
    with pytest.raises(errors.AlreadyExists) as caught:
        verbs.apply(connection, INSTANCE, MANIFEST, uid=None)
    assert caught.value.live == STORED
    assert not caught.value.retryable


def test_first_delivery_is_tried_again_while_it_is_not_known_what_is_there(
    server: FakeServer, connection: Connection
) -> None:
    server.on(PATH, _json(STALE, 409), _json({}, 503))
    with pytest.raises(errors.AlreadyExists) as caught:
        verbs.apply(connection, INSTANCE, MANIFEST, uid=None)
    assert caught.value.live == {}
    assert caught.value.retryable


def test_contention_where_nothing_is_does_not_read_as_an_object(
    server: FakeServer, connection: Connection
) -> None:
    server.on(PATH, _json(STALE, 409), _json(GONE, 404))
    with pytest.raises(errors.StaleVersion) as caught:
        verbs.apply(connection, INSTANCE, MANIFEST, uid=None)
    assert caught.value.retryable


@pytest.mark.parametrize("refusal", [STALE, CONFLICT])
def test_other_object_of_that_name_is_told_as_such(
    server: FakeServer, connection: Connection, refusal: Any
) -> None:
    server.on(PATH, _json(refusal, 409), _json(STORED))
    with pytest.raises(errors.IdentityMismatch):
        verbs.apply(connection, INSTANCE, MANIFEST, uid="u-other", resource_version="6")


def _conflict(*fields: str) -> Answer:
    causes = [
        {
            "reason": "FieldManagerConflict",
            "message": 'conflict with "other"',
            "field": field,
        }
        for field in fields
    ]
    return _json(status(409, "Conflict", "Apply failed", causes=causes), 409)


def _forced(server: FakeServer) -> bool:
    return any("force" in request.query for request in server.requests)


@pytest.mark.parametrize(
    "fields",
    [
        [f".spec.x{number}" for number in range(300)],
        [".spec." + "x" * 2_000],
    ],
    ids=["too_many", "too_long"],
)
def test_conflicts_that_cannot_all_be_told_are_not_overwritten(
    server: FakeServer, connection: Connection, fields: list[str]
) -> None:
    server.on(PATH, _json(STORED), _conflict(*fields), _json(STORED))
    decided = {*fields, *(field[:1_024] for field in fields)}
    with pytest.raises(errors.Conflict):
        verbs.take_over(connection, INSTANCE, MANIFEST, uid="u-1", fields=decided)
    assert not _forced(server)


def test_object_without_a_version_is_never_overwritten(
    server: FakeServer, connection: Connection
) -> None:
    server.on(PATH, _json({**STORED, "metadata": {"uid": "u-1"}}))
    with pytest.raises(errors.InvalidResponse):
        verbs.take_over(
            connection, INSTANCE, MANIFEST, uid="u-1", fields=[".spec.chart.version"]
        )
    assert [request.method for request in server.requests] == ["GET"]


@pytest.mark.parametrize(
    ("code", "reason", "kind"),
    [
        (401, "Unauthorized", errors.Unauthorized),
        (429, "TooManyRequests", errors.Throttled),
        (503, "ServiceUnavailable", errors.ServerFailed),
    ],
)
@pytest.mark.parametrize("before", [0, 1])
def test_preview_raises_where_there_is_no_answer_yet(
    server: FakeServer,
    connection: Connection,
    code: int,
    reason: str,
    kind: type[errors.KubeError],
    before: int,
) -> None:
    failure = _json(status(code, reason, "no"), code)
    server.on(PATH, *[_json(GONE, 404)] * before, failure)
    with pytest.raises(kind):
        verbs.preview(connection, INSTANCE, MANIFEST, uid=None)


def test_preview_without_the_definition_says_so(
    server: FakeServer, connection: Connection
) -> None:
    seen = verbs.preview(connection, INSTANCE, MANIFEST, uid=None)
    assert isinstance(seen.refusal, errors.NotFound)
    assert seen.refusal.what == "definition"


def test_preview_only_ever_sends_dry_runs(
    server: FakeServer, connection: Connection
) -> None:
    conflict = _json(CONFLICT, 409)
    stored = _json(STORED)
    server.on(PATH, stored, conflict, stored, stored)
    seen = verbs.preview(connection, INSTANCE, MANIFEST, uid=None)
    assert isinstance(seen.refusal, errors.AlreadyExists)
    assert [conflict.field for conflict in seen.conflicts] == [".spec.chart.version"]
    sent = [r.query for r in server.requests if r.method == "PATCH"]
    assert len(sent) == 2
    assert all(query.endswith("dryRun=All") for query in sent)


AGENTS = {
    **STORED,
    "metadata": {
        **STORED["metadata"],
        "managedFields": [
            {
                "manager": "vworkspace-agent",
                "operation": "Apply",
                "fieldsV1": {"f:spec": {"f:chart": {"f:version": {}}}},
            }
        ],
    },
}


def test_adoption_that_the_server_refuses_for_good_is_raised(
    server: FakeServer, connection: Connection
) -> None:
    found = _json(AGENTS)
    server.on(PATH, found, _json(INVALID, 422), found)
    with pytest.raises(errors.Denied):
        verbs.adopt(connection, INSTANCE, MANIFEST, uid="u-1")
    assert [r.method for r in server.requests] == ["GET", "PATCH", "GET"]


def test_adoption_of_what_vanishes_meanwhile_is_told_as_such(
    server: FakeServer, connection: Connection
) -> None:
    server.on(PATH, _json(AGENTS), _json(GONE, 404))
    with pytest.raises(errors.IdentityMismatch):
        verbs.adopt(connection, INSTANCE, MANIFEST, uid="u-1")


def test_adoption_with_nothing_to_move_writes_nothing(
    server: FakeServer, connection: Connection
) -> None:
    server.on(PATH, _json(STORED))
    adopted = verbs.adopt(connection, INSTANCE, MANIFEST, uid="u-1")
    assert (adopted.object, adopted.moved, adopted.audit_id) == (STORED, (), "")
    assert [request.method for request in server.requests] == ["GET"]


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


def _reading(settings: Settings, *, at_most: int) -> Connection:
    """Return a connection that reads answers of so many bytes."""
    settings = replace(settings, max_response_bytes=at_most)
    return Connection(settings, token=lambda: "any")


def test_page_that_is_too_large_is_asked_for_in_smaller_ones(
    server: FakeServer, settings: Settings
) -> None:
    small = _reading(settings, at_most=10_000)

    def by_limit(handler: Handler) -> None:
        query = dict(parse_qsl(handler.asked.query))
        first = int(query.get("continue", "0"))
        end = min(first + int(query["limit"]), 7)
        page = _page(
            *(f"{number}-{'x' * 2_000}" for number in range(first, end)),
            following=str(end) if end < 7 else "",
        )
        page(handler)

    server.on(COLLECTION, by_limit)
    items, _version = verbs.list_all(small, INSTANCE, namespace="demo", page_size=80)
    assert [uid.partition("-")[0] for uid in _uids(items)] == list("0123456")
    queries = [request.query for request in server.requests]
    assert queries[:4] == ["limit=80", "limit=20", "limit=5", "limit=1"]
    assert queries[4:] == [f"limit=1&continue={n}" for n in range(1, 7)]
    small.close()


def test_object_that_is_too_large_by_itself_is_told(
    server: FakeServer, settings: Settings
) -> None:
    small = _reading(settings, at_most=1_000)
    server.on(COLLECTION, _page("x" * 2_000))
    with pytest.raises(errors.InvalidResponse) as caught:
        verbs.list_all(small, INSTANCE, namespace="demo", page_size=2)
    assert caught.value.reason == "TooLarge"
    assert [request.query for request in server.requests] == ["limit=2", "limit=1"]
    small.close()


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
