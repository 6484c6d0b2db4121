"""A stream that a cluster refuses: its records say so, and only they."""

import pytest

from tests.integration.test_sink import adopt, ingest, mark_stale
from tests.live_objects import ready_status

FORBIDDEN = "Forbidden: applicationinstances may not be listed."
OTHER = "cut-off-other"  # a namespace


def test_the_records_of_a_refused_stream_say_why_and_no_others(
    database, cluster, refused, other
):
    refuse(database, cluster, refused, seconds_ago=30)

    assert FORBIDDEN in database.read(refused, "feed_problem")
    assert not database.read(other, "feed_problem")


def test_how_old_their_status_is_counts_from_then(database, cluster, refused, other):
    refuse(database, cluster, refused, seconds_ago=60)

    assert 50 < database.read(refused, "as_of_age") < 90
    assert database.read(other, "as_of_age") < 50


def test_of_a_cluster_as_a_whole_all_records_say_it(database, cluster, refused, other):
    hold(database, cluster, state="waiting", message="The credential does not open.")

    for record in (refused, other):
        assert "does not open" in database.read(record, "feed_problem")


def test_health_is_unknown_after_the_limit_and_back_with_the_stream(
    database, cluster, refused, other
):
    refuse(database, cluster, refused, seconds_ago=100)
    mark_stale(database)
    assert database.read(refused, "health") == "ready"

    refuse(database, cluster, refused, seconds_ago=150)
    mark_stale(database)
    stored = database.read(refused, "health", "health_message")
    assert stored["health"] == "unknown"
    assert "has not let Odoo read this" in stored["health_message"]
    assert database.read(other, "health") == "ready"
    note(database, cluster, refused, state="listing")
    mark_stale(database)
    assert database.read(refused, "health") == "unknown"

    note(database, cluster, refused, state="watching")
    mark_stale(database)
    assert database.read(refused, "health") == "ready"


def test_what_a_worker_that_is_gone_left_says_nothing(database, cluster, refused):
    refuse(database, cluster, refused, seconds_ago=150)
    database.sql(
        "UPDATE vworkspace_watch_lease SET holder = NULL, expires_at = NULL"
        " WHERE cluster_id = %s",
        cluster.id,
    )

    mark_stale(database)

    assert database.read(refused, "health") == "ready"
    assert not database.read(refused, "feed_problem")


def test_a_stream_waits_since_it_first_did(database, cluster, refused):
    note(database, cluster, refused, state="waiting")
    database.sql(
        "UPDATE vworkspace_watch_stream SET waiting_since = '2026-01-01 00:00:00'"
        " WHERE state = 'waiting'"
    )
    note(database, cluster, refused, state="listing")
    note(database, cluster, refused, state="waiting")
    assert since(database) == "2026-01-01 00:00:00"

    note(database, cluster, refused, state="watching")
    assert since(database) == "None"


# === FIXTURES AND HELPERS === #


@pytest.fixture
def refused(database, cluster, make_instance):
    """A ready application, the stream of whose namespace can be refused."""
    database.sql("DELETE FROM vworkspace_watch_stream")
    hold(database, cluster, state="watching")
    return ready(database, make_instance("refused"))


@pytest.fixture
def other(database, cluster, make_instance, refused):
    """A ready application in another namespace."""
    with database.transaction() as env:
        places = env["vworkspace.cluster.namespace"]
        values = {"cluster_id": cluster.id, "name": OTHER}
        place = places.search([("name", "=", OTHER)]) or places.create(values)
    name = f"other-{refused.id}"
    return ready(database, make_instance(name, namespace_id=place.id))


def ready(database, instance):
    """Let it have reported that it is ready, an hour ago."""
    adopt(database, instance)
    ingest(database, instance, status=ready_status(), version="100")
    database.sql(
        """UPDATE vworkspace_application_instance
              SET status_as_of = now() AT TIME ZONE 'UTC' - interval '1 hour'
            WHERE id = %s""",
        instance.id,
    )
    return instance


def hold(database, cluster, *, state, message=None):
    """Let a worker hold the cluster, and have heard of it just now."""
    database.sql(
        """INSERT INTO vworkspace_watch_lease
                       (cluster_id, epoch, holder, expires_at, last_contact, state,
                        message)
                VALUES (%s, 1, 'a-worker', now() AT TIME ZONE 'UTC' + interval '1 hour',
                        now() AT TIME ZONE 'UTC', %s, %s)
           ON CONFLICT (cluster_id)
                    DO UPDATE SET (epoch, holder, expires_at, last_contact, state,
                                   message)
                                = (1, 'a-worker', EXCLUDED.expires_at,
                                   EXCLUDED.last_contact, EXCLUDED.state,
                                   EXCLUDED.message)""",
        *(cluster.id, state, message),
    )


def refuse(database, cluster, instance, *, seconds_ago):
    """Let the stream of the instance's namespace be refused since then."""
    hold(database, cluster, state="waiting", message=FORBIDDEN)
    note(database, cluster, instance, state="waiting", message=FORBIDDEN)
    database.sql(
        """UPDATE vworkspace_watch_stream
              SET waiting_since = now() AT TIME ZONE 'UTC' - %s * interval '1 second'
            WHERE state = 'waiting'""",
        seconds_ago,
    )


def note(database, cluster, instance, *, state, message=""):
    """Let the worker note what the stream of the instance's namespace does."""
    from odoo.addons.vworkspace_push import transactions
    from odoo.addons.vworkspace_push.status import positions

    ((namespace,),) = database.sql(
        """SELECT namespace.name FROM vworkspace_application_instance instance
             JOIN vworkspace_cluster_namespace namespace
               ON namespace.id = instance.namespace_id WHERE instance.id = %s""",
        instance.id,
    )
    notes = {
        (kind, place): positions.Note("watch", *does, None, 0, 0)
        for kind, place, *does in (
            ("ApplicationInstance", namespace, state, message),
            ("ApplicationInstance", OTHER, "watching", ""),
        )
    }
    transactions.in_transaction(database.registry, positions.note, {cluster.id: notes})


def since(database):
    ((moment,),) = database.sql(
        "SELECT waiting_since FROM vworkspace_watch_stream WHERE namespace <> %s", OTHER
    )
    return str(moment)
