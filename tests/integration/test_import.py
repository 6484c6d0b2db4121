"""Importing what a cluster has and Odoo does not, and copying applications."""

import json
from concurrent.futures import ThreadPoolExecutor

import pytest
import yaml

from tests.dialogs import open_dialog
from tests.live_objects import (
    create_object,
    get_object,
    patch_status,
    ready_status,
)

INSTANCE = "vworkspace.application.instance"
MANY = 1_000


# === WHAT IS SHOWN === #


def test_what_only_the_cluster_has_is_listed_with_who_manages_it(
    database, cluster, make_instance, deploy, control_plane, namespace
):
    deploy(make_instance("known"))
    create(control_plane, namespace, "wiki", manager="helmsman")

    dialog = open_dialog(database, cluster, "action_open_import")

    lines = of(namespace, dialog.lines("line_ids", *SHOWN))
    assert lines == [
        {
            "namespace_id": namespace,
            "name": "wiki",
            "chart": "wiki",
            "version": "1.4.2",
            "managers": "helmsman",
            "other_database": False,
            "obstacle": False,
            "selected": True,
        }
    ]


def test_what_another_odoo_writes_is_named_and_not_ticked(
    database, cluster, namespace_record, control_plane, namespace
):
    note = {"push.vworkspace.io/database": "5f1c-another"}
    create(control_plane, namespace, "wiki", annotations=note)

    dialog = open_dialog(database, cluster, "action_open_import")

    (line,) = of(namespace, dialog.lines("line_ids", *SHOWN))
    assert (line["other_database"], line["selected"]) == ("5f1c-another", False)


def test_what_the_form_has_no_field_for_is_told(
    database, cluster, namespace_record, control_plane, namespace
):
    create(
        control_plane,
        namespace,
        "wiki",
        spec={"integrations": {"ingress": {"enabled": False, "host": "a.example"}}},
    )

    dialog = open_dialog(database, cluster, "action_open_import")

    (line,) = of(namespace, dialog.lines("line_ids", "namespace_id", "unknown_paths"))
    assert line["unknown_paths"] == ".spec.integrations.ingress.host"


def test_what_only_odoo_has_is_listed_for_complete_lists_alone(
    database, cluster, make_instance, deploy, control_plane, namespace
):
    with database.transaction() as env:
        env["vworkspace.cluster.namespace"].create(
            {"cluster_id": cluster.id, "name": "test-not-readable"}
        )
    instance = make_instance()
    deploy(instance)
    control_plane.kubectl("delete", "applicationinstance", "wiki", "-n", namespace)

    dialog = open_dialog(database, cluster, "action_open_import")

    assert instance.id in dialog.read("missing_ids")
    assert "test-not-readable: " in dialog.read("errors")
    assert "cannot list resource" in dialog.read("errors")
    assert namespace not in dialog.read("errors")


def test_a_secret_shows_masked_and_is_imported_as_it_is(
    database, cluster, namespace_record, control_plane, namespace
):
    secret = "hunter2-of-the-wiki"
    inline = {"auth": {"password": secret}}
    create(control_plane, namespace, "wiki", spec={"values": values(inline)})

    dialog = open_dialog(database, cluster, "action_open_import")
    (line,) = of(namespace, dialog.lines("line_ids", "namespace_id", "object_text"))
    (imported,) = run_import(database, dialog, namespace)

    assert secret not in line["object_text"]
    assert yaml.safe_load(line["object_text"])["metadata"]["name"] == "wiki"
    assert yaml.safe_load(imported["values_yaml"]) == inline


# === IMPORT === #


def test_an_import_makes_a_draft_with_status_and_writes_nothing_to_the_cluster(
    database, cluster, namespace_record, control_plane, namespace
):
    inline = {"replicas": 2, "image": {"tag": "1e3"}, "on": "yes", "odd": ".5e3"}
    create(control_plane, namespace, "wiki", spec={"values": values(inline)})
    patch_status(control_plane, namespace, ready_status())
    before = get_object(control_plane, namespace)
    dialog = open_dialog(database, cluster, "action_open_import")

    (imported,) = run_import(database, dialog, namespace)

    assert get_object(control_plane, namespace) == before
    assert imported["uid"] == before["metadata"]["uid"]
    assert imported["resource_version"] == before["metadata"]["resourceVersion"]
    assert imported["delivery_state"] == "draft"
    assert imported["health"] == "ready"
    assert imported["endpoint_url"] == "https://wiki.example.com/"
    assert imported["chart_version"] == "1.4.2"
    assert imported["release_name"] is False
    manifest = yaml.safe_load(imported["manifest_text"])
    assert manifest["spec"] == {
        key: part for key, part in before["spec"].items() if key != "mode"
    }
    with database.transaction() as env:
        (entry,) = env["vworkspace.audit.entry"].search(
            [("res_id", "=", imported["id"])]
        )
        assert (entry.action, entry.outcome) == ("import", "done")


def test_what_was_imported_is_known_to_the_next_look(
    database, cluster, namespace_record, control_plane, namespace
):
    create_object(control_plane, namespace, "wiki")
    run_import(
        database, open_dialog(database, cluster, "action_open_import"), namespace
    )

    dialog = open_dialog(database, cluster, "action_open_import")

    assert of(namespace, dialog.lines("line_ids", *SHOWN)) == []


def test_the_first_deployment_of_an_import_writes_to_that_object_alone(
    database, cluster, namespace_record, deploy, control_plane, namespace
):
    before = create_object(control_plane, namespace, "wiki")
    dialog = open_dialog(database, cluster, "action_open_import")
    (imported,) = run_import(database, dialog, namespace)
    record = database_record(database, imported["id"])

    deploy(record)

    assert database.read(record, "delivery_state") == "applied"
    live = get_object(control_plane, namespace)
    assert live["metadata"]["uid"] == before["metadata"]["uid"]
    assert live["spec"] == before["spec"]


def test_what_was_imported_is_deleted_whatever_its_form_says(
    database, cluster, namespace_record, control_plane, namespace
):
    create_object(control_plane, namespace, "wiki")
    dialog = open_dialog(database, cluster, "action_open_import")
    (imported,) = run_import(database, dialog, namespace)
    record = database_record(database, imported["id"])
    broken = {"values_yaml": "a: [1"}
    database.call("admin", INSTANCE, "write", record.ids, broken)

    database.call("admin", INSTANCE, "action_delete_from_cluster", record.ids)

    assert database.read(record, "delivery_state") == "deleted"


def test_a_draft_of_the_same_name_is_skipped_unless_it_shall_stand_for_the_object(
    database, cluster, make_instance, control_plane, namespace
):
    from odoo.exceptions import UserError

    live = create_object(control_plane, namespace, "wiki")
    draft = make_instance(chart_version="1.5.0")
    dialog = open_dialog(database, cluster, "action_open_import")
    (line,) = of(namespace, dialog.lines("line_ids", "namespace_id", "existing_id"))
    assert line["existing_id"][0] == draft.id

    dialog.press("action_select_none")
    fill_line(dialog, namespace, selected=True)
    with pytest.raises(UserError, match="Not imported: wiki"):
        dialog.press("action_import")
    assert database.read(draft, "uid") is False

    fill_line(dialog, namespace, bind=True)
    action = dialog.press("action_import")

    assert action["res_id"] == draft.id
    stored = database.read(draft, "uid", "chart_version", "delivery_state")
    assert stored["uid"] == live["metadata"]["uid"]
    assert (stored["chart_version"], stored["delivery_state"]) == ("1.5.0", "draft")


def test_an_object_in_the_way_of_a_record_can_be_taken_by_it(
    database, make_instance, deploy, control_plane, namespace
):
    create_object(control_plane, namespace, "other")
    before = create_object(control_plane, namespace, "wiki")
    instance = make_instance()
    deploy(instance)
    assert database.read(instance, "delivery_reason") == "AlreadyExists"

    dialog = open_dialog(database, instance, "action_import_existing")

    (line,) = dialog.lines("line_ids", "name", "bind", "selected")
    assert list(line.values()) == ["wiki", True, True]
    dialog.press("action_import")
    stored = database.read(instance, "uid", "delivery_state", "delivery_message")
    assert stored["uid"] == before["metadata"]["uid"]
    assert (stored["delivery_state"], stored["delivery_message"]) == ("draft", False)
    assert get_object(control_plane, namespace) == before


def test_only_what_stands_in_the_way_can_be_taken(database, make_instance):
    from odoo.exceptions import UserError

    with pytest.raises(UserError, match="in its way"):
        open_dialog(database, make_instance(), "action_import_existing")


def test_nothing_ticked_is_said(database, cluster, namespace_record):
    from odoo.exceptions import UserError

    dialog = open_dialog(database, cluster, "action_open_import")
    dialog.press("action_select_none")

    with pytest.raises(UserError, match="Tick what"):
        dialog.press("action_import")


def test_a_cluster_with_a_thousand_applications_is_imported(
    database, cluster, namespace_record, control_plane, namespace
):
    with ThreadPoolExecutor(4) as pool:
        list(
            pool.map(
                lambda n: create_object(control_plane, namespace, f"wiki-{n}"),
                range(MANY),
            )
        )

    dialog = open_dialog(database, cluster, "action_open_import")
    lines = of(namespace, dialog.lines("line_ids", "namespace_id", "selected"))
    action = dialog.press("action_import")

    assert len(lines) == MANY
    assert tuple(action["domain"][0][:2]) == ("id", "in")
    with database.transaction() as env:
        mine = [("namespace_id", "=", namespace_record.id), ("uid", "!=", False)]
        assert env[INSTANCE].search_count(mine) == MANY


# === WHOSE DIALOG IT IS === #


def test_what_a_dialog_read_cannot_be_forged_or_read_by_others(
    database, cluster, namespace_record, control_plane, namespace
):
    from odoo.exceptions import AccessError

    create_object(control_plane, namespace, "wiki")
    dialog = open_dialog(database, cluster, "action_open_import")
    with database.transaction() as env:
        group = env.ref("vworkspace_push.group_admin")
        env["res.users"].create(
            {"name": "eve", "login": "eve", "group_ids": [(6, 0, group.ids)]}
        )

    for forged in ({"source": "{}"}, {"uid": "forged"}, {"name": "forged"}):
        with pytest.raises(AccessError):
            fill_line(dialog, namespace, **forged)
    with pytest.raises(AccessError):
        dialog.lines("line_ids", "source")
    dialog.login = "eve"
    with pytest.raises(AccessError):
        dialog.read("line_ids")
    with pytest.raises(AccessError):
        dialog.press("action_import")


# === COPY === #


def test_a_copy_goes_to_the_same_namespace_of_another_cluster(
    database, make_instance, deploy, namespace
):
    instance = make_instance(release_name="the-wiki", with_cert_manager=True)
    deploy(instance)
    with database.transaction() as env:
        other = env["vworkspace.cluster"].create(
            {
                "name": "Other",
                "cluster_id": f"other-{namespace}",
                "server_url": "https://127.0.0.1:1",
                "namespace_ids": [(0, 0, {"name": n}) for n in ("a", namespace)],
            }
        )
        wanted = other.namespace_ids.filtered(lambda n: n.name == namespace)
    dialog = open_dialog(database, instance, "action_open_copy")
    dialog.fill(cluster_id=other.id)
    assert dialog.read("namespace_id")[0] == wanted.id

    action = dialog.press("action_copy")

    copied = database_record(database, action["res_id"])
    stored = database.read(
        copied, "name", "delivery_state", "uid", "release_name", "with_cert_manager"
    )
    del stored["id"]
    assert stored == {
        "name": "wiki",
        "delivery_state": "draft",
        "uid": False,
        "release_name": "the-wiki",
        "with_cert_manager": True,
    }


def test_a_copy_of_another_name_has_a_release_of_its_own(database, make_instance):
    instance = make_instance(release_name="the-wiki")
    place = database.read(instance, "cluster_id", "namespace_id")
    dialog = open_dialog(database, instance, "action_open_copy")
    dialog.fill(cluster_id=place["cluster_id"][0])
    dialog.fill(namespace_id=place["namespace_id"][0], name="wiki-2")

    action = dialog.press("action_copy")

    copied = database_record(database, action["res_id"])
    stored = database.read(copied, "name", "release_name")
    assert (stored["name"], stored["release_name"]) == ("wiki-2", False)


# === HELPERS === #

SHOWN = (
    *("namespace_id", "name", "chart", "version", "managers"),
    *("other_database", "obstacle", "selected"),
)


def of(namespace, lines):
    """Return the lines of that namespace, with its name instead of its id."""
    return [
        {**line, "namespace_id": namespace}
        for line in lines
        if line["namespace_id"][1] == namespace
    ]


def values(inline):
    return {"source": "inline", "inline": inline}


def create(
    control_plane, namespace, name, *, manager="rival", annotations=None, spec=None
):
    """Create an application with kubectl, under another field manager."""
    body = {
        "apiVersion": "apps.vworkspace.io/v1alpha1",
        "kind": "ApplicationInstance",
        "metadata": {
            "name": name,
            "namespace": namespace,
            "annotations": annotations or {},
        },
        "spec": {
            "appRef": {"catalogId": "wiki"},
            "chart": {
                "sourceType": "oci",
                "url": "oci://registry.example.com/charts",
                "name": "wiki",
                "version": "1.4.2",
            },
            "release": {"name": name, "namespace": namespace},
            "values": values({}),
            **(spec or {}),
        },
    }
    control_plane.kubectl(
        *("apply", "--server-side", "--field-manager", manager, "-f", "-"),
        input=json.dumps(body),
    )


def run_import(database, dialog, namespace):
    """Import what is ticked in that namespace alone, and return what came of it."""
    dialog.press("action_select_none")
    fill_line(dialog, namespace, selected=True)
    dialog.press("action_import")
    with database.transaction() as env:
        return (
            env[INSTANCE]
            .search([("namespace_id.name", "=", namespace), ("uid", "!=", False)])
            .read()
        )


def fill_line(dialog, namespace, **values):
    """Fill in the one line of that namespace."""
    rows = dialog.lines("line_ids", "id", "namespace_id")
    (line,) = [row for row in rows if row["namespace_id"][1] == namespace]
    dialog.fill(line_ids=[(1, line["id"], values)])


def database_record(database, record_id):
    with database.transaction() as env:
        return env[INSTANCE].browse(record_id)
