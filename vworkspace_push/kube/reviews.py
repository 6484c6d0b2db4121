"""What a credential may do, as the API server itself says it.

Two questions are asked of it: "may I do this?" for each right that there should be
(SelfSubjectAccessReview, which is authoritative), and "what may I do?" for those that
there should not be (SelfSubjectRulesReview, which authorizers other than RBAC answer
in part only).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from .access import Right
from .connection import Connection
from .errors import bounded
from .resources import APPLICATION_INSTANCE

_API_VERSION = "authorization.k8s.io/v1"
_PATH = f"/apis/{_API_VERSION}"

MAX_RULES = 1_000
MAX_ENTRIES = 200  # of one list in a rule

# What every service account may do (system:basic-user, system:discovery,
# system:service-account-issuer-discovery, system:cluster-trust-bundle-discovery).
BASELINE = frozenset(
    {
        Right("create", "authorization.k8s.io", "selfsubjectaccessreviews"),
        Right("create", "authorization.k8s.io", "selfsubjectrulesreviews"),
        Right("create", "authentication.k8s.io", "selfsubjectreviews"),
        Right("get", "certificates.k8s.io", "clustertrustbundles"),
        Right("list", "certificates.k8s.io", "clustertrustbundles"),
        Right("watch", "certificates.k8s.io", "clustertrustbundles"),
    }
)
_BASELINE_URLS = (
    "/.well-known",
    "/api",
    "/apis",
    "/healthz",
    "/livez",
    "/openapi",
    "/openid",
    "/readyz",
    "/version",
)

# Each of them, cluster-wide, leads to far more than what the connector is for.
RED_FLAGS = (
    Right("*", "*", "*"),
    Right("get", "", "secrets"),
    Right("list", "", "secrets"),
    Right("create", "", "pods"),
    Right("create", "", "pods/exec"),
    Right("impersonate", "", "users"),
    Right("create", "", "serviceaccounts/token"),
    Right("delete", "", "namespaces"),
    Right("bind", "rbac.authorization.k8s.io", "clusterroles"),
    Right("escalate", "rbac.authorization.k8s.io", "clusterroles"),
    Right("create", "rbac.authorization.k8s.io", "clusterrolebindings"),
    Right("create", "rbac.authorization.k8s.io", "rolebindings"),
    Right("patch", APPLICATION_INSTANCE.group, "applicationinstances/status"),
    Right("update", "apiextensions.k8s.io", "customresourcedefinitions"),
    Right("update", "admissionregistration.k8s.io", "validatingwebhookconfigurations"),
)


@dataclass(frozen=True)
class Rules:
    """What a credential may do in one namespace, cluster-wide rights included."""

    rights: frozenset[Right]
    urls: frozenset[str]  # "get /metrics", for what is no object
    complete: bool  # the server knows of no others

    def beyond(self, other: Rules) -> Rules:
        """Return these without those of `other`."""
        return Rules(self.rights - other.rights, self.urls - other.urls, self.complete)


def is_allowed(connection: Connection, right: Right, *, namespace: str = "") -> bool:
    """Ask whether `right` is there.

    :param namespace: empty for all of them, and for objects without one
    :raise KubeError: the server does not say
    """
    resource, _, subresource = right.resource.partition("/")
    attributes = {
        "verb": right.verb,
        "group": right.group,
        "resource": resource,
        "subresource": subresource,
        "namespace": namespace,
        "name": right.name,
    }
    status = _review(
        connection, "SelfSubjectAccessReview", {"resourceAttributes": attributes}
    )
    return status.get("allowed") is True


def ask(
    connection: Connection, rights: Iterable[Right], *, namespace: str = ""
) -> dict[Right, bool]:
    """Ask for each of `rights` whether it is there; the parameters are the same."""
    return {
        right: is_allowed(connection, right, namespace=namespace) for right in rights
    }


def list_rules(connection: Connection, namespace: str) -> Rules:
    """Ask for all rights in a namespace, which need not exist.

    :raise KubeError: the server does not say
    """
    status = _review(connection, "SelfSubjectRulesReview", {"namespace": namespace})
    return Rules(
        rights=frozenset(
            Right(verb, group, resource, name)
            for rule in _mappings(status.get("resourceRules"))
            for verb in _texts(rule.get("verbs"))
            for group in _texts(rule.get("apiGroups"))
            for resource in _texts(rule.get("resources"))
            for name in _texts(rule.get("resourceNames")) or [""]
        ),
        urls=frozenset(
            f"{verb} {url}"
            for rule in _mappings(status.get("nonResourceRules"))
            for verb in _texts(rule.get("verbs"))
            for url in _texts(rule.get("nonResourceURLs"))
        ),
        complete=status.get("incomplete") is not True,
    )


def missing_and_excess(
    answers: Mapping[Right, bool], rules: Rules, *, expected: frozenset[Right]
) -> tuple[list[str], list[str]]:
    """Return what lacks and what is too much, as text in the order of the alphabet.

    A right on one object by its name is within the right on all of them. A wildcard is
    never within anything. What everybody may do is never too much.

    :param answers: whether each right that should be there is
    :param rules: all that is there
    :param expected: what may be there
    """
    missing = [str(right) for right, allowed in answers.items() if not allowed]
    known = expected | BASELINE
    rights = [
        str(right)
        for right in rules.rights
        if right not in known and right._replace(name="") not in known
    ]
    urls = [url for url in rules.urls if not _is_public(url)]
    return sorted(missing, key=_by_object), sorted(rights + urls, key=_by_object)


def _by_object(text: str) -> tuple[str, str]:
    verb, _, what = text.partition(" ")
    return what, verb


def _is_public(url: str) -> bool:
    verb, _, path = url.partition(" ")
    return verb in ("get", "head") and any(
        path == prefix or path.startswith(f"{prefix}/") for prefix in _BASELINE_URLS
    )


def _review(
    connection: Connection, kind: str, spec: Mapping[str, Any]
) -> Mapping[str, Any]:
    answer = connection.request(
        "POST",
        f"{_PATH}/{kind.lower()}s",
        body={"apiVersion": _API_VERSION, "kind": kind, "spec": spec},
    ).data
    status = answer.get("status") if isinstance(answer, dict) else None
    return status if isinstance(status, dict) else {}


def _mappings(value: Any) -> list[Mapping[str, Any]]:
    entries = value[:MAX_RULES] if isinstance(value, list) else []
    return [entry for entry in entries if isinstance(entry, dict)]


def _texts(value: Any) -> list[str]:
    entries = value[:MAX_ENTRIES] if isinstance(value, list) else []
    return [bounded(entry, 253) for entry in entries if isinstance(entry, str)]
