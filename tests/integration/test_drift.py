"""What somebody else overwrote: seen without a request, taken back on demand or not."""

import json
from datetime import UTC, datetime, timedelta

import pytest

from tests.deliveries import (
    INSTANCE,
    RIVAL,
    TABLE,
    act,
    apply_as,
    audit,
    change,
    patch,
    revisions,
    set_version,
    states,
)
from tests.live_objects import get_object, patch_status, ready_status
from tests.registration import Spy

VERSION = ".spec.chart.version"


# === HOW IT IS SEEN === #


def test_an_overwritten_field_is_told_with_who_when_and_both_values(
    database, deployed, control_plane, namespace
):
    set_version(control_plane, namespace, "6.0.0")

    database.run_cron("ir_cron_status")

    stored = database.read(deployed, "is_drifted", "delivery_state")
    assert (stored["is_drifted"], stored["delivery_state"]) == (True, "applied")
    (row,) = drift(database, deployed)
    assert (row["field"], row["manager"], row["operation"]) == (
        VERSION,
        RIVAL,
        "Update",
    )
    assert (row["our_value"], row["live_value"]) == ('"1.4.2"', '"6.0.0"')
    assert abs(row["since"] - now()) < timedelta(minutes=5)


def test_drift_is_found_in_the_report_itself(
    database, deployed, cluster, control_plane, namespace, monkeypatch
):
    from odoo.addons.vworkspace_push.status import sink
    from odoo.addons.vworkspace_push.transactions import in_transaction

    set_version(control_plane, namespace, "6.0.0")
    report = sink.Report.from_object(get_object(control_plane, namespace))
    spy = Spy(monkeypatch)

    in_transaction(database.registry, sink.ingest, cluster.id, [report])

    assert [row["field"] for row in drift(database, deployed)] == [VERSION]
    assert spy.sent == []


def test_a_rival_that_sets_our_value_is_no_drift(
    database, deployed, control_plane, namespace
):
    set_version(control_plane, namespace, "1.4.2")
    patch_status(control_plane, namespace, ready_status())

    database.run_cron("ir_cron_status")

    assert database.read(deployed, "health") == "ready"
    assert database.read(deployed, "is_drifted") is False
    assert drift(database, deployed) == []


def test_a_field_that_somebody_removed_has_no_manager(
    database, deployed, control_plane, namespace
):
    removed = {"spec": {"values": {"inline": {"replicas": None}}}}
    patch(control_plane, namespace, removed)

    database.run_cron("ir_cron_status")

    (row,) = [r for r in drift(database, deployed) if r["field"].endswith("replicas")]
    assert (row["manager"], row["live_value"]) == (False, False)
    assert row["our_value"] == "1"


def test_drift_ends_when_somebody_hands_the_field_back(
    database, deployed, control_plane, namespace
):
    set_version(control_plane, namespace, "6.0.0")
    database.run_cron("ir_cron_status")
    assert database.read(deployed, "is_drifted") is True

    act(database, deployed, "action_restore_ours")
    patch_status(control_plane, namespace, ready_status())
    database.run_cron("ir_cron_status")

    assert database.read(deployed, "is_drifted") is False
    assert drift(database, deployed) == []


def test_drift_is_in_the_audit_trail_once_for_each_change(
    database, deployed, control_plane, namespace
):
    set_version(control_plane, namespace, "6.0.0")
    database.run_cron("ir_cron_status")
    for generation in (2, 3):  # news of another kind
        status = ready_status(message=f"News {generation}.")
        patch_status(control_plane, namespace, status)
        database.run_cron("ir_cron_status")

    seen = [
        entry
        for entry in audit(database, deployed, "action", "outcome", "message")
        if entry["action"] == "observe"
    ]
    assert seen == [
        {
            "action": "observe",
            "outcome": "drifted",
            "message": f"{RIVAL}: {VERSION}",
        }
    ]


def test_fields_in_any_order_of_letters_are_stored_once(
    database, make_instance, deploy, control_plane, namespace
):
    instance = make_instance(values_yaml="b: 1\nA: 1\na-b: 1\naB: 1\na: 1\n")
    deploy(instance)
    theirs = {"b": 2, "A": 2, "a-b": 2, "aB": 2, "a": 2}
    patch(control_plane, namespace, {"spec": {"values": {"inline": theirs}}})
    database.run_cron("ir_cron_status")
    before = drift(database, instance)

    patch_status(control_plane, namespace, ready_status())
    database.run_cron("ir_cron_status")

    assert len(before) == 5
    assert drift(database, instance) == before


def test_a_report_of_what_was_there_before_our_last_apply_is_no_drift(
    database, deployed, cluster, control_plane, namespace
):
    from odoo.addons.vworkspace_push.status import sink
    from odoo.addons.vworkspace_push.transactions import in_transaction

    set_version(control_plane, namespace, "6.0.0")
    late = sink.Report.from_object(get_object(control_plane, namespace))
    change(database, deployed, chart_version="6.0.0")
    act(database, deployed, "action_deploy")
    assert states(database, deployed) == ["applied"]

    in_transaction(database.registry, sink.ingest, cluster.id, [late])

    assert database.read(deployed, "is_drifted") is False


# === TAKEN BACK BY HAND === #


def test_only_the_drifted_fields_are_taken_back(
    database, deployed, control_plane, namespace
):
    set_version(control_plane, namespace, "6.0.0")
    theirs = {
        "metadata": {"labels": {"team": "blue"}},
        "spec": {"values": {"inline": {"theirs": 1}}},
    }
    patch(control_plane, namespace, theirs, manager="another")
    database.run_cron("ir_cron_status")
    change(database, deployed, values_yaml="replicas: 9\n")  # not deployed yet

    act(database, deployed, "action_restore_ours")

    live = get_object(control_plane, namespace)
    assert states(database, deployed) == ["applied"]
    assert live["spec"]["chart"]["version"] == "1.4.2"
    assert live["spec"]["values"]["inline"] == {"replicas": 1, "theirs": 1}
    assert live["metadata"]["labels"]["team"] == "blue"
    assert drift(database, deployed) == []
    _first, healed = revisions(database, deployed, "reason", "takeover_fields")
    assert healed["takeover_fields"] == [VERSION]
    assert "heal" in [e["action"] for e in audit(database, deployed, "action")]
    assert database.read(deployed, "values_yaml") == "replicas: 9\n"
    assert database.read(deployed, "is_changed") is True


def test_what_was_overwritten_since_it_was_looked_at_is_not_taken_back(
    database, deployed, control_plane, namespace
):
    set_version(control_plane, namespace, "6.0.0")
    database.run_cron("ir_cron_status")
    theirs = {"spec": {"values": {"inline": {"replicas": 7}}}}
    patch(control_plane, namespace, theirs, manager="another")

    act(database, deployed, "action_restore_ours")

    live = get_object(control_plane, namespace)["spec"]
    assert states(database, deployed) == ["conflict"]
    assert live["chart"]["version"] == "6.0.0"
    assert live["values"]["inline"]["replicas"] == 7


# === TAKEN BACK BY ITSELF === #


def test_a_cluster_that_heals_takes_drift_back_by_itself(
    database, healing, deployed, control_plane, namespace
):
    set_version(control_plane, namespace, "6.0.0")

    database.run_cron("ir_cron_status")
    database.run_cron("ir_cron_deliver")

    live = get_object(control_plane, namespace)
    assert live["spec"]["chart"]["version"] == "1.4.2"
    assert database.read(deployed, "is_drifted") is False
    _first, healed = revisions(database, deployed, "reason", "user_id")
    assert healed["reason"] == "Taken back by itself after drift."
    assert healed["user_id"][0] == 1


def test_going_back_to_what_was_healed_brings_no_later_edit(
    database, healing, deployed, deploy, control_plane, namespace
):
    change(database, deployed, values_yaml="replicas: 5\n")  # and not deployed
    set_version(control_plane, namespace, "6.0.0")
    database.run_cron("ir_cron_status")
    database.run_cron("ir_cron_deliver")
    with database.transaction() as env:
        healed = env[INSTANCE].browse(deployed.ids).revision_id
    change(database, deployed, values_yaml="replicas: 7\n")
    deploy(deployed)

    database.call("admin", healed._name, "action_roll_back", healed.ids)

    live = get_object(control_plane, namespace)
    assert live["spec"]["values"]["inline"] == {"replicas": 1}
    assert database.read(deployed, "values_yaml") == "replicas: 1\n"


def test_without_it_drift_stays_for_a_person(
    database, deployed, control_plane, namespace
):
    set_version(control_plane, namespace, "6.0.0")

    database.run_cron("ir_cron_status")
    database.run_cron("ir_cron_deliver")

    assert database.read(deployed, "is_drifted") is True
    live = get_object(control_plane, namespace)
    assert live["spec"]["chart"]["version"] == "6.0.0"


def test_an_application_decides_against_its_cluster(
    database, healing, deployed, control_plane, namespace
):
    change(database, deployed, heal_mode="off")
    set_version(control_plane, namespace, "6.0.0")
    database.run_cron("ir_cron_status")
    database.run_cron("ir_cron_deliver")
    assert database.read(deployed, "is_drifted") is True

    change(database, deployed, heal_mode="on")
    database.run_cron("ir_cron_deliver")

    assert database.read(deployed, "is_drifted") is False
    live = get_object(control_plane, namespace)
    assert live["spec"]["chart"]["version"] == "1.4.2"


def test_a_rival_that_comes_again_and_again_is_healed_ever_more_slowly(
    database, healing, deployed, control_plane, namespace
):
    for number, wait in enumerate([0, 10, 20, 40, 80, 160]):
        set_version(control_plane, namespace, f"6.0.{number}")
        before = now()
        database.run_cron("ir_cron_status")
        due = database.read(deployed, "next_heal_at")
        earliest, latest = (due - now(), due - before)
        assert earliest.total_seconds() - 1 <= wait <= latest.total_seconds() + 1
        make_heal_due(database, deployed)
        database.run_cron("ir_cron_deliver")
        assert database.read(deployed, "is_drifted") is False


def test_a_rival_cannot_put_the_healing_off_by_changing_it_all_the_time(
    database, healing, deployed, control_plane, namespace
):
    heal_once(database, deployed, control_plane, namespace)
    set_version(control_plane, namespace, "6.1.0")
    database.run_cron("ir_cron_status")
    due = database.read(deployed, "next_heal_at", "heal_attempts")

    for number in range(3):
        set_version(control_plane, namespace, f"6.2.{number}")
        database.run_cron("ir_cron_status")

    assert due["next_heal_at"] > now()
    assert database.read(deployed, "next_heal_at", "heal_attempts") == due


def test_after_an_hour_of_quiet_healing_is_quick_again(
    database, healing, deployed, control_plane, namespace
):
    heal_once(database, deployed, control_plane, namespace)
    make_heal_due(database, deployed, minutes_ago=61)

    set_version(control_plane, namespace, "6.1.0")
    database.run_cron("ir_cron_status")

    stored = database.read(deployed, "next_heal_at", "heal_attempts")
    assert stored["next_heal_at"] <= now()
    assert stored["heal_attempts"] == 1


def test_what_is_paused_is_not_healed(
    database, healing, deployed, control_plane, namespace
):
    act(database, deployed, "action_pause")
    set_version(control_plane, namespace, "6.0.0")
    database.run_cron("ir_cron_status")
    database.run_cron("ir_cron_deliver")
    assert states(database, deployed) == ["applied"]
    assert len(revisions(database, deployed, "number")) == 1

    act(database, deployed, "action_resume")
    database.run_cron("ir_cron_deliver")

    assert database.read(deployed, "is_drifted") is False


def test_who_changed_the_healing_is_in_the_audit_trail(database, cluster, deployed):
    before = len(audit(database, cluster, "action"))
    for mode in ("on", "on", "off"):
        change(database, deployed, heal_mode=mode)
    for on in (True, True, False):
        change(database, cluster, heals_drift=on)

    for record, start, told in [
        (deployed, 1, ["By itself", "By hand"]),
        (cluster, before, ["On", "Off"]),
    ]:
        entries = audit(database, record, "action", "message")[start:]
        assert [entry["action"] for entry in entries] == ["healing"] * 2
        assert [entry["message"] for entry in entries] == told


def test_only_an_admin_decides_how_drift_is_healed(database, deployed, operator_user):
    from odoo.exceptions import AccessError

    change(database, deployed, heal_mode="off")

    for mode in ("on", "cluster"):
        with pytest.raises(AccessError, match="Only an administrator"):
            database.call(
                "drift-operator", INSTANCE, "write", deployed.ids, {"heal_mode": mode}
            )

    database.call(
        "drift-operator", INSTANCE, "write", deployed.ids, {"chart_version": "1.5.0"}
    )
    assert database.read(deployed, "heal_mode") == "off"


def test_no_default_switches_healing_on_for_an_operator(
    database, deployed, operator_user
):
    from odoo.exceptions import AccessError

    with database.transaction() as env:
        (values,) = env[INSTANCE].browse(deployed.ids).copy_data({"name": "forged"})

    with pytest.raises(AccessError, match="Only an administrator"):
        database.call(
            *("drift-operator", INSTANCE, "create", [values]),
            context={"default_heal_mode": "on"},
        )


# === LEFT AND TAKEN OVER === #


def test_a_field_that_is_left_is_not_ours_any_more_and_stays_as_it_is(
    database, conflicted, control_plane, namespace
):
    decide(database, conflicted, control_plane, namespace, {VERSION: "leave"})

    live = get_object(control_plane, namespace)
    assert states(database, conflicted) == ["applied"]
    assert live["spec"]["chart"]["version"] == "6.0.0"
    assert managers_of_version(live) == [RIVAL]
    assert database.read(conflicted, "is_drifted") is False


def test_what_nobody_else_has_any_more_is_not_given_up(
    database, conflicted, control_plane, namespace
):
    let_the_rival_go_before_delivery(database, conflicted, control_plane, namespace)

    database.run_cron("ir_cron_deliver")

    stored = database.read(
        conflicted, "delivery_state", "delivery_reason", "delivery_message"
    )
    assert (stored["delivery_state"], stored["delivery_reason"]) == (
        "denied",
        "SoleOwner",
    )
    assert VERSION in stored["delivery_message"]
    live = get_object(control_plane, namespace)
    assert live["spec"]["chart"]["version"] == "1.4.2"


def test_a_later_deployment_does_not_give_it_up_unseen(
    database, conflicted, control_plane, namespace
):
    let_the_rival_go_before_delivery(database, conflicted, control_plane, namespace)
    database.run_cron("ir_cron_deliver")
    change(database, conflicted, values_yaml="replicas: 3\n")

    act(database, conflicted, "action_deploy")

    assert database.read(conflicted, "delivery_reason") == "SoleOwner"
    live = get_object(control_plane, namespace)
    assert live["spec"]["chart"]["version"] == "1.4.2"


def test_a_field_claimed_again_is_sent_again(
    database, conflicted, control_plane, namespace
):
    let_the_rival_go_before_delivery(database, conflicted, control_plane, namespace)
    database.run_cron("ir_cron_deliver")
    with database.transaction() as env:
        left = env[INSTANCE].browse(conflicted.ids).left_field_ids
    database.call("admin", left._name, "action_claim_again", left.ids)

    act(database, conflicted, "action_deploy")

    live = get_object(control_plane, namespace)
    assert states(database, conflicted) == ["applied"]
    assert live["spec"]["chart"]["version"] == "1.5.0"
    assert managers_of_version(live) == ["vworkspace-odoo"]
    claims = [
        entry["message"]
        for entry in audit(database, conflicted, "action", "message")
        if entry["action"] == "claim_field"
    ]
    assert claims == [VERSION]


def test_what_nobody_has_is_not_given_up_beside_a_take_over_either(
    database, conflicted, control_plane, namespace
):
    replicas = ".spec.values.inline.replicas"
    let_the_rival_go_before_delivery(
        *(database, conflicted, control_plane, namespace),
        beside={replicas: "take_over"},
    )
    theirs = {"spec": {"values": {"inline": {"replicas": 7}}}}
    patch(control_plane, namespace, theirs, manager="another")

    database.run_cron("ir_cron_deliver")

    assert database.read(conflicted, "delivery_reason") == "SoleOwner"
    live = get_object(control_plane, namespace)["spec"]
    assert live["chart"]["version"] == "1.4.2"
    assert live["values"]["inline"]["replicas"] == 7


def test_only_what_was_decided_is_taken_over(
    database, conflicted, control_plane, namespace
):
    theirs = {"spec": {"values": {"inline": {"replicas": 7}}}}
    live = get_object(control_plane, namespace)
    change(database, conflicted, values_yaml="replicas: 2\n")
    patch(control_plane, namespace, theirs, manager="another")

    with database.transaction() as env:
        decided = {VERSION: {"decision": "take_over", "reason": "Agreed."}}
        env[INSTANCE].browse(conflicted.ids)._decide(decided, live)

    live = get_object(control_plane, namespace)["spec"]
    assert states(database, conflicted) == ["conflict"]
    assert live["chart"]["version"] == "6.0.0"
    assert live["values"]["inline"]["replicas"] == 7
    with database.transaction() as env:
        fields = env[INSTANCE].browse(conflicted.ids).conflict_ids.mapped("field")
    assert set(fields) == {VERSION, ".spec.values.inline.replicas"}


def test_a_take_over_is_not_lost_when_a_newer_intent_overtakes_it(
    database, conflicted, control_plane, namespace
):
    live = get_object(control_plane, namespace)
    act(database, conflicted, "action_pause")
    with database.transaction() as env:
        decided = {VERSION: {"decision": "take_over", "reason": "Agreed."}}
        env[INSTANCE].browse(conflicted.ids)._decide(decided, live)
    change(database, conflicted, values_yaml="replicas: 2\n")
    act(database, conflicted, "action_deploy")

    act(database, conflicted, "action_resume")

    live = get_object(control_plane, namespace)["spec"]
    assert states(database, conflicted) == ["applied"]
    assert live["chart"]["version"] == "1.5.0"
    assert live["values"]["inline"] == {"replicas": 2}


def test_a_take_over_of_another_value_is_another_decision(
    database, conflicted, control_plane, namespace
):
    live = get_object(control_plane, namespace)
    act(database, conflicted, "action_pause")
    with database.transaction() as env:
        decided = {VERSION: {"decision": "take_over", "reason": "Agreed."}}
        env[INSTANCE].browse(conflicted.ids)._decide(decided, live)
    change(database, conflicted, chart_version="1.7.0")
    act(database, conflicted, "action_deploy")

    act(database, conflicted, "action_resume")

    assert states(database, conflicted) == ["conflict"]
    live = get_object(control_plane, namespace)["spec"]
    assert live["chart"]["version"] == "6.0.0"


def test_deploying_again_tries_a_conflict_once_more(
    database, conflicted, control_plane, namespace
):
    set_version(control_plane, namespace, "1.5.0")  # the rival comes round

    act(database, conflicted, "action_deploy")

    assert states(database, conflicted) == ["applied"]
    live = get_object(control_plane, namespace)
    assert live["spec"]["chart"]["version"] == "1.5.0"
    assert len(revisions(database, conflicted, "number")) == 2


# === FIXTURES AND HELPERS === #


@pytest.fixture
def deployed(make_instance, deploy):
    instance = make_instance()
    deploy(instance)
    return instance


@pytest.fixture
def conflicted(database, deployed, deploy, control_plane, namespace):
    """A record whose change of the version met a rival's value."""
    set_version(control_plane, namespace, "6.0.0")
    change(database, deployed, chart_version="1.5.0")
    deploy(deployed)
    assert states(database, deployed) == ["conflict"]
    return deployed


@pytest.fixture
def healing(database, cluster):
    change(database, cluster, heals_drift=True)
    yield
    change(database, cluster, heals_drift=False)


@pytest.fixture(scope="module")
def operator_user(database):
    with database.transaction() as env:
        group = env.ref("vworkspace_push.group_operator")
        user = {"name": "drift-operator", "login": "drift-operator"}
        env["res.users"].create({**user, "group_ids": [(6, 0, group.ids)]})


def drift(database, instance):
    """Return the rows of what drifted, sorted by field."""
    with database.transaction() as env:
        rows = env[INSTANCE].browse(instance.ids).drift_ids.read()
    return sorted(rows, key=lambda row: row["field"])


def decide(database, instance, control_plane, namespace, decisions):
    """Decide by field, as the dialog does."""
    live = get_object(control_plane, namespace)
    with database.transaction() as env:
        env[INSTANCE].browse(instance.ids)._decide(
            {
                field: {"decision": decision, "reason": "Agreed.", "manager": RIVAL}
                for field, decision in decisions.items()
            },
            live,
        )


def let_the_rival_go_before_delivery(
    database, instance, control_plane, namespace, *, beside=None
):
    """Leave the version to the rival, who gives it back before that is delivered."""
    live = get_object(control_plane, namespace)
    decisions = {VERSION: "leave", **(beside or {})}
    with database.transaction() as env:
        env[INSTANCE].browse(instance.ids)._decide(
            {
                field: {"decision": decision, "reason": "Agreed.", "manager": RIVAL}
                for field, decision in decisions.items()
            },
            live,
        )
        env.cr.postcommit.clear()
        applied = env[INSTANCE].browse(instance.ids).applied_revision_id
        manifest = json.loads(applied.manifest)
    apply_as(control_plane, manifest, "vworkspace-odoo", force=True)


def heal_once(database, instance, control_plane, namespace):
    set_version(control_plane, namespace, "6.0.0")
    database.run_cron("ir_cron_status")
    database.run_cron("ir_cron_deliver")
    assert database.read(instance, "is_drifted") is False


def make_heal_due(database, instance, *, minutes_ago=0):
    database.sql(
        f"UPDATE {TABLE} SET next_heal_at ="  # noqa: S608
        " date_trunc('second', now() AT TIME ZONE 'UTC') - %s * interval '1 minute'"
        " WHERE id = %s",
        minutes_ago,
        instance.id,
    )


def managers_of_version(live):
    return sorted(
        entry["manager"]
        for entry in live["metadata"]["managedFields"]
        if "f:version" in entry["fieldsV1"].get("f:spec", {}).get("f:chart", {})
    )


def now():
    """Return the time as Odoo stores it."""
    return datetime.now(UTC).replace(tzinfo=None, microsecond=0)
