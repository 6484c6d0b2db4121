"""Holding deliveries back, for one application or for a whole cluster."""

import pytest

from tests.deliveries import (
    INSTANCE,
    TABLE,
    act,
    audit,
    become_due,
    change,
    count_objects,
    make_pending,
    states,
)
from tests.live_objects import get_object
from tests.registration import Spy

CLUSTER = "vworkspace.cluster"


def test_what_is_paused_waits_with_a_sentence_and_sends_nothing(
    database, make_instance, deploy, control_plane, namespace, monkeypatch
):
    instance = make_instance()
    act(database, instance, "action_pause")
    spy = Spy(monkeypatch)

    deploy(instance)
    become_due(database, instance)
    database.run_cron("ir_cron_deliver")

    assert spy.sent == []
    assert states(database, instance) == ["pending"]
    waiting = database.read(instance, "waiting_for")
    assert waiting == "Somebody to resume it: its deliveries are paused."
    assert count_objects(control_plane, namespace) == 0


def test_what_was_denied_and_is_paused_names_no_time_at_which_it_is_tried(
    database, make_instance
):
    instance = make_instance()
    end_as(database, instance, "denied", at="now() + interval '5 minutes'")
    assert "tried again at" in database.read(instance, "waiting_for")

    act(database, instance, "action_pause")

    waiting = database.read(instance, "waiting_for")
    assert waiting == "Somebody to resume it: its deliveries are paused."


def test_what_failed_for_good_waits_for_somebody_to_look_though_it_is_paused(
    database, make_instance
):
    instance = make_instance()
    end_as(database, instance, "failed", at="NULL")

    act(database, instance, "action_pause")

    assert "Somebody to look at the reason" in database.read(instance, "waiting_for")


def test_what_waits_for_a_pull_cluster_says_so(database, cluster, make_instance):
    instance = make_instance()
    make_pending(database, instance)
    mode = "UPDATE vworkspace_cluster SET connectivity_mode = %s WHERE id = %s"
    database.sql(mode, "pull", cluster.id)
    try:
        waiting = database.read(instance, "waiting_for")
    finally:
        database.sql(mode, "push", cluster.id)

    assert waiting.startswith("Test to be a Push cluster")


def test_what_a_list_waits_for_costs_no_query_for_each_line(database, make_instance):
    few = [make_instance(name=f"few-{n}").id for n in range(2)]
    many = [make_instance(name=f"many-{n}").id for n in range(8)]

    def queries(ids):
        with database.transaction() as env:
            before = env.cr.sql_log_count
            env[INSTANCE].browse(ids).read(["name", "waiting_for"])
            return env.cr.sql_log_count - before

    queries(few)  # what is cached for all
    assert queries(many) == queries(few)


def test_resuming_delivers_the_newest_intent(
    database, make_instance, deploy, control_plane, namespace
):
    instance = make_instance()
    deploy(instance)
    act(database, instance, "action_pause")
    for version in ("1.5.0", "1.6.0"):
        change(database, instance, chart_version=version)
        deploy(instance)

    act(database, instance, "action_resume")

    assert states(database, instance) == ["applied"]
    live = get_object(control_plane, namespace)
    assert live["spec"]["chart"]["version"] == "1.6.0"
    assert live["metadata"]["generation"] == 2


def test_a_deletion_waits_as_well(
    database, make_instance, deploy, control_plane, namespace
):
    instance = make_instance()
    deploy(instance)
    act(database, instance, "action_pause")

    act(database, instance, "action_delete_from_cluster")
    assert states(database, instance) == ["deleting"]
    assert "paused" in database.read(instance, "waiting_for")
    assert count_objects(control_plane, namespace) == 1
    act(database, instance, "action_resume")

    assert states(database, instance) == ["deleted"]


def test_others_are_delivered_meanwhile(database, make_instance, deploy):
    paused, other = make_instance(), make_instance(name="other")
    act(database, paused, "action_pause")
    make_pending(database, paused, other)

    database.run_cron("ir_cron_deliver")

    assert states(database, paused, other) == ["pending", "applied"]


def test_a_pause_that_comes_after_the_lock_is_heeded(
    database, cluster, make_instance, monkeypatch
):
    from odoo.addons.vworkspace_push.delivery import deliver

    instance = make_instance()
    make_pending(database, instance)
    act(database, instance, "action_pause")
    monkeypatch.setattr(deliver, "_lock_due", lambda *_args: instance.ids)
    spy = Spy(monkeypatch)

    handled = deliver.deliver(database.registry, INSTANCE, cluster.id)

    assert (handled, spy.sent) == (0, [])


def test_a_paused_cluster_holds_all_its_applications_back(
    database, paused_cluster, make_instance, deploy, monkeypatch
):
    instances = [make_instance(name=name) for name in ("one", "two")]
    before = database.read(paused_cluster, "waiting_count")
    spy = Spy(monkeypatch)

    for instance in instances:
        deploy(instance)
    database.run_cron("ir_cron_deliver")

    assert spy.sent == []
    assert states(database, *instances) == ["pending"] * 2
    waiting = database.read(instances[0], "waiting_for")
    assert waiting == "Somebody to resume Test: deliveries to it are paused."
    assert database.read(paused_cluster, "lane_state") == "paused"
    assert database.read(paused_cluster, "waiting_count") == before + 2

    act(database, paused_cluster, "action_resume")
    database.run_cron("ir_cron_deliver")

    assert states(database, *instances) == ["applied"] * 2
    assert database.read(paused_cluster, "lane_state") == "open"


def test_resuming_a_cluster_wakes_the_cron(database, paused_cluster):
    database.sql("DELETE FROM ir_cron_trigger")

    act(database, paused_cluster, "action_resume")

    assert database.sql(
        """SELECT trigger.id FROM ir_cron_trigger trigger
             JOIN ir_model_data data ON data.res_id = trigger.cron_id
            WHERE data.name = 'ir_cron_deliver'"""
    )


def test_pausing_and_resuming_is_in_the_audit_trail_once(
    database, cluster, make_instance
):
    instance = make_instance()
    before = len(audit(database, cluster, "action"))

    for method in ("action_pause", "action_pause", "action_resume", "action_resume"):
        act(database, instance, method)
        act(database, cluster, method)

    with database.transaction() as env:
        user = (env.uid, env.user.display_name)
    for record, start in ((instance, 0), (cluster, before)):
        entries = audit(database, record, "action", "user_id", "res_name")[start:]
        assert [entry["action"] for entry in entries] == ["pause", "resume"]
        assert {entry["user_id"] for entry in entries} == {user}
        assert entries[0]["res_name"] == record_name(database, record)


@pytest.mark.parametrize("method", ["action_pause", "action_resume"])
def test_a_viewer_may_not(database, cluster, make_instance, users, method):
    from odoo.exceptions import AccessError

    instance = make_instance()
    for record, login in [
        (instance, "viewer"),
        (cluster, "viewer"),
        (cluster, "operator"),
    ]:
        with pytest.raises(AccessError):
            act(database, record, method, login=login)
    act(database, instance, method, login="operator")


def test_a_pause_cannot_be_written_by_hand(database, cluster, make_instance):
    from odoo.exceptions import AccessError

    for record in (make_instance(), cluster):
        with pytest.raises(AccessError, match="cannot be written by hand"):
            change(database, record, is_paused=True)


# === FIXTURES AND HELPERS === #


@pytest.fixture
def paused_cluster(database, cluster):
    act(database, cluster, "action_pause")
    yield cluster
    act(database, cluster, "action_resume")


@pytest.fixture(scope="module")
def users(database):
    with database.transaction() as env:
        for role in ("viewer", "operator"):
            group = env.ref(f"vworkspace_push.group_{role}")
            env["res.users"].create(
                {"name": role, "login": role, "group_ids": [(6, 0, group.ids)]}
            )


def end_as(database, instance, state, *, at):
    make_pending(database, instance)
    database.sql(
        f"""UPDATE {TABLE} SET delivery_state = %s,
                   next_attempt_at = ({at}) AT TIME ZONE 'UTC' WHERE id = %s""",  # noqa: S608
        *(state, instance.id),
    )


def record_name(database, record):
    return database.read(record, "name")
