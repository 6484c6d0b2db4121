"""What the writer changes is told at once, then gathered; and all of it is told."""

import json

import pytest

from tests.integration.test_sink import read_committed

INSTANCE = "vworkspace.application.instance"
OPERATION = "vworkspace.operation"


def test_the_first_change_is_told_at_once_and_others_after_a_while(change, told, clock):
    change(INSTANCE, 1)
    change(INSTANCE, 2)
    change(INSTANCE, 3)
    assert told() == [(INSTANCE, [1])]

    clock.now += 0.3
    change(INSTANCE, 4)

    assert told() == [(INSTANCE, [1]), (INSTANCE, [2, 3, 4])]


def test_what_waits_is_told_although_nothing_else_changes(
    change, told, tell, updates, clock
):
    change(INSTANCE, 1)
    assert updates.until_due() == float("inf")
    change(INSTANCE, 2)
    assert updates.until_due() == 0.25

    clock.now += 0.25
    assert updates.until_due() == 0
    tell()

    assert told() == [(INSTANCE, [1]), (INSTANCE, [2])]
    assert updates.until_due() == float("inf")


def test_one_model_does_not_wait_for_another(change, told):
    change(INSTANCE, 1)
    change(OPERATION, 2)

    assert told() == [(INSTANCE, [1]), (OPERATION, [2])]


def test_what_is_not_committed_is_not_told_and_not_forgotten(change, told, tell, clock):
    change(INSTANCE, 1)
    change(INSTANCE, 2)
    clock.now += 0.3

    with pytest.raises(ZeroDivisionError):
        change(INSTANCE, 3, fails=True)
    assert told() == [(INSTANCE, [1])]
    tell()

    assert told() == [(INSTANCE, [1]), (INSTANCE, [2])]


def test_at_the_end_all_that_waits_is_told(change, told, tell, updates):
    change(INSTANCE, 1)
    change(INSTANCE, 2)

    tell(all_of_it=True)

    assert told() == [(INSTANCE, [1]), (INSTANCE, [2])]
    assert updates.until_due() == float("inf")


# === FIXTURES === #


@pytest.fixture
def updates(odoo_in_process, clock):
    from odoo.addons.vworkspace_push.status.updates import Updates

    return Updates(clock)


@pytest.fixture
def change(database, updates):
    """Return a function that changes a record in a transaction, as the writer does."""

    def run(model, id_, *, fails=False):
        with read_committed(database) as env:
            env[model].browse(id_)._notify_updated()
            settled = updates.settle(env)
            if fails:
                raise ZeroDivisionError
        updates.settled(*settled)

    return run


@pytest.fixture
def tell(database, updates):
    def run(**options):
        with read_committed(database) as env:
            settled = updates.settle(env, **options)
        updates.settled(*settled)

    return run


@pytest.fixture
def told(database):
    """Return a function that returns which records open views were told of."""
    database.sql("DELETE FROM bus_bus")

    def read():
        rows = database.sql("SELECT message FROM bus_bus ORDER BY id")
        payloads = [json.loads(text)["payload"] for (text,) in rows]
        return [(payload["model"], payload["ids"]) for payload in payloads]

    return read
