"""Where no watch worker is, the cron lists; where one is, it stays out of the way."""

import pytest

from environment.processes import free_port
from tests.integration.conftest import activate, replace_token, retire, spoil
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
    broken = [make_cluster(), make_cluster()]
    url = f"https://127.0.0.1:{free_port()}"
    spoil(database, broken[0], token=None, server_url=url)
    erase_secret(database, broken[1])
    patch_status(control_plane, namespace, ready_status())

    database.run_cron("ir_cron_status")

    assert database.read(deployed, "health") == "ready"
    assert "refused" in database.read(broken[0], "watch_message")
    assert "secret was erased" in database.read(broken[1], "watch_message")


def test_a_cluster_that_recovers_has_no_message_any_more(
    database, make_cluster, control_plane
):
    broken = make_cluster()
    erase_secret(database, broken)
    database.run_cron("ir_cron_status")
    assert database.read(broken, "watch_message")
    replace_token(database, broken, control_plane.service_account_token())

    database.run_cron("ir_cron_status")

    assert database.read(broken, "watch_message") is False
    assert database.read(broken, "last_contact")


def test_a_list_that_fails_marks_nothing_as_lost(
    database, cluster, deployed, control_plane, namespace
):
    patch_status(control_plane, namespace, ready_status())
    database.run_cron("ir_cron_status")
    spoil(database, cluster, token="not-a-token-of-this-cluster")

    database.run_cron("ir_cron_status")

    stored = database.read(deployed, "delivery_state", "health")
    assert (stored["delivery_state"], stored["health"]) == ("applied", "ready")
    assert database.read(cluster, "watch_message")
    replace_token(database, cluster, control_plane.service_account_token())
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
    """Return a function that makes further active clusters, archived afterwards."""
    made = []

    def make():
        with database.transaction() as env:
            cluster = env["vworkspace.cluster"].create(
                {
                    "name": f"Another {len(made)} for {namespace}",
                    "cluster_id": f"cluster-{len(made)}-of-{namespace}",
                    "server_url": control_plane.server,
                    "ca_certificate": control_plane.ca_pem,
                    "token": control_plane.service_account_token(),
                    "namespace_ids": [(0, 0, {"name": namespace})],
                }
            )
        activate(database, cluster)
        made.append(cluster)
        return cluster

    yield make
    for cluster in made:
        retire(database, cluster)


def erase_secret(database, cluster):
    """Lose an active credential's secret, as a neutralized copy does."""
    with database.transaction() as env:
        cluster_sudo = env[cluster._name].browse(cluster.ids).sudo()
        cluster_sudo.active_credential_id._erase()
        cluster_sudo._connection_changed()


def row_version(database, instance):
    return database.sql(
        "SELECT xmin FROM vworkspace_application_instance WHERE id = %s", instance.id
    )


def test_a_refused_credential_is_not_listed_with_again(database, cluster):
    spoil(database, cluster)

    database.run_cron("ir_cron_status")

    assert database.read(cluster, "state") == "refused"
