"""Every row of the catalogue: what a response or a failure below HTTP becomes."""

from __future__ import annotations

import json
import socket
import ssl
from http.client import IncompleteRead
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from urllib3.exceptions import (
    ConnectTimeoutError,
    NewConnectionError,
    ProtocolError,
    ReadTimeoutError,
)

from kube import errors
from tests.unit.fakes import status

RBAC = (
    'applicationinstances.apps.vworkspace.io "web" is forbidden: User "sa" cannot '
    'patch resource "applicationinstances" in API group "apps.vworkspace.io" in the '
    'namespace "demo"'
)
POLICY = (
    "x \"web\" is forbidden: ValidatingAdmissionPolicy 'p' with binding 'b' denied "
    "request: no"
)
WEBHOOK = (
    'admission webhook "w.example.io" denied the request: the namespace is not ours'
)
WEBHOOK_DOWN = (
    'Internal error occurred: failed calling webhook "w": failed to call webhook: Post '
    '"https://x": dial tcp 127.0.0.1:1: connect: connection refused'
)
TYPED = (
    "failed to create typed patch object (demo/web; a/v1, Kind=X): .spec.bogus: field "
    "not declared in schema"
)
CONFLICT_CAUSE = {
    "reason": "FieldManagerConflict",
    "message": 'conflict with "other"',
    "field": ".spec.chart.version",
}
NOT_BOOTED = (
    "the request has been made before all known HTTP paths have been installed, please "
    "try again"
)

CATALOGUE: list[tuple[str, dict[str, Any], type[errors.KubeError], str, bool]] = [
    (
        "bad_request",
        status(400, "BadRequest", "bad"),
        errors.Denied,
        "BadRequest",
        False,
    ),
    (
        "webhook_400",
        status(400, "BadRequest", WEBHOOK),
        errors.Denied,
        "AdmissionDenied",
        False,
    ),
    (
        "unauthorized",
        status(401, "Unauthorized", "Unauthorized"),
        errors.Unauthorized,
        "Unauthorized",
        False,
    ),
    ("rbac", status(403, "Forbidden", RBAC), errors.Forbidden, "Forbidden", False),
    (
        "policy_403",
        status(403, "Forbidden", POLICY),
        errors.Denied,
        "AdmissionDenied",
        False,
    ),
    (
        "webhook_403",
        status(403, "Forbidden", WEBHOOK),
        errors.Denied,
        "AdmissionDenied",
        False,
    ),
    (
        "quota",
        status(403, "Forbidden", "exceeded quota: q, requested: count/x=1"),
        errors.Denied,
        "QuotaExceeded",
        False,
    ),
    (
        "terminating",
        status(
            403,
            "Forbidden",
            "unable to create because it is being terminated",
            causes=[{"reason": "NamespaceTerminating", "field": "metadata.namespace"}],
        ),
        errors.Denied,
        "NamespaceTerminating",
        False,
    ),
    (
        "stale",
        status(409, "Conflict", "the object has been modified; please apply"),
        errors.StaleVersion,
        "StaleVersion",
        True,
    ),
    (
        "ssa_conflict",
        status(409, "Conflict", "Apply failed", causes=[CONFLICT_CAUSE]),
        errors.Conflict,
        "Conflict",
        False,
    ),
    (
        "uid_gone",
        status(409, "Conflict", "uid mismatch: and no existing object was found"),
        errors.IdentityMismatch,
        "IdentityMismatch",
        False,
    ),
    (
        "uid_precondition",
        status(409, "Conflict", "the UID in the precondition (a) does not match"),
        errors.IdentityMismatch,
        "IdentityMismatch",
        False,
    ),
    (
        "uid_replaced",
        status(
            422,
            "Invalid",
            "field is immutable",
            causes=[{"reason": "FieldValueInvalid", "field": "metadata.uid"}],
        ),
        errors.IdentityMismatch,
        "IdentityMismatch",
        False,
    ),
    (
        "exists",
        status(409, "AlreadyExists", "already exists"),
        errors.AlreadyExists,
        "AlreadyExists",
        False,
    ),
    (
        "expired",
        status(410, "Expired", "too old resource version"),
        errors.Expired,
        "Expired",
        True,
    ),
    ("gone", status(410, "Gone", "old"), errors.Expired, "Expired", True),
    (
        "too_large",
        status(413, "RequestEntityTooLarge", "limit is 3145728"),
        errors.Denied,
        "RequestEntityTooLarge",
        False,
    ),
    (
        "media",
        status(415, "UnsupportedMediaType", "x"),
        errors.Denied,
        "BadRequest",
        False,
    ),
    (
        "invalid",
        status(422, "Invalid", "spec: Required"),
        errors.Denied,
        "Invalid",
        False,
    ),
    (
        "throttled",
        status(429, "TooManyRequests", "storage is (re)initializing"),
        errors.Throttled,
        "TooManyRequests",
        True,
    ),
    ("typed_patch", status(500, "", TYPED), errors.Denied, "Invalid", False),
    (
        "etcd_too_large",
        status(500, "", "etcdserver: request is too large"),
        errors.Denied,
        "TooLarge",
        False,
    ),
    (
        "garbage_version",
        status(500, "", 'resourceVersion: Invalid value: "x"'),
        errors.Expired,
        "Expired",
        True,
    ),
    (
        "webhook_down",
        status(500, "InternalError", WEBHOOK_DOWN),
        errors.ServerFailed,
        "WebhookUnavailable",
        True,
    ),
    (
        "leader",
        status(500, "", "etcdserver: leader changed"),
        errors.ServerFailed,
        "ServerFailed",
        True,
    ),
    ("unknown_500", status(500, "", "odd"), errors.Denied, "InternalError", False),
    (
        "internal",
        status(500, "InternalError", "Internal error occurred: x"),
        errors.ServerFailed,
        "ServerFailed",
        True,
    ),
    (
        "booting",
        status(503, "ServiceUnavailable", NOT_BOOTED),
        errors.ServerFailed,
        "ServerFailed",
        True,
    ),
    (
        "future_version",
        status(504, "Timeout", "Too large resource version: 9, current: 1"),
        errors.Expired,
        "ResourceVersionTooLarge",
        True,
    ),
    ("timeout", status(504, "Timeout", "x"), errors.ServerFailed, "ServerFailed", True),
]


@pytest.mark.parametrize(
    ("body", "kind", "reason", "retryable"),
    [row[1:] for row in CATALOGUE],
    ids=[row[0] for row in CATALOGUE],
)
def test_status_becomes_what_the_catalogue_says(
    body: dict[str, Any], kind: type[errors.KubeError], reason: str, retryable: bool
) -> None:
    error = errors.from_response(body["code"], {}, json.dumps(body).encode())
    assert type(error) is kind
    assert (error.reason, error.retryable) == (reason, retryable)
    assert error.http_status == body["code"]
    assert str(error) == error.message == body["message"]


@pytest.mark.parametrize(
    ("body", "unsettled"),
    [
        (status(401, "Unauthorized", "x"), False),
        (status(403, "Forbidden", RBAC), False),
        (status(409, "Conflict", "x"), False),
        (status(422, "Invalid", "x"), False),
        (status(429, "TooManyRequests", "x"), False),
        (status(500, "", WEBHOOK), False),
        (status(500, "", TYPED), False),
        (status(500, "InternalError", WEBHOOK_DOWN), False),
        (status(408, "Timeout", "x"), True),
        (status(500, "", "conversion webhook for a/v1 failed"), True),
        (status(500, "InternalError", "etcdserver: request timed out"), True),
        (status(503, "ServiceUnavailable", "x"), True),
        (status(504, "Timeout", "x"), True),
    ],
)
def test_what_a_server_may_have_done_is_told_from_what_it_refused(
    body: dict[str, Any], unsettled: bool
) -> None:
    error = errors.from_response(body["code"], {}, json.dumps(body).encode())
    assert error.unsettled is unsettled


@pytest.mark.parametrize(
    ("code", "unsettled"), [(302, False), (404, False), (502, True)]
)
def test_a_page_of_something_in_between_says_as_much(
    code: int, unsettled: bool
) -> None:
    error = errors.from_response(code, {"Content-Type": "text/html"}, b"<html></html>")
    assert error.unsettled is unsettled


@pytest.mark.parametrize(
    ("kind", "what"),
    [("namespaces", "namespace"), ("applicationinstances", "object")],
)
def test_not_found_says_what_is_missing(kind: str, what: str) -> None:
    body = status(404, "NotFound", "x not found", kind=kind)
    error = errors.from_response(404, {}, json.dumps(body).encode())
    assert isinstance(error, errors.NotFound)
    assert error.what == what


@pytest.mark.parametrize(
    ("content_type", "body"),
    [
        ("text/plain; charset=utf-8", b"404 page not found\n"),
        (
            "application/json",
            json.dumps(status(404, "NotFound", "could not find the resource")).encode(),
        ),
    ],
)
def test_missing_definition_is_told_from_a_missing_object(
    content_type: str, body: bytes
) -> None:
    error = errors.from_response(404, {"Content-Type": content_type}, body)
    assert isinstance(error, errors.NotFound)
    assert error.what == "definition"
    assert "definitions" in error.hint


@pytest.mark.parametrize("code", [404, 418, 200, 302])
def test_web_page_is_not_an_api_server_and_never_quoted(code: int) -> None:
    page = b"<html><script>alert(1)</script></html>"
    error = errors.from_response(code, {"Content-Type": "text/html"}, page)
    assert type(error) is errors.InvalidResponse
    assert "<" not in str(error)


def test_web_page_of_a_gateway_is_worth_a_retry() -> None:
    page = b"<html>Bad Gateway</html>"
    error = errors.from_response(502, {"Content-Type": "text/html"}, page)
    assert type(error) is errors.ServerFailed
    assert "<" not in str(error)


def test_throttling_in_plain_text_keeps_its_retry_after() -> None:
    headers = {"Content-Type": "text/plain", "Retry-After": "3"}
    error = errors.from_response(429, headers, b"Too many requests, please try again")
    assert isinstance(error, errors.Throttled)
    assert error.retry_after == 3.0


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        ("21600", 60.0),
        ("0", 0.0),
        ("Wed, 21 Oct 2026 07:28:00 GMT", None),
        ("-1", None),
    ],
)
def test_retry_after_is_bounded(header: str, seconds: float | None) -> None:
    error = errors.from_response(429, {"Retry-After": header}, b"")
    assert error.retry_after == seconds


def test_denied_names_the_fields_without_noise() -> None:
    causes = [
        {"reason": "FieldValueRequired", "message": "Required", "field": "spec.chart"},
        {"reason": "FieldValueInvalid", "message": "not checked", "field": "<nil>"},
    ]
    body = status(422, "Invalid", "invalid", causes=causes)
    error = errors.from_response(422, {}, json.dumps(body).encode())
    assert isinstance(error, errors.Denied)
    assert error.causes == (
        errors.FieldCause("spec.chart", "FieldValueRequired", "Required"),
    )


def test_message_is_bounded_and_printable() -> None:
    body = status(500, "InternalError", "a\x00b\x1b[31m\ud800" + "x" * 5_000)
    error = errors.from_response(500, {}, json.dumps(body).encode())
    assert len(error.message) == errors.MAX_MESSAGE
    assert not set("\x00\x1b\ud800") & set(error.message)


@given(st.integers(300, 599), st.binary(max_size=200))
def test_any_body_becomes_an_error(code: int, body: bytes) -> None:
    assert isinstance(errors.from_response(code, {}, body), errors.KubeError)


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=10),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["reason", "message", "details", "causes", "field", "code"]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


@given(_JSON)
def test_any_status_becomes_an_error(value: Any) -> None:
    members = value if isinstance(value, dict) else {"details": value}
    error = errors.from_status({"kind": "Status"} | members)
    assert isinstance(error, errors.KubeError)
    assert error.message


def _verify_error(code: int) -> ssl.SSLCertVerificationError:
    error = ssl.SSLCertVerificationError(1, "CERTIFICATE_VERIFY_FAILED")
    error.verify_code, error.verify_message = code, "words of OpenSSL"
    return error


def _ssl_error(reason: str) -> ssl.SSLError:
    error = ssl.SSLError(1, reason)
    error.reason = reason
    return error


@pytest.mark.parametrize(
    ("exc", "kind", "reason", "text"),
    [
        (socket.gaierror(-2, "x"), errors.Unreachable, "NameUnknown", "resolve"),
        (ConnectionRefusedError(), errors.Unreachable, "ConnectionRefused", "refused"),
        (
            ConnectTimeoutError(None, "t"),  # type: ignore[arg-type]
            errors.Unreachable,
            "ConnectTimeout",
            "connected",
        ),
        (
            ReadTimeoutError(None, "", "t"),  # type: ignore[arg-type]
            errors.Unreachable,
            "ReadTimeout",
            "did not answer",
        ),
        (
            ProtocolError("x", IncompleteRead(b"")),
            errors.Unreachable,
            "ConnectionCut",
            "ended",
        ),
        (OSError(113, "No route to host"), errors.Unreachable, "Unreachable", "route"),
        (RuntimeError("secret"), errors.Unreachable, "Unreachable", "RuntimeError"),
        (ssl.SSLEOFError(8, "eof"), errors.Unreachable, "ConnectionCut", "ended"),
        (_verify_error(20), errors.TlsFailed, "CertificateInvalid", "signed"),
        (_verify_error(10), errors.TlsFailed, "CertificateInvalid", "expired"),
        (_verify_error(64), errors.TlsFailed, "CertificateInvalid", "other names"),
        (_verify_error(99), errors.TlsFailed, "CertificateInvalid", "words of OpenSSL"),
        (_ssl_error("WRONG_VERSION_NUMBER"), errors.TlsFailed, "NotTls", "speak TLS"),
        (
            _ssl_error("TLSV13_ALERT_CERTIFICATE_REQUIRED"),
            errors.TlsFailed,
            "TlsFailed",
            "certificate required",
        ),
    ],
)
def test_failure_below_http_is_explained(
    exc: BaseException, kind: type[errors.KubeError], reason: str, text: str
) -> None:
    error = errors.from_transport(exc, server="https://c1:6443")
    assert type(error) is kind
    assert error.reason == reason
    assert error.retryable is (kind is errors.Unreachable)
    assert text in str(error)
    assert "https://c1:6443" in str(error)
    assert "secret" not in str(error)


def test_original_failure_is_found_inside_a_wrapper() -> None:
    wrapper = NewConnectionError(None, "failed")  # type: ignore[arg-type]
    wrapper.__cause__ = ConnectionRefusedError(111, "Connection refused")
    error = errors.from_transport(wrapper, server="https://c1")
    assert error.reason == "ConnectionRefused"


@pytest.mark.parametrize(
    ("message", "hint", "described"),
    [
        ('namespace is "plain"', "Label it.", 'namespace is "plain". Label it.'),
        ("It is gone.", "Decide.", "It is gone. Decide."),
        ("denied the request: no", "", "denied the request: no"),
    ],
)
def test_description_joins_message_and_hint_as_sentences(
    message: str, hint: str, described: str
) -> None:
    assert errors.describe(errors.KubeError(message, hint=hint)) == described
