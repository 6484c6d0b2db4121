"""The delivery cron runs in time, not only when Odoo next looks for triggers."""

import select
import time
from datetime import timedelta

import pytest

from tests.deliveries import make_pending

SOON = 1  # s; Odoo's own cron threads look once a minute
PATIENCE = 20.0  # s


@pytest.fixture
def wakings(database, postgres):
    """Return a function that waits for the cron threads to be told of the database.

    It returns what they were told, or nothing. The channel is the whole server's: what
    other tests' databases still have to say does not count.
    """
    connection = postgres.connect("postgres")
    connection.autocommit = True
    with connection.cursor() as cr:
        cr.execute("LISTEN cron_trigger")

    def wait(timeout=PATIENCE):
        deadline = time.monotonic() + timeout
        told = []
        while not told and (remaining := deadline - time.monotonic()) > 0:
            select.select([connection], [], [], remaining)
            connection.poll()
            payloads = [notification.payload for notification in connection.notifies]
            connection.notifies.clear()
            told = [payload for payload in payloads if payload == database.name]
        return told

    yield wait
    connection.close()


def test_a_trigger_that_is_seconds_away_wakes_the_cron_threads(database, wakings):
    from odoo import fields

    from odoo.addons.vworkspace_push.delivery import waker

    with database.transaction() as env:
        waker.trigger(env, fields.Datetime.now() + timedelta(seconds=SOON))

    assert wakings() == [database.name]


def test_a_later_trigger_is_not_lost_behind_an_earlier_one(database, wakings):
    from odoo import fields

    from odoo.addons.vworkspace_push.delivery import waker

    for seconds in (SOON, 3 * SOON):
        with database.transaction() as env:
            waker.trigger(env, fields.Datetime.now() + timedelta(seconds=seconds))

    assert wakings() == [database.name]
    assert wakings() == [database.name]


def test_a_trigger_that_is_rolled_back_wakes_nobody(database, wakings):
    from odoo import fields

    from odoo.addons.vworkspace_push.delivery import waker

    with database.transaction() as env:
        waker.trigger(env, fields.Datetime.now() + timedelta(seconds=SOON))
        env.cr.rollback()

    assert wakings(timeout=3 * SOON) == []


@pytest.mark.expect_log("Drift could not be healed")
def test_a_failure_while_healing_holds_up_no_delivery(
    database, make_instance, monkeypatch
):
    instance = make_instance()
    make_pending(database, instance)
    model = database.registry[instance._name]
    monkeypatch.setattr(model, "_heal_due", _fail)

    database.run_cron("ir_cron_deliver")

    assert database.read(instance, "delivery_state") == "applied"


def _fail(_self):
    raise RuntimeError("out of order")
