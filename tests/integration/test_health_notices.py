"""Telling people what degraded, failed or is blocked: once, whom it concerns."""

import pytest

from tests.integration.test_sink import in_transaction

INSTANCE = "vworkspace.application.instance"
NOTICE = "vworkspace.health.notice"


# === WHO IS TOLD WHAT === #


def test_followers_of_the_subtype_are_told_and_others_are_not(database, instance):
    follow(database, instance, "demo", subtypes=["mt_instance_degraded"])
    follow(database, instance, "portal_like", subtypes=["mt_instance_blocked"])

    become(database, instance, "degraded", "Two of five replicas are gone.")
    database.run_cron("ir_cron_notify")

    (message,) = told(database, instance)
    assert message["subtype"] == "Degraded"
    assert "Two of five replicas are gone." in message["body"]
    assert message["notified"] == ["demo"]


def test_the_responsible_user_has_one_activity_until_it_is_well_again(
    database, instance
):
    become(database, instance, "degraded")
    database.run_cron("ir_cron_notify")
    become(database, instance, "failed")
    let_time_pass(database, instance)
    database.run_cron("ir_cron_notify")

    assert activities(database, instance) == ["admin"]

    become(database, instance, "ready")
    database.run_cron("ir_cron_notify")

    assert activities(database, instance) == []


def test_an_activity_that_somebody_made_by_hand_stays(database, instance):
    with database.transaction() as env:
        record = env[INSTANCE].browse(instance.ids)
        record.activity_schedule(
            "mail.mail_activity_data_todo", automated=False, user_id=env.uid
        )
    become(database, instance, "failed")
    database.run_cron("ir_cron_notify")
    become(database, instance, "ready")
    database.run_cron("ir_cron_notify")

    assert len(activities(database, instance)) == 1


def test_markup_of_a_cluster_is_told_as_text(database, instance):
    become(database, instance, "failed", "<script>alert(1)</script>")
    database.run_cron("ir_cron_notify")

    (message,) = told(database, instance)
    assert "<script>" not in message["body"]
    assert "&lt;script&gt;" in message["body"]


# === NO STORM === #


def test_a_record_that_flaps_is_told_of_once(database, instance):
    for _ in range(5):
        become(database, instance, "degraded")
        database.run_cron("ir_cron_notify")
        become(database, instance, "ready")
        database.run_cron("ir_cron_notify")

    assert len(told(database, instance)) == 1


def test_what_is_still_unwell_later_is_told_of_again(database, instance):
    for health in ("degraded", "ready", "degraded"):
        become(database, instance, health)
        database.run_cron("ir_cron_notify")
    assert len(told(database, instance)) == 1

    let_time_pass(database, instance)
    database.run_cron("ir_cron_notify")

    assert len(told(database, instance)) == 2


def test_what_recovers_before_it_was_told_of_is_not_told_of(database, instance):
    become(database, instance, "degraded")
    become(database, instance, "ready")
    database.run_cron("ir_cron_notify")

    assert told(database, instance) == []


def test_a_cluster_that_cannot_be_reached_is_nobodys_news(database, instance):
    become(database, instance, "degraded")
    database.run_cron("ir_cron_notify")

    become(database, instance, "unknown")
    let_time_pass(database, instance)
    become(database, instance, "degraded")
    database.run_cron("ir_cron_notify")

    assert len(told(database, instance)) == 1
    assert activities(database, instance) == ["admin"]


def test_hundreds_of_changes_take_a_handful_of_queries(database, instance):
    from odoo.addons.vworkspace_push.status import notify

    changes = [(10_000 + n, "ready", "failed", "Gone.") for n in range(300)]
    with database.transaction() as env:
        env["ir.cron"].search([])  # what any transaction loads
        before = env.cr.sql_log_count
        notify.health_changed(env, INSTANCE, changes)
        env.flush_all()
        asked = env.cr.sql_log_count - before
        env.cr.rollback()
    assert asked <= 12


@pytest.mark.expect_log("could not be told")
def test_one_that_cannot_be_told_of_does_not_stop_the_others(
    database, instance, make_instance
):
    other = make_instance("other")
    become(database, instance, "failed")
    become(database, other, "failed")
    database.sql(
        "UPDATE vworkspace_health_notice SET res_model = 'no.such' WHERE res_id = %s",
        instance.id,
    )

    database.run_cron("ir_cron_notify")

    assert len(told(database, other)) == 1


# === HELPERS === #


@pytest.fixture
def instance(database, make_instance):
    yield make_instance()
    database.sql("DELETE FROM vworkspace_health_notice")


def become(database, instance, health, message="Because."):
    """Let the record's health change, as the sink does."""
    previous = database.read(instance, "health")
    in_transaction(database, _change, instance.id, previous, health, message)


def _change(env, id_, previous, health, message):
    from odoo.addons.vworkspace_push.status import notify

    record = env[INSTANCE].browse(id_)
    record._writer().write({"health": health, "health_message": message})
    notify.health_changed(env, INSTANCE, [(id_, previous, health, message)])


def let_time_pass(database, instance):
    """Let the last message be long ago."""
    database.sql(
        """UPDATE vworkspace_health_notice
              SET told_at = told_at - interval '1 day',
                  due_at = due_at - interval '1 day'
            WHERE res_id = %s""",
        instance.id,
    )


def follow(database, instance, login, *, subtypes):
    with database.transaction() as env:
        user = env["res.users"].search([("login", "=", login)])
        if not user:
            user = env["res.users"].create({"login": login, "name": login.title()})
        chosen = [env.ref(f"vworkspace_push.{name}").id for name in subtypes]
        record = env[INSTANCE].browse(instance.ids)
        record.message_subscribe(user.partner_id.ids, chosen)


def told(database, instance):
    with database.transaction() as env:
        messages = (
            env[INSTANCE]
            .browse(instance.ids)
            .message_ids.filtered(lambda m: m.subtype_id.res_model == INSTANCE)
        )
        return [
            {
                "subtype": message.subtype_id.name,
                "body": message.body,
                "notified": message.notified_partner_ids.user_ids.mapped("login"),
            }
            for message in messages
        ]


def activities(database, instance):
    with database.transaction() as env:
        record = env[INSTANCE].browse(instance.ids)
        return record.activity_ids.user_id.mapped("login")
