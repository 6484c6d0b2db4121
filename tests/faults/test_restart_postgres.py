"""PostgreSQL goes away while Odoo delivers a batch."""

import contextlib

import pytest

from tests.faults.comparison import differences
from tests.faults.conftest import DATABASE, INSTANCE, Records
from tests.live_objects import list_objects
from tests.waiting import eventually

BATCH = 500  # records; enough to be interrupted in the midst of them
CONVERGENCE = 60.0  # s


@pytest.mark.expect_log("")  # Odoo's own words are many
def test_a_postgres_restarted_in_a_batch_ends_with_all_delivered_once(
    odoo_server, client, control_plane, namespace, make_instances, postgres
):
    ids = make_instances(BATCH)
    client.call(INSTANCE, "action_deploy", ids)
    eventually(
        lambda: list_objects(control_plane, namespace),
        what="the first object of the batch",
    )

    postgres.restart()
    odoo_server.stop()  # its cron threads may have ended with their connections
    odoo_server.start()

    with contextlib.closing(postgres.connect(DATABASE)) as connection:
        connection.autocommit = True
        records = Records(connection, postgres)
        assert "pending" in records.states(ids), "it was restarted after the batch"
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
