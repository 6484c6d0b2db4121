"""The API server fails while Odoo's cron delivers a batch."""

import pytest

from tests.faults.comparison import differences
from tests.faults.conftest import INSTANCE
from tests.live_objects import list_objects
from tests.waiting import eventually

BATCH = 150  # records; enough to fail in the midst of them
CONVERGENCE = 60.0  # s


def killed(control_plane, records):
    control_plane.kill()
    eventually(records.lane_is_open, what="the deliveries to be held back")
    control_plane.start()


def frozen(control_plane, records):
    """Connections stay and nothing answers; what was sent is still there later."""
    control_plane.freeze()
    try:
        eventually(records.lane_is_open, what="the deliveries to be held back")
    finally:
        control_plane.thaw()


def restarted(control_plane, _records):
    control_plane.restart()


@pytest.mark.parametrize("fail", [killed, frozen, restarted])
def test_an_api_server_that_fails_in_a_batch_ends_with_all_delivered_once(
    client, connection, control_plane, namespace, make_instances, records, fail
):
    ids = make_instances(BATCH)
    client.call(INSTANCE, "action_deploy", ids)  # wakes the cron, being so many
    begun = eventually(
        lambda: list_objects(control_plane, namespace),
        what="the first object of the batch",
    )
    assert len(begun) < BATCH, "it fails after the batch"

    fail(control_plane, records)
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
