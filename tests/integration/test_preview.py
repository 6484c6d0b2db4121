"""What a deployment would do: asked of the real API server, shown, and not done."""

import json

import pytest

from tests.dialogs import open_dialog
from tests.live_objects import create_object, get_object, list_objects

RIVAL = "rival"


def test_a_new_application_shows_as_created_with_the_clusters_defaults(
    database, make_instance, control_plane, namespace
):
    instance = make_instance()

    dialog = open_dialog(database, instance, "action_open_preview")

    seen = dialog.read("effect", "changes", "message", "conflict_ids")
    assert seen["effect"] == "created"
    assert '+ .spec.chart.version: "1.4.2"' in seen["changes"].splitlines()
    assert '+ .spec.mode: "managed"' in seen["changes"].splitlines()
    assert (seen["message"], seen["conflict_ids"]) == (False, [])
    assert list_objects(control_plane, namespace) == []
    stored = database.read(instance, "delivery_state", "intent_revision")
    assert (stored["delivery_state"], stored["intent_revision"]) == ("draft", 0)


def test_an_edit_shows_as_what_it_would_change(
    database, make_instance, deploy, control_plane, namespace
):
    instance = make_instance()
    deploy(instance)
    before = get_object(control_plane, namespace)
    change(database, instance, chart_version="1.5.0", values_yaml="size: big\n")

    dialog = open_dialog(database, instance, "action_open_preview")

    assert dialog.read("effect") == "changed"
    assert dialog.read("changes").splitlines() == [
        '~ .spec.chart.version: "1.4.2" → "1.5.0"',
        "- .spec.values.inline.replicas: 1",
        '+ .spec.values.inline.size: "big"',
    ]
    assert get_object(control_plane, namespace) == before


def test_without_an_edit_nothing_would_change(database, make_instance, deploy):
    instance = make_instance()
    deploy(instance)

    dialog = open_dialog(database, instance, "action_open_preview")

    seen = dialog.read("effect", "changes")
    assert (seen["effect"], seen["changes"]) == ("unchanged", False)


def test_conflicts_show_with_both_values_and_the_other_manager(
    database, make_instance, deploy, control_plane, namespace
):
    instance = make_instance()
    deploy(instance)
    overwrite(control_plane, namespace, version="6.0.0")
    change(database, instance, chart_version="1.5.0")

    dialog = open_dialog(database, instance, "action_open_preview")

    assert dialog.read("effect") == "conflict"
    names = ("field", "our_value", "live_value", "manager")
    (conflict,) = dialog.lines("conflict_ids", *names)
    assert tuple(conflict.values()) == (
        *(".spec.chart.version", '"1.5.0"', '"6.0.0"'),
        RIVAL,
    )
    assert dialog.read("changes") == '~ .spec.chart.version: "6.0.0" → "1.5.0"'
    live = get_object(control_plane, namespace)
    assert live["spec"]["chart"]["version"] == "6.0.0"
    assert database.read(instance, "delivery_state") == "applied"


def test_problems_of_the_form_show_without_asking_the_cluster(
    database, make_instance, monkeypatch
):
    from odoo.addons.vworkspace_push.kube import apply

    def ask(*_args, **_kwargs):
        pytest.fail("The cluster was asked.")

    monkeypatch.setattr(apply, "preview", ask)
    instance = make_instance(chart_version="latest")

    dialog = open_dialog(database, instance, "action_open_preview")

    seen = dialog.read("effect", "message")
    assert seen["effect"] == "invalid"
    assert "does not name one version" in seen["message"]


def test_an_object_that_exists_shows_as_refused(
    database, make_instance, control_plane, namespace
):
    create_object(control_plane, namespace, "wiki")
    instance = make_instance(chart_version="1.5.0")

    dialog = open_dialog(database, instance, "action_open_preview")

    seen = dialog.read("effect", "message", "changes")
    assert seen["effect"] == "refused"
    assert "named wiki already" in seen["message"]
    assert '~ .spec.chart.version: "1.4.2" → "1.5.0"' in seen["changes"].splitlines()


def test_missing_rights_show_as_the_servers_refusal(
    database, cluster, make_instance, control_plane
):
    control_plane.create_namespace("test-no-preview")
    with database.transaction() as env:
        place = env["vworkspace.cluster.namespace"].create(
            {"cluster_id": cluster.id, "name": "test-no-preview"}
        )
    instance = make_instance(namespace_id=place.id)

    dialog = open_dialog(database, instance, "action_open_preview")

    seen = dialog.read("effect", "message")
    assert seen["effect"] == "refused"
    assert "cannot get resource" in seen["message"]


def test_a_cluster_that_does_not_answer_is_said_in_a_sentence(
    database, make_instance, monkeypatch
):
    from odoo.addons.vworkspace_push.kube import apply
    from odoo.addons.vworkspace_push.kube.errors import Unreachable

    def ask(*_args, **_kwargs):
        raise Unreachable("The server does not answer.")

    monkeypatch.setattr(apply, "preview", ask)

    dialog = open_dialog(database, make_instance(), "action_open_preview")

    seen = dialog.read("effect", "message")
    assert seen["effect"] == "unknown"
    assert seen["message"].startswith("The server does not answer. Check")


def test_what_is_looked_at_can_be_deployed_from_there(
    database, make_instance, control_plane, namespace
):
    instance = make_instance()
    dialog = open_dialog(database, instance, "action_open_preview")

    dialog.press("action_deploy")

    assert database.read(instance, "delivery_state") == "applied"
    assert get_object(control_plane, namespace)["metadata"]["name"] == "wiki"


# === HELPERS === #


def change(database, instance, **values):
    database.call("admin", instance._name, "write", instance.ids, values)


def overwrite(control_plane, namespace, *, version):
    body = {"spec": {"chart": {"version": version}}}
    control_plane.kubectl(
        *("patch", "applicationinstance", "wiki", "-n", namespace),
        *("--type", "merge", "--field-manager", RIVAL, "-p", json.dumps(body)),
    )
