"""Adopting what Pull mode's managers own: shown first, then moved."""

import json

import pytest

from tests.dialogs import open_dialog
from tests.live_objects import get_object

AGENT = "vworkspace-agent"
VERSION = ".spec.chart.version"
INSTANCE = "vworkspace.application.instance"


def test_the_dialog_shows_what_would_become_ours_and_writes_nothing(
    database, imported, control_plane, namespace
):
    change(database, imported, chart_version="1.5.0")
    before = get_object(control_plane, namespace)

    dialog = open_dialog(database, imported, "action_open_adopt")

    names = ("field", "manager", "live_value", "our_value", "differs")
    lines = {line["field"]: line for line in dialog.lines("line_ids", *names)}
    assert list(lines[VERSION].values()) == [
        *(VERSION, AGENT, '"1.4.2"', '"1.5.0"'),
        True,
    ]
    assert lines[".spec.chart.name"]["differs"] is False
    assert {line["manager"] for line in lines.values()} == {AGENT}
    differences = dialog.read("differences").splitlines()
    assert differences[0] == f"wiki (Test, {namespace})"
    assert f'~ {VERSION}: "1.4.2" → "1.5.0"' in differences
    assert get_object(control_plane, namespace) == before
    assert database.read(imported, "intent_revision") == 0


def test_after_the_adoption_a_change_meets_no_conflict(
    database, imported, deploy, control_plane, namespace
):
    change(database, imported, chart_version="1.5.0")
    dialog = open_dialog(database, imported, "action_open_adopt")

    dialog.press("action_adopt")
    adopted = get_object(control_plane, namespace)
    deploy(imported)

    assert adopted["spec"]["chart"]["version"] == "1.4.2"
    assert database.read(imported, "delivery_state") == "applied"
    live = get_object(control_plane, namespace)
    assert live["spec"]["chart"]["version"] == "1.5.0"
    assert managers_of_version(live) == ["vworkspace-odoo"]


def test_an_adoption_sends_nothing_and_what_is_in_the_cluster_is_not_let_go_of(
    database, imported
):
    from odoo.exceptions import UserError

    change(database, imported, chart_version="1.5.0")

    open_dialog(database, imported, "action_open_adopt").press("action_adopt")

    stored = database.read(imported, "delivery_state", "waiting_for", "is_changed")
    assert stored["delivery_state"] == "draft"
    assert stored["waiting_for"] == (
        "Its deployment: what is in Test was not changed yet."
    )
    assert stored["is_changed"] is True
    with pytest.raises(UserError, match="Delete from Cluster"):
        database.call("admin", INSTANCE, "unlink", imported.ids)


def test_what_was_imported_and_nothing_more_may_be_let_go_of(
    database, imported, control_plane, namespace
):
    database.call("admin", INSTANCE, "unlink", imported.ids)

    assert get_object(control_plane, namespace)


def test_what_is_applied_stays_so_when_it_is_adopted_with_other_values(
    database, imported, deploy, control_plane, namespace
):
    deploy(imported)
    change(database, imported, values_yaml="replicas: 9\n")

    open_dialog(database, imported, "action_open_adopt").press("action_adopt")

    stored = database.read(imported, "delivery_state", "is_changed")
    assert (stored["delivery_state"], stored["is_changed"]) == ("applied", True)
    deploy(imported)
    live = get_object(control_plane, namespace)
    assert live["spec"]["values"]["inline"]["replicas"] == 9
    assert database.read(imported, "is_changed") is False


def test_what_cannot_be_adopted_is_named_among_what_can(
    database, imported, make_instance, deploy
):
    ours, draft = make_instance("ours"), make_instance("draft")
    deploy(ours)

    dialog = open_dialog(database, imported | ours | draft, "action_open_adopt")

    assert dialog.read("instance_ids") == imported.ids
    notes = dialog.read("notes").splitlines()
    assert [note.partition(":")[0] for note in notes] == ["ours", "draft"]
    assert "nothing to adopt" in notes[0]
    assert "not in its cluster" in notes[1]
    dialog.press("action_adopt")
    assert database.read(imported, "delivery_reason") == "Adopted"
    assert database.read(draft, "delivery_state") == "draft"


def test_an_object_that_was_replaced_is_not_adopted(
    database, imported, control_plane, namespace
):
    control_plane.kubectl("delete", "applicationinstance", "wiki", "-n", namespace)
    apply_as_agent(control_plane, namespace)

    dialog = open_dialog(database, imported, "action_open_adopt")

    assert dialog.read("line_ids") == []
    assert "Another object" in dialog.read("notes")


# === HELPERS === #


@pytest.fixture
def imported(database, cluster, namespace_record, control_plane, namespace):
    """An application that an agent of Pull mode applied, imported."""
    apply_as_agent(control_plane, namespace)
    dialog = open_dialog(database, cluster, "action_open_import")
    dialog.press("action_select_none")
    lines = dialog.lines("line_ids", "id", "namespace_id")
    (line,) = [row for row in lines if row["namespace_id"][1] == namespace]
    dialog.fill(line_ids=[(1, line["id"], {"selected": True})])
    action = dialog.press("action_import")
    with database.transaction() as env:
        return env[INSTANCE].browse(action["res_id"])


def apply_as_agent(control_plane, namespace):
    body = {
        "apiVersion": "apps.vworkspace.io/v1alpha1",
        "kind": "ApplicationInstance",
        "metadata": {"name": "wiki", "namespace": namespace},
        "spec": {
            "appRef": {"catalogId": "wiki"},
            "chart": {
                "sourceType": "oci",
                "url": "oci://registry.example.com/charts",
                "name": "wiki",
                "version": "1.4.2",
            },
            "release": {"name": "wiki", "namespace": namespace},
            "values": {"source": "inline", "inline": {"replicas": 1}},
        },
    }
    control_plane.kubectl(
        *("apply", "--server-side", "--field-manager", AGENT, "-f", "-"),
        input=json.dumps(body),
    )


def change(database, instance, **values):
    database.call("admin", instance._name, "write", instance.ids, values)


def managers_of_version(live):
    return sorted(
        entry["manager"]
        for entry in live["metadata"]["managedFields"]
        if "f:version" in entry["fieldsV1"].get("f:spec", {}).get("f:chart", {})
    )
