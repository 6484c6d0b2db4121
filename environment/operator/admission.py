"""What admission refuses (contract §4), as pure rules.

`review` gets an AdmissionReview's request and the two objects that rules look at
beside it, and returns one sentence for each thing that is wrong. Every sentence starts
with the field it is about, and none of them quotes a value that may be a secret.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Any

from .resources import (
    ALLOWED_TYPES_ANNOTATION,
    CLUSTER_ID_LABEL,
    GATE_LABEL,
    GATE_VALUE,
    INSTANCE,
    OPERATION,
    Parameter,
    Template,
    allowed_types,
    find_template,
    is_gated,
)

Object = Mapping[str, Any]

CHART_SCHEMES = {"oci": "oci://", "helm": "https://"}
EXTERNAL_SECRET_MARK = "<set via externalSecret>"  # noqa: S105

# Semantic Versioning 2.0.0, items 2, 9 and 10.
_NUMBER = r"(?:0|[1-9][0-9]*)"
_PRE_RELEASE = rf"(?:{_NUMBER}|[0-9]*[A-Za-z-][0-9A-Za-z-]*)"
_EXACT_VERSION = re.compile(
    rf"{_NUMBER}\.{_NUMBER}\.{_NUMBER}"
    rf"(?:-{_PRE_RELEASE}(?:\.{_PRE_RELEASE})*)?"
    r"(?:\+[0-9A-Za-z-]+(?:\.[0-9A-Za-z-]+)*)?"
)
_SECRET_KEY = re.compile(
    r".*(?:password|secret)|accesskey|secretkey|apikey|token", re.IGNORECASE
)
_PRIVATE_KEY = re.compile(r"\s*-----BEGIN (?:[A-Z0-9]+ )*PRIVATE KEY-----")

_STARTED_PHASES = {"Running", "Succeeded", "Failed", "Cancelled"}


def review(
    request: Object,
    *,
    cluster_id: str,
    namespace: Object | None,
    target: Object | None,
) -> list[str]:
    """Return what is wrong with a request; an empty list admits it.

    `namespace` is the Namespace that the request is for, `target` the instance that an
    operation names; None where it does not exist.
    """
    new, old = request["object"], request.get("oldObject")
    if _only_finishes_deletion(new, old):
        return []
    problems = [
        *_check_gate(request["namespace"], namespace),
        *_check_cluster_id(new, cluster_id=cluster_id),
    ]
    if request["kind"]["kind"] == INSTANCE.name:
        problems += _check_instance(new, old, namespace=request["namespace"])
    if request["kind"]["kind"] == OPERATION.name:
        problems += _check_operation(new, old, namespace=namespace, target=target)
    return problems


def _only_finishes_deletion(new: Object, old: Object | None) -> bool:
    """A finalizer can be removed whatever became of namespace, target or rules."""
    if old is None or not old["metadata"].get("deletionTimestamp"):
        return False
    return new.get("spec") == old.get("spec")


# --- every object ---------------------------------------------------------------------


def _check_gate(name: str, namespace: Object | None) -> Iterator[str]:
    if not is_gated(namespace):
        yield (
            f'metadata.namespace: namespace "{name}" is not managed: it does not carry '
            f"the label {GATE_LABEL}={GATE_VALUE}"
        )


def _check_cluster_id(new: Object, *, cluster_id: str) -> Iterator[str]:
    labelled = (new["metadata"].get("labels") or {}).get(CLUSTER_ID_LABEL)
    if labelled not in (None, cluster_id):
        yield (
            f'metadata.labels[{CLUSTER_ID_LABEL}]: the object is for cluster "'
            f'{labelled}", and this is cluster "{cluster_id}"'
        )


# --- application instances ------------------------------------------------------------


def _check_instance(
    new: Object, old: Object | None, *, namespace: str
) -> Iterator[str]:
    spec = new["spec"]
    if spec.get("mode") == "placeholder":
        yield from _check_placeholder(spec)
    else:
        yield from _check_managed(spec, namespace=namespace)
    yield from _check_ingress(spec)
    if old is not None:
        yield from _check_instance_change(spec, old)


def _check_placeholder(spec: Object) -> Iterator[str]:
    for field in ("chart", "release", "values"):
        if field in spec:
            yield f"spec.{field}: must be absent in mode placeholder"


def _check_managed(spec: Object, *, namespace: str) -> Iterator[str]:
    for field in ("chart", "release", "values"):
        if field not in spec:
            yield f"spec.{field}: required in mode managed"
    if "chart" in spec:
        yield from _check_chart(spec["chart"])
    if "release" in spec and spec["release"]["namespace"] != namespace:
        yield (
            f'spec.release.namespace: "{spec["release"]["namespace"]}" is not the '
            f'namespace of the object, "{namespace}"'
        )
    if "values" in spec:
        yield from _check_values(spec["values"])


def _check_chart(chart: Object) -> Iterator[str]:
    scheme = CHART_SCHEMES.get(chart["sourceType"])
    if scheme is None:
        yield f'spec.chart.sourceType: "{chart["sourceType"]}" is neither oci nor helm'
    elif not chart["url"].startswith(scheme) or chart["url"] == scheme:
        yield (
            f"spec.chart.url: must start with {scheme} for source type "
            f"{chart['sourceType']}"
        )
    if not _EXACT_VERSION.fullmatch(chart["version"]):
        yield (
            f'spec.chart.version: "{chart["version"]}" is not an exact semantic '
            "version such as 1.2.3"
        )


def _check_values(values: Object) -> Iterator[str]:
    source = values["source"]
    if source not in values:
        yield f"spec.values.{source}: required when the source is {source}"
    for field in ("inline", "secretRef", "configMapRef"):
        if field in values and field != source:
            yield f"spec.values.{field}: must be absent when the source is {source}"
    for path in find_secrets(values.get("inline", {}), path="spec.values.inline"):
        yield (
            f"{path}: holds secret material; put it in a Secret and use "
            "values.secretRef"
        )


def find_secrets(value: Any, *, path: str, key: str = "") -> Iterator[str]:
    """Yield the paths of the strings that look like secrets (contract §4).

    A string in a list counts under the key of the list.
    """
    if isinstance(value, Mapping):
        for name, item in value.items():
            yield from find_secrets(item, path=f"{path}.{name}", key=str(name))
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from find_secrets(item, path=f"{path}[{index}]", key=key)
    elif isinstance(value, str) and _is_secret(key, value):
        yield path


def _is_secret(key: str, value: str) -> bool:
    if value in ("", EXTERNAL_SECRET_MARK):
        return False
    return bool(_SECRET_KEY.fullmatch(key) or _PRIVATE_KEY.match(value))


def _check_ingress(spec: Object) -> Iterator[str]:
    ingress = spec.get("integrations", {}).get("ingress", {})
    if ingress.get("enabled") and not ingress.get("host"):
        yield "spec.integrations.ingress.host: required when ingress is enabled"


def _check_instance_change(spec: Object, old: Object) -> Iterator[str]:
    before = old["spec"]
    if (
        spec.get("mode") == "placeholder"
        and before.get("mode") != "placeholder"
        and old.get("status")
    ):
        yield "spec.mode: cannot become placeholder once a release may exist"
    for field in ("name", "namespace"):
        was = before.get("release", {}).get(field)
        now = spec.get("release", {}).get(field)
        if None not in (was, now) and was != now:
            yield f'spec.release.{field}: immutable; it is "{was}"'


# --- operations -----------------------------------------------------------------------


def _check_operation(
    new: Object,
    old: Object | None,
    *,
    namespace: Object | None,
    target: Object | None,
) -> Iterator[str]:
    spec = new["spec"]
    template = find_template(type=spec["type"], engine=spec["engine"])
    if template is None:
        yield (
            f'spec.engine: there is no operation of type {spec["type"]} with engine "'
            f'{spec["engine"]}"'
        )
    else:
        yield from _check_parameters(spec.get("parameters", {}), template)
    if old is None:
        yield from _check_type_allowed(spec["type"], namespace)
        yield from _check_target(spec, target, template)
    else:
        yield from _check_operation_change(spec, old)


def _check_type_allowed(type: str, namespace: Object | None) -> Iterator[str]:
    allowed = None if namespace is None else allowed_types(namespace)
    if allowed is not None and type not in allowed:
        listed = ", ".join(sorted(allowed)) or "none"
        yield (
            f"spec.type: {type} is not allowed in this namespace; its annotation "
            f"{ALLOWED_TYPES_ANNOTATION} allows {listed}"
        )


def _check_target(
    spec: Object, target: Object | None, template: Template | None
) -> Iterator[str]:
    ref = spec["targetRef"]
    if (ref["apiVersion"], ref["kind"]) != (INSTANCE.api_version, INSTANCE.name):
        yield f"spec.targetRef: must name an {INSTANCE.name} of {INSTANCE.api_version}"
        return
    if target is None:
        yield (
            f'spec.targetRef.name: there is no {INSTANCE.name} "{ref["name"]}" in this '
            "namespace"
        )
        return
    annotations = target["metadata"].get("annotations") or {}
    if template and annotations.get(template.capability) != template.engine:
        yield (
            f'spec.targetRef.name: {INSTANCE.name} "{ref["name"]}" lacks the '
            f"capability annotation {template.capability}={template.engine}"
        )


def _check_parameters(parameters: Object, template: Template) -> Iterator[str]:
    for name in parameters:
        if name not in template.parameters:
            yield f"spec.parameters.{name}: unknown parameter of {template.name}"
    for name, parameter in template.parameters.items():
        path = f"spec.parameters.{name}"
        if name in parameters:
            yield from _check_parameter(path, parameters[name], parameter)
        elif parameter.required:
            yield f"{path}: required by {template.name}"


def _check_parameter(path: str, value: Any, parameter: Parameter) -> Iterator[str]:
    if not _has_type(value, parameter.type):
        yield f"{path}: must be of type {parameter.type}"
        return
    if parameter.required and value == "":
        yield f"{path}: must not be empty"
    if parameter.minimum is not None and value < parameter.minimum:
        yield f"{path}: must be at least {parameter.minimum}"
    if parameter.items:
        items = value.values() if isinstance(value, Mapping) else value
        if not all(_has_type(item, parameter.items) for item in items):
            yield f"{path}: every item must be of type {parameter.items}"


def _has_type(value: Any, type: str) -> bool:
    if isinstance(value, bool):
        return type == "boolean"
    python = {"string": str, "integer": int, "object": Mapping, "array": list}
    return type in python and isinstance(value, python[type])


def _check_operation_change(spec: Object, old: Object) -> Iterator[str]:
    before = old["spec"]
    for field in ("targetRef", "type", "engine"):
        if spec[field] != before[field]:
            yield f"spec.{field}: immutable"
    started = old.get("status", {}).get("phase") in _STARTED_PHASES
    if started and spec.get("parameters") != before.get("parameters"):
        yield "spec.parameters: immutable once the operation has started"
