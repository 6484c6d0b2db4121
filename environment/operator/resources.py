"""What the operator handles: its kinds, labels and operation templates (contract §1-3).

Written down a second time on purpose: the addon has its own copy, and the tests that
run both against one API server show where the two differ.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

FIELD_MANAGER = "vworkspace-operator"
SYSTEM_NAMESPACE = "vworkspace-system"

GATE_LABEL = "managed-by"
GATE_VALUE = "vworkspace"
CLUSTER_ID_LABEL = "app.vworkspace.io/cluster-id"
ALLOWED_TYPES_ANNOTATION = "ops.vworkspace.io/allowed-types"
CAPABILITY_PREFIX = "ops.vworkspace.io/"
BEHAVIOUR_ANNOTATION = "simulate.vworkspace.io/behaviour"


@dataclass(frozen=True, kw_only=True)
class Kind:
    """One resource of the API server."""

    name: str
    api_version: str
    plural: str
    namespaced: bool = True

    def path(self, *, namespace: str | None = None, name: str | None = None) -> str:
        """Return the path of a collection (cluster-wide by default) or an object."""
        root = f"/apis/{self.api_version}"
        if "/" not in self.api_version:
            root = f"/api/{self.api_version}"
        if namespace:
            root += f"/namespaces/{namespace}"
        return f"{root}/{self.plural}" + (f"/{name}" if name else "")


INSTANCE = Kind(
    name="ApplicationInstance",
    api_version="apps.vworkspace.io/v1alpha1",
    plural="applicationinstances",
)
OPERATION = Kind(
    name="Operation", api_version="ops.vworkspace.io/v1alpha1", plural="operations"
)
CLUSTER = Kind(
    name="Cluster",
    api_version="ops.vworkspace.io/v1alpha1",
    plural="clusters",
    namespaced=False,
)
NAMESPACE = Kind(
    name="Namespace", api_version="v1", plural="namespaces", namespaced=False
)
WEBHOOK_CONFIGURATION = Kind(
    name="ValidatingWebhookConfiguration",
    api_version="admissionregistration.k8s.io/v1",
    plural="validatingwebhookconfigurations",
    namespaced=False,
)


@dataclass(frozen=True, kw_only=True)
class Parameter:
    """One parameter of an operation template; `type` as JSON Schema names it."""

    type: str
    required: bool = False
    items: str | None = None
    minimum: int | None = None


@dataclass(frozen=True, kw_only=True)
class Template:
    """One row of contract §2."""

    type: str
    engine: str
    parameters: Mapping[str, Parameter]
    needs_approval: bool = False

    @property
    def capability(self) -> str:
        """Return the annotation that the target must carry, with the engine in it."""
        return CAPABILITY_PREFIX + self.type.lower()

    @property
    def name(self) -> str:
        """Return the template's name, such as `backup.velero`."""
        return f"{self.type[0].lower()}{self.type[1:]}.{self.engine}"


_STRING = Parameter(type="string")
_REQUIRED_STRING = Parameter(type="string", required=True)
_STRINGS = Parameter(type="array", items="string")

TEMPLATES = (
    Template(
        type="Backup",
        engine="velero",
        parameters={
            "retention": _STRING,
            "snapshotClassName": _STRING,
            "storageLocation": _STRING,
        },
    ),
    Template(
        type="Restore",
        engine="velero",
        parameters={
            "backupName": _REQUIRED_STRING,
            "namespaceMapping": Parameter(type="object", items="string"),
            "restorePVs": Parameter(type="boolean"),
        },
        needs_approval=True,
    ),
    Template(
        type="Upgrade",
        engine="helm",
        parameters={
            "targetVersion": _STRING,
            "valuesPatch": Parameter(type="object"),
        },
    ),
    Template(
        type="Migration",
        engine="helmHookJob",
        parameters={"hookName": _REQUIRED_STRING, "image": _REQUIRED_STRING},
    ),
    Template(
        type="RunCommand",
        engine="job",
        parameters={
            "image": _REQUIRED_STRING,
            "command": _STRINGS,
            "args": _STRINGS,
            "activeDeadlineSeconds": Parameter(type="integer", minimum=1),
        },
    ),
    Template(
        type="Runbook", engine="workflow", parameters={"template": _REQUIRED_STRING}
    ),
)


def find_template(*, type: str, engine: str) -> Template | None:
    """Return the template of an operation, or None."""
    for template in TEMPLATES:
        if (template.type, template.engine) == (type, engine):
            return template
    return None


def is_gated(namespace: Mapping[str, Any] | None) -> bool:
    """Tell whether a namespace carries the gate label (contract §3)."""
    if namespace is None:
        return False
    labels = namespace["metadata"].get("labels") or {}
    return labels.get(GATE_LABEL) == GATE_VALUE


def allowed_types(namespace: Mapping[str, Any]) -> set[str] | None:
    """Return the operation types that a namespace allows; None means all."""
    annotations = namespace["metadata"].get("annotations") or {}
    if ALLOWED_TYPES_ANNOTATION not in annotations:
        return None
    return {
        part.strip()
        for part in annotations[ALLOWED_TYPES_ANNOTATION].split(",")
        if part.strip()
    }
