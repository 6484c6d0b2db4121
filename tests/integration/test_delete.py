"""Deleting from clusters by the dialog, and forgetting what cannot be deleted."""

import json

import pytest

from tests.dialogs import open_dialog
from tests.live_objects import (
    delete_object,
    list_objects,
    ready_status,
    write_status,
)

FINALIZER = "example.com/backup"


# === DELETE === #


def test_the_dialog_says_what_is_deleted_where_and_deletes_it(
    database, make_instance, deploy, control_plane, namespace
):
    wiki, shop = make_instance("wiki"), make_instance("shop")
    deploy(wiki)
    deploy(shop)

    dialog = open_dialog(database, wiki | shop, "action_open_delete")

    assert set(dialog.read("instance_ids")) == {wiki.id, shop.id}
    assert len(list_objects(control_plane, namespace)) == 2
    dialog.press("action_delete")
    assert list_objects(control_plane, namespace) == []
    assert database.read(wiki, "delivery_state") == "deleted"


def test_what_is_deleted_shows_nothing_of_its_object_any_more(
    database, make_instance, deploy, control_plane, namespace
):
    wiki = make_instance("wiki")
    deploy(wiki)
    write_status(control_plane, namespace, "wiki", ready_status())
    database.run_cron("ir_cron_status")
    assert database.read(wiki, "health") == "ready"

    open_dialog(database, wiki, "action_open_delete").press("action_delete")

    fields = ("delivery_state", "health", "condition_ids", "endpoint_ids")
    shown = database.read(wiki, *fields)
    assert [shown[field] for field in fields] == ["deleted", False, [], []]


def test_what_is_not_in_its_cluster_is_named_and_left_alone(
    database, make_instance, deploy
):
    wiki, draft = make_instance("wiki"), make_instance("draft")
    deploy(wiki)

    dialog = open_dialog(database, wiki | draft, "action_open_delete")

    seen = dialog.read("instance_ids", "skipped")
    assert (seen["instance_ids"], seen["skipped"]) == (wiki.ids, "draft")
    dialog.press("action_delete")
    assert database.read(draft, "delivery_state") == "draft"


def test_there_must_be_something_to_delete(database, make_instance):
    from odoo.exceptions import UserError

    with pytest.raises(UserError, match="None of these"):
        open_dialog(database, make_instance(), "action_open_delete")


def test_operations_that_have_not_ended_are_warned_of(database, make_instance, deploy):
    instance = make_instance()
    deploy(instance)
    with database.transaction() as env:
        operations = env["vworkspace.operation"].create(
            [
                {
                    "name": name,
                    "target_id": instance.id,
                    "type": "Backup",
                    "engine": "velero",
                }
                for name in ("backup-1", "backup-2")
            ]
        )
        operations[0]._writer().phase = "Running"
        operations[1]._writer().phase = "Succeeded"

    dialog = open_dialog(database, instance, "action_open_delete")

    assert dialog.read("running") == "wiki: backup-1 (Running)"


def test_production_asks_for_the_name(
    database, production, make_instance, deploy, control_plane, namespace
):
    from odoo.exceptions import UserError

    instance = make_instance()
    deploy(instance)
    dialog = open_dialog(database, instance, "action_open_delete")

    assert dialog.read("production") == "Test"
    for typed in (False, "wikis"):
        dialog.fill(typed_name=typed)
        with pytest.raises(UserError, match="type the name wiki"):
            dialog.press("action_delete")
    assert len(list_objects(control_plane, namespace)) == 1
    dialog.fill(typed_name="wiki")
    dialog.press("action_delete")
    assert list_objects(control_plane, namespace) == []


def test_production_is_deleted_one_at_a_time(
    database, production, make_instance, deploy
):
    from odoo.exceptions import UserError

    wiki, shop = make_instance("wiki"), make_instance("shop")
    deploy(wiki)
    deploy(shop)

    with pytest.raises(UserError, match="one at a time"):
        open_dialog(database, wiki | shop, "action_open_delete")


# === FORGET === #


def test_forgetting_keeps_a_report_of_what_may_be_left(
    database, held, control_plane, namespace
):
    uid = database.read(held, "uid")
    dialog = open_dialog(database, held, "action_open_forget")
    report = dialog.read("report")
    dialog.fill(reason="Its backup system is gone.")

    dialog.press("action_forget")

    lines = dict(line.split(": ", 1) for line in report.splitlines())
    assert lines["Cluster"] == "Test (test-cluster)"
    assert lines["Namespace"] == namespace
    assert lines["Object"] == "ApplicationInstance wiki"
    assert lines["UID"] == uid
    assert lines["Finalizers"] == FINALIZER
    assert lines["Helm release"] == "wiki"
    assert lines["Applied revision"] == "1"
    stored = database.read(held, "delivery_state", "uid", "delivery_message")
    assert (stored["delivery_state"], stored["uid"]) == ("deleted", False)
    assert "Its backup system is gone." in stored["delivery_message"]
    with database.transaction() as env:
        record = env[held._name].browse(held.ids)
        (entry,) = env["vworkspace.audit.entry"].search(
            [("res_id", "=", held.id), ("action", "=", "forget")]
        )
        assert (entry.reason, entry.message) == ("Its backup system is gone.", report)
        assert uid in record.message_ids[0].body
    assert len(list_objects(control_plane, namespace)) == 1
    database.call("admin", held._name, "unlink", held.ids)


def test_forgetting_needs_a_reason(database, held):
    from odoo.exceptions import UserError

    dialog = open_dialog(database, held, "action_open_forget")

    with pytest.raises(UserError, match="Give a reason"):
        dialog.press("action_forget")
    assert database.read(held, "delivery_state") == "deleting"


def test_what_the_cluster_can_be_asked_to_delete_is_not_forgotten(
    database, make_instance, deploy
):
    from odoo.exceptions import UserError

    instance = make_instance()
    deploy(instance)

    with pytest.raises(UserError, match="is not"):
        open_dialog(database, instance, "action_open_forget")
    fail(database, instance)
    with pytest.raises(UserError, match="delete it there instead"):
        open_dialog(database, instance, "action_open_forget")


def test_what_failed_is_forgotten_once_its_cluster_has_it_no_more(
    database, make_instance, deploy, control_plane, namespace
):
    instance = make_instance()
    deploy(instance)
    fail(database, instance)
    delete_object(control_plane, namespace)

    dialog = open_dialog(database, instance, "action_open_forget")
    dialog.fill(reason="Deleted by hand.")
    dialog.press("action_forget")

    assert database.read(instance, "delivery_state") == "deleted"


def test_what_is_being_delivered_right_now_is_not_forgotten(database, held):
    from odoo.exceptions import UserError

    dialog = open_dialog(database, held, "action_open_forget")
    dialog.fill(reason="Gone.")

    with database.transaction() as env:
        lock_sudo = env[held._name].browse(held.ids).sudo().delivery_lock_id
        lock_sudo.lock_for_update(allow_referencing=True)
        with pytest.raises(UserError, match="under way"):
            dialog.press("action_forget")

    assert database.read(held, "delivery_state") == "deleting"


def test_forgetting_is_for_administrators(database, held):
    from odoo.exceptions import AccessError

    with database.transaction() as env:
        group = env.ref("vworkspace_push.group_operator")
        env["res.users"].create(
            {"name": "ope", "login": "ope", "group_ids": [(6, 0, group.ids)]}
        )

    with pytest.raises(AccessError):
        open_dialog(database, held, "action_open_forget", login="ope")


# === HELPERS === #


@pytest.fixture
def production(database, cluster):
    """The cluster, while it is one of production."""
    mark(database, cluster, is_production=True)
    yield cluster
    mark(database, cluster, is_production=False)


@pytest.fixture
def held(database, make_instance, deploy, control_plane, namespace):
    """An application that is being deleted, and held by a finalizer."""
    instance = make_instance()
    deploy(instance)
    set_finalizers(control_plane, namespace, [FINALIZER])
    database.call("admin", instance._name, "action_delete_from_cluster", instance.ids)
    assert database.read(instance, "delivery_state") == "deleting"
    yield instance
    set_finalizers(control_plane, namespace, [])


def set_finalizers(control_plane, namespace, finalizers):
    body = {"metadata": {"finalizers": finalizers}}
    control_plane.kubectl(
        *("patch", "applicationinstance", "wiki", "-n", namespace),
        *("--type", "merge", "-p", json.dumps(body)),
    )


def mark(database, cluster, **values):
    database.call("admin", cluster._name, "write", cluster.ids, values)


def fail(database, instance):
    with database.transaction() as env:
        record = env[instance._name].browse(instance.ids)
        record._writer().delivery_state = "failed"
