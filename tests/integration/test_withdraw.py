"""What was asked for and has not reached its cluster: taken back, or kept as long as it
may have arrived."""

import threading

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
    revisions,
    states,
)
from tests.dialogs import open_dialog
from tests.live_objects import create_object, get_object, list_objects
from tests.registration import Spy

# === ANOTHER NAME OR PLACE === #


def test_what_gets_another_name_before_it_is_delivered_is_not_sent_under_the_old_one(
    database, paused, control_plane, namespace
):
    change(database, paused, name="blog")
    act(database, paused, "action_resume")
    database.run_cron("ir_cron_deliver")

    assert states(database, paused) == ["draft"]
    assert count_objects(control_plane, namespace) == 0
    act(database, paused, "action_deploy")
    (live,) = list_objects(control_plane, namespace)
    assert live["metadata"]["name"] == "blog"
    assert database.read(paused, "uid") == live["metadata"]["uid"]


def test_what_goes_elsewhere_before_it_is_delivered_is_not_sent_there_as_it_was(
    database, cluster, paused, monkeypatch
):
    with database.transaction() as env:
        elsewhere = env["vworkspace.cluster.namespace"].create(
            {"cluster_id": cluster.id, "name": "elsewhere"}
        )
    spy = Spy(monkeypatch)

    change(database, paused, namespace_id=elsewhere.id)
    act(database, paused, "action_resume")
    database.run_cron("ir_cron_deliver")

    assert (states(database, paused), spy.sent) == (["draft"], [])


def test_the_same_name_again_or_other_values_take_nothing_back(
    database, paused, cluster
):
    change(database, paused, name="wiki", cluster_id=cluster.id, values_yaml="a: 1\n")

    assert states(database, paused) == ["pending"]


def test_what_was_denied_and_is_renamed_is_not_tried_again(
    database, make_instance, control_plane, namespace
):
    instance = make_instance()
    make_pending(database, instance)
    database.sql(
        f"UPDATE {TABLE} SET delivery_state = 'denied', delivery_reason = 'Forbidden'"  # noqa: S608
        " WHERE id = %s",
        instance.id,
    )

    change(database, instance, name="blog")
    become_due(database, instance)
    database.run_cron("ir_cron_deliver")

    stored = database.read(instance, "delivery_state", "delivery_reason")
    assert (stored["delivery_state"], stored["delivery_reason"]) == ("draft", False)
    assert count_objects(control_plane, namespace) == 0


# === WITHDRAW === #


def test_what_is_withdrawn_is_not_sent_any_more(
    database, paused, control_plane, namespace
):
    act(database, paused, "action_withdraw")
    act(database, paused, "action_resume")
    database.run_cron("ir_cron_deliver")

    stored = database.read(paused, "delivery_state", "next_attempt_at", "waiting_for")
    assert (stored["delivery_state"], stored["next_attempt_at"]) == ("draft", False)
    assert stored["waiting_for"] == "Its deployment: nothing is sent until then."
    assert count_objects(control_plane, namespace) == 0
    (revision,) = revisions(database, paused, "outcome", "finished_at")
    assert revision["outcome"] == "withdrawn"
    assert revision["finished_at"]
    actions = [entry["action"] for entry in audit(database, paused, "action")]
    assert actions == ["pause", "withdraw", "resume"]


def test_what_is_in_its_cluster_is_not_withdrawn(database, make_instance, deploy):
    from odoo.exceptions import UserError

    instance = make_instance()
    deploy(instance)

    with pytest.raises(UserError, match="nothing to withdraw"):
        act(database, instance, "action_withdraw")


def test_a_viewer_may_not_withdraw(database, paused, viewer):
    from odoo.exceptions import AccessError

    with pytest.raises(AccessError):
        act(database, paused, "action_withdraw", login=viewer)


def test_what_was_replaced_before_it_was_sent_says_so(database, paused):
    change(database, paused, chart_version="1.5.0")
    act(database, paused, "action_deploy")
    waiting = [row["outcome"] for row in revisions(database, paused, "outcome")]

    act(database, paused, "action_resume")

    assert waiting == ["overtaken", "pending"]
    ended = [row["outcome"] for row in revisions(database, paused, "outcome")]
    assert ended == ["overtaken", "applied"]


def test_what_waits_for_its_first_delivery_can_be_deleted_or_forgotten(
    database, paused, make_instance
):
    act(database, paused, "unlink")
    other = make_instance()
    act(database, other, "action_pause")
    act(database, other, "action_deploy")

    dialog = open_dialog(database, other, "action_open_forget")
    dialog.fill(reason="Not wanted.")
    dialog.press("action_forget")

    assert states(database, other) == ["deleted"]
    (revision,) = revisions(database, other, "outcome")
    assert revision["outcome"] == "withdrawn"


# === ON ITS WAY RIGHT NOW === #


@pytest.mark.parametrize(
    ("method", "arguments"),
    [("unlink", ()), ("write", ({"name": "blog"},)), ("action_withdraw", ())],
)
def test_what_is_on_its_way_right_now_stays(
    database, make_instance, control_plane, namespace, monkeypatch, method, arguments
):
    """Whoever waited for the deliverer, with the record locked, would wait for ever."""
    from psycopg2 import Error

    from odoo.exceptions import UserError

    from odoo.addons.vworkspace_push.kube import apply

    instance = make_instance()
    make_pending(database, instance)
    database.sql(
        f"UPDATE {TABLE} SET delivery_state = 'failed' WHERE id = %s",  # noqa: S608
        instance.id,
    )
    real_apply = apply.apply
    refusals = []

    def interfere():
        try:
            with database.transaction() as env:
                env.cr.execute("SET LOCAL lock_timeout = '5s'")
                getattr(env[INSTANCE].browse(instance.ids), method)(*arguments)
        except (UserError, Error) as exc:
            refusals.append(exc)

    def apply_meanwhile(*positional, **keywords):
        other = threading.Thread(target=interfere)
        other.start()
        other.join(30)
        return real_apply(*positional, **keywords)

    monkeypatch.setattr(apply, "apply", apply_meanwhile)
    database.run_cron("ir_cron_deliver")

    (refusal,) = refusals
    assert isinstance(refusal, UserError)
    assert "under way right now" in str(refusal)
    assert states(database, instance) == ["applied"]
    assert get_object(control_plane, namespace)["metadata"]["uid"]


# === WHAT MAY HAVE ARRIVED === #


def test_what_may_have_arrived_is_neither_deleted_nor_renamed_nor_withdrawn(
    database, unanswered, control_plane, namespace
):
    from odoo.exceptions import UserError

    stored = database.read(unanswered, "delivery_state", "uid", "may_exist")
    assert (stored["delivery_state"], stored["uid"]) == ("failed", False)
    assert stored["may_exist"] is True
    assert count_objects(control_plane, namespace) == 1

    for method, *arguments in [
        ("unlink",),
        ("write", {"name": "blog"}),
        ("action_withdraw",),
    ]:
        with pytest.raises(UserError, match="may have reached its cluster"):
            database.call("admin", INSTANCE, method, unanswered.ids, *arguments)


def test_deploying_now_finds_out_what_arrived(
    database, unanswered, deploy, control_plane, namespace
):
    from odoo.exceptions import UserError

    deploy(unanswered)

    stored = database.read(unanswered, "delivery_state", "uid", "may_exist")
    live = get_object(control_plane, namespace)
    assert stored["delivery_state"] == "applied"
    assert (stored["uid"], stored["may_exist"]) == (live["metadata"]["uid"], False)
    with pytest.raises(UserError, match="Delete from Cluster"):
        act(database, unanswered, "unlink")


def test_an_answer_that_is_lost_while_a_newer_intent_is_saved_counts_as_well(
    database, make_instance, lose_answers, monkeypatch
):
    from odoo.addons.vworkspace_push.delivery import deliver
    from odoo.addons.vworkspace_push.kube import apply

    instance = make_instance()
    real_apply = apply.apply

    def edit_meanwhile(*positional, **keywords):
        change(database, instance, chart_version="1.5.0")
        make_pending(database, instance)
        return real_apply(*positional, **keywords)

    monkeypatch.setattr(apply, "apply", edit_meanwhile)
    monkeypatch.setattr(deliver, "PASSES", 1)
    with lose_answers():
        act(database, instance, "action_deploy")

    stored = database.read(instance, "delivery_state", "intent_revision", "may_exist")
    assert (stored["delivery_state"], stored["intent_revision"]) == ("pending", 2)
    assert stored["may_exist"] is True


def test_once_the_name_is_another_ones_it_is_free_to_change(
    database, unanswered, deploy, control_plane, namespace
):
    control_plane.kubectl("delete", "applicationinstance", "wiki", "-n", namespace)
    create_object(control_plane, namespace, "wiki")
    deploy(unanswered)
    assert states(database, unanswered) == ["denied"]

    change(database, unanswered, name="blog")
    deploy(unanswered)

    assert states(database, unanswered) == ["applied"]
    names = [obj["metadata"]["name"] for obj in list_objects(control_plane, namespace)]
    assert sorted(names) == ["blog", "wiki"]


def test_what_may_have_arrived_is_forgotten_by_an_administrator(database, unanswered):
    dialog = open_dialog(database, unanswered, "action_open_forget")
    dialog.fill(reason="The cluster was taken down.")
    dialog.press("action_forget")

    act(database, unanswered, "unlink")


def test_what_may_have_arrived_cannot_be_claimed_not_to(database, unanswered):
    from odoo.exceptions import AccessError

    with pytest.raises(AccessError, match="cannot be written by hand"):
        change(database, unanswered, may_exist=False)


# === FIXTURES === #


@pytest.fixture
def paused(database, make_instance, deploy):
    """An application whose first delivery waits for somebody to resume it."""
    instance = make_instance()
    act(database, instance, "action_pause")
    deploy(instance)
    return instance


@pytest.fixture
def unanswered(database, make_instance, deploy, lose_answers):
    """An application whose object was made, and whose deliverer never heard of it."""
    instance = make_instance()
    with lose_answers():
        deploy(instance)
    return instance


@pytest.fixture(scope="module")
def viewer(database):
    with database.transaction() as env:
        group = env.ref("vworkspace_push.group_viewer")
        env["res.users"].create(
            {"name": "viewer", "login": "viewer", "group_ids": [(6, 0, group.ids)]}
        )
    return "viewer"
