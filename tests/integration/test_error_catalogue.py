"""Every way in which a delivery can fail, and what the record says of it.

The rows below are the promise: which state, for which reason, when it is tried again,
and fragments of the two sentences that a person reads. `REAL` are produced on the real
API server, `FAKED` are answers that it gives too rarely, or that something gives that
stands in its place.
"""

import itertools
import json
import socket
import threading
from base64 import b64encode
from contextlib import ExitStack
from dataclasses import dataclass, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from environment.control_plane import SERVICE_ACCOUNT
from environment.processes import free_port
from environment.progress import Failure
from tests.integration.conftest import activate, spoil
from tests.live_objects import COLLECTION, create_object, delete_object
from tests.unit.fakes import FakeServer, make_certificate, status
from tests.waiting import eventually

INSTANCE = "vworkspace.application.instance"
APPINST = "applicationinstances.apps.vworkspace.io"
ADMISSION = "/apis/admissionregistration.k8s.io/v1"
SLACK = 2.0  # s between the delivery and the look at its clock


# === WHAT IS PROMISED === #


@dataclass(frozen=True)
class Row:
    """One way to fail, and what follows.

    :param wait: s until the next attempt, from and to; None: only when a person acts
    :param says: fragments of `delivery_message`
    :param waits: a fragment of `waiting_for`
    """

    name: str
    state: str
    reason: str
    wait: tuple[float, float] | None
    says: tuple[str, ...]
    waits: str


PERSON = None
SOON = (2.5, 5.0)  # the first step of the back-off
SLOWLY = (300.0, 600.0)
ONCE_ACTIVE = (0.0, 0.0)  # due, but the cluster is not active any more

CHANGE = "Somebody to change what the cluster objects to"
ALLOW = "The cluster's admin to allow it; it is tried again at"
NEXT = "The next attempt, at"
ANSWER = "to answer: it is tried again at"
LOOK = "Somebody to look at the reason and to deploy it again"
START_OVER = "start over with a new object"

# After these the server may have made the object all the same.
UNSURE = {
    *("500-etcd", "500-with-a-reason", "500-without-a-reason", "502-of-a-proxy"),
    *("503-starting", "503-of-a-proxy", "504", "504-version", "408"),
    *("409-that-cannot-be-looked-into", "garbage", "a-list", "a-login-page", "huge"),
    *("huge-refusal", "cut", "hung-up", "silent", "frozen"),
}

REAL = (
    Row(
        "no-right",
        *("denied", "Forbidden", SLOWLY),
        (f'{SERVICE_ACCOUNT}" cannot patch resource', "Ask the cluster's admin"),
        ALLOW,
    ),
    Row(
        "policy",
        *("denied", "AdmissionDenied", PERSON),
        ("ValidatingAdmissionPolicy 'refuses-with-", "denied request: Not on Fridays."),
        CHANGE,
    ),
    Row(
        "policy-invalid",
        *("denied", "AdmissionDenied", PERSON),
        ("denied request: Not on Fridays.",),
        CHANGE,
    ),
    Row(
        "webhook-refuses-connections",
        *("failed", "WebhookUnavailable", SOON),
        ("connection refused", "admission webhook does not answer"),
        NEXT,
    ),
    Row(
        "webhook-hangs",
        *("failed", "WebhookUnavailable", SOON),
        ("context deadline exceeded", "admission webhook does not answer"),
        NEXT,
    ),
    Row(
        "no-namespace",
        *("denied", "NotFound", SLOWLY),
        ('namespaces "nowhere" not found', "create and label the namespace"),
        ALLOW,
    ),
    Row(
        "namespace-ends",
        *("denied", "NamespaceTerminating", SLOWLY),
        ("because it is being terminated", "deploy into another one"),
        ALLOW,
    ),
    Row(
        "no-definition",
        *("failed", "NotFound", SLOWLY),
        ("does not serve this kind", "Install the vWorkspace operator"),
        NEXT,
    ),
    Row(
        "unknown-field",
        *("denied", "Invalid", PERSON),
        (".spec.colour: field not declared in schema",),
        CHANGE,
    ),
    Row(
        "invalid-value",
        *("denied", "Invalid", PERSON),
        ("spec.chart.sourceType: Unsupported value", '"oci"'),
        CHANGE,
    ),
    Row(
        "too-large",
        *("denied", "TooLarge", PERSON),
        ("request is too large", "Make the values smaller"),
        CHANGE,
    ),
    Row(
        "conflict",
        *("conflict", "Conflict", PERSON),
        ('conflict with "rival"', ".spec.chart.version"),
        "A decision: other managers own fields",
    ),
    Row(
        "name-taken",
        *("denied", "AlreadyExists", PERSON),
        ("exists already in this namespace, and it was not touched",),
        "Import it, or choose another name",
    ),
    Row(
        "vanished",
        *("lost", "IdentityMismatch", PERSON),
        ("no existing object was found", "deleted or created anew outside of Odoo"),
        START_OVER,
    ),
    Row(
        "replaced",
        *("lost", "IdentityMismatch", PERSON),
        ("Another object has this name",),
        START_OVER,
    ),
    Row(
        "token",
        *("failed", "Unauthorized", ONCE_ACTIVE),
        ("Unauthorized", "neither expired nor revoked"),
        "to become active: an administrator does that",
    ),
    Row(
        "authority",
        *("failed", "CertificateInvalid", SLOWLY),
        ("is not signed by the CA certificate that is set",),
        NEXT,
    ),
    Row(
        "server-name",
        *("failed", "CertificateInvalid", SLOWLY),
        ("is for other names than the one in the address",),
        NEXT,
    ),
    Row(
        "no-tls",
        *("failed", "NotTls", SLOWLY),
        ("does not speak TLS", "Check the port"),
        NEXT,
    ),
    Row(
        "refused",
        *("failed", "ConnectionRefused", SOON),
        ("refused the connection", "Check the port"),
        ANSWER,
    ),
    Row(
        "frozen",
        *("failed", "ReadTimeout", SOON),
        ("in time",),
        ANSWER,
    ),
    Row(
        "forbidden-address",
        *("failed", "AddressRefused", SLOWLY),
        ("169.254.169.254",),
        NEXT,
    ),
)


# === ANSWERS OF A SERVER === #


def answer(code, body, *, headers=None, content_type="application/json"):
    """Return what gives that response."""
    return lambda handler: handler.reply(
        body, status=code, headers=headers, content_type=content_type
    )


def refusal(code, reason, message, *, headers=None, **details):
    """Return what answers with a Status."""
    return answer(code, status(code, reason, message, **details), headers=headers)


def text(code, words, *, headers=None, content_type="text/plain; charset=utf-8"):
    return answer(code, words.encode(), headers=headers, content_type=content_type)


def page(code, words):
    return text(code, f"<html><h1>{words}</h1></html>", content_type="text/html")


def silence(handler):
    handler.hold()


def half_an_answer(handler):
    handler.send_response(201)
    handler.send_header("Content-Type", "application/json")
    handler.send_header("Content-Length", "10000")
    handler.end_headers()
    handler.wfile.write(b'{"kind": "Applic')
    handler.close_connection = True


def no_answer(handler):
    handler.close_connection = True


def flood(handler):
    """More than anyone asked for, a chunk at a time."""
    handler.begin_stream()
    for _ in range(33):
        handler.send_chunk(b" " * 1024 * 1024)
    handler.send_chunk(b"")


MODIFIED = refusal(
    409, "Conflict", "Operation cannot be fulfilled: the object has been modified"
)


def quota_conflict(handler):
    if handler.asked.method == "PATCH":
        MODIFIED(handler)
    else:
        refusal(404, "NotFound", "not found", kind="applicationinstances")(handler)


WEBHOOK_DOWN = (
    'Internal error occurred: failed calling webhook "appinst.vworkspace.io": failed '
    'to call webhook: Post "https://op.svc:443/validate?timeout=10s": service "op" not '
    "found"
)
TOO_MANY = "Too many requests, please try again later.\n"

FAKED = (
    # 429
    (
        Row(
            "429-json",
            *("failed", "TooManyRequests", (7.0, 7.0)),
            ("storage is (re)initializing",),
            ANSWER,
        ),
        refusal(
            *(429, "TooManyRequests", "storage is (re)initializing"),
            headers={"Retry-After": "7"},
        ),
    ),
    (
        Row(
            "429-in-the-body-alone",
            *("failed", "TooManyRequests", (9.0, 9.0)),
            ("storage is (re)initializing",),
            ANSWER,
        ),
        refusal(
            *(429, "TooManyRequests", "storage is (re)initializing"),
            retryAfterSeconds=9,
        ),
    ),
    (
        Row(
            "429-text",
            *("failed", "TooManyRequests", (30.0, 30.0)),
            ("please try again later",),
            ANSWER,
        ),
        text(429, TOO_MANY, headers={"Retry-After": "30"}),
    ),
    (
        Row(
            "429-for-six-hours",
            *("failed", "TooManyRequests", (60.0, 60.0)),
            ("please try again later",),
            ANSWER,
        ),
        text(429, TOO_MANY, headers={"Retry-After": "21600"}),
    ),
    (
        Row(
            "429-without-a-time",
            *("failed", "TooManyRequests", SOON),
            ("please try again later",),
            "",  # the lane opens after a second
        ),
        text(429, TOO_MANY),
    ),
    # 5xx that pass
    (
        Row(
            "500-etcd",
            *("failed", "ServerFailed", SOON),
            ("etcdserver: leader changed", "Odoo tries again by itself"),
            NEXT,
        ),
        refusal(500, "", "etcdserver: leader changed"),
    ),
    (
        Row(
            "500-with-a-reason",
            *("failed", "ServerFailed", SOON),
            ("Internal error occurred: no quorum",),
            NEXT,
        ),
        refusal(500, "InternalError", "Internal error occurred: no quorum"),
    ),
    (
        Row(
            "500-webhook",
            *("failed", "WebhookUnavailable", SOON),
            ('service "op" not found', "admission webhook does not answer"),
            NEXT,
        ),
        refusal(500, "InternalError", WEBHOOK_DOWN),
    ),
    (
        Row(
            "502-of-a-proxy",
            *("failed", "ServerFailed", SOON),
            ("HTTP 502 without a reason",),
            NEXT,
        ),
        page(502, "Bad Gateway"),
    ),
    (
        Row(
            "503-starting",
            *("failed", "ServerFailed", (15.0, 15.0)),
            ("before all known HTTP paths have been installed",),
            NEXT,
        ),
        refusal(
            503,
            "ServiceUnavailable",
            "apiserver received a request before all known HTTP paths have been "
            "installed",
            headers={"Retry-After": "15"},
        ),
    ),
    (
        Row("503-of-a-proxy", "failed", "ServerFailed", SOON, ("HTTP 503",), NEXT),
        page(503, "No backend"),
    ),
    (
        Row(
            "504",
            *("failed", "ServerFailed", SOON),
            ("Timeout: request did not complete",),
            NEXT,
        ),
        refusal(504, "Timeout", "Timeout: request did not complete within 30s"),
    ),
    (
        Row(
            "504-version",
            *("failed", "ResourceVersionTooLarge", SOON),
            ("Too large resource version",),
            NEXT,
        ),
        refusal(504, "Timeout", "Timeout: Too large resource version: 12, current: 9"),
    ),
    # 5xx that do not
    (
        Row(
            "500-without-a-reason",
            *("denied", "InternalError", PERSON),
            ("unknown conversion",),
            CHANGE,
        ),
        refusal(500, "", "unknown conversion"),
    ),
    (
        Row(
            "500-schema",
            *("denied", "Invalid", PERSON),
            ("expected string, got &value.valueUnstructured",),
            CHANGE,
        ),
        refusal(
            500,
            "",
            "failed to create typed patch object (ns/wiki; apps.vworkspace.io/"
            "v1alpha1, Kind=ApplicationInstance): .spec.mode: expected string, got "
            "&value.valueUnstructured{Value:1}",
        ),
    ),
    (
        Row(
            "500-too-large",
            *("denied", "TooLarge", PERSON),
            ("request is too large", "Make the values smaller"),
            CHANGE,
        ),
        refusal(500, "", "etcdserver: request is too large"),
    ),
    # 4xx
    (
        Row(
            "400",
            *("denied", "BadRequest", PERSON),
            ("metadata.managedFields must be nil", "report this"),
            CHANGE,
        ),
        refusal(400, "BadRequest", "metadata.managedFields must be nil"),
    ),
    (
        Row(
            "400-webhook",
            *("denied", "AdmissionDenied", PERSON),
            ("denied the request: no chart",),
            CHANGE,
        ),
        refusal(400, "", 'admission webhook "w" denied the request: no chart'),
    ),
    (
        Row(
            "403-quota",
            *("denied", "QuotaExceeded", PERSON),
            ("exceeded quota: objects", "larger quota"),
            CHANGE,
        ),
        refusal(
            *(403, "Forbidden"),
            f'{APPINST} "wiki" is forbidden: exceeded quota: objects, requested: 1',
        ),
    ),
    (
        Row(
            "403-other-admission",
            *("denied", "Forbidden", PERSON),
            ("not allowed on Fridays",),
            CHANGE,
        ),
        refusal(
            403, "Forbidden", f'{APPINST} "wiki" is forbidden: not allowed on Fridays'
        ),
    ),
    (
        Row(
            "403-of-a-proxy",
            *("denied", "Forbidden", SLOWLY),
            ("HTTP 403", "A proxy before the API server"),
            ALLOW,
        ),
        page(403, "Forbidden"),
    ),
    (
        Row(
            "404-namespace",
            *("denied", "NotFound", SLOWLY),
            ('namespaces "gone" not found',),
            ALLOW,
        ),
        refusal(404, "NotFound", 'namespaces "gone" not found', kind="namespaces"),
    ),
    (
        Row(
            "404-definition",
            *("failed", "NotFound", SLOWLY),
            ("does not serve this kind", "Install the vWorkspace operator"),
            NEXT,
        ),
        text(404, "404 page not found\n"),
    ),
    (
        Row(
            "404-of-a-web-server",
            *("failed", "InvalidResponse", SLOWLY),
            ("HTTP 404 in a form that a Kubernetes API server does not use",),
            NEXT,
        ),
        page(404, "Not Found"),
    ),
    (
        Row("405", "denied", "BadRequest", PERSON, ("not support the method",), CHANGE),
        refusal(405, "MethodNotAllowed", "the server does not support the method"),
    ),
    (
        Row("408", "failed", "Timeout", SOON, ("HTTP 408",), NEXT),
        page(408, "Request Timeout"),
    ),
    (
        Row(
            "409-with-nothing-there",  # many write to one quota
            *("failed", "StaleVersion", SOON),
            ("the object has been modified",),
            NEXT,
        ),
        quota_conflict,
    ),
    (
        Row(
            "409-that-cannot-be-looked-into",
            *("failed", "AlreadyExists", SOON),
            ("already",),
            NEXT,
        ),
        MODIFIED,
    ),
    (
        Row("410", "failed", "Expired", SOON, ("too old resource version",), NEXT),
        refusal(410, "Expired", "too old resource version: 1 (9)"),
    ),
    (
        Row(
            "413",
            *("denied", "RequestEntityTooLarge", PERSON),
            ("HTTP 413", "Make the values smaller"),
            CHANGE,
        ),
        page(413, "Request Entity Too Large"),
    ),
    (
        Row(
            "415",
            *("denied", "BadRequest", PERSON),
            ("the body of the request was in an unknown format",),
            CHANGE,
        ),
        refusal(
            *(415, "UnsupportedMediaType"),
            "the body of the request was in an unknown format - accepted media types "
            "include: application/json-patch+json",
        ),
    ),
    (
        Row(
            "422",
            *("denied", "Invalid", PERSON),
            ("spec.release.name: Required value",),
            CHANGE,
        ),
        refusal(
            *(422, "Invalid"),
            'ApplicationInstance "wiki" is invalid: spec.release.name: Required value',
        ),
    ),
    (
        Row(
            "endless-and-full-of-markup",
            *("denied", "Forbidden", PERSON),
            ("<script>alert(1)</script>",),  # text, escaped where it is shown
            CHANGE,
        ),
        refusal(403, "Forbidden", "\x00<script>alert(1)</script>" + "a" * 100_000),
    ),
    # What is no answer of an API server
    (
        Row("302", "failed", "Redirect", SLOWLY, ("a redirect (HTTP 302)",), NEXT),
        answer(302, b"", headers={"Location": "https://169.254.169.254/"}),
    ),
    (
        Row("garbage", "failed", "InvalidResponse", SLOWLY, ("JSON",), NEXT),
        text(200, "{]", content_type="application/json"),
    ),
    (
        Row("a-list", "failed", "InvalidResponse", SLOWLY, ("not an object",), NEXT),
        answer(200, [1, 2]),
    ),
    (
        Row("a-login-page", "failed", "InvalidResponse", SLOWLY, ("JSON",), NEXT),
        page(200, "Welcome"),
    ),
    (
        Row("huge", "failed", "TooLarge", SLOWLY, ("larger than 33,554,432",), NEXT),
        flood,
    ),
    (
        Row("huge-refusal", "failed", "TooLarge", SLOWLY, ("larger than",), NEXT),
        text(500, "a" * 2_000_000),
    ),
    # What is no answer at all
    (
        Row(
            "cut",
            *("failed", "ConnectionCut", SOON),
            ("ended the connection before the answer was complete",),
            NEXT,
        ),
        half_an_answer,
    ),
    (
        Row(
            "hung-up", "failed", "ConnectionCut", SOON, ("ended the connection",), NEXT
        ),
        no_answer,
    ),
    (
        Row("silent", "failed", "ReadTimeout", SOON, ("in time",), NEXT),
        silence,
    ),
)


# === THE TABLE, CHECKED === #


@pytest.mark.parametrize("row", REAL, ids=lambda row: row.name)
def test_what_the_real_server_says_is_told_as_promised(world, row):
    with ExitStack() as troubles:
        instance = TROUBLES[row.name](world, troubles)
        world.deploy(instance)
        assert_told(world.database, instance, row)


@pytest.mark.parametrize(
    ("row", "given"), FAKED, ids=[row.name for row, _given in FAKED]
)
def test_what_a_rare_server_says_is_told_as_promised(
    world, fake, fake_place, monkeypatch, row, given
):
    from odoo.addons.vworkspace_push import const

    if given is silence:
        monkeypatch.setattr(const, "DELIVERY_TIMEOUT", 1.0)
    instance = world.make(**fake_place)
    fake.on(path_of(world, instance), given)

    world.deploy(instance)

    assert_told(world.database, instance, row)


def test_every_reason_is_in_the_audit_trail_with_the_servers_words(
    world, fake, fake_place
):
    instance = world.make(**fake_place)
    fake.on(path_of(world, instance), refusal(422, "Invalid", "No such thing."))

    world.deploy(instance)

    with world.database.transaction() as env:
        (entry,) = env["vworkspace.audit.entry"].search(
            [("res_model", "=", INSTANCE), ("res_id", "=", instance.id)]
        )
        assert (entry.action, entry.outcome) == ("deploy", "denied")
        assert "No such thing." in entry.message


def test_a_failing_server_is_left_to_a_person_after_an_hour(world, fake, fake_place):
    from odoo.addons.vworkspace_push import const

    instance = world.make(**fake_place)
    path = path_of(world, instance)
    fake.on(path, refusal(500, "InternalError", "Internal error occurred"))
    world.deploy(instance)
    assert world.database.read(instance, "next_attempt_at")

    make_due(world.database, instance, attempts=const.MAX_SERVER_FAILURES - 1)
    world.database.run_cron("ir_cron_deliver")

    row = Row("", "failed", "ServerFailed", PERSON, ("Internal error occurred",), LOOK)
    assert_told(world.database, instance, row)


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        (refusal(403, "Forbidden", "no"), "Forbidden"),
        (refusal(500, "InternalError", "Internal error occurred"), "ServerFailed"),
        (refusal(500, "", "unknown conversion"), "InternalError"),
        (answer(302, b""), "Redirect"),
        (no_answer, "ConnectionCut"),
    ],
    ids=["403", "500", "500-without-a-reason", "302", "hung-up"],
)
def test_a_failure_never_gives_up_the_wish_to_delete(
    world, fake, fake_place, given, reason
):
    instance = world.make(**fake_place)
    path = path_of(world, instance)
    fake.on(path, answer(201, stored_object()))
    world.deploy(instance)
    assert world.database.read(instance, "delivery_state") == "applied"
    fake.on(path, given)

    world.database.call("admin", INSTANCE, "action_delete_from_cluster", instance.ids)

    stored = world.database.read(
        instance, "delivery_state", "delivery_reason", "next_attempt_at"
    )
    assert (stored["delivery_state"], stored["delivery_reason"]) == ("deleting", reason)
    assert stored["next_attempt_at"]
    fake.on(path, refusal(404, "NotFound", "gone", kind="applicationinstances"))
    make_due(world.database, instance)
    world.database.run_cron("ir_cron_deliver")
    assert world.database.read(instance, "delivery_state") == "deleted"


# === ANSWERS THAT LIE === #


@pytest.mark.parametrize(
    "lie",
    [
        {"metadata": {"uid": "u-1"}},
        {"metadata": {"uid": "u-1\x00", "resourceVersion": "\ud800"}},
        {"metadata": {"uid": "u-1", "resourceVersion": 7, "generation": 10**30}},
        {"metadata": {"uid": "u-1", "resourceVersion": "1"}, "status": {"phase": []}},
        {"metadata": {"uid": "u" * 100_000, "resourceVersion": "1", "labels": [1]}},
        {
            "kind": ["x"],
            "metadata": {"uid": "u-1", "resourceVersion": "1", "managedFields": {}},
            "status": {"conditions": [{"type": "\x00", "status": {}}]},
        },
        {
            "metadata": {
                "uid": "u-1",
                "resourceVersion": "1",
                "managedFields": [{"manager": "vworkspace-odoo", "fieldsV1": [0]}],
            }
        },
    ],
    ids=["bare", "nul", "numbers", "status", "long", "kinds", "fields"],
)
def test_an_object_full_of_nonsense_still_ends_in_an_outcome(
    world, fake, fake_place, lie
):
    instance = world.make(**fake_place)
    fake.on(
        path_of(world, instance),
        answer(201, lie, headers={"Audit-Id": "\x7f" * 100, "Warning": '299 - "x"'}),
    )

    world.deploy(instance)

    assert world.database.read(instance, "delivery_state") in ("applied", "failed")
    assert world.database.read(instance, "delivery_attempts") == 1


# === HOW TO MAKE TROUBLE === #


def no_right(world, _troubles):
    world.control_plane.create_namespace("no-rights")
    return world.make(**world.place(world.cluster, "no-rights"))


def policy(world, troubles):
    return _guarded_by_policy(world, troubles, "Forbidden")


def policy_invalid(world, troubles):
    return _guarded_by_policy(world, troubles, None)


def _guarded_by_policy(world, troubles, reason):
    name = f"refuses-with-{reason or 'default'}".lower()
    namespace = world.namespace
    validation = {"expression": "false", "message": "Not on Fridays."}
    policy = {
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "ValidatingAdmissionPolicy",
        "metadata": {"name": name},
        "spec": {
            "failurePolicy": "Fail",
            "matchConstraints": matching(namespace),
            "validations": [validation | ({"reason": reason} if reason else {})],
        },
    }
    binding = {
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "ValidatingAdmissionPolicyBinding",
        "metadata": {"name": name},
        "spec": {"policyName": name, "validationActions": ["Deny"]},
    }
    world.control_plane.apply([policy, binding])
    for kind in ("policies", "policybindings"):
        path = f"{ADMISSION}/validatingadmission{kind}/{name}"
        troubles.callback(world.control_plane.request, "DELETE", path)
    wait_until_refused(world, "denied request")
    return world.make(**world.place(world.cluster, namespace))


def webhook_refuses_connections(world, troubles):
    return _guarded_by_webhook(world, troubles, free_port(), "connection refused")


def webhook_hangs(world, troubles):
    listener = troubles.enter_context(socket.create_server(("127.0.0.1", 0)))
    port = listener.getsockname()[1]
    return _guarded_by_webhook(world, troubles, port, "deadline exceeded")


def _guarded_by_webhook(world, troubles, port, words):
    name = f"webhook-on-{port}"
    webhook = {
        "name": "applications.example.com",
        "clientConfig": {
            "url": f"https://127.0.0.1:{port}/validate",
            "caBundle": b64encode(world.certificate.pem.encode()).decode(),
        },
        "rules": matching(world.namespace)["resourceRules"],
        "namespaceSelector": matching(world.namespace)["namespaceSelector"],
        "sideEffects": "None",
        "admissionReviewVersions": ["v1"],
        "timeoutSeconds": 1,
        "failurePolicy": "Fail",
    }
    world.control_plane.apply(
        [
            {
                "apiVersion": "admissionregistration.k8s.io/v1",
                "kind": "ValidatingWebhookConfiguration",
                "metadata": {"name": name},
                "webhooks": [webhook],
            }
        ]
    )
    path = f"{ADMISSION}/validatingwebhookconfigurations/{name}"
    troubles.callback(world.control_plane.request, "DELETE", path)
    wait_until_refused(world, words)
    return world.make(**world.place(world.cluster, world.namespace))


def no_namespace(world, _troubles):
    return world.make(**world.place(world.wide_cluster, "nowhere"))


def namespace_ends(world, troubles):
    name = "ends"
    world.control_plane.create_namespace(name)
    kept = {"name": "kept", "namespace": name, "finalizers": ["example.com/keep"]}
    config_map = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": kept}
    world.control_plane.apply([config_map])
    troubles.callback(
        world.control_plane.request,
        *("PATCH", f"/api/v1/namespaces/{name}/configmaps/kept"),
        body={"metadata": {"finalizers": None}},
        content_type="application/merge-patch+json",
    )
    world.control_plane.request("DELETE", f"/api/v1/namespaces/{name}")
    return world.make(**world.place(world.wide_cluster, name))


def no_definition(world, troubles):
    model = world.database.registry[INSTANCE]
    elsewhere = replace(model._resource, group="elsewhere.example.com")
    patch = troubles.enter_context(pytest.MonkeyPatch.context())
    patch.setattr(model, "_resource", elsewhere)
    return world.make(**world.place(world.wide_cluster, world.namespace))


def unknown_field(world, _troubles):
    return _smuggled(world, lambda manifest: manifest["spec"].update(colour="red"))


def invalid_value(world, _troubles):
    return _smuggled(
        world, lambda manifest: manifest["spec"]["chart"].update(sourceType="ftp")
    )


def _smuggled(world, change):
    """Return a record whose intent holds what the form would not have let in."""
    instance = world.make(**world.place(world.cluster, world.namespace))
    with world.database.transaction() as env:
        record = env[INSTANCE].browse(instance.ids)
        record.action_deploy()
        env.cr.postcommit.clear()
        manifest = json.loads(record.intent_manifest)
        change(manifest)
        env.flush_all()
        env.cr.execute(
            "UPDATE vworkspace_revision SET manifest = %s WHERE id = %s",
            [json.dumps(manifest), record.revision_id.id],
        )
    return instance


def too_large(world, troubles):
    from odoo.addons.vworkspace_push import const

    patch = troubles.enter_context(pytest.MonkeyPatch.context())
    patch.setattr(const, "MAX_VALUES_BYTES", 2_000_000)
    values = f"text: {'a' * 1_600_000}\n"
    place = world.place(world.cluster, world.namespace)
    return world.make(values_yaml=values, **place)


def conflict(world, _troubles):
    instance = _deployed(world)
    name = world.database.read(instance, "name")
    world.control_plane.request(
        *("PATCH", f"{COLLECTION.format(world.namespace)}/{name}"),
        body={"spec": {"chart": {"version": "6.0.0"}}},
        query={"fieldManager": "rival"},
        content_type="application/merge-patch+json",
    )
    change(world.database, instance)
    return instance


def name_taken(world, _troubles):
    instance = world.make(**world.place(world.cluster, world.namespace))
    create_object(
        world.control_plane, world.namespace, world.database.read(instance, "name")
    )
    return instance


def vanished(world, _troubles):
    instance = _deployed(world)
    delete_object(
        world.control_plane, world.namespace, world.database.read(instance, "name")
    )
    change(world.database, instance)
    return instance


def replaced(world, troubles):
    instance = vanished(world, troubles)
    create_object(
        world.control_plane, world.namespace, world.database.read(instance, "name")
    )
    return instance


def _deployed(world):
    instance = world.make(**world.place(world.cluster, world.namespace))
    world.deploy(instance)
    assert world.database.read(instance, "delivery_state") == "applied"
    return instance


def token(world, _troubles):
    refused_from_now_on = world.register("refused")
    spoil(world.database, refused_from_now_on)
    return world.make(**world.place(refused_from_now_on, world.namespace))


def authority(world, _troubles):
    return _spoilt(world, ca_certificate=world.certificate.pem)


def server_name(world, _troubles):
    return _spoilt(world, tls_server_name="another.example.com")


def no_tls(world, troubles):
    plain = troubles.enter_context(
        ThreadingHTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler)
    )
    threading.Thread(target=plain.serve_forever, args=(0.02,)).start()
    troubles.callback(plain.shutdown)
    return _spoilt(world, server_url=f"https://127.0.0.1:{plain.server_port}")


def refused(world, _troubles):
    return _spoilt(world, server_url=f"https://127.0.0.1:{free_port()}")


def forbidden_address(world, _troubles):
    return _spoilt(world, server_url="https://169.254.169.254")


def _spoilt(world, **columns):
    good = {
        "server_url": world.control_plane.server,
        "ca_certificate": world.control_plane.ca_pem,
        "tls_server_name": None,
    }
    spoil(world.database, world.spoilt, token=None, **{**good, **columns})
    return world.make(**world.place(world.spoilt, world.namespace))


def frozen(world, troubles):
    from odoo.addons.vworkspace_push import const

    place = world.place(world.cluster, world.namespace)
    world.deploy(world.make(**place))  # a warm connection takes the next request
    instance = world.make(**place)
    patch = troubles.enter_context(pytest.MonkeyPatch.context())
    patch.setattr(const, "DELIVERY_TIMEOUT", 1.0)
    patch.setattr(const, "PROBE_TIMEOUT", 0.5)
    troubles.callback(world.control_plane.thaw)
    world.control_plane.freeze()
    return instance


TROUBLES = {
    "no-right": no_right,
    "policy": policy,
    "policy-invalid": policy_invalid,
    "webhook-refuses-connections": webhook_refuses_connections,
    "webhook-hangs": webhook_hangs,
    "no-namespace": no_namespace,
    "namespace-ends": namespace_ends,
    "no-definition": no_definition,
    "unknown-field": unknown_field,
    "invalid-value": invalid_value,
    "too-large": too_large,
    "conflict": conflict,
    "name-taken": name_taken,
    "vanished": vanished,
    "replaced": replaced,
    "token": token,
    "authority": authority,
    "server-name": server_name,
    "no-tls": no_tls,
    "refused": refused,
    "frozen": frozen,
    "forbidden-address": forbidden_address,
}


# === FIXTURES AND HELPERS === #


class World:
    """The clusters that these tests share, and what they do with them."""

    def __init__(self, database, control_plane, certificate):
        self.database = database
        self.control_plane = control_plane
        self.certificate = certificate  # of somebody else
        self.namespace = "catalogue"  # with all our rights
        self._numbers = itertools.count(1)
        control_plane.create_namespace(self.namespace)
        control_plane.grant([self.namespace])
        self.cluster = self.register("good")
        self.wide_cluster = self.register("wide")  # may write everywhere
        spoil(database, self.wide_cluster, token=control_plane.admin_token)
        self.spoilt = self.register("spoilt")

    def register(self, name):
        """Return an active cluster: the control plane, under another name."""
        with self.database.transaction() as env:
            cluster = env["vworkspace.cluster"].create(
                {
                    "name": f"The {name} one",
                    "cluster_id": f"catalogue-{name}",
                    "server_url": self.control_plane.server,
                    "ca_certificate": self.control_plane.ca_pem,
                    "token": self.control_plane.service_account_token(),
                }
            )
        activate(self.database, cluster)
        return cluster

    def place(self, cluster, namespace):
        """Return the values that put an application there."""
        wanted = {"cluster_id": cluster.id, "name": namespace}
        with self.database.transaction() as env:
            places = env["vworkspace.cluster.namespace"]
            known = places.search([(k, "=", v) for k, v in wanted.items()])
            place = known or places.create(wanted)
            return {"cluster_id": cluster.id, "namespace_id": place.id}

    def make(self, **values):
        """Return a draft of a name of its own."""
        with self.database.transaction() as env:
            return env[INSTANCE].create(
                {
                    "name": f"wiki-{next(self._numbers)}",
                    "catalog_id": "wiki",
                    "chart_url": "oci://registry.example.com/charts",
                    "chart_name": "wiki",
                    "chart_version": "1.4.2",
                    "values_yaml": "replicas: 1\n",
                    **values,
                }
            )

    def deploy(self, instance):
        """Deliver what is intended already, or what the form says."""
        if self.database.read(instance, "delivery_state") == "pending":
            self.database.run_cron("ir_cron_deliver")
        else:
            self.database.call("admin", INSTANCE, "action_deploy", instance.ids)


@pytest.fixture(scope="module")
def other_certificate(tmp_path_factory):
    return make_certificate(tmp_path_factory.mktemp("tls"))


@pytest.fixture(scope="module")
def shared_world(database, control_plane, other_certificate):
    return World(database, control_plane, other_certificate)


@pytest.fixture
def world(shared_world):
    """The clusters, with nothing left of what the test before did to the lanes."""
    yield shared_world
    shared_world.database.sql("DELETE FROM vworkspace_delivery_lane")


@pytest.fixture(scope="module")
def fake_cluster(shared_world):
    return shared_world.register("fake")


@pytest.fixture
def fake(world, fake_cluster):
    """The server that a cluster's address leads to from now on."""
    server = FakeServer(world.certificate)
    spoil(
        *(world.database, fake_cluster),
        token=None,
        server_url=server.url,
        ca_certificate=world.certificate.pem,
    )
    yield server
    server.stop()


@pytest.fixture
def fake_place(world, fake_cluster):
    """Values to deploy to the fake server."""
    return world.place(fake_cluster, world.namespace)


def path_of(world, instance):
    name = world.database.read(instance, "name")
    return f"{COLLECTION.format(world.namespace)}/{name}"


def stored_object():
    """Return as much of an object as an answer to an apply needs."""
    return {"metadata": {"uid": "u-1", "resourceVersion": "1", "generation": 1}}


def change(database, instance):
    database.call("admin", INSTANCE, "write", instance.ids, {"chart_version": "1.5.0"})


def matching(namespace):
    """Return what policies and webhooks match: our objects in one namespace."""
    return {
        "namespaceSelector": {
            "matchLabels": {"kubernetes.io/metadata.name": namespace}
        },
        "resourceRules": [
            {
                "apiGroups": ["apps.vworkspace.io"],
                "apiVersions": ["*"],
                "operations": ["CREATE", "UPDATE"],
                "resources": ["applicationinstances"],
            }
        ],
    }


def wait_until_refused(world, words):
    """Wait until the API server has heard of a new obstacle."""

    def refusal_of_a_probe():
        try:
            create_object(world.control_plane, world.namespace, "probe")
        except Failure as exc:
            return str(exc)
        delete_object(world.control_plane, world.namespace, "probe")
        return ""

    eventually(lambda: words in refusal_of_a_probe(), what=f"it to say {words!r}")


def make_due(database, instance, *, attempts=None):
    """Let the next attempt be due, as after that many others."""
    database.sql("DELETE FROM vworkspace_delivery_lane")
    database.sql(
        """UPDATE vworkspace_application_instance
              SET next_attempt_at = now() AT TIME ZONE 'UTC',
                  delivery_attempts = COALESCE(%s, delivery_attempts)
            WHERE id = %s""",
        attempts,
        instance.id,
    )


def assert_told(database, instance, row):
    """Check what the record says against the row of the catalogue."""
    stored = database.read(
        instance,
        *("delivery_state", "delivery_reason", "delivery_message"),
        *("next_attempt_at", "waiting_for", "may_exist"),
    )
    message = stored["delivery_message"]
    assert (stored["delivery_state"], stored["delivery_reason"]) == (
        row.state,
        row.reason,
    ), message
    for fragment in row.says:
        assert fragment in message
    assert "<html>" not in message
    assert "\x00" not in message
    assert len(message) < 2_500
    assert row.waits in (stored["waiting_for"] or "")
    if row.name:
        assert stored["may_exist"] is (row.name in UNSURE)
    if row.wait is None:
        assert not stored["next_attempt_at"]
        return
    ((wait,),) = database.sql(
        """SELECT extract(epoch FROM next_attempt_at - now() AT TIME ZONE 'UTC')
             FROM vworkspace_application_instance WHERE id = %s""",
        instance.id,
    )
    shortest, longest = row.wait
    assert shortest - SLACK <= wait <= longest
