"""The first delivery only ever creates; what exists already is never touched."""

import pytest

from tests.deliveries import (
    act,
    apply_as,
    as_other_database,
    become_due,
    change,
    count_objects,
)
from tests.live_objects import create_object, get_object
from tests.registration import Spy

# === WHAT EXISTS ALREADY === #


def test_an_object_that_somebody_created_is_not_touched(
    database, make_instance, deploy, control_plane, namespace
):
    instance = make_instance()
    before = create_object(control_plane, namespace, "wiki")

    deploy(instance)

    assert_untouched(database, instance, control_plane, before)


def test_an_object_that_is_the_same_already_is_not_joined(
    database, make_instance, deploy, control_plane, namespace
):
    instance = make_instance()
    manifest = as_other_database(database, instance)
    del manifest["metadata"]["annotations"]
    apply_as(control_plane, manifest, "rival")
    before = get_object(control_plane, namespace)

    deploy(instance)

    assert_untouched(database, instance, control_plane, before)


def test_an_object_of_another_odoo_database_is_not_touched_and_its_owner_is_named(
    database, make_instance, deploy, control_plane, namespace
):
    instance = make_instance()
    manifest = as_other_database(database, instance, other="0f2e-other")
    apply_as(control_plane, manifest, "vworkspace-odoo")
    before = get_object(control_plane, namespace)

    deploy(instance)

    message = assert_untouched(database, instance, control_plane, before)
    assert "The Odoo database 0f2e-other wrote it." in message


def test_an_object_of_another_record_of_ours_is_not_touched(
    database, make_instance, deploy, control_plane, namespace
):
    instance = make_instance()
    with database.transaction() as env:
        ours = env["ir.config_parameter"].sudo().get_param("database.uuid")
    manifest = as_other_database(
        database, instance, other=ours, name=f"{instance._name}/999999"
    )
    apply_as(control_plane, manifest, "vworkspace-odoo")
    before = get_object(control_plane, namespace)

    deploy(instance)

    assert_untouched(database, instance, control_plane, before)


def test_once_the_other_object_is_gone_the_same_deployment_goes_through(
    database, make_instance, deploy, control_plane, namespace
):
    instance = make_instance()
    create_object(control_plane, namespace, "wiki")
    deploy(instance)
    control_plane.kubectl("delete", "applicationinstance", "wiki", "-n", namespace)

    deploy(instance)

    live = get_object(control_plane, namespace)
    assert database.read(instance, "delivery_state") == "applied"
    assert database.read(instance, "uid") == live["metadata"]["uid"]


# === HOW MANY REQUESTS === #


def test_a_delivery_is_one_request(
    database, make_instance, deploy, namespace, monkeypatch
):
    instance = make_instance()
    spy = Spy(monkeypatch)
    path = (
        f"/apis/apps.vworkspace.io/v1alpha1/namespaces/{namespace}"
        "/applicationinstances/wiki"
    )

    deploy(instance)
    assert [(method, path) for method, path, *_ in spy.sent] == [("PATCH", path)]
    spy.clear()
    change(database, instance, chart_version="1.5.0")
    deploy(instance)

    ((method, asked, query, body),) = spy.sent
    assert (method, asked) == ("PATCH", path)
    assert "force" not in query
    assert body["metadata"]["uid"] == database.read(instance, "uid")


# === AFTER A CRASH === #


@pytest.mark.expect_log("cannot be stored")
def test_a_crash_before_the_outcome_was_stored_joins_the_object_that_we_made(
    database, make_instance, deploy, control_plane, namespace, monkeypatch
):
    from odoo.addons.vworkspace_push.delivery import store

    instance = make_instance()

    def crash(*_arguments):
        raise RuntimeError("crashed here")

    with monkeypatch.context() as patched:
        patched.setattr(store, "outcomes", crash)
        deploy(instance)
    made = get_object(control_plane, namespace)
    assert database.read(instance, "delivery_state", "uid") == {
        "id": instance.id,
        "delivery_state": "pending",
        "uid": False,
    }

    become_due(database, instance)
    database.run_cron("ir_cron_deliver")

    stored = database.read(instance, "delivery_state", "uid", "delivery_message")
    assert stored["delivery_state"] == "applied"
    assert stored["uid"] == made["metadata"]["uid"]
    assert stored["delivery_message"] is False
    assert count_objects(control_plane, namespace) == 1
    assert get_object(control_plane, namespace)["metadata"]["generation"] == 1


@pytest.mark.expect_log("cannot be stored")
def test_what_was_changed_after_the_crash_reaches_the_object_that_we_made(
    database, make_instance, deploy, control_plane, namespace, monkeypatch
):
    from odoo.addons.vworkspace_push.delivery import store

    instance = make_instance()

    def crash(*_arguments):
        raise RuntimeError("crashed here")

    with monkeypatch.context() as patched:
        patched.setattr(store, "outcomes", crash)
        deploy(instance)
    change(database, instance, chart_version="1.5.0")

    deploy(instance)

    live = get_object(control_plane, namespace)
    assert database.read(instance, "delivery_state") == "applied"
    assert live["spec"]["chart"]["version"] == "1.5.0"
    assert database.read(instance, "uid") == live["metadata"]["uid"]


# === HELPERS === #


def assert_untouched(database, instance, control_plane, before):
    """Assert that the object stayed as it was, and that the record says so."""
    metadata = before["metadata"]
    after = get_object(control_plane, metadata["namespace"], metadata["name"])
    assert after["metadata"]["resourceVersion"] == metadata["resourceVersion"]
    stored = database.read(
        *(instance, "delivery_state", "delivery_reason", "delivery_message"),
        *("waiting_for", "uid", "next_attempt_at"),
    )
    assert stored["delivery_state"] == "denied"
    assert stored["delivery_reason"] == "AlreadyExists"
    assert "was not touched" in stored["delivery_message"]
    assert "an object of this name exists already" in stored["waiting_for"]
    assert (stored["uid"], stored["next_attempt_at"]) == (False, False)
    act(database, instance, "get_ownership")  # nothing to show, and no error
    return stored["delivery_message"]
