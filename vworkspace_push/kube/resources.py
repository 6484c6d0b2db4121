"""The three custom resources: their names, manifests, checks and reported status.

Manifests carry only what Odoo owns (contract §7). What a cluster reports is
untrusted: `observe` reads it into a bounded, typed value and never raises, and
`health` derives from that value the one word which lists filter on.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote, urlsplit

FIELD_MANAGER = "vworkspace-odoo"

MANAGED_BY_LABEL = "app.vworkspace.io/managed-by"
MANAGED_BY_VALUE = "control-plane"
CLUSTER_ID_LABEL = "app.vworkspace.io/cluster-id"
INSTANCE_LABEL = "app.vworkspace.io/application-instance"
GATE_LABEL = ("managed-by", "vworkspace")
ALLOWED_TYPES_ANNOTATION = "ops.vworkspace.io/allowed-types"
CAPABILITY_PREFIX = "ops.vworkspace.io/"

SECRET_PLACEHOLDER = "<set via externalSecret>"  # noqa: S105 the text that is let pass

MAX_MESSAGE = 32_768  # characters of a condition's message (Kubernetes API conventions)
MAX_REASON = 1_024  # characters of a condition's reason
MAX_URL = 2_048  # characters
MAX_TEXT = 253  # characters of a name and of what has no limit of its own
MAX_ENTRIES = 64  # conditions, endpoints or labels of one object
MAX_GENERATION = 2**31 - 1  # a database integer


# === KINDS === #


@dataclass(frozen=True)
class Resource:
    """One kind, as the API server addresses it."""

    group: str
    version: str
    plural: str
    kind: str
    namespaced: bool

    @property
    def api_version(self) -> str:
        return f"{self.group}/{self.version}"

    def collection_path(self, namespace: str | None) -> str:
        """Return the path of all objects, of `namespace` or of the cluster."""
        segments = ["apis", self.group, self.version]
        if self.namespaced and namespace:
            segments += ["namespaces", namespace]
        return "/" + "/".join(quote(part, safe="") for part in (*segments, self.plural))

    def path(self, name: str, namespace: str | None) -> str:
        """Return the path of one object.

        :raise ValueError: no name, or no namespace for a namespaced kind; the path
            would be another one then
        """
        if name in ("", ".", "..") or namespace in (".", ".."):
            raise ValueError(f"{name!r} is not the name of a {self.kind}.")
        if self.namespaced and not namespace:
            raise ValueError(f"The namespace of the {self.kind} {name!r} is missing.")
        return f"{self.collection_path(namespace)}/{quote(name, safe='')}"


APPLICATION_INSTANCE = Resource(
    group="apps.vworkspace.io",
    version="v1alpha1",
    plural="applicationinstances",
    kind="ApplicationInstance",
    namespaced=True,
)
OPERATION = Resource(
    group="ops.vworkspace.io",
    version="v1alpha1",
    plural="operations",
    kind="Operation",
    namespaced=True,
)
CLUSTER = Resource(
    group="ops.vworkspace.io",
    version="v1alpha1",
    plural="clusters",
    kind="Cluster",
    namespaced=False,
)


# === MANIFESTS === #


def application_instance(
    *,
    name: str,
    namespace: str,
    cluster_id: str,
    catalog_id: str,
    chart: Mapping[str, str],
    release_name: str,
    values: Mapping[str, Any] | None,
) -> dict[str, Any]:
    """Build the manifest of a managed instance with inline values (contract §1).

    :param chart: `source_type` (oci or helm), `url`, `name`, `version`
    :param values: chart values, sent as they are: a null in them is Helm's way to
        remove a chart's default
    :return: only what Odoo owns: no status, no defaults. `spec.mode` is not
        sent, since operators before v0.0.10 do not know it.
    """
    return {
        "apiVersion": APPLICATION_INSTANCE.api_version,
        "kind": APPLICATION_INSTANCE.kind,
        "metadata": {
            "name": name,
            "namespace": namespace,
            "labels": {
                MANAGED_BY_LABEL: MANAGED_BY_VALUE,
                CLUSTER_ID_LABEL: cluster_id,
            },
        },
        "spec": {
            "appRef": {"catalogId": catalog_id},
            "chart": {
                "sourceType": chart["source_type"],
                "url": chart["url"],
                "name": chart["name"],
                "version": chart["version"],
            },
            "release": {"name": release_name, "namespace": namespace},
            "values": {
                "source": "inline",
                "inline": dict(values or {}),
            },
        },
    }


# === CHECKS === #


@dataclass(frozen=True)
class Problem:
    """One reason for which a manifest would be refused."""

    field: str  # path in the manifest, such as "spec.chart.version"
    message: str  # one sentence that says what to do


_LABEL = r"[a-z0-9]([-a-z0-9]*[a-z0-9])?"
_DNS_LABEL = re.compile(_LABEL)
_DNS_SUBDOMAIN = re.compile(rf"{_LABEL}(\.{_LABEL})*")
_LABEL_VALUE = re.compile(r"[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?")
# https://semver.org, version 2.0.0
_SEMVER = re.compile(
    r"(0|[1-9]\d*)\.(0|[1-9]\d*)\.(0|[1-9]\d*)"
    r"(-(0|[1-9]\d*|\d*[A-Za-z-][0-9A-Za-z-]*)"
    r"(\.(0|[1-9]\d*|\d*[A-Za-z-][0-9A-Za-z-]*))*)?"
    r"(\+[0-9A-Za-z-]+(\.[0-9A-Za-z-]+)*)?",
    re.ASCII,
)
_SCHEMES = {"oci": "oci", "helm": "https"}
_SECRET_KEY = re.compile(
    r"(.*(password|secret)|accesskey|secretkey|apikey|token)",
    re.IGNORECASE | re.DOTALL,
)
_PRIVATE_KEY = re.compile(r"\s*-----BEGIN [A-Z0-9 ]*PRIVATE KEY-----")


def check_application_instance(manifest: Mapping[str, Any]) -> list[Problem]:
    """Return why admission would refuse `manifest`, as far as it can be known here.

    Rules: contract §1 and §4, and the API server's own for names and labels. What
    needs the cluster (the namespace's gate, immutability) is left to it.
    """
    metadata = _mapping(manifest.get("metadata"))
    spec = _mapping(manifest.get("spec"))
    return [
        *_check_identity(metadata),
        *_check_app_ref(_mapping(spec.get("appRef"))),
        *_check_chart(_mapping(spec.get("chart"))),
        *_check_release(_mapping(spec.get("release")), metadata.get("namespace")),
        *_check_values(_mapping(spec.get("values"))),
    ]


def _check_identity(metadata: Mapping[str, Any]) -> Iterator[Problem]:
    if not _is_text(metadata.get("name"), _DNS_SUBDOMAIN, 253):
        yield Problem(
            "metadata.name",
            "The name must be lower-case letters, digits, hyphens and dots, begin and "
            "end with a letter or digit, and have at most 253 characters.",
        )
    if not _is_text(metadata.get("namespace"), _DNS_LABEL, 63):
        yield Problem(
            "metadata.namespace",
            "The namespace must be lower-case letters, digits and hyphens, begin and "
            "end with a letter or digit, and have at most 63 characters.",
        )
    cluster_id = _mapping(metadata.get("labels")).get(CLUSTER_ID_LABEL)
    if not _is_text(cluster_id, _LABEL_VALUE, 63):
        yield Problem(
            f"metadata.labels[{CLUSTER_ID_LABEL}]",
            "The cluster's identity must be letters, digits, hyphens, underscores and "
            "dots, begin and end with a letter or digit, and have at most 63 "
            "characters, because it is sent as a label.",
        )


def _check_app_ref(app_ref: Mapping[str, Any]) -> Iterator[Problem]:
    catalog_id = app_ref.get("catalogId")
    if not isinstance(catalog_id, str) or not catalog_id.strip():
        yield Problem("spec.appRef.catalogId", "Enter the catalog id.")


def _check_chart(chart: Mapping[str, Any]) -> Iterator[Problem]:
    source = chart.get("sourceType")
    scheme = _SCHEMES.get(source) if isinstance(source, str) else None
    if scheme is None:
        yield Problem("spec.chart.sourceType", "The chart source must be oci or helm.")
    elif not _has_scheme(chart.get("url"), scheme):
        yield Problem(
            "spec.chart.url",
            f"The chart URL of the source {source} must begin with {scheme}:// and "
            "name a host.",
        )
    name = chart.get("name")
    if not isinstance(name, str) or not name.strip():
        yield Problem("spec.chart.name", "Enter the chart's name.")
    if not _is_text(chart.get("version"), _SEMVER, 253):
        yield Problem("spec.chart.version", _version_message(chart.get("version")))


def _version_message(version: Any) -> str:
    if not isinstance(version, str) or not version.strip():
        return "Enter the chart's exact version, such as 1.2.3."
    text = version.strip()
    shown = text[:40]
    if _SEMVER.fullmatch(text):
        return f"Remove the blanks around the chart version {shown}."
    if text[0] in "vV" and _SEMVER.fullmatch(text[1:]):
        return f"The chart version {shown} must be written without the leading v."
    if re.search(r"[\^~<>=*|, ]|\bx\b|^latest$", text, re.IGNORECASE):
        return (
            f"The chart version {shown} does not name one version; enter an exact one, "
            "such as 1.2.3."
        )
    return (
        f"The chart version {shown} is not an exact semantic version; enter one such "
        "as 1.2.3 or 1.2.3-rc.1."
    )


def _check_release(release: Mapping[str, Any], namespace: Any) -> Iterator[Problem]:
    if not _is_text(release.get("name"), _DNS_LABEL, 53):
        yield Problem(
            "spec.release.name",
            "The release name must be lower-case letters, digits and hyphens, begin "
            "and end with a letter or digit, and have at most 53 characters.",
        )
    if release.get("namespace") != namespace:
        yield Problem(
            "spec.release.namespace",
            "The release's namespace must be the namespace of the instance.",
        )


def _check_values(values: Mapping[str, Any]) -> Iterator[Problem]:
    if values.get("source") != "inline":
        return  # the other sources hold a reference, which only the cluster can check
    inline = values.get("inline")
    if not isinstance(inline, Mapping):
        yield Problem(
            "spec.values.inline",
            "The values must be a mapping of names to values.",
        )
        return
    for path in find_secret_material(inline):
        yield Problem(
            f"spec.values.inline.{path}",
            f"{path} looks like a secret, and secrets are refused in inline values: "
            "leave it empty, write "
            f"{SECRET_PLACEHOLDER}, or keep the values in a Secret of the namespace "
            "and refer to it.",
        )


def find_secret_material(values: Any) -> list[str]:
    """Return the paths in `values` that admission refuses as secrets (contract §4).

    :return: paths such as "auth.password" or "users[0].token", in document order
    """
    return [
        path
        for path, key, text in _string_leaves(values)
        if text.strip()
        and text != SECRET_PLACEHOLDER
        and (_SECRET_KEY.fullmatch(key) or _PRIVATE_KEY.match(text))
    ]


def _string_leaves(values: Any) -> Iterator[tuple[str, str, str]]:
    """Yield (path, last key, text) without recursion: values may be nested deep."""
    stack: list[tuple[str, str, Any]] = [("", "", values)]
    while stack:
        path, key, value = stack.pop()
        if isinstance(value, str):
            yield path, key, value
        elif isinstance(value, Mapping):
            stack.extend(
                (f"{path}.{name}" if path else str(name), str(name), item)
                for name, item in reversed(list(value.items()))
            )
        elif isinstance(value, (list, tuple)):
            numbered = list(enumerate(value))
            stack.extend((f"{path}[{i}]", "", item) for i, item in reversed(numbered))


def is_dns_label(text: Any) -> bool:
    """Tell whether `text` can name a namespace (RFC 1123 label)."""
    return _is_text(text, _DNS_LABEL, 63)


def is_label_value(text: Any) -> bool:
    """Tell whether `text` can be the value of a label, and is not empty."""
    return _is_text(text, _LABEL_VALUE, 63)


def _is_text(value: Any, pattern: re.Pattern[str], limit: int) -> bool:
    return (
        isinstance(value, str)
        and len(value) <= limit
        and pattern.fullmatch(value) is not None
    )


def _has_scheme(url: Any, scheme: str) -> bool:
    if not isinstance(url, str) or re.search(r"\s", url):
        return False
    try:
        parts = urlsplit(url)
        return parts.scheme == scheme and bool(parts.hostname)
    except ValueError:
        return False


# === OBSERVED STATE === #


@dataclass(frozen=True)
class Condition:
    """One entry of `status.conditions`."""

    type: str
    status: str  # "True", "False" or "Unknown"
    reason: str
    message: str
    last_transition_time: datetime | None  # aware, UTC
    observed_generation: int | None


@dataclass(frozen=True)
class Endpoint:
    """One address under which an application is reached; http and https only."""

    name: str
    url: str
    type: str
    notes: str


@dataclass(frozen=True)
class Observed:
    """One object as its cluster reports it: bounded, typed, without control bytes."""

    uid: str
    name: str
    namespace: str
    resource_version: str
    generation: int | None
    observed_generation: int | None
    conditions: tuple[Condition, ...]
    endpoints: tuple[Endpoint, ...]
    deletion_timestamp: datetime | None
    last_reconcile_time: datetime | None
    helm_release: str | None  # its name
    last_applied_chart: Mapping[str, str] | None
    labels: Mapping[str, str] = field(default_factory=dict)

    @property
    def is_current(self) -> bool:
        """Whether the status speaks of the spec that is stored (contract §1)."""
        if self.observed_generation is None:
            return False
        return self.observed_generation >= (self.generation or 0)

    @property
    def health(self) -> str:
        return health(self)

    def condition(self, type_: str) -> Condition | None:
        """Return the condition of that type, unless it speaks of an older spec."""
        for condition in self.conditions:
            if condition.type == type_:
                seen = condition.observed_generation
                lags = seen is not None and seen < (self.generation or 0)
                return None if lags else condition
        return None


def observe(obj: Any) -> Observed:
    """Read an object that a cluster sent; what has a wrong type reads as absent.

    Never raises. Text is cut to the limits of the Kubernetes API conventions and
    cleared of what a database refuses (NUL, lone surrogates).
    """
    obj = _mapping(obj)
    metadata = _mapping(obj.get("metadata"))
    status = _mapping(obj.get("status"))
    chart = _mapping(status.get("lastAppliedChart"))
    return Observed(
        uid=_text(metadata.get("uid")),
        name=_text(metadata.get("name")),
        namespace=_text(metadata.get("namespace")),
        resource_version=_text(metadata.get("resourceVersion")),
        generation=_count(metadata.get("generation")),
        observed_generation=_count(status.get("observedGeneration")),
        conditions=_conditions(status.get("conditions")),
        endpoints=_endpoints(status.get("endpoints")),
        deletion_timestamp=_time(metadata.get("deletionTimestamp")),
        last_reconcile_time=_time(status.get("lastReconcileTime")),
        helm_release=_text(_mapping(status.get("helmReleaseRef")).get("name")) or None,
        last_applied_chart={
            key: _text(chart.get(key), MAX_URL)
            for key in ("sourceType", "url", "name", "version")
        }
        if chart
        else None,
        labels=_labels(metadata.get("labels")),
    )


def metadata_text(obj: Any, key: str) -> str:
    """Return one text of an object's metadata, or "": cheaper than `observe`."""
    return _text(_mapping(_mapping(obj).get("metadata")).get(key))


def health(observed: Observed) -> str:
    """Derive one word from the conditions; the first row that fits decides.

    =============  ==========================================================
    deleting       deletionTimestamp is set: the API server's own word
    unknown        no conditions, or observedGeneration lags behind generation
    deleting       Deleting=True
    blocked        Blocked=True
    suspended      Suspended=True
    failed         Ready=False and not Reconciling=True: it does not run
    degraded       Degraded=True: it runs, or is being brought up, but not well
    ready          Ready=True
    progressing    Reconciling=True
    unknown        anything else, such as Ready=Unknown
    =============  ==========================================================

    A condition whose own observedGeneration lags counts as absent.
    """
    if observed.deletion_timestamp:
        return "deleting"
    if not observed.conditions or not observed.is_current:
        return "unknown"
    status = {
        c.type: c.status for c in observed.conditions if observed.condition(c.type)
    }
    for word, required in _HEALTH_RULES:
        if all(status.get(type_) in allowed for type_, allowed in required.items()):
            return word
    return "unknown"


_HEALTH_RULES: tuple[tuple[str, Mapping[str, tuple[str | None, ...]]], ...] = (
    ("deleting", {"Deleting": ("True",)}),
    ("blocked", {"Blocked": ("True",)}),
    ("suspended", {"Suspended": ("True",)}),
    ("failed", {"Ready": ("False",), "Reconciling": ("False", "Unknown", None)}),
    ("degraded", {"Degraded": ("True",)}),
    ("ready", {"Ready": ("True",)}),
    ("progressing", {"Reconciling": ("True",)}),
)


def newer(version: str, than: str | None) -> bool:
    """Tell whether one resourceVersion of a kind is newer than another.

    Longer is newer, then text order: how Kubernetes ≥ 1.35 defines the comparison of
    decimal numbers, which holds for all servers on etcd and tolerates any text.
    """
    if not than:
        return True
    return (len(version), version) > (len(than), than)


def slim(obj: Mapping[str, Any]) -> dict[str, Any]:
    """Return `obj` without spec and managedFields: what a status needs to travel."""
    kept = {key: value for key, value in obj.items() if key != "spec"}
    metadata = obj.get("metadata")
    if isinstance(metadata, Mapping):
        kept["metadata"] = {k: v for k, v in metadata.items() if k != "managedFields"}
    return kept


def _conditions(value: Any) -> tuple[Condition, ...]:
    by_type: dict[str, Condition] = {}
    for entry in _entries(value):
        condition = Condition(
            type=_text(entry.get("type"), 316),  # DNS subdomain, slash, 63 characters
            status=_text(entry.get("status"), 16),
            reason=_text(entry.get("reason"), MAX_REASON),
            message=_text(entry.get("message"), MAX_MESSAGE),
            last_transition_time=_time(entry.get("lastTransitionTime")),
            observed_generation=_count(entry.get("observedGeneration")),
        )
        if condition.type and condition.status in ("True", "False", "Unknown"):
            by_type.setdefault(condition.type, condition)
    return tuple(by_type.values())


def _endpoints(value: Any) -> tuple[Endpoint, ...]:
    return tuple(
        Endpoint(
            name=_text(entry.get("name")),
            url=entry["url"],
            type=_text(entry.get("type")),
            notes=_text(entry.get("notes"), MAX_REASON),
        )
        for entry in _entries(value)
        if _is_link(entry.get("url"))
    )


def _is_link(url: Any) -> bool:
    """Tell whether `url` may become a link: a cut one would lead elsewhere."""
    if not isinstance(url, str) or len(url) > MAX_URL or _clean(url) != url:
        return False
    return _has_scheme(url, "https") or _has_scheme(url, "http")


def _entries(value: Any) -> Iterator[Mapping[str, Any]]:
    if isinstance(value, list):
        yield from (item for item in value[:MAX_ENTRIES] if isinstance(item, Mapping))


def _labels(value: Any) -> dict[str, str]:
    pairs = list(_mapping(value).items())[:MAX_ENTRIES]
    return {_text(key, 317): _text(text) for key, text in pairs}


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _text(value: Any, limit: int = MAX_TEXT) -> str:
    return _clean(value[:limit]) if isinstance(value, str) else ""


def _clean(text: str) -> str:
    text = text.replace("\x00", "")
    return text.encode("utf-8", "replace").decode("utf-8")


def _count(value: Any) -> int | None:
    if type(value) is int and 0 <= value <= MAX_GENERATION:
        return value
    return None


def _time(value: Any) -> datetime | None:
    if not isinstance(value, str) or len(value) > 64:
        return None
    try:
        moment = datetime.fromisoformat(value)
        return moment.astimezone(UTC) if moment.tzinfo else None
    except (ValueError, OverflowError):
        return None
