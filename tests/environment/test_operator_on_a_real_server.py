"""The simulated operator against a real API server: what the other tests rely on."""

import pytest

from environment.operator.manifests import WEBHOOK_CONFIGURATION_NAME
from environment.processes import wait_until
from environment.progress import Failure
from tests.conftest import CLUSTER_ID

APPS = "/apis/apps.vworkspace.io/v1alpha1"
OPS = "/apis/ops.vworkspace.io/v1alpha1"
WEBHOOKS = "/apis/admissionregistration.k8s.io/v1/validatingwebhookconfigurations"
BEHAVIOUR = "simulate.vworkspace.io/behaviour"
TIMEOUT = 15.0  # s


def instance(namespace, *, version="1.2.3", annotations=None):
    return {
        "apiVersion": "apps.vworkspace.io/v1alpha1",
        "kind": "ApplicationInstance",
        "metadata": {
            "name": "shop",
            "namespace": namespace,
            "labels": {"app.vworkspace.io/cluster-id": CLUSTER_ID},
            "annotations": {
                "ops.vworkspace.io/upgrade": "helm",
                **(annotations or {}),
            },
        },
        "spec": {
            "appRef": {"catalogId": "nginx"},
            "chart": {
                "sourceType": "oci",
                "url": "oci://registry.example/charts",
                "name": "nginx",
                "version": version,
            },
            "release": {"name": "shop", "namespace": namespace},
            "values": {"source": "inline", "inline": {"replicas": 2}},
        },
    }


def upgrade(namespace, name):
    return {
        "apiVersion": "ops.vworkspace.io/v1alpha1",
        "kind": "Operation",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {
            "targetRef": {
                "apiVersion": "apps.vworkspace.io/v1alpha1",
                "kind": "ApplicationInstance",
                "name": "shop",
            },
            "type": "Upgrade",
            "engine": "helm",
            "parameters": {"targetVersion": "2.0.0"},
        },
    }


class Cluster:
    """Reads one namespace of the control plane."""

    def __init__(self, control_plane, namespace):
        self.control_plane = control_plane
        self.namespace = namespace

    def shop(self):
        path = f"{APPS}/namespaces/{self.namespace}/applicationinstances/shop"
        return self.control_plane.request("GET", path)

    def operation(self, name):
        path = f"{OPS}/namespaces/{self.namespace}/operations/{name}"
        return self.control_plane.request("GET", path)

    def wait_for(self, **expected):
        """Wait for conditions of the current generation, given as Type="Status"."""
        wait_until(
            lambda: expected.items() <= self._conditions().items(),
            what=f"conditions {expected}",
            timeout=TIMEOUT,
        )

    def wait_for_phase(self, name, phase):
        wait_until(
            lambda: self.operation(name).get("status", {}).get("phase") == phase,
            what=f"operation {name} to be {phase}",
            timeout=TIMEOUT,
        )

    def _conditions(self):
        shop = self.shop()
        status = shop.get("status", {})
        if status.get("observedGeneration") != shop["metadata"]["generation"]:
            return {}
        return {item["type"]: item["status"] for item in status["conditions"]}


@pytest.fixture
def cluster(control_plane, operator, namespace):
    return Cluster(control_plane, namespace)


def test_an_instance_turns_ready_and_ready_again(cluster, control_plane, namespace):
    control_plane.apply([instance(namespace)])
    cluster.wait_for(Ready="True", Reconciling="False")
    control_plane.apply([instance(namespace, version="1.2.4")])
    cluster.wait_for(Ready="True", Reconciling="False")
    assert cluster.shop()["status"]["lastAppliedChart"]["version"] == "1.2.4"


def test_status_is_written_by_the_operator_through_status_alone(
    cluster, control_plane, namespace
):
    control_plane.apply([instance(namespace)])
    cluster.wait_for(Ready="True")
    written = {
        (entry["manager"], entry["operation"], entry.get("subresource"))
        for entry in cluster.shop()["metadata"]["managedFields"]
        if entry["manager"] == "vworkspace-operator"
    }
    assert written == {("vworkspace-operator", "Apply", "status")}


def test_an_annotation_degrades_and_heals_without_a_new_generation(
    cluster, control_plane, namespace
):
    control_plane.apply([instance(namespace)])
    cluster.wait_for(Ready="True")
    control_plane.apply([instance(namespace, annotations={BEHAVIOUR: "degrade"})])
    cluster.wait_for(Ready="True", Degraded="True")
    control_plane.apply([instance(namespace)])
    cluster.wait_for(Ready="True", Degraded="False")
    assert cluster.shop()["metadata"]["generation"] == 1


def test_the_control_file_degrades_and_heals(
    cluster, control_plane, namespace, operator
):
    control_plane.apply([instance(namespace)])
    cluster.wait_for(Ready="True")
    operator.control(instances={f"{namespace}/shop": "degrade"})
    cluster.wait_for(Ready="True", Degraded="True")
    operator.control(instances={})
    cluster.wait_for(Ready="True", Degraded="False")


def test_a_refusal_has_the_shape_of_a_real_webhook(cluster, control_plane, namespace):
    with pytest.raises(Failure) as refused:
        control_plane.apply([instance(namespace, version="1.x")])
    assert " 403: " in str(refused.value)
    assert (
        'admission webhook "admission.vworkspace.io" denied the request: '
        'spec.chart.version: "1.x" is not an exact semantic version'
    ) in str(refused.value)


def test_a_namespace_counts_from_the_moment_it_is_gated(
    cluster, control_plane, namespace
):
    other = f"{namespace}-late"
    control_plane.create_namespace(other, gated=False)
    with pytest.raises(Failure, match="is not managed"):
        control_plane.apply([instance(other)])
    control_plane.create_namespace(other, gated=True)
    control_plane.apply([instance(other)])


@pytest.mark.parametrize(
    ("mode", "answer"),
    [("refuse", "403.*denied the request"), ("error", "500.*failed calling webhook")],
)
def test_admission_misbehaves_at_once_and_heals(
    cluster, control_plane, namespace, operator, mode, answer
):
    operator.control(admission=mode)
    try:
        with pytest.raises(Failure, match=answer):
            control_plane.apply([instance(namespace)])
    finally:
        operator.control(admission=None)
    control_plane.apply([instance(namespace)])


def test_operations_run_one_after_the_other(cluster, control_plane, namespace):
    control_plane.apply([instance(namespace)])
    cluster.wait_for(Ready="True")
    control_plane.apply([upgrade(namespace, "first"), upgrade(namespace, "second")])
    cluster.wait_for_phase("first", "Succeeded")
    cluster.wait_for_phase("second", "Succeeded")
    first, second = cluster.operation("first"), cluster.operation("second")
    assert first["status"]["outputs"]["version"] == "2.0.0"
    assert first["status"]["finishedAt"] <= second["status"]["startedAt"]


def test_the_cluster_object_is_connected_and_lists_gated_namespaces(
    cluster, control_plane, namespace
):
    def listed():
        status = control_plane.request("GET", f"{OPS}/clusters/{CLUSTER_ID}")["status"]
        assert status["phase"] == "Connected"
        return namespace in [item["name"] for item in status["managedNamespaces"]]

    wait_until(listed, what=f"{namespace} among the namespaces", timeout=TIMEOUT)


def test_a_stopped_operator_leaves_a_usable_server_and_comes_back(
    cluster, control_plane, namespace, operator
):
    control_plane.apply([instance(namespace)])
    cluster.wait_for(Ready="True")
    operator.stop()
    try:
        with pytest.raises(Failure, match="404"):
            control_plane.request("GET", f"{WEBHOOKS}/{WEBHOOK_CONFIGURATION_NAME}")
        control_plane.apply([instance(namespace, version="1.2.4")])
    finally:
        operator.start()
    cluster.wait_for(Ready="True")


def test_a_killed_operator_blocks_writes_until_it_is_back(
    cluster, control_plane, namespace, operator
):
    operator.kill()
    try:
        with pytest.raises(Failure, match="failed calling webhook"):
            control_plane.apply([instance(namespace)])
    finally:
        operator.start()
    control_plane.apply([instance(namespace)])
    cluster.wait_for(Ready="True")
