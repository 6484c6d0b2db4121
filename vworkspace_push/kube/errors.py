"""What can go wrong between us and an API server, as one small hierarchy.

The class is the decision (conflict flow, wait for a person, retry, relist); `message`
says what happened in the server's own words, `hint` what a person can do next. All of
it is safe to show and to store: bounded, printable, no markup of a web page, no
secret. `from_response` and `from_transport` are the only places that classify.
"""

from __future__ import annotations

import json
import re
import socket
import ssl
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

from . import ownership

MAX_MESSAGE = 2_000  # characters
MAX_CAUSES = 64
MAX_AUDIT_ID = 64  # characters
MAX_RETRY_AFTER = 60.0  # s


# === HIERARCHY === #


class KubeError(Exception):
    """Anything that a call to an API server ends in, other than success.

    :param message: what happened, one sentence; cut to 2,000 characters
    :param reason: short CamelCase code; the class's own by default
    :param hint: what a person can do next, one sentence
    :param retryable: whether the same call may succeed later without a person
    :param retry_after: s that the server asks to wait, at most 60
    :param http_status: of the response, None without one
    :param audit_id: of the request in the cluster's audit log, "" without one
    """

    default_reason: ClassVar[str] = "Failed"
    default_hint: ClassVar[str] = ""
    default_retryable: ClassVar[bool] = False
    # Whether the server may have carried the call out all the same
    unsettled: bool = False

    def __init__(
        self,
        message: str,
        *,
        reason: str | None = None,
        hint: str | None = None,
        retryable: bool | None = None,
        retry_after: float | None = None,
        http_status: int | None = None,
        audit_id: str = "",
    ) -> None:
        self.message = bounded(message)
        self.reason = reason or self.default_reason
        self.hint = self.default_hint if hint is None else hint
        self.retryable = self.default_retryable if retryable is None else retryable
        self.retry_after = _capped(retry_after)
        self.http_status = http_status
        self.audit_id = audit_id
        super().__init__(self.message)

    def __str__(self) -> str:
        return self.message


def describe(error: Exception) -> str:
    """Return what happened and what a person can do, as sentences for one paragraph.

    :param error: a KubeError, or any other whose text is fit for people
    """
    message = str(error).strip()
    hint = getattr(error, "hint", "")
    if not hint:
        return message
    if "\n" in message:  # a list: the hint is none of its items
        return f"{message}\n{hint}"
    end = "" if message.endswith((".", "!", "?", ":")) else "."
    return f"{message}{end} {hint}"


class Unreachable(KubeError):
    """No answer: name resolution, refused, timeout, cut connection."""

    default_reason = "Unreachable"
    default_hint = (
        "Check that the address is right and that this machine may connect to it."
    )
    default_retryable = True


class AddressRefused(KubeError):
    """The address is one that is never connected to."""

    default_reason = "AddressRefused"
    default_hint = "Use the address of the API server itself."


class TlsFailed(KubeError):
    """The server could not prove who it is."""

    default_reason = "TlsFailed"
    default_hint = "Compare the CA certificate and the address with the cluster's own."


class InvalidResponse(KubeError):
    """Something answered that is not a Kubernetes API server, or not within limits."""

    default_reason = "InvalidResponse"
    default_hint = (
        "Check that the address is that of the Kubernetes API server itself, not of a "
        "dashboard, a login page or a proxy."
    )
    unsettled = True


class Unauthorized(KubeError):
    """The server does not accept the credential."""

    default_reason = "Unauthorized"
    default_hint = (
        "Check that the token is of this cluster and neither expired nor revoked, and "
        "enter a new one."
    )


class Forbidden(KubeError):
    """The credential is accepted, and RBAC does not allow this call."""

    default_reason = "Forbidden"
    default_hint = "Ask the cluster's admin to grant this right to the service account."


class FieldCause(NamedTuple):
    """One field that the server names as a reason for its refusal."""

    field: str
    reason: str
    message: str


class Denied(KubeError):
    """Refused by admission, validation, quota or schema, until something changes."""

    default_reason = "Denied"
    default_hint = "Change what the cluster objects to, and deploy again."

    def __init__(
        self, message: str, *, causes: tuple[FieldCause, ...] = (), **kwargs: Any
    ) -> None:
        super().__init__(message, **kwargs)
        self.causes = causes


class Conflict(KubeError):
    """Fields that we apply belong to another manager with other values."""

    default_reason = "Conflict"
    default_hint = "Decide for each field whose value shall stay."

    def __init__(
        self,
        message: str,
        *,
        conflicts: tuple[ownership.FieldConflict, ...] = (),
        **kwargs: Any,
    ) -> None:
        super().__init__(message, **kwargs)
        self.conflicts = conflicts


class StaleVersion(KubeError):
    """The object was changed by somebody since it was read."""

    default_reason = "StaleVersion"
    default_hint = "Read the object again and repeat the change."
    default_retryable = True


class IdentityMismatch(KubeError):
    """The object that we knew by its uid vanished or was replaced by another."""

    default_reason = "IdentityMismatch"
    default_hint = (
        "The object was deleted or created anew outside of Odoo; decide whether to "
        "deploy it again."
    )


class AlreadyExists(KubeError):
    """An object of this name exists; `live` is that object, empty if not known."""

    default_reason = "AlreadyExists"
    default_hint = "Choose another name, or import the object that is there."

    def __init__(
        self, message: str, *, live: dict[str, Any] | None = None, **kwargs: Any
    ) -> None:
        super().__init__(message, **kwargs)
        self.live = live or {}


class NotFound(KubeError):
    """Nothing is there; `what` says of which kind."""

    default_reason = "NotFound"

    def __init__(self, message: str, *, what: str = "object", **kwargs: Any) -> None:
        super().__init__(message, **kwargs)
        self.what = what  # "object", "namespace" or "definition"


class Expired(KubeError):
    """A resourceVersion is too old or unknown: list again."""

    default_reason = "Expired"
    default_retryable = True


class Throttled(KubeError):
    """The server asks to slow down."""

    default_reason = "TooManyRequests"
    default_retryable = True


class ServerFailed(KubeError):
    """The server failed in a way that is worth another attempt."""

    default_reason = "ServerFailed"
    default_hint = "Odoo tries again by itself; if it goes on, look at the API server."
    default_retryable = True


# === RESPONSES === #


@dataclass(frozen=True, kw_only=True)
class _Failure:
    """A response other than 2xx, taken apart as far as it is well-formed."""

    http_status: int
    is_status: bool  # the body is a Kubernetes Status
    is_text: bool  # the body is plain text, as the API server's own mux sends it
    reason: str
    message: str
    kind: str  # details.kind
    cause_reasons: frozenset[str]
    causes: tuple[FieldCause, ...]
    conflicts: tuple[ownership.FieldConflict, ...]
    retry_after: float | None

    @property
    def common(self) -> dict[str, Any]:
        return {"http_status": self.http_status, "retry_after": self.retry_after}

    def says(self, pattern: str) -> bool:
        return re.search(pattern, self.message, re.IGNORECASE) is not None


@dataclass(frozen=True, kw_only=True)
class _Rule:
    """One row of the catalogue: which failures it fits, and what they become."""

    make: Callable[[_Failure], KubeError]
    http_status: tuple[int, int] = (0, 999)  # from, to
    reason: str | None = None
    text: str | None = None  # regular expression on the message
    when: Callable[[_Failure], bool] | None = None

    def fits(self, failure: _Failure) -> bool:
        low, high = self.http_status
        return (
            low <= failure.http_status <= high
            and self.reason in (None, failure.reason)
            and (self.text is None or failure.says(self.text))
            and (self.when is None or self.when(failure))
        )


def from_response(status: int, headers: Mapping[str, str], body: bytes) -> KubeError:
    """Return the error that a response other than 2xx stands for.

    :param status: of HTTP
    :param headers: looked up as "Retry-After", "Content-Type" and "Audit-Id", so pass a
        mapping that ignores case
    :param body: untrusted; a web page in it is never quoted
    """
    error = _classify(_read_response(status, headers, body))
    error.audit_id = audit_id(headers.get("Audit-Id"))
    error.unsettled = _is_unsettled(error, status)
    return error


def _is_unsettled(error: KubeError, status: int) -> bool:
    """Tell whether the call may have been carried out, whatever the answer says.

    A server that failed says nothing of what it stored, unless it names something that
    comes before storing.
    """
    refused = isinstance(error, Denied) and error.reason != "InternalError"
    refused = refused or error.reason == "WebhookUnavailable"
    return (status >= 500 or status == 408) and not refused


def from_status(status: Any) -> KubeError:
    """Return the error that a Status object stands for, as a watch sends it."""
    if not isinstance(status, dict):
        return InvalidResponse("The watch reported an error that is not a Status.")
    return _classify(_read_status(status, 500, {}))


def _classify(failure: _Failure) -> KubeError:
    return next(rule.make(failure) for rule in _RULES if rule.fits(failure))


def _read_response(status: int, headers: Mapping[str, str], body: bytes) -> _Failure:
    try:
        data = json.loads(body)
    except (ValueError, RecursionError):
        data = None
    if isinstance(data, dict) and data.get("kind") == "Status":
        return _read_status(data, status, headers)
    is_text = headers.get("Content-Type", "").startswith("text/plain")
    text = body[: 4 * MAX_MESSAGE].decode("utf-8", "replace").strip() if is_text else ""
    return _Failure(
        http_status=status,
        is_status=False,
        is_text=bool(text),
        reason="",
        message=text or f"The server answered HTTP {status} without a reason.",
        kind="",
        cause_reasons=frozenset(),
        causes=(),
        conflicts=(),
        retry_after=_seconds(headers.get("Retry-After")),
    )


def _read_status(
    data: Mapping[str, Any], http_status: int, headers: Mapping[str, str]
) -> _Failure:
    details = data.get("details")
    details = details if isinstance(details, dict) else {}
    code = data.get("code")
    causes = tuple(_causes(details.get("causes")))
    return _Failure(
        http_status=code if type(code) is int and 300 <= code <= 599 else http_status,
        is_status=True,
        is_text=False,
        reason=bounded(data.get("reason"), 64),
        message=bounded(data.get("message")) or "The server gave no reason.",
        kind=bounded(details.get("kind"), 64),
        cause_reasons=frozenset(cause.reason for cause in causes),
        causes=tuple(c for c in causes if c.field != "<nil>"),
        conflicts=ownership.parse_conflicts(data),
        retry_after=_seconds(headers.get("Retry-After"))
        or _seconds(details.get("retryAfterSeconds")),
    )


def _causes(value: Any) -> Iterator[FieldCause]:
    for cause in value[:MAX_CAUSES] if isinstance(value, list) else ():
        if isinstance(cause, dict):
            yield FieldCause(
                field=bounded(cause.get("field"), 256),
                reason=bounded(cause.get("reason"), 64),
                message=bounded(cause.get("message")),
            )


def _denied(reason: str, hint: str | None = None) -> Callable[[_Failure], KubeError]:
    return lambda failure: Denied(
        failure.message,
        causes=failure.causes,
        reason=reason,
        hint=hint,
        http_status=failure.http_status,
    )


def _plain(
    kind: type[KubeError], reason: str | None = None, hint: str | None = None
) -> Callable[[_Failure], KubeError]:
    return lambda failure: kind(
        failure.message, reason=reason, hint=hint, **failure.common
    )


def _missing(what: str, hint: str) -> Callable[[_Failure], KubeError]:
    return lambda failure: NotFound(
        failure.message, what=what, hint=hint, http_status=failure.http_status
    )


def _conflict(failure: _Failure) -> KubeError:
    return Conflict(
        failure.message, conflicts=failure.conflicts, http_status=failure.http_status
    )


def _redirect(failure: _Failure) -> KubeError:
    return InvalidResponse(
        f"The server answered with a redirect (HTTP {failure.http_status}), which an "
        "API server does not.",
        reason="Redirect",
        http_status=failure.http_status,
    )


def _no_api_server(failure: _Failure) -> KubeError:
    return InvalidResponse(
        f"The server answered HTTP {failure.http_status} in a form that a Kubernetes "
        "API server does not use.",
        http_status=failure.http_status,
    )


_DENIED_BY_ADMISSION = (
    r"admission webhook .* denied the request|ValidatingAdmissionPolicy .* denied req"
)
_RBAC = r"\bcannot \S+ (resource|path)\b"
_TRANSIENT = (
    r"leader changed|request timed out|context deadline exceeded|no leader|"
    r"connection (refused|reset)|too many requests|unavailable|i/o timeout|"
    r"internal error occurred"
)
_NO_DEFINITION = (
    "Install the vWorkspace operator with its custom resource definitions in the "
    "cluster."
)
_WEBHOOK_DOWN = (
    "The operator's admission webhook does not answer; Odoo tries again by itself, and "
    "the cluster's admin should look at the operator."
)
_QUOTA = "Ask the cluster's admin for a larger quota, or make room in the namespace."
_TERMINATING = "The namespace is being deleted; deploy into another one."
_TOO_LARGE = "Make the values smaller; the cluster stores at most 1.5 MiB per object."
_PROXY = "A proxy before the API server may have refused; ask who runs it."
_NO_NAMESPACE = "Ask the cluster's admin to create and label the namespace."
_NO_OBJECT = "The object is not in the cluster."
_DEFECT = "The request itself was wrong; report this with the text above."

# The catalogue; the first row that fits decides. Messages are those of Kubernetes 1.30
# to 1.37, which has no other mark for these cases.
_RULES: tuple[_Rule, ...] = (
    _Rule(http_status=(300, 399), make=_redirect),
    _Rule(text=_DENIED_BY_ADMISSION, make=_denied("AdmissionDenied")),
    _Rule(http_status=(401, 401), make=_plain(Unauthorized)),
    # 403: only RBAC's own words mean that a right is missing.
    _Rule(
        http_status=(403, 403),
        when=lambda f: "NamespaceTerminating" in f.cause_reasons,
        make=_denied("NamespaceTerminating", _TERMINATING),
    ),
    _Rule(
        http_status=(403, 403),
        text="exceeded quota",
        make=_denied("QuotaExceeded", _QUOTA),
    ),
    _Rule(http_status=(403, 403), text=_RBAC, make=_plain(Forbidden)),
    _Rule(
        http_status=(403, 403),
        when=lambda f: f.is_status,
        make=_denied("Forbidden"),
    ),
    _Rule(http_status=(403, 403), make=_plain(Forbidden, hint=_PROXY)),
    # 404: a group or version that is not served answers in plain text.
    _Rule(
        http_status=(404, 404),
        when=lambda f: f.is_status and f.kind == "namespaces",
        make=_missing("namespace", _NO_NAMESPACE),
    ),
    _Rule(
        http_status=(404, 404),
        when=lambda f: f.is_status and bool(f.kind),
        make=_missing("object", _NO_OBJECT),
    ),
    _Rule(
        http_status=(404, 404),
        when=lambda f: f.is_status or (f.is_text and f.says("404 page not found")),
        make=lambda f: NotFound(
            "The cluster does not serve this kind of object.",
            what="definition",
            hint=_NO_DEFINITION,
            http_status=404,
        ),
    ),
    _Rule(http_status=(404, 404), make=_no_api_server),
    # 409: four cases with two reasons.
    _Rule(http_status=(409, 409), when=lambda f: bool(f.conflicts), make=_conflict),
    _Rule(
        http_status=(409, 409),
        text=r"uid mismatch|UID in (the )?precondition",
        make=_plain(IdentityMismatch),
    ),
    _Rule(http_status=(409, 409), reason="AlreadyExists", make=_plain(AlreadyExists)),
    _Rule(http_status=(409, 409), make=_plain(StaleVersion)),
    _Rule(http_status=(410, 410), make=_plain(Expired)),
    _Rule(
        http_status=(413, 413), make=_denied("RequestEntityTooLarge", hint=_TOO_LARGE)
    ),
    _Rule(
        http_status=(422, 422),
        when=lambda f: any(c.field == "metadata.uid" for c in f.causes),
        make=_plain(IdentityMismatch),
    ),
    _Rule(http_status=(422, 422), make=_denied("Invalid")),
    _Rule(http_status=(429, 429), make=_plain(Throttled)),
    _Rule(http_status=(408, 408), make=_plain(ServerFailed, "Timeout")),
    _Rule(
        http_status=(400, 499),
        when=lambda f: f.is_status or f.is_text,
        make=_denied("BadRequest", _DEFECT),
    ),
    _Rule(http_status=(0, 499), make=_no_api_server),
    # 500 without a reason is permanent unless its text is known to pass.
    _Rule(
        text="failed to create typed patch object",  # kubernetes/kubernetes#139253
        make=_denied("Invalid"),
    ),
    _Rule(
        text="request is too large|trying to send message larger than max",
        make=_denied("TooLarge", _TOO_LARGE),
    ),
    _Rule(text="resourceVersion: Invalid value", make=_plain(Expired)),
    _Rule(
        text="failed calling webhook",
        make=_plain(ServerFailed, "WebhookUnavailable", _WEBHOOK_DOWN),
    ),
    _Rule(
        http_status=(504, 504),
        text="Too large resource version",
        make=_plain(Expired, "ResourceVersionTooLarge"),
    ),
    _Rule(
        http_status=(500, 500),
        when=lambda f: f.is_status and not f.reason and not f.says(_TRANSIENT),
        make=_denied("InternalError"),
    ),
    _Rule(make=_plain(ServerFailed)),
)


# === TRANSPORT === #


def from_transport(exc: BaseException, *, server: str) -> KubeError:
    """Return the error that a failure below HTTP stands for.

    :param exc: of urllib3, http.client, ssl or socket
    :param server: the URL to name in the message
    """
    chain = list(_chain(exc))
    for kind, make in _TRANSPORT:
        for link in chain:
            if _is(link, kind):
                return make(link, server)
    return Unreachable(f"The connection to {server} failed ({type(exc).__name__}).")


def _is(exc: BaseException, kind: type[BaseException] | str) -> bool:
    if isinstance(kind, str):
        return type(exc).__name__ == kind
    return isinstance(exc, kind)


def _chain(exc: BaseException) -> Iterator[BaseException]:
    """Yield `exc` and what it wraps; urllib3 keeps the original in several places."""
    seen: set[int] = set()
    todo: list[Any] = [exc]
    while todo:
        link = todo.pop(0)
        if isinstance(link, BaseException) and id(link) not in seen:
            seen.add(id(link))
            yield link
            todo += [getattr(link, "reason", None), *link.args]
            todo += [link.__cause__, link.__context__]


def _certificate(exc: BaseException, server: str) -> KubeError:
    code = getattr(exc, "verify_code", None)
    words = bounded(getattr(exc, "verify_message", ""), 200) or "it does not verify"
    message, hint = _CERTIFICATE.get(
        code if isinstance(code, int) else -1,
        (f"The certificate of {{server}} is not accepted: {words}.", None),
    )
    return TlsFailed(
        message.format(server=server), reason="CertificateInvalid", hint=hint
    )


_OTHER_CA = (
    "The certificate of {server} is not signed by the CA certificate that is set.",
    "Compare the CA certificate with certificate-authority-data in a kubeconfig.",
)
_OTHER_NAME = (
    "The certificate of {server} is for other names than the one in the address.",
    "Use a name that the certificate carries, or set it as the TLS server name.",
)
# Codes of OpenSSL, x509_vfy.h.
_CERTIFICATE = {
    9: (
        "The certificate of {server} is not valid yet.",
        "Compare the clocks of this machine and the cluster.",
    ),
    10: (
        "The certificate of {server} has expired.",
        "Ask the cluster's admin to renew it, and check this machine's clock.",
    ),
    18: _OTHER_CA,
    19: _OTHER_CA,
    20: _OTHER_CA,
    21: _OTHER_CA,
    7: _OTHER_CA,
    62: _OTHER_NAME,
    64: _OTHER_NAME,
}


def _cut_handshake(_exc: BaseException, server: str) -> KubeError:
    return Unreachable(f"{server} ended the connection.", reason="ConnectionCut")


def _tls(exc: BaseException, server: str) -> KubeError:
    code = str(getattr(exc, "reason", None) or "")
    if code in ("WRONG_VERSION_NUMBER", "HTTP_REQUEST", "UNKNOWN_PROTOCOL"):
        return TlsFailed(
            f"{server} does not speak TLS.",
            reason="NotTls",
            hint="Check the port; the API server's is often 6443 or 443.",
        )
    detail = code.replace("_", " ").lower() or "unknown reason"
    return TlsFailed(f"TLS with {server} failed: {detail}.")


def _proxy(exc: BaseException, server: str) -> KubeError:
    status = re.search(r"Tunnel connection failed: ([0-9]{3})", str(exc))
    answer = f" (it answered HTTP {status[1]})" if status else ""
    return Unreachable(
        f"The proxy on the way to {server} is not there or does not let us "
        f"through{answer}.",
        reason="ProxyFailed",
        hint="Check the proxy's address, its user name and password, and that it may "
        "connect to this server.",
    )


def _unresolved(_exc: BaseException, server: str) -> KubeError:
    return Unreachable(
        f"The name in {server} does not resolve to an address.",
        reason="NameUnknown",
        hint="Check the spelling, and that this machine's DNS knows the name.",
    )


def _refused(_exc: BaseException, server: str) -> KubeError:
    return Unreachable(
        f"{server} refused the connection.",
        reason="ConnectionRefused",
        hint="Check the port, and that the API server runs.",
    )


def _connect_timeout(_exc: BaseException, server: str) -> KubeError:
    return Unreachable(
        f"{server} could not be connected to in time.",
        reason="ConnectTimeout",
        hint="Check the address and the firewalls on the way.",
    )


def _read_timeout(_exc: BaseException, server: str) -> KubeError:
    return Unreachable(
        f"{server} took the request and did not answer in time.", reason="ReadTimeout"
    )


def _cut(_exc: BaseException, server: str) -> KubeError:
    return Unreachable(
        f"{server} ended the connection before the answer was complete.",
        reason="ConnectionCut",
    )


def _os_error(exc: BaseException, server: str) -> KubeError:
    words = bounded(getattr(exc, "strerror", None), 200) or type(exc).__name__
    return Unreachable(f"{server} cannot be reached: {words}.")


# The first row that fits any link of the chain decides. urllib3's classes are given by
# name: importing it takes 0.2 s, and who raised them has imported it.
_TRANSPORT: tuple[
    tuple[type[BaseException] | str, Callable[[BaseException, str], KubeError]], ...
] = (
    ("ProxyError", _proxy),
    (ssl.SSLCertVerificationError, _certificate),
    (ssl.SSLEOFError, _cut_handshake),
    (ssl.SSLZeroReturnError, _cut_handshake),
    (ssl.SSLError, _tls),
    (socket.gaierror, _unresolved),
    (ConnectionRefusedError, _refused),
    ("ConnectTimeoutError", _connect_timeout),
    ("ReadTimeoutError", _read_timeout),
    (TimeoutError, _read_timeout),
    ("IncompleteRead", _cut),
    ("ProtocolError", _cut),
    (ConnectionError, _cut),
    (OSError, _os_error),
)


# === TEXT === #

_UNPRINTABLE = re.compile(r"[^\S\n ]|[\x00-\x08\x0e-\x1f\x7f-\x9f\ud800-\udfff]")


def bounded(value: Any, limit: int = MAX_MESSAGE) -> str:
    """Return untrusted text on one line or more, printable, cut to `limit`."""
    if not isinstance(value, str):
        return ""
    text = _UNPRINTABLE.sub(" ", value[: limit + 1]).strip()
    return text if len(text) <= limit else text[: limit - 1] + "…"


def audit_id(value: Any) -> str:
    """Return the value of an Audit-Id header, printable and cut; "" without one."""
    text = value[:MAX_AUDIT_ID] if isinstance(value, str) else ""
    return re.sub(r"[^\x21-\x7e]", "", text)


def _seconds(value: Any) -> float | None:
    """Return s from a header or a Status; a date in Retry-After counts as none."""
    if isinstance(value, str) and re.fullmatch(r"[0-9]{1,9}", value):
        value = int(value)
    return _capped(float(min(value, 10**9))) if type(value) is int else None


def _capped(seconds: float | None) -> float | None:
    return None if seconds is None else min(max(seconds, 0.0), MAX_RETRY_AFTER)
