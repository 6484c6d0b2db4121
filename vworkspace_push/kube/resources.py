"""The three custom resources: their names, manifests, checks and reported status.

Manifests carry only what Odoo owns (contract §7). What a cluster reports is
untrusted: `observe` reads it into a bounded, typed value and never raises, and
`health` derives from that value the one word which lists filter on.
`read_application_instance` takes a manifest back to what it was built from.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property, lru_cache
from itertools import islice
from typing import Any
from urllib.parse import quote, urlsplit

from .strict_yaml import MAX_DEPTH

FIELD_MANAGER = "vworkspace-odoo"

MANAGED_BY_LABEL = "app.vworkspace.io/managed-by"
MANAGED_BY_VALUE = "control-plane"
CLUSTER_ID_LABEL = "app.vworkspace.io/cluster-id"
INSTANCE_LABEL = "app.vworkspace.io/application-instance"
GATE_LABEL = ("managed-by", "vworkspace")
ALLOWED_TYPES_ANNOTATION = "ops.vworkspace.io/allowed-types"
CAPABILITY_PREFIX = "ops.vworkspace.io/"
DATABASE_ANNOTATION = "push.vworkspace.io/database"
RECORD_ANNOTATION = "push.vworkspace.io/record"

MODES = ("managed", "placeholder")
VALUES_SOURCES = ("inline", "secretRef", "configMapRef")
CAPABILITIES = (
    "backup",
    "restore",
    "upgrade",
    "migration",
    "runcommand",
    "runbook",
    "snapshot",
    "replicate",
    "quiesce",
)
OPERATION_TYPES = (
    "Backup",
    "Restore",
    "Upgrade",
    "Migration",
    "RunCommand",
    "Runbook",
)
OPERATION_ENGINES = ("velero", "workflow", "job", "helm", "volsync", "helmHookJob")
OPERATION_PHASES = ("Pending", "Running", "Succeeded", "Failed", "Cancelled")
FINAL_PHASES = ("Succeeded", "Failed", "Cancelled")
CLUSTER_PHASES = (
    *("Pending", "Registering", "Connected", "Disconnected", "Error"),
    "Terminating",
)
# The types of condition that the contract names; an object may report others as well.
CONDITION_TYPES = frozenset(
    {
        *("Ready", "Reconciling", "Degraded", "Suspended", "Blocked", "Deleting"),
        *("Accepted", "Running", "Succeeded", "Failed", "Cancelled"),
        *("Connected", "Disconnected", "Authenticated", "ControllersHealthy"),
        "BufferOverflow",
    }
)

SECRET_PLACEHOLDER = "<set via externalSecret>"  # noqa: S105 the text that is let pass

MAX_MESSAGE = 32_768  # characters of a condition's message (Kubernetes API conventions)
MAX_REASON = 1_024  # characters of a condition's reason
MAX_URL = 2_048  # characters
MAX_TEXT = 253  # characters of a name and of what has no limit of its own
MAX_ENTRIES = 64  # conditions, endpoints, labels, … of one object
MAX_NAMESPACES = 1_000  # that one cluster reports as managed
MAX_OUTPUT = 2_048  # characters of one output of an operation
MAX_VALUES = 1_000_000  # characters of the names and texts in chart values
MAX_PATHS = 256  # paths of what a form has no field for
MAX_PATH = 1_024  # characters of one such path
MAX_GENERATION = 2**31 - 1  # a database integer


# === KINDS === #


@lru_cache(maxsize=256)  # which are mostly the same
def _collection_path(resource: Resource, namespace: str | None) -> str:
    segments = ["apis", resource.group, resource.version]
    if namespace:
        segments += ["namespaces", namespace]
    return "".join(f"/{quote(part, safe='')}" for part in (*segments, resource.plural))


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
        return _collection_path(self, namespace if self.namespaced else None)

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

WATCHED = (APPLICATION_INSTANCE, OPERATION)  # kinds whose objects are ours


# === MANIFESTS === #


def application_instance(
    *,
    name: str,
    namespace: str,
    cluster_id: str,
    catalog_id: str,
    mode: str = "managed",
    chart: Mapping[str, str] | None = None,
    release_name: str = "",
    values_source: str = "inline",
    values: Mapping[str, Any] | None = None,
    values_ref: Mapping[str, str] | None = None,
    integrations: Mapping[str, Any] | None = None,
    capabilities: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """Build the manifest of an instance (contract §1).

    :param mode: managed, or placeholder: then chart, release and values are left out
    :param chart: `source_type` (oci or helm), `url`, `name`, `version`
    :param values_source: inline, secretRef or configMapRef; decides whether `values`
        or `values_ref` is sent
    :param values: chart values, sent as they are: a null in them is Helm's way to
        remove a chart's default
    :param values_ref: `name` and `key` of a Secret or ConfigMap of the namespace
    :param integrations: `external_secrets` and `cert_manager` (bool), `ingress_host`,
        and `ingress` (bool) to switch it otherwise than by the host
    :param capabilities: capability → engine, sent as annotations
    :return: only what Odoo owns: no status, no defaults. `spec.mode` is sent for
        placeholders alone, since operators before v0.0.10 do not know it.
    """
    metadata = _metadata(name, namespace, cluster_id)
    if capabilities:
        metadata["annotations"] = {
            f"{CAPABILITY_PREFIX}{capability}": engine
            for capability, engine in capabilities.items()
        }
    spec: dict[str, Any] = {"appRef": {"catalogId": catalog_id}}
    if mode == "managed":
        chart = chart or {}
        spec["chart"] = {
            "sourceType": chart.get("source_type", ""),
            "url": chart.get("url", ""),
            "name": chart.get("name", ""),
            "version": chart.get("version", ""),
        }
        spec["release"] = {"name": release_name, "namespace": namespace}
        spec["values"] = _values(values_source, values or {}, values_ref or {})
    else:
        spec["mode"] = mode
    if switched_on := _integrations(integrations or {}):
        spec["integrations"] = switched_on
    return {
        "apiVersion": APPLICATION_INSTANCE.api_version,
        "kind": APPLICATION_INSTANCE.kind,
        "metadata": metadata,
        "spec": spec,
    }


def _metadata(name: str, namespace: str, cluster_id: str) -> dict[str, Any]:
    return {
        "name": name,
        "namespace": namespace,
        "labels": {
            MANAGED_BY_LABEL: MANAGED_BY_VALUE,
            CLUSTER_ID_LABEL: cluster_id,
        },
    }


def _values(
    source: str, inline: Mapping[str, Any], ref: Mapping[str, str]
) -> dict[str, Any]:
    sent: dict[str, Any] = {"source": source}
    if source == "inline":
        sent[source] = dict(inline)
    elif source in VALUES_SOURCES:
        sent[source] = {"name": ref.get("name", ""), "key": ref.get("key", "")}
    return sent


def _integrations(wanted: Mapping[str, Any]) -> dict[str, Any]:
    host = wanted.get("ingress_host") or ""
    sent: dict[str, Any] = {}
    if wanted.get("external_secrets"):
        sent["externalSecrets"] = {"enabled": True}
    if wanted.get("cert_manager"):
        sent["certManager"] = {"enabled": True}
    if wanted.get("ingress", bool(host)):
        sent["ingress"] = {"enabled": True, "host": host}
    return sent


def operation(
    *,
    name: str,
    namespace: str,
    cluster_id: str,
    target: str,
    type_: str,
    engine: str,
    parameters: Mapping[str, Any] | None,
    approval_required: bool,
) -> dict[str, Any]:
    """Build the manifest of an operation on an instance (contract §1 and §3).

    :param target: the instance's name, in the same namespace
    :return: only what Odoo owns; without `parameters` when there are none, and without
        `approvals` when none is required
    """
    metadata = _metadata(name, namespace, cluster_id)
    metadata["labels"][INSTANCE_LABEL] = target
    spec: dict[str, Any] = {
        "targetRef": {
            "apiVersion": APPLICATION_INSTANCE.api_version,
            "kind": APPLICATION_INSTANCE.kind,
            "name": target,
        },
        "type": type_,
        "engine": engine,
    }
    if parameters:
        spec["parameters"] = dict(parameters)
    if approval_required:
        spec["approvals"] = {"required": True}
    return {
        "apiVersion": OPERATION.api_version,
        "kind": OPERATION.kind,
        "metadata": metadata,
        "spec": spec,
    }


def signed(
    manifest: Mapping[str, Any], *, database: str, record: str
) -> dict[str, Any]:
    """Return a copy of `manifest` that says whose it is.

    :param database: identity of the Odoo database
    :param record: identity of the record in it
    """
    metadata = _mapping(manifest.get("metadata"))
    annotations = {
        **_mapping(metadata.get("annotations")),
        DATABASE_ANNOTATION: database,
        RECORD_ANNOTATION: record,
    }
    return {**manifest, "metadata": {**metadata, "annotations": annotations}}


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
_DNS_NAME_LABEL = r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?"
_DNS_NAME = re.compile(rf"{_DNS_NAME_LABEL}(\.{_DNS_NAME_LABEL})*")
# apimachinery, IsConfigMapKey: no path of a volume may lead out of it
_REF_KEY = re.compile(r"(?!\.\.)(?!\.\Z)[-._a-zA-Z0-9]+")
_SECRET_KEY = re.compile(
    r"(.*(password|secret)|accesskey|secretkey|apikey|token)",
    re.IGNORECASE | re.DOTALL,
)
MAX_KNOWN_KEY = 100  # characters of a key of which it is remembered
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
        *_check_capabilities(_mapping(metadata.get("annotations"))),
        *_check_app_ref(_mapping(spec.get("appRef"))),
        *_check_mode(spec, metadata.get("namespace")),
        *_check_integrations(_mapping(spec.get("integrations"))),
    ]


def check_operation(manifest: Mapping[str, Any]) -> list[Problem]:
    """Return why admission would refuse `manifest`, as far as it can be known here.

    Whether the parameters are those of a template, and all that needs the cluster (the
    target, its capabilities, the conflict matrix), is left to others.
    """
    metadata = _mapping(manifest.get("metadata"))
    spec = _mapping(manifest.get("spec"))
    return [
        *_check_identity(metadata),
        *_check_target(_mapping(spec.get("targetRef"))),
        *_check_choice(spec, "type", "operation's type", OPERATION_TYPES),
        *_check_choice(spec, "engine", "operation's engine", OPERATION_ENGINES),
        *_check_free_form(
            spec.get("parameters", {}),
            "spec.parameters",
            what="parameters",
            way_out=", or keep it in a Secret that the engine reads",
        ),
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


def _check_capabilities(annotations: Mapping[str, Any]) -> Iterator[Problem]:
    for key, engine in annotations.items():
        if key.startswith(CAPABILITY_PREFIX) and not is_label_value(engine):
            capability = key.removeprefix(CAPABILITY_PREFIX)
            yield Problem(
                f"metadata.annotations[{key}]",
                f"The engine of the capability {capability} must be letters, digits, "
                "hyphens, underscores and dots, begin and end with a letter or digit, "
                "and have at most 63 characters.",
            )


def _check_mode(spec: Mapping[str, Any], namespace: Any) -> Iterator[Problem]:
    mode = spec.get("mode", "managed")
    if mode == "placeholder":
        for key in ("chart", "release", "values"):
            if key in spec:
                yield Problem(
                    f"spec.{key}", f"A placeholder has no {key}; leave it out."
                )
    elif mode == "managed":
        yield from _check_chart(_mapping(spec.get("chart")))
        yield from _check_release(_mapping(spec.get("release")), namespace)
        yield from _check_values(_mapping(spec.get("values")))
    else:
        yield Problem("spec.mode", "The mode must be managed or placeholder.")


def _check_target(target: Mapping[str, Any]) -> Iterator[Problem]:
    name = target.get("name")
    if not _is_text(name, _DNS_SUBDOMAIN, 253):
        yield Problem("spec.targetRef.name", "Enter the name of the application.")
    elif not is_label_value(name):
        yield Problem(
            "spec.targetRef.name",
            "The application's name has more than 63 characters, and operations cannot "
            "be asked for it, because they carry it as a label.",
        )


def _check_choice(
    spec: Mapping[str, Any], key: str, what: str, choices: tuple[str, ...]
) -> Iterator[Problem]:
    if spec.get(key) not in choices:
        *most, last = choices
        listed = f"{', '.join(most)} or {last}"
        yield Problem(f"spec.{key}", f"The {what} must be {listed}.")


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
    source = values.get("source")
    if source not in VALUES_SOURCES:
        yield Problem(
            "spec.values.source",
            "The source of the values must be inline, secretRef or configMapRef.",
        )
        return
    for sibling in VALUES_SOURCES:
        if sibling != source and sibling in values:
            yield Problem(
                f"spec.values.{sibling}",
                f"Leave out {sibling}: the source of the values is {source}.",
            )
    if source == "inline":
        yield from _check_free_form(
            values.get("inline"),
            "spec.values.inline",
            what="inline values",
            way_out=", or keep the values in a Secret of the namespace and refer to it",
        )
    else:
        yield from _check_ref(values.get(source), f"spec.values.{source}")


def _check_ref(ref: Any, path: str) -> Iterator[Problem]:
    ref = _mapping(ref)
    if not _is_text(ref.get("name"), _DNS_SUBDOMAIN, 253):
        yield Problem(
            f"{path}.name",
            "The name of the object that holds the values must be lower-case letters, "
            "digits, hyphens and dots, begin and end with a letter or digit, and have "
            "at most 253 characters.",
        )
    if not _is_text(ref.get("key"), _REF_KEY, 253):
        yield Problem(
            f"{path}.key",
            "The key of the values must be letters, digits, hyphens, underscores and "
            "dots, not begin with two dots, and have at most 253 characters.",
        )


def _check_free_form(
    data: Any, path: str, *, what: str, way_out: str
) -> Iterator[Problem]:
    if not isinstance(data, Mapping):
        yield Problem(
            path, f"{what.capitalize()} must be a mapping of names to values."
        )
        return
    for place in find_secret_material(data):
        yield Problem(
            f"{path}.{place}",
            f"{place} looks like a secret, and secrets are refused in {what}: leave it "
            f"empty, write {SECRET_PLACEHOLDER}{way_out}.",
        )


def _check_integrations(integrations: Mapping[str, Any]) -> Iterator[Problem]:
    ingress = _mapping(integrations.get("ingress"))
    if ingress.get("enabled") and not _is_text(ingress.get("host"), _DNS_NAME, 253):
        yield Problem(
            "spec.integrations.ingress.host",
            "The ingress needs a host: a DNS name of lower-case letters, digits, "
            "hyphens and dots, such as app.example.com.",
        )


def find_secret_material(values: Any) -> list[str]:
    """Return the paths in `values` that admission refuses as secrets (contract §4).

    Without recursion: values may be nested deep.

    :return: paths such as "auth.password" or "users[0].token", in document order
    """
    found: list[str] = []
    # Each branch as far as it was looked through. A place is the place around it and
    # a key or an index; see `_path`.
    branches: list[tuple[Any, Iterator[tuple[Any, Any]]]] = [
        (None, iter([(None, values)]))
    ]
    while branches:
        around, members = branches[-1]
        for key, value in members:
            if isinstance(value, str):
                if is_secret(key if isinstance(key, str) else "", value):
                    found.append(_path((around, key)))
            elif isinstance(value, dict):
                branches.append(((around, key), iter(value.items())))
                break
            elif isinstance(value, (list, tuple)):
                branches.append(((around, key), iter(enumerate(value))))
                break
        else:
            branches.pop()
    return found


def is_secret(key: str, text: str) -> bool:
    """Tell whether admission takes `text` under the name `key` for a secret.

    Empty text and the placeholder are none.
    """
    names_secret = _names_secret if len(key) <= MAX_KNOWN_KEY else _SECRET_KEY.fullmatch
    if names_secret(key) or ("PRIVATE" in text and _PRIVATE_KEY.match(text)):
        return bool(text.strip()) and text != SECRET_PLACEHOLDER
    return False


@lru_cache(maxsize=2_048)  # the values of a bulk have the same keys
def _names_secret(key: str) -> bool:
    return bool(_SECRET_KEY.fullmatch(key))


def _path(place: Any) -> str:
    parts: list[str] = []
    while place is not None:
        place, key = place
        if key is None:  # of all the values
            break
        parts.append(f"[{key}]" if isinstance(key, int) else f".{key}")
    return "".join(reversed(parts)).removeprefix(".")


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


# === READING BACK === #


def read_application_instance(obj: Any) -> tuple[dict[str, Any], list[str]]:
    """Return the arguments for `application_instance` that describe `obj`.

    Never raises, whatever a cluster sent: what has a wrong type, or is longer than a
    form takes, reads as empty.

    :return: the keyword arguments, all of them, and the paths such as ".spec.extra" of
        what they do not describe: applied by us, the object would not keep it
    """
    obj = _mapping(obj)
    metadata = _mapping(obj.get("metadata"))
    spec = _mapping(obj.get("spec"))
    values = _mapping(spec.get("values"))
    source = _choice(values.get("source"), VALUES_SOURCES)
    inline = values.get("inline") if source == "inline" else None
    ref = _mapping(values.get(source) if source != "inline" else None)
    arguments = {
        "name": _exact(metadata.get("name")),
        "namespace": _exact(metadata.get("namespace"), 63),
        "cluster_id": _exact(
            _mapping(metadata.get("labels")).get(CLUSTER_ID_LABEL), 63
        ),
        "catalog_id": _exact(_mapping(spec.get("appRef")).get("catalogId"), MAX_URL),
        "mode": _choice(spec.get("mode"), MODES),
        "chart": _read_chart(_mapping(spec.get("chart"))),
        "release_name": _exact(_mapping(spec.get("release")).get("name")),
        "values_source": source,
        "values": dict(inline)
        if isinstance(inline, Mapping) and _is_plain(inline)
        else {},
        "values_ref": {"name": _exact(ref.get("name")), "key": _exact(ref.get("key"))},
        "integrations": _read_integrations(_mapping(spec.get("integrations"))),
        "capabilities": _read_capabilities(_mapping(metadata.get("annotations"))),
    }
    return arguments, list(islice(_left_over(obj.get("spec"), arguments), MAX_PATHS))


def _read_chart(chart: Mapping[str, Any]) -> dict[str, str]:
    source = chart.get("sourceType")
    return {
        "source_type": source if source in ("oci", "helm") else "",
        "url": _exact(chart.get("url"), MAX_URL),
        "name": _exact(chart.get("name"), MAX_URL),
        "version": _exact(chart.get("version")),
    }


def _read_integrations(integrations: Mapping[str, Any]) -> dict[str, Any]:
    external_secrets, cert_manager, ingress = (
        _mapping(integrations.get(key))
        for key in ("externalSecrets", "certManager", "ingress")
    )
    on = ingress.get("enabled") is True
    return {
        "external_secrets": external_secrets.get("enabled") is True,
        "cert_manager": cert_manager.get("enabled") is True,
        "ingress": on,
        "ingress_host": _exact(ingress.get("host")) if on else "",
    }


def _read_capabilities(annotations: Mapping[str, Any]) -> dict[str, str]:
    engines = {
        capability: _exact(annotations.get(f"{CAPABILITY_PREFIX}{capability}"), 63)
        for capability in CAPABILITIES
    }
    return {capability: engine for capability, engine in engines.items() if engine}


def _left_over(spec: Any, arguments: Mapping[str, Any]) -> Iterator[str]:
    """Yield the paths in `spec` that a manifest of `arguments` would not have."""
    rebuilt = application_instance(**arguments)["spec"]
    off: dict[str, dict[str, Any]] = {
        "externalSecrets": {"enabled": False},
        "certManager": {"enabled": False},
        "ingress": {"enabled": False, "host": ""},
    }
    known = {
        "mode": "managed",
        **rebuilt,
        "integrations": {**off, **rebuilt.get("integrations", {})},
    }
    stack: list[tuple[str, Any, Any]] = [(".spec", spec, known)]
    while stack:
        path, value, expected = stack.pop()
        if value is None or value == expected:
            continue
        if not (isinstance(value, Mapping) and isinstance(expected, Mapping)):
            yield _text(path, MAX_PATH)
        elif path == ".spec.values.inline":
            yield path
        else:
            stack.extend(
                (f"{path}.{key}", item, expected.get(key))
                for key, item in reversed(list(value.items()))
            )


def _is_plain(values: Any) -> bool:
    """Tell whether a form can hold `values`: plain JSON, not deep, not big."""
    size = 0
    stack: list[tuple[int, Any]] = [(1, values)]
    while stack:
        depth, value = stack.pop()
        texts: list[Any] = [value] if isinstance(value, str) else []
        if isinstance(value, Mapping):
            texts = list(value)
            stack.extend((depth + 1, item) for item in value.values())
        elif isinstance(value, list):
            stack.extend((depth + 1, item) for item in value)
        elif not _is_scalar(value):
            return False
        if depth > MAX_DEPTH or any(_exact(text, MAX_VALUES) != text for text in texts):
            return False
        size += 1 + sum(map(len, texts))
        if size > MAX_VALUES:
            return False
    return True


def _is_scalar(value: Any) -> bool:
    if isinstance(value, float):
        return math.isfinite(value)
    return value is None or isinstance(value, (str, int))


def _choice(value: Any, choices: tuple[str, ...]) -> str:
    return value if isinstance(value, str) and value in choices else choices[0]


def _exact(value: Any, limit: int = MAX_TEXT) -> str:
    """Return a text as it is, or "": a changed one would name something else."""
    return value if _text(value, limit) == value else ""


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
    annotations: Mapping[str, str] = field(default_factory=dict)
    finalizers: tuple[str, ...] = ()
    kind: str = ""
    # What only operations report, but for the phase:
    phase: str = ""  # one of OPERATION_PHASES, or of CLUSTER_PHASES
    started_at: datetime | None = None  # aware, UTC
    finished_at: datetime | None = None
    outputs: Mapping[str, str] = field(default_factory=dict)
    logs_url: str = ""  # http or https
    logs_ref: str = ""  # what has the logs in the cluster: kind namespace/name
    # What only the object that stands for the cluster reports:
    cluster_id: str = ""  # which cluster it says that it is
    last_heartbeat: datetime | None = None
    managed_namespaces: tuple[Mapping[str, Any], ...] = ()  # name, templates

    @property
    def is_current(self) -> bool:
        """Whether the status speaks of the spec that is stored (contract §1)."""
        if self.observed_generation is None:
            return False
        return self.observed_generation >= (self.generation or 0)

    @cached_property
    def health(self) -> str:
        if self.kind == OPERATION.kind:
            return operation_health(self)
        return health(self)

    @cached_property
    def explanation(self) -> Condition | None:
        """Return the condition whose words explain the health, if there is one."""
        by_type = {condition.type: condition for condition in self.conditions}
        for type_ in EXPLAINED_BY.get(self.health, ()):
            if type_ in by_type:
                return by_type[type_]
        return None

    def condition(self, type_: str) -> Condition | None:
        """Return the condition of that type, unless it speaks of an older spec."""
        for condition in self.conditions:
            if condition.type == type_:
                seen = condition.observed_generation
                lags = seen is not None and seen < (self.generation or 0)
                return None if lags else condition
        return None


def observe(obj: Any, kind: str | None = None) -> Observed:
    """Read an object that a cluster sent; what has a wrong type reads as absent.

    Never raises. Text is cut to the limits of the Kubernetes API conventions and
    cleared of what a database refuses (NUL, lone surrogates).

    :param kind: what it is, where the object may not say so, as the items of a list
    """
    obj = _mapping(obj)
    metadata = _mapping(obj.get("metadata"))
    status = _mapping(obj.get("status"))
    chart = _mapping(status.get("lastAppliedChart"))
    logs = _mapping(status.get("logsRef"))
    kind = kind or _text(obj.get("kind"))
    phases = CLUSTER_PHASES if kind == CLUSTER.kind else OPERATION_PHASES
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
        labels=_texts(metadata.get("labels")),
        annotations=_texts(metadata.get("annotations")),
        finalizers=_finalizers(metadata.get("finalizers")),
        kind=kind,
        phase=_choice(status.get("phase"), ("", *phases)),
        started_at=_time(status.get("startedAt")),
        finished_at=_time(status.get("finishedAt")),
        outputs=_texts(status.get("outputs"), MAX_OUTPUT),
        logs_url=_text(logs["url"], MAX_URL) if _is_link(logs.get("url")) else "",
        logs_ref=_reference(logs),
        cluster_id=_exact(_mapping(obj.get("spec")).get("clusterId")),
        last_heartbeat=_time(status.get("lastHeartbeat")),
        managed_namespaces=_managed_namespaces(status.get("managedNamespaces")),
    )


def metadata_text(obj: Any, key: str) -> str:
    """Return one text of an object's metadata, or "": cheaper than `observe`."""
    return _text(_mapping(_mapping(obj).get("metadata")).get(key))


def metadata_generation(obj: Any) -> int:
    """Return an object's generation, 0 without one: cheaper than `observe`."""
    return _count(_mapping(_mapping(obj).get("metadata")).get("generation")) or 0


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


def operation_health(observed: Observed) -> str:
    """Derive one word from an operation's phase; the first row that fits decides.

    =============  ==========================================================
    deleting       deletionTimestamp is set: the API server's own word
    ready          phase Succeeded
    failed         phase Failed
    suspended      phase Cancelled
    blocked        Blocked=True: it waits for something, such as an approval
    progressing    phase Pending or Running
    unknown        no phase
    =============  ==========================================================

    An operation's status carries no observedGeneration (contract §1), so none is asked
    for; a condition whose own one lags counts as absent.
    """
    if observed.deletion_timestamp:
        return "deleting"
    blocked = observed.condition("Blocked")
    if blocked and blocked.status == "True" and observed.phase not in FINAL_PHASES:
        return "blocked"
    return _PHASE_HEALTH.get(observed.phase, "unknown")


_PHASE_HEALTH = {
    "Pending": "progressing",
    "Running": "progressing",
    "Succeeded": "ready",
    "Failed": "failed",
    "Cancelled": "suspended",
}


# The conditions whose words explain each health, the first one present.
EXPLAINED_BY: Mapping[str, tuple[str, ...]] = {
    "ready": ("Ready", "Succeeded"),
    "progressing": ("Reconciling", "Running", "Accepted", "Ready"),
    "degraded": ("Degraded",),
    "blocked": ("Blocked",),
    "suspended": ("Suspended", "Cancelled"),
    "failed": ("Ready", "Degraded", "Failed"),
    "deleting": ("Deleting",),
}


def newer(version: str, than: str | None) -> bool:
    """Tell whether one resourceVersion of a kind is newer than another.

    Longer is newer, then text order: how Kubernetes ≥ 1.35 defines the comparison of
    decimal numbers, which holds for all servers on etcd and tolerates any text.
    """
    if not than:
        return True
    return (len(version), version) > (len(than), than)


def _conditions(value: Any) -> tuple[Condition, ...]:
    by_type: dict[str, Condition] = {}
    if isinstance(value, list) and len(value) > MAX_ENTRIES:
        # However many there are, those that health is derived from are not cut off.
        value = sorted(value, key=lambda entry: not _is_known_condition(entry))
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


def _is_known_condition(entry: Any) -> bool:
    type_ = _mapping(entry).get("type")
    return isinstance(type_, str) and type_ in CONDITION_TYPES


def _managed_namespaces(value: Any) -> tuple[Mapping[str, Any], ...]:
    items = value[:MAX_NAMESPACES] if isinstance(value, list) else ()
    return tuple(
        {
            "name": name,
            "templates": _text_list(_mapping(item).get("allowedOperationTemplates")),
        }
        for item in items
        if (name := _exact(_mapping(item).get("name")))
    )


def _reference(ref: Mapping[str, Any]) -> str:
    """Return what an object is referred to by; "" without a name: it is of no use."""
    kind, namespace, name = (_text(ref.get(k)) for k in ("kind", "namespace", "name"))
    if not name:
        return ""
    path = f"{namespace}/{name}" if namespace else name
    return f"{kind} {path}" if kind else path


def _text_list(value: Any) -> list[str]:
    items = value[:MAX_ENTRIES] if isinstance(value, list) else ()
    return [_text(item) for item in items if isinstance(item, str)]


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


def _finalizers(value: Any) -> tuple[str, ...]:
    return tuple(_text_list(value))


def _texts(value: Any, limit: int = MAX_TEXT) -> dict[str, str]:
    """Read a mapping of texts; our own annotations are never crowded out."""
    pairs = [(k, text) for k, text in _mapping(value).items() if isinstance(text, str)]
    pairs.sort(key=lambda pair: pair[0] not in (DATABASE_ANNOTATION, RECORD_ANNOTATION))
    return {_text(key, 317): _text(text, limit) for key, text in pairs[:MAX_ENTRIES]}


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
