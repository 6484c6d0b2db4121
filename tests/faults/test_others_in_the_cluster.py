"""Others work in the cluster against us: namespaces go, rivals write."""

import itertools
import threading

import pytest

from environment.progress import Failure
from tests.faults.comparison import differences
from tests.faults.conftest import INSTANCE
from tests.live_objects import COLLECTION, get_object
from tests.waiting import eventually

RIVAL = "rival"
COUNT = "rival.example.com/count"  # an annotation of the rival's own
EVERY = 1.0  # s between two writes of the rival
FLIPS = 6  # of its writes, after which it stops
CONVERGENCE = 60.0  # s


def test_a_namespace_deleted_under_us_is_told_and_nothing_comes_back_by_itself(
    client, connection, control_plane, namespace, make_instances, records
):
    ids = make_instances(1)
    client.call(INSTANCE, "action_deploy", ids)
    control_plane.request("DELETE", f"/api/v1/namespaces/{namespace}")
    control_plane.restart_controllers()  # servers were killed in the tests before
    eventually(
        lambda: not exists(control_plane, f"/api/v1/namespaces/{namespace}"),
        what="the namespace to be gone",
        timeout=CONVERGENCE,
    )

    client.call(INSTANCE, "write", ids, {"chart_version": "1.5.0"})
    client.call(INSTANCE, "action_deploy", ids)

    # Our rights went with it, so the server does not say more.
    assert records.states(ids) == ["denied"]
    assert "cannot patch resource" in told(client, ids)
    control_plane.create_namespace(namespace)
    control_plane.grant([namespace])
    records.run_due_cron()
    eventually(lambda: records.states(ids), what="the loss", equals=["lost"])
    assert not exists(control_plane, f"{COLLECTION.format(namespace)}/wiki-0")
    client.call(INSTANCE, "action_forget_lost", ids)
    client.call(INSTANCE, "action_deploy", ids)
    assert records.states(ids) == ["applied"]
    assert differences(connection, control_plane) == []


@pytest.mark.expect_log("could not serialize access")  # Odoo tries again
def test_a_rival_that_keeps_overwriting_a_field_ends_in_agreement(
    client, connection, control_plane, namespace, make_instances, records, watch_worker
):
    ids = make_instances(1, heal_mode="on")
    client.call(INSTANCE, "action_deploy", ids)
    replicas = itertools.count(2)
    with Rival(control_plane, namespace) as rival:
        while rival.busy:
            eventually(
                lambda: drifted(records, ids) or not rival.busy,
                what="the drift to be seen",
            )
            records.run_due_cron()
            values = f"replicas: {next(replicas)}\n"
            client.call(INSTANCE, "write", ids, {"values_yaml": values})
            client.call(INSTANCE, "action_deploy", ids)
            if records.states(ids) == ["conflict"]:
                take_over(client, ids)
    last = get_object(control_plane, namespace, "wiki-0")
    assert last["spec"]["integrations"]["certManager"] == {"enabled": True}
    assert last["metadata"]["annotations"][COUNT] == str(FLIPS)

    if records.states(ids) == ["conflict"]:
        take_over(client, ids)
    eventually(
        lambda: records.run_due_cron() or version(control_plane, namespace),
        what="the drift to be healed",
        equals="1.4.2",
        timeout=CONVERGENCE,
    )
    eventually(
        lambda: not drifted(records, ids) and records.states(ids) == ["applied"],
        what="the record to say so",
    )

    live = get_object(control_plane, namespace, "wiki-0")
    # What is the rival's alone is as it was.
    assert live["spec"]["integrations"] == last["spec"]["integrations"]
    assert live["metadata"]["annotations"][COUNT] == str(FLIPS)
    assert {"deploy", "heal", "observe"} <= audited(records, ids)
    rival.write({"spec": {"integrations": None}})
    assert differences(connection, control_plane) == []


# === HELPERS === #


class Rival:
    """Somebody who writes a version of their own, and fields of their own, for long."""

    def __init__(self, control_plane, namespace):
        self._control_plane = control_plane
        self._path = f"{COLLECTION.format(namespace)}/wiki-0"
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_exception):
        self._stopped.set()
        self._thread.join(10)

    @property
    def busy(self):
        return self._thread.is_alive()

    def write(self, changes):
        self._control_plane.request(
            *("PATCH", self._path),
            body=changes,
            query={"fieldManager": RIVAL},
            content_type="application/merge-patch+json",
        )

    def _run(self):
        for count in range(1, FLIPS + 1):
            self.write(
                {
                    "metadata": {"annotations": {COUNT: str(count)}},
                    "spec": {
                        "chart": {"version": f"6.0.{count}"},
                        "integrations": {"certManager": {"enabled": True}},
                    },
                }
            )
            if self._stopped.wait(EVERY):
                return


def exists(control_plane, path):
    try:
        return bool(control_plane.request("GET", path))
    except Failure:
        return False


def told(client, ids):
    (row,) = client.call(INSTANCE, "read", ids, ["delivery_message"])
    return row["delivery_message"]


def take_over(client, ids):
    """Decide each conflict for us, as an operator does in the dialog."""
    action = client.call(INSTANCE, "action_open_conflicts", ids)
    dialog = (action["res_model"], [action["res_id"]])
    (row,) = client.call(dialog[0], "read", dialog[1], ["line_ids"])
    decided = {"decision": "take_over", "reason": "Agreed."}
    lines = [(1, line, decided) for line in row["line_ids"]]
    client.call(dialog[0], "write", dialog[1], {"line_ids": lines})
    client.call(dialog[0], "action_apply", dialog[1])


def drifted(records, ids):
    rows = records.query(
        """SELECT 1 FROM vworkspace_application_instance
            WHERE id = ANY(%s) AND is_drifted""",
        ids,
    )
    return bool(rows)


def version(control_plane, namespace):
    live = get_object(control_plane, namespace, "wiki-0")
    return live["spec"]["chart"]["version"]


def audited(records, ids):
    rows = records.query(
        """SELECT DISTINCT action FROM vworkspace_audit_entry
            WHERE res_model = %s AND res_id = ANY(%s)""",
        *(INSTANCE, ids),
    )
    return {action for (action,) in rows}
