"""Two Odoo databases that write one object: both use one field manager, so that the
cluster sees no conflict between them."""

import pytest

from tests.deliveries import (
    INSTANCE,
    TABLE,
    act,
    apply_as,
    as_other_database,
    audit,
    become_due,
    change,
    count_objects,
    make_pending,
    states,
)
from tests.live_objects import get_object
from tests.registration import Spy

OTHER = "0f2e-another-database"
DATABASE = "push.vworkspace.io/database"


def test_an_object_that_another_database_wrote_is_known_and_shown(
    database, cluster, taken
):
    stored = database.read(taken, "foreign_database", "waiting_for", "delivery_state")

    assert stored["foreign_database"] == OTHER
    assert stored["delivery_state"] == "applied"
    assert OTHER in stored["waiting_for"]
    assert "until an administrator claims it" in stored["waiting_for"]
    assert database.read(cluster, "foreign_count") == 1
    action = database.call(
        "admin", cluster._name, "action_open_foreign_instances", cluster.ids
    )
    with database.transaction() as env:
        assert env[INSTANCE].search(action["domain"]).ids == taken.ids


def test_nothing_more_is_sent_by_hand_or_by_the_cron(
    database, taken, control_plane, namespace, monkeypatch
):
    before = get_object(control_plane, namespace)
    spy = Spy(monkeypatch)
    change(database, taken, chart_version="1.6.0")

    act(database, taken, "action_deploy")
    become_due(database, taken)
    database.run_cron("ir_cron_deliver")

    assert [s for s in spy.sent if s[0] != "GET"] == []
    assert states(database, taken) == ["pending"]
    assert OTHER in database.read(taken, "waiting_for")
    after = get_object(control_plane, namespace)
    assert after["metadata"]["resourceVersion"] == before["metadata"]["resourceVersion"]


def test_what_was_locked_already_is_not_sent_either(
    database, taken, cluster, monkeypatch
):
    """It is noticed between the lock and the reading of the intents."""
    from odoo.addons.vworkspace_push.delivery import deliver

    change(database, taken, chart_version="1.6.0")
    make_pending(database, taken)
    monkeypatch.setattr(deliver, "_lock_due", lambda *_args: taken.ids)
    spy = Spy(monkeypatch)

    handled = deliver.deliver(database.registry, INSTANCE, cluster.id)

    assert (handled, spy.sent) == (0, [])


def test_it_is_not_healed_behind_the_other_databases_back(
    database, taken, cluster, control_plane, namespace
):
    manifest = as_other_database(database, taken, other=OTHER)
    manifest["spec"]["values"]["inline"] = {"size": 2}
    apply_as(control_plane, manifest, "vworkspace-odoo")
    change(database, taken, heal_mode="on")

    database.run_cron("ir_cron_status")
    database.run_cron("ir_cron_deliver")

    assert database.read(taken, "is_drifted") is True
    assert states(database, taken) == ["applied"]
    live = get_object(control_plane, namespace)
    assert live["spec"]["values"]["inline"] == {"size": 2}


@pytest.mark.parametrize("role", ["viewer", "operator", "approver"])
def test_only_an_admin_claims_it(database, taken, users, role):
    from odoo.exceptions import AccessError

    with pytest.raises(AccessError):
        act(database, taken, "action_claim", login=role)

    assert database.read(taken, "foreign_database") == OTHER


def test_claiming_delivers_and_makes_the_object_ours_again(
    database, taken, cluster, control_plane, namespace
):
    act(database, taken, "action_claim")

    live = get_object(control_plane, namespace)
    stored = database.read(taken, "delivery_state", "foreign_database", "waiting_for")
    assert stored["delivery_state"] == "applied"
    assert stored["foreign_database"] is False
    assert live["metadata"]["annotations"][DATABASE] == our_uuid(database)
    assert live["spec"]["chart"]["version"] == "1.4.2"
    assert database.read(cluster, "foreign_count") == 0
    entries = audit(database, taken, "action", "outcome", "reason")
    assert entries[-2]["action"] == "claim"
    assert OTHER in entries[-2]["reason"]
    assert (entries[-1]["action"], entries[-1]["outcome"]) == ("deploy", "applied")
    database.run_cron("ir_cron_status")
    assert database.read(taken, "foreign_database") is False


def test_claiming_what_is_to_be_deleted_deletes_it(
    database, taken, control_plane, namespace
):
    act(database, taken, "action_delete_from_cluster")
    assert states(database, taken) == ["deleting"]
    assert count_objects(control_plane, namespace) == 1

    act(database, taken, "action_claim")

    assert states(database, taken) == ["deleted"]
    assert count_objects(control_plane, namespace) == 0


def test_a_late_report_from_before_the_claim_changes_nothing(
    database, taken, cluster, control_plane, namespace
):
    from odoo.addons.vworkspace_push.status import sink
    from odoo.addons.vworkspace_push.transactions import in_transaction

    control_plane.kubectl(
        *("annotate", "applicationinstance", "wiki", "-n", namespace, "note=late")
    )
    late = sink.Report.from_object(get_object(control_plane, namespace))
    act(database, taken, "action_claim")

    in_transaction(database.registry, sink.ingest, cluster.id, [late])

    assert database.read(taken, "foreign_database") is False


def test_it_is_told_once(database, taken):
    database.run_cron("ir_cron_status")

    told = [
        entry["outcome"]
        for entry in audit(database, taken, "action", "outcome")
        if entry["action"] == "observe"
    ]
    assert told == ["other database"]
    with database.transaction() as env:
        posted = env[INSTANCE].browse(taken.ids).message_ids
        assert len(posted.filtered(lambda m: OTHER in (m.body or ""))) == 1


def test_an_annotation_is_untrusted_text(
    database, make_instance, deploy, control_plane, namespace
):
    markup = "<img src=x onerror=alert(1)>"
    instance = make_instance()
    deploy(instance)
    manifest = as_other_database(database, instance, other=markup)
    apply_as(control_plane, manifest, "vworkspace-odoo")

    database.run_cron("ir_cron_status")

    assert database.read(instance, "foreign_database") == markup
    with database.transaction() as env:
        bodies = env[INSTANCE].browse(instance.ids).message_ids.mapped("body")
    assert any("&lt;img" in (body or "") for body in bodies)
    assert not any("<img" in (body or "") for body in bodies)


# === FIXTURES AND HELPERS === #


@pytest.fixture
def taken(database, cluster, make_instance, deploy, control_plane):
    """A record whose object another database wrote to, which we have seen."""
    instance = make_instance()
    deploy(instance)
    manifest = as_other_database(database, instance, other=OTHER)
    manifest["spec"]["chart"]["version"] = "5.0.0"
    apply_as(control_plane, manifest, "vworkspace-odoo")
    database.run_cron("ir_cron_status")
    yield instance
    # The next test's cluster is to count its own alone.
    database.sql(f"DELETE FROM {TABLE} WHERE id = %s", instance.id)  # noqa: S608


@pytest.fixture(scope="module")
def users(database):
    with database.transaction() as env:
        for role in ("viewer", "operator", "approver"):
            group = env.ref(f"vworkspace_push.group_{role}")
            env["res.users"].create(
                {"name": role, "login": role, "group_ids": [(6, 0, group.ids)]}
            )


def our_uuid(database):
    with database.transaction() as env:
        return env["ir.config_parameter"].sudo().get_param("database.uuid")
