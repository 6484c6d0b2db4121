"""The API server dies while Odoo's cron delivers a batch."""

from tests.faults.comparison import differences
from tests.faults.conftest import INSTANCE
from tests.live_objects import list_objects
from tests.waiting import eventually

BATCH = 150  # records; enough to be killed in the midst of them
CONVERGENCE = 60.0  # s


def test_an_api_server_killed_in_a_batch_ends_with_all_delivered_once(
    client, connection, control_plane, namespace, make_instances, records
):
    ids = make_instances(BATCH)
    client.call(INSTANCE, "action_deploy", ids)  # wakes the cron, being so many
    eventually(
        lambda: list_objects(control_plane, namespace),
        what="the first object of the batch",
    )
    control_plane.kill()
    eventually(
        lambda: "failed" in records.states(ids), what="the rest of the batch to fail"
    )

    control_plane.start()
    records.run_due_cron()

    eventually(
        lambda: records.states(ids),
        what="all records to be applied",
        equals=["applied"] * BATCH,
        timeout=CONVERGENCE,
    )
    assert differences(connection, control_plane) == []
    live = list_objects(control_plane, namespace)
    assert {obj["metadata"]["generation"] for obj in live} == {1}
