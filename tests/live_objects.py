"""What tests do in the cluster itself, past Odoo: as its operator, or as a rival."""

import json

COLLECTION = "/apis/apps.vworkspace.io/v1alpha1/namespaces/{}/applicationinstances"
OPERATIONS = "/apis/ops.vworkspace.io/v1alpha1/namespaces/{}/operations"
OPERATOR = "vworkspace-operator"  # the field manager that writes status

SINCE = "2026-05-28T10:00:00Z"


def get_object(control_plane, namespace, name="wiki"):
    """Return the object as the API server has it."""
    return control_plane.request("GET", f"{COLLECTION.format(namespace)}/{name}")


def list_objects(control_plane, namespace):
    return control_plane.request("GET", COLLECTION.format(namespace))["items"]


def create_object(control_plane, namespace, name):
    """Create an application past Odoo, as somebody else would; return it."""
    chart = {"sourceType": "oci", "url": "oci://registry.example.com/charts"}
    body = {
        "apiVersion": "apps.vworkspace.io/v1alpha1",
        "kind": "ApplicationInstance",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {
            "appRef": {"catalogId": "wiki"},
            "chart": {**chart, "name": "wiki", "version": "1.4.2"},
            "release": {"name": name, "namespace": namespace},
            "values": {"source": "inline", "inline": {}},
        },
    }
    return control_plane.request("POST", COLLECTION.format(namespace), body=body)


def delete_object(control_plane, namespace, name="wiki"):
    control_plane.request("DELETE", f"{COLLECTION.format(namespace)}/{name}")


def clear_instances(control_plane):
    """Delete every application of the cluster."""
    everywhere = "/apis/apps.vworkspace.io/v1alpha1/applicationinstances"
    items = control_plane.request("GET", everywhere)["items"]
    for namespace in sorted({item["metadata"]["namespace"] for item in items}):
        control_plane.request("DELETE", COLLECTION.format(namespace))


def patch_status(control_plane, namespace, status, *, name="wiki"):
    """Write a status with kubectl, as the operator in the cluster would."""
    control_plane.kubectl(
        *("patch", "applicationinstance", name, "-n", namespace),
        *("--subresource", "status", "--type", "merge"),
        *("--field-manager", OPERATOR, "-p", json.dumps({"status": status})),
    )


def write_status(control_plane, namespace, name, status):
    """Write a status with one request, as the operator in the cluster would."""
    return control_plane.request(
        *("PATCH", f"{COLLECTION.format(namespace)}/{name}/status"),
        body={"status": status},
        query={"fieldManager": OPERATOR},
        content_type="application/merge-patch+json",
    )


def write_operation_status(control_plane, namespace, name, status):
    """Write an operation's status with one request, as the operator would."""
    return control_plane.request(
        *("PATCH", f"{OPERATIONS.format(namespace)}/{name}/status"),
        body={"status": status},
        query={"fieldManager": OPERATOR},
        content_type="application/merge-patch+json",
    )


def running_status(*, message=""):
    """Return the status of an operation that has begun."""
    return {
        "phase": "Running",
        "startedAt": SINCE,
        "finishedAt": None,
        "conditions": [condition("Running", "True", message=message)],
        "outputs": {"step": message},
    }


def succeeded_status(*, message="It is done."):
    """Return the status of an operation that has ended well."""
    return {
        "phase": "Succeeded",
        "startedAt": SINCE,
        "finishedAt": "2026-05-28T10:05:00Z",
        "conditions": [condition("Succeeded", "True", message=message)],
        "outputs": {"backupName": "backup-1", "step": message},
        "logsRef": {"kind": "Job", "namespace": "logs", "name": "backup-1"},
    }


def ready_status(*, generation=1, message="All is well."):
    """Return the status of an application that is ready."""
    return {
        "observedGeneration": generation,
        "conditions": [condition("Ready", "True", message=message)],
        "endpoints": [{"name": "web", "url": "https://wiki.example.com/"}],
    }


def degraded_status(*, generation=1, message="One of two replicas is missing."):
    """Return the status of an application that serves, but not well."""
    return {
        "observedGeneration": generation,
        "conditions": [
            condition("Ready", "True"),
            condition("Degraded", "True", reason="Replicas", message=message),
        ],
    }


def condition(type_, status, *, reason="Tested", message="", since=SINCE):
    return {
        "type": type_,
        "status": status,
        "reason": reason,
        "message": message,
        "lastTransitionTime": since,
    }
