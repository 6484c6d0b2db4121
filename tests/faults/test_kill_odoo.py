"""Odoo dies at each step from the commit of an intent to the end of its delivery."""

import contextlib
import threading

import pytest
import requests

from tests.faults.comparison import differences
from tests.faults.conftest import INSTANCE
from tests.live_objects import get_object, list_objects
from tests.waiting import eventually

BATCH = 150  # records; enough to die in the midst of them
CONVERGENCE = 60.0  # s


def test_odoo_killed_before_the_apply_delivers_after_its_restart(
    odoo_server, client, connection, control_plane, namespace, make_instances, records
):
    delivered, new = make_instances(2)
    client.call(INSTANCE, "action_deploy", [delivered])
    client.call(INSTANCE, "write", [delivered], {"chart_version": "1.5.0"})
    control_plane.freeze()
    try:
        request = in_background(client, "action_deploy", [delivered, new])
        wait_for_states(records, [delivered, new], "pending")
        odoo_server.kill()
    finally:
        control_plane.thaw()
    request.join()
    assert records.states([delivered, new]) == ["pending", "pending"]

    odoo_server.start()
    records.run_due_cron()

    wait_for_states(records, [delivered, new], "applied")
    assert differences(connection, control_plane) == []
    assert len(list_objects(control_plane, namespace)) == 2


@pytest.mark.parametrize("earlier", [0, 1], ids=["created", "changed"])
def test_odoo_killed_before_it_stores_the_outcome_keeps_the_one_object(
    odoo_server,
    client,
    connection,
    control_plane,
    namespace,
    make_instances,
    records,
    earlier,
):
    ids = make_instances(1)
    for number in range(earlier):
        client.call(INSTANCE, "action_deploy", ids)
        client.call(INSTANCE, "write", ids, {"chart_version": f"1.5.{number}"})
    held = act_without_an_outcome(
        client, control_plane, records, "action_deploy", ids, "pending"
    )
    (applied,) = eventually(
        lambda: at_generation(list_objects(control_plane, namespace), 1 + earlier),
        what="the object to be as it is wanted",
    )
    odoo_server.kill()
    held.close()
    assert records.states(ids) == ["pending"]

    odoo_server.start()
    records.run_due_cron()

    wait_for_states(records, ids, "applied")
    assert differences(connection, control_plane) == []
    (live,) = list_objects(control_plane, namespace)
    assert live["metadata"]["uid"] == applied["metadata"]["uid"]
    assert live["metadata"]["generation"] == 1 + earlier


def test_odoo_killed_after_the_outcome_sends_nothing_again(
    odoo_server, client, connection, control_plane, namespace, make_instances, records
):
    ids = make_instances(1)
    request = in_background(client, "action_deploy", ids)
    wait_for_states(records, ids, "applied")
    odoo_server.kill()
    request.join()

    odoo_server.start()
    records.run_due_cron()

    eventually(records.cron_has_run, what="the cron to run")
    assert differences(connection, control_plane) == []
    assert attempts(records, ids) == [1]


def test_odoo_killed_in_the_midst_of_a_batch_delivers_the_rest_once(
    odoo_server, client, connection, control_plane, namespace, make_instances, records
):
    ids = make_instances(BATCH)
    client.call(INSTANCE, "action_deploy", ids)
    eventually(
        lambda: list_objects(control_plane, namespace),
        what="the first object of the batch",
    )
    odoo_server.kill()
    assert "pending" in records.states(ids), "it died after the batch"

    odoo_server.start()
    records.run_due_cron()

    wait_for_states(records, ids, "applied")
    assert differences(connection, control_plane) == []
    live = list_objects(control_plane, namespace)
    assert {obj["metadata"]["generation"] for obj in live} == {1}


def test_odoo_killed_while_it_deletes_finishes_after_its_restart(
    odoo_server, client, connection, control_plane, namespace, make_instances, records
):
    ids = make_instances(2)
    client.call(INSTANCE, "action_deploy", ids)
    held = act_without_an_outcome(
        *(client, control_plane, records, "action_delete_from_cluster"),
        *(ids[:1], "deleting"),
    )
    eventually(
        lambda: len(list_objects(control_plane, namespace)) == 1,
        what="the object to be gone",
    )
    odoo_server.kill()
    held.close()
    assert records.states(ids) == ["deleting", "applied"]

    odoo_server.start()
    records.run_due_cron()

    wait_for_states(records, ids[:1], "deleted")
    assert differences(connection, control_plane) == []
    assert get_object(control_plane, namespace, "wiki-1")


# === HELPERS === #


def in_background(client, button, ids):
    """Press a button; the answer may never come."""

    def press():
        with contextlib.suppress(requests.RequestException):
            client.call(INSTANCE, button, ids)

    thread = threading.Thread(target=press)
    thread.start()
    return thread


def act_without_an_outcome(client, control_plane, records, button, ids, state):
    """Press a button and let the API server act on it, but Odoo store no outcome.

    :param state: in which the records are while they are delivered
    :return: close it to let outcomes be stored again
    """
    control_plane.freeze()
    try:
        in_background(client, button, ids)
        wait_for_states(records, ids, state)
        eventually(
            lambda: (
                not records.query(
                    """SELECT id FROM vworkspace_application_instance
                    WHERE id = ANY(%s) AND uid IS NULL AND may_exist IS NOT TRUE""",
                    ids,
                )
            ),
            what="the records to say that their objects may exist",
        )
        return records.hold(ids)
    finally:
        control_plane.thaw()


def at_generation(objects, generation):
    return [o for o in objects if o["metadata"]["generation"] == generation]


def attempts(records, ids):
    """Return how often each record was delivered since it was last intended."""
    rows = records.query(
        """SELECT delivery_attempts FROM vworkspace_application_instance
            WHERE id = ANY(%s) ORDER BY id""",
        ids,
    )
    return [count for (count,) in rows]


def wait_for_states(records, ids, state):
    eventually(
        lambda: records.states(ids),
        what=f"all records to be {state}",
        equals=[state] * len(ids),
        timeout=CONVERGENCE,
    )
