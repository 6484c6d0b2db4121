"""Where no watch worker is, the cron lists; where one is, it stays out of the way."""

import pytest

from environment.processes import free_port
from tests.live_objects import (
    degraded_status,
    delete_object,
    patch_status,
    ready_status,
)


def test_without_a_worker_the_cron_brings_the_status(
    database, cluster, deployed, control_plane, namespace
):
    patch_status(control_plane, namespace, ready_status())

    database.run_cron("ir_cron_status")

    assert database.read(deployed, "health") == "ready"
    assert database.read(deployed, "endpoint_url") == "https://wiki.example.com/"
    assert database.read(cluster, "watch_state") == "polling"


def test_a_second_list_of_the_same_writes_nothing(
    database, deployed, control_plane, namespace
):
    patch_status(control_plane, namespace, ready_status())
    database.run_cron("ir_cron_status")
    before = row_version(database, deployed)

    database.run_cron("ir_cron_status")

    assert row_version(database, deployed) == before


def test_an_object_missing_from_the_list_is_lost(
    database, deployed, control_plane, namespace
):
    delete_object(control_plane, namespace)

    database.run_cron("ir_cron_status")

    assert database.read(deployed, "delivery_state") == "lost"


def test_a_failing_cluster_does_not_stop_the_others_and_says_why(
    database, deployed, control_plane, namespace, make_cluster
):
    broken = [make_cluster(server_url=f"https://127.0.0.1:{free_port()}")]
    broken.append(make_cluster(token=False))
    patch_status(control_plane, namespace, ready_status())

    database.run_cron("ir_cron_status")

    assert database.read(deployed, "health") == "ready"
    assert "refused" in database.read(broken[0], "watch_message")
    assert "no credential" in database.read(broken[1], "watch_message")


def test_a_cluster_that_recovers_has_no_message_any_more(
    database, make_cluster, control_plane
):
    broken = make_cluster(token=False)
    database.run_cron("ir_cron_status")
    token = control_plane.service_account_token()
    database.call("admin", broken._name, "write", broken.ids, {"token": token})

    database.run_cron("ir_cron_status")

    assert database.read(broken, "watch_message") is False
    assert database.read(broken, "last_contact")


def test_a_list_that_fails_marks_nothing_as_lost(
    database, cluster, deployed, control_plane, namespace
):
    patch_status(control_plane, namespace, ready_status())
    database.run_cron("ir_cron_status")
    token = control_plane.service_account_token()
    for wrong in ("not-a-token-of-this-cluster", token):
        database.call("admin", cluster._name, "write", cluster.ids, {"token": wrong})

        database.run_cron("ir_cron_status")

        stored = database.read(deployed, "delivery_state", "health")
        assert (stored["delivery_state"], stored["health"]) == ("applied", "ready")


def test_a_namespace_without_rights_marks_nothing_as_lost(
    database, cluster, deployed, control_plane, namespace
):
    control_plane.kubectl("delete", "rolebindings", "--all", "-n", namespace)

    database.run_cron("ir_cron_status")

    assert database.read(deployed, "delivery_state") == "applied"
    assert "cannot list resource" in database.read(cluster, "watch_message")
    control_plane.grant([namespace])


def test_a_namespace_without_rights_does_not_stop_the_others(
    database, cluster, deployed, control_plane, namespace
):
    control_plane.create_namespace("a-without-rights")  # the first in their order
    with database.transaction() as env:
        place = env["vworkspace.cluster.namespace"].create(
            {"cluster_id": cluster.id, "name": "a-without-rights"}
        )
    patch_status(control_plane, namespace, ready_status())

    database.run_cron("ir_cron_status")

    assert database.read(deployed, "health") == "ready"
    assert "cannot list resource" in database.read(cluster, "watch_message")
    database.call("admin", place._name, "unlink", place.ids)


def test_a_cluster_that_a_worker_holds_is_left_to_it(
    database, cluster, deployed, control_plane, namespace
):
    from odoo.addons.vworkspace_push.status import leases
    from odoo.addons.vworkspace_push.transactions import in_transaction

    database.run_cron("ir_cron_status")
    held = in_transaction(database.registry, leases.claim, "a-live-worker")
    assert cluster.id in held
    patch_status(control_plane, namespace, degraded_status())

    database.run_cron("ir_cron_status")
    while_held = database.read(deployed, "health")
    in_transaction(database.registry, leases.release, "a-live-worker")
    database.run_cron("ir_cron_status")

    assert while_held != "degraded"
    assert database.read(deployed, "health") == "degraded"


# === FIXTURES AND HELPERS === #


@pytest.fixture
def deployed(database, make_instance, deploy):
    instance = make_instance()
    deploy(instance)
    return instance


@pytest.fixture
def make_cluster(database, control_plane, namespace):
    """Return a function that registers further clusters, archived afterwards."""
    made = []

    def make(**values):
        with database.transaction() as env:
            cluster = env["vworkspace.cluster"].create(
                {
                    "name": f"Another {len(made)} for {namespace}",
                    "cluster_id": f"cluster-{len(made)}-of-{namespace}",
                    "server_url": control_plane.server,
                    "ca_certificate": control_plane.ca_pem,
                    "token": control_plane.service_account_token(),
                    "namespace_ids": [(0, 0, {"name": namespace})],
                    **values,
                }
            )
            made.append(cluster)
            return cluster

    yield make
    for cluster in made:
        database.call("admin", cluster._name, "write", cluster.ids, {"active": False})


def row_version(database, instance):
    return database.sql(
        "SELECT xmin FROM vworkspace_application_instance WHERE id = %s", instance.id
    )
