"""The operator's own account and rights, for whoever runs it to apply as an admin."""

from typing import Any

from .resources import FIELD_MANAGER, SYSTEM_NAMESPACE

WEBHOOK_CONFIGURATION_NAME = "vworkspace-operator-admission"

_RBAC = "rbac.authorization.k8s.io"


def operator_manifests() -> list[dict[str, Any]]:
    """Return the operator's ServiceAccount, ClusterRole and ClusterRoleBinding.

    The namespace `vworkspace-system` is not among them; it has to exist.
    """
    metadata = {"name": FIELD_MANAGER}
    return [
        {
            "apiVersion": "v1",
            "kind": "ServiceAccount",
            "metadata": {**metadata, "namespace": SYSTEM_NAMESPACE},
        },
        {
            "apiVersion": f"{_RBAC}/v1",
            "kind": "ClusterRole",
            "metadata": metadata,
            "rules": _rules(),
        },
        {
            "apiVersion": f"{_RBAC}/v1",
            "kind": "ClusterRoleBinding",
            "metadata": metadata,
            "roleRef": {"apiGroup": _RBAC, "kind": "ClusterRole", **metadata},
            "subjects": [
                {
                    "kind": "ServiceAccount",
                    **metadata,
                    "namespace": SYSTEM_NAMESPACE,
                }
            ],
        },
    ]


def _rules() -> list[dict[str, Any]]:
    read = ["get", "list", "watch"]
    return [
        _rule("", ["namespaces"], read),
        # `create` is for the dry run that proves the webhook to be in force.
        _rule("apps.vworkspace.io", ["applicationinstances"], [*read, "create"]),
        _rule("apps.vworkspace.io", ["applicationinstances/status"], ["patch"]),
        _rule("ops.vworkspace.io", ["operations"], read),
        _rule("ops.vworkspace.io", ["operations/status"], ["patch"]),
        # Server-side apply of an object that may not exist needs both verbs.
        _rule("ops.vworkspace.io", ["clusters"], [*read, "create", "patch"]),
        _rule("ops.vworkspace.io", ["clusters/status"], ["patch"]),
        {
            **_rule(
                "admissionregistration.k8s.io",
                ["validatingwebhookconfigurations"],
                ["create", "patch", "delete"],
            ),
            "resourceNames": [WEBHOOK_CONFIGURATION_NAME],
        },
    ]


def _rule(group: str, resources: list[str], verbs: list[str]) -> dict[str, Any]:
    return {"apiGroups": [group], "resources": resources, "verbs": verbs}
