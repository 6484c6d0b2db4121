"""Odoo dies between the commit of an intent and the outcome of its delivery."""

import contextlib
import threading

import requests

from tests.faults.comparison import differences
from tests.faults.conftest import INSTANCE
from tests.live_objects import list_objects
from tests.waiting import eventually

CONVERGENCE = 60.0  # s


def test_odoo_killed_before_the_apply_delivers_after_its_restart(
    odoo_server, client, connection, control_plane, namespace, make_instances, records
):
    delivered, new = make_instances(2)
    client.call(INSTANCE, "action_deploy", [delivered])
    client.call(INSTANCE, "write", [delivered], {"chart_version": "1.5.0"})
    control_plane.freeze()
    try:
        request = in_background(client, [delivered, new])
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


def test_odoo_killed_before_it_stores_the_outcome_keeps_the_one_object(
    odoo_server, client, connection, control_plane, namespace, make_instances, records
):
    ids = make_instances(1)
    control_plane.freeze()
    try:
        request = in_background(client, ids)
        wait_for_states(records, ids, "pending")
        held = records.hold(ids)  # so that the outcome cannot be stored
    finally:
        control_plane.thaw()
    (applied,) = eventually(
        lambda: list_objects(control_plane, namespace), what="the object to exist"
    )
    odoo_server.kill()
    request.join()
    held.close()
    assert records.states(ids) == ["pending"]

    odoo_server.start()
    records.run_due_cron()

    wait_for_states(records, ids, "applied")
    assert differences(connection, control_plane) == []
    (live,) = list_objects(control_plane, namespace)
    assert live["metadata"]["uid"] == applied["metadata"]["uid"]
    assert live["metadata"]["generation"] == 1


def in_background(client, ids):
    """Press Deploy; the answer may never come."""

    def deploy():
        with contextlib.suppress(requests.RequestException):
            client.call(INSTANCE, "action_deploy", ids)

    thread = threading.Thread(target=deploy)
    thread.start()
    return thread


def wait_for_states(records, ids, state):
    eventually(
        lambda: records.states(ids),
        what=f"all records to be {state}",
        equals=[state] * len(ids),
        timeout=CONVERGENCE,
    )
