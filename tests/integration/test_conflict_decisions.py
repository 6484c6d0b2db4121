"""Conflicts, decided field by field, on the real API server."""

import json

import pytest

from tests.dialogs import open_dialog
from tests.live_objects import get_object

VERSION = ".spec.chart.version"
REPLICAS = ".spec.values.inline.replicas"
RIVAL = "rival"


# === THE THREE DECISIONS === #


def test_taking_over_writes_our_value_and_leaves_us_the_only_owner(
    database, conflicted, control_plane, namespace
):
    dialog = open_dialog(database, conflicted, "action_open_conflicts")
    decide(dialog, VERSION, "take_over")

    dialog.press("action_apply")

    assert database.read(conflicted, "delivery_state") == "applied"
    live = get_object(control_plane, namespace)
    assert live["spec"]["chart"]["version"] == "1.5.0"
    assert owners_of_version(live) == ["vworkspace-odoo"]


def test_leaving_keeps_their_value_and_never_sends_ours_again(
    database, conflicted, deploy, control_plane, namespace
):
    dialog = open_dialog(database, conflicted, "action_open_conflicts")
    decide(dialog, VERSION, "leave")

    dialog.press("action_apply")
    change(database, conflicted, chart_version="1.6.0", values_yaml="replicas: 2\n")
    deploy(conflicted)

    assert database.read(conflicted, "delivery_state") == "applied"
    live = get_object(control_plane, namespace)
    assert live["spec"]["chart"]["version"] == "6.0.0"
    assert live["spec"]["values"]["inline"] == {"replicas": 2}
    assert owners_of_version(live) == [RIVAL]
    with database.transaction() as env:
        (left,) = env[conflicted._name].browse(conflicted.ids).left_field_ids
        assert (left.field, left.manager, left.reason) == (VERSION, RIVAL, "Agreed.")
        assert left.user_id == env.user


def test_accepting_brings_their_value_into_the_form_and_both_own_it(
    database, conflicted, control_plane, namespace
):
    before = get_object(control_plane, namespace)["spec"]
    dialog = open_dialog(database, conflicted, "action_open_conflicts")
    decide(dialog, VERSION, "accept")

    dialog.press("action_apply")

    stored = database.read(conflicted, "delivery_state", "chart_version")
    assert (stored["delivery_state"], stored["chart_version"]) == ("applied", "6.0.0")
    live = get_object(control_plane, namespace)
    assert live["spec"] == before
    assert owners_of_version(live) == [RIVAL, "vworkspace-odoo"]


def test_an_accepted_value_leaves_the_rest_of_the_form_as_it_was_written(
    database, make_instance, deploy, control_plane, namespace
):
    text = "# As measured in May\nreplicas: 1  # one is enough\nsize: 'big'\n"
    instance = make_instance(values_yaml=text, values_ref_name="not-used-now")
    deploy(instance)
    overwrite(control_plane, namespace, {"values": {"inline": {"replicas": 3}}})
    change(database, instance, values_yaml=text.replace("1", "2"))
    dialog = open_dialog(database, instance, "action_open_conflicts")
    decide(dialog, REPLICAS, "accept")

    dialog.press("action_apply")

    stored = database.read(instance, "values_yaml", "values_ref_name")
    assert stored["values_yaml"] == text.replace("replicas: 1", "replicas: 3")
    assert stored["values_ref_name"] == "not-used-now"
    assert database.read(instance, "delivery_state") == "applied"


def test_each_field_can_be_decided_in_another_way(
    database, make_instance, deploy, control_plane, namespace
):
    instance = make_instance(values_yaml="a: 1\nb: 1\nc: 1\n")
    deploy(instance)
    theirs = {"values": {"inline": {"a": 3, "b": 3, "c": 3}}}
    overwrite(control_plane, namespace, theirs)
    change(database, instance, values_yaml="a: 2\nb: 2\nc: 2\n")
    deploy(instance)
    dialog = open_dialog(database, instance, "action_open_conflicts")
    decide(dialog, ".spec.values.inline.a", "take_over")
    decide(dialog, ".spec.values.inline.b", "leave")
    decide(dialog, ".spec.values.inline.c", "accept")

    dialog.press("action_apply")

    assert database.read(instance, "delivery_state", "conflict_ids") == {
        "id": instance.id,
        "delivery_state": "applied",
        "conflict_ids": [],
    }
    live = get_object(control_plane, namespace)
    assert live["spec"]["values"]["inline"] == {"a": 2, "b": 3, "c": 3}
    assert database.read(instance, "values_yaml") == "a: 2\nb: 2\nc: 3\n"


def test_every_decision_is_in_the_audit_trail_with_its_reason(database, conflicted):
    dialog = open_dialog(database, conflicted, "action_open_conflicts")
    decide(dialog, VERSION, "take_over", reason="Ours was tested.")

    dialog.press("action_apply")

    with database.transaction() as env:
        (entry,) = env["vworkspace.audit.entry"].search(
            [("res_id", "=", conflicted.id), ("action", "=", "decide")]
        )
        assert (entry.outcome, entry.reason) == ("take_over", "Ours was tested.")
        assert entry.user_id == env.user
        assert entry.diff == f'~ {VERSION}: "6.0.0" ({RIVAL}) / "1.5.0"'


# === WHAT IS SHOWN === #


def test_a_line_names_both_values_and_who_owns_the_field_since_when(
    database, conflicted
):
    dialog = open_dialog(database, conflicted, "action_open_conflicts")

    names = ("field", "our_value", "live_value", "manager", "operation")
    (line,) = dialog.lines("line_ids", *names)
    assert list(line.values()) == [VERSION, '"1.5.0"', '"6.0.0"', RIVAL, "Update"]
    assert dialog.lines("line_ids", "since")[0]["since"]


@pytest.mark.parametrize(
    ("decision", "effect", "form_effect"),
    [
        (False, False, False),
        ("take_over", f'~ {VERSION}: "6.0.0" → "1.5.0"', False),
        ("leave", False, False),
        ("accept", False, f'~ {VERSION}: "1.5.0" → "6.0.0"'),
    ],
    ids=["undecided", "take over", "leave", "accept"],
)
def test_the_effect_shows_before_anything_is_done(
    database, conflicted, control_plane, namespace, decision, effect, form_effect
):
    before = get_object(control_plane, namespace)
    dialog = open_dialog(database, conflicted, "action_open_conflicts")
    decide(dialog, VERSION, decision)

    seen = dialog.read("effect", "form_effect")

    assert (seen["effect"], seen["form_effect"]) == (effect, form_effect)
    assert get_object(control_plane, namespace) == before


def test_one_decision_for_all_fills_in_the_lines_and_the_effect(
    database, make_instance, deploy, control_plane, namespace
):
    from odoo.tests import Form

    instance = make_instance(values_yaml="a: 1\nb: 1\n")
    deploy(instance)
    overwrite(control_plane, namespace, {"values": {"inline": {"a": 3, "b": 3}}})
    change(database, instance, values_yaml="a: 2\nb: 2\n")
    dialog = open_dialog(database, instance, "action_open_conflicts")

    with (
        database.transaction() as env,
        Form(env[dialog.model].browse(dialog.ids)) as form,
    ):
        form.decision_for_all = "take_over"
        form.reason_for_all = "Ours it is."
        shown = form.effect
    dialog.press("action_apply")

    assert shown.splitlines() == [
        "~ .spec.values.inline.a: 3 → 2",
        "~ .spec.values.inline.b: 3 → 2",
    ]
    live = get_object(control_plane, namespace)
    assert live["spec"]["values"]["inline"] == {"a": 2, "b": 2}


def test_what_says_whose_object_it_is_can_only_be_taken_over(
    database, make_instance, deploy, control_plane, namespace
):
    from odoo.exceptions import UserError
    from odoo.tests import Form

    label = "app.vworkspace.io/cluster-id"
    instance = make_instance()
    deploy(instance)
    patch(control_plane, namespace, {"metadata": {"labels": {label: "theirs"}}})
    dialog = open_dialog(database, instance, "action_open_conflicts")

    with (
        database.transaction() as env,
        Form(env[dialog.model].browse(dialog.ids)) as form,
        form.line_ids.edit(0) as line,
    ):
        line.decision = "leave"
        line.reason = "Agreed."
        shown = line.objection
    with pytest.raises(UserError, match="only be taken over"):
        dialog.press("action_apply")

    assert "only be taken over" in shown
    decide(dialog, f".metadata.labels.{label}", "take_over")
    dialog.press("action_apply")
    live = get_object(control_plane, namespace)
    assert live["metadata"]["labels"][label] == "test-cluster"


# === WHAT IS REFUSED === #


def test_nothing_is_done_before_every_field_has_a_decision_and_a_reason(
    database, conflicted, control_plane, namespace
):
    from odoo.exceptions import UserError

    before = get_object(control_plane, namespace)
    dialog = open_dialog(database, conflicted, "action_open_conflicts")

    with pytest.raises(UserError, match=r"Decide about every field.*chart\.version"):
        dialog.press("action_apply")
    decide(dialog, VERSION, "take_over", reason="  ")
    with pytest.raises(UserError, match=r"Give a reason.*chart\.version"):
        dialog.press("action_apply")

    assert get_object(control_plane, namespace) == before
    assert database.read(conflicted, "delivery_state") == "conflict"


def test_a_field_that_nobody_else_owns_cannot_be_left(
    database, make_instance, deploy, control_plane, namespace
):
    from odoo.exceptions import UserError

    instance = make_instance()
    deploy(instance)
    live = get_object(control_plane, namespace)

    with database.transaction() as env:
        record = env[instance._name].browse(instance.ids)
        decided = {VERSION: {"decision": "leave", "reason": "Agreed.", "manager": ""}}
        with pytest.raises(UserError, match="would delete it there"):
            record._decide(decided, live)


@pytest.mark.parametrize(
    "field",
    [".spec.release.namespace", ".metadata.labels.app.vworkspace.io/cluster-id"],
)
def test_a_value_that_the_form_cannot_hold_is_not_accepted(
    database, make_instance, deploy, control_plane, namespace, field
):
    from odoo.exceptions import UserError

    from odoo.addons.vworkspace_push.kube import ownership

    instance = make_instance()
    deploy(instance)
    live = ownership.with_value(get_object(control_plane, namespace), field, "theirs")

    with database.transaction() as env:
        record = env[instance._name].browse(instance.ids)
        with pytest.raises(UserError, match=r"no field for|only be taken over"):
            record._check_decision(field, "accept", live, record._whole_manifest())


def test_a_cluster_that_changed_meanwhile_is_shown_again_before_anything_is_done(
    database, conflicted, control_plane, namespace
):
    dialog = open_dialog(database, conflicted, "action_open_conflicts")
    decide(dialog, VERSION, "take_over")
    overwrite(control_plane, namespace, {"chart": {"version": "7.0.0"}})

    action = dialog.press("action_apply")

    assert (action["res_model"], action["res_id"]) == (dialog.model, dialog.ids[0])
    assert VERSION in dialog.read("notice")
    (line,) = dialog.lines("line_ids", "live_value", "decision")
    assert list(line.values()) == ['"7.0.0"', False]
    live = get_object(control_plane, namespace)
    assert live["spec"]["chart"]["version"] == "7.0.0"
    assert database.read(conflicted, "delivery_state") == "conflict"


def test_a_conflict_that_is_new_is_shown_while_the_other_decisions_stay(
    database, conflicted, control_plane, namespace
):
    dialog = open_dialog(database, conflicted, "action_open_conflicts")
    decide(dialog, VERSION, "take_over")
    overwrite(control_plane, namespace, {"values": {"inline": {"replicas": 3}}})

    dialog.press("action_apply")

    assert dialog.read("notice").count(".spec") == 1
    lines = dialog.lines("line_ids", "field", "decision", "reason")
    assert {line["field"]: line["decision"] for line in lines} == {
        VERSION: "take_over",
        REPLICAS: False,
    }


def test_a_conflict_that_is_over_leaves_nothing_to_decide_but_to_deploy(
    database, conflicted, control_plane, namespace
):
    overwrite(control_plane, namespace, {"chart": {"version": "1.5.0"}})

    dialog = open_dialog(database, conflicted, "action_open_conflicts")

    assert dialog.read("line_ids") == []
    dialog.press("action_deploy")
    assert database.read(conflicted, "delivery_state") == "applied"


def test_what_is_not_in_the_cluster_has_nothing_to_decide(database, make_instance):
    from odoo.exceptions import UserError

    with pytest.raises(UserError, match="nothing to decide"):
        open_dialog(database, make_instance(), "action_open_conflicts")


def test_what_the_cluster_said_cannot_be_forged_in_a_dialog(database, conflicted):
    from odoo.exceptions import AccessError

    dialog = open_dialog(database, conflicted, "action_open_conflicts")

    for forged in ({"live": "{}"}, {"result": "{}"}, {"instance_id": 1}):
        with pytest.raises(AccessError):
            dialog.fill(**forged)
    with pytest.raises(AccessError):
        dialog.read("live")
    with pytest.raises(AccessError):
        decide(dialog, VERSION, "take_over", live_value='"1.5.0"')


# === HELPERS === #


@pytest.fixture
def conflicted(database, make_instance, deploy, control_plane, namespace):
    """An application whose chart version a rival changed, and then we."""
    instance = make_instance()
    deploy(instance)
    overwrite(control_plane, namespace, {"chart": {"version": "6.0.0"}})
    change(database, instance, chart_version="1.5.0")
    deploy(instance)
    assert database.read(instance, "delivery_state") == "conflict"
    return instance


def decide(dialog, field, decision, *, reason="Agreed.", **values):
    values = {"decision": decision, "reason": reason, **values}
    dialog.fill_line("line_ids", {"field": field}, **values)


def change(database, instance, **values):
    database.call("admin", instance._name, "write", instance.ids, values)


def overwrite(control_plane, namespace, spec):
    patch(control_plane, namespace, {"spec": spec})


def patch(control_plane, namespace, body):
    control_plane.kubectl(
        *("patch", "applicationinstance", "wiki", "-n", namespace),
        *("--type", "merge", "--field-manager", RIVAL, "-p", json.dumps(body)),
    )


def owners_of_version(live):
    return sorted(
        entry["manager"]
        for entry in live["metadata"]["managedFields"]
        if "f:version" in entry["fieldsV1"].get("f:spec", {}).get("f:chart", {})
    )
