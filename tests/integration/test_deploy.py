"""From the button to the cluster and back into the record, on the real API server."""

import json
import threading

import pytest


def test_deploy_creates_the_object_and_stores_what_the_server_answered(
    database, make_instance, deploy, control_plane, namespace
):
    instance = make_instance()

    deploy(instance)

    live = live_object(control_plane, namespace)
    stored = database.read(
        instance, "delivery_state", "uid", "resource_version", "generation"
    )
    assert stored["delivery_state"] == "applied"
    assert stored["uid"] == live["metadata"]["uid"]
    assert stored["generation"] == live["metadata"]["generation"] == 1
    assert live["spec"]["values"]["inline"] == {"replicas": 1}
    assert live["metadata"]["labels"] == {
        "app.vworkspace.io/managed-by": "control-plane",
        "app.vworkspace.io/cluster-id": "test-cluster",
    }


def live_object(control_plane, namespace, name="wiki"):
    """Return the object as kubectl shows it, managed fields included."""
    text = control_plane.kubectl(
        *("get", "applicationinstance", name, "-n", namespace),
        *("-o", "json", "--show-managed-fields"),
    )
    return json.loads(text)
