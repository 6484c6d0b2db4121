"""The one door for status: ordered, idempotent, bounded, whoever feeds it."""

import json

import pytest

from tests.live_objects import condition, degraded_status, ready_status

KIND = "ApplicationInstance"


# === ORDER AND REPETITION === #


def test_a_status_reaches_the_record_with_conditions_and_endpoints(database, adopted):
    ingest(database, adopted, status=ready_status(), version="100")

    stored = database.read(
        *(adopted, "health", "observed_generation", "observed_resource_version"),
        *("status_as_of", "endpoint_url"),
    )
    assert stored["health"] == "ready"
    assert stored["observed_generation"] == 1
    assert stored["observed_resource_version"] == "100"
    assert stored["status_as_of"]
    assert stored["endpoint_url"] == "https://wiki.example.com/"
    assert conditions(database, adopted) == {"Ready": "True"}


def test_an_older_version_is_ignored(database, adopted):
    ingest(database, adopted, status=degraded_status(), version="100")

    ingest(database, adopted, status=ready_status(), version="99")

    assert database.read(adopted, "health") == "degraded"


def test_versions_compare_as_numbers(database, adopted):
    ingest(database, adopted, status=degraded_status(), version="99")

    ingest(database, adopted, status=ready_status(), version="100")

    assert database.read(adopted, "health") == "ready"


def test_a_replay_writes_nothing(database, adopted):
    ingest(database, adopted, status=ready_status(), version="100")
    before = row_versions(database, adopted)

    ingest(database, adopted, status=ready_status(), version="100")

    assert row_versions(database, adopted) == before


def test_an_unchanged_condition_is_not_written_again(database, adopted):
    ingest(database, adopted, status=degraded_status(), version="100")
    before = condition_versions(database, adopted)

    ingest(
        database, adopted, status=degraded_status(message="Two gone."), version="101"
    )

    after = condition_versions(database, adopted)
    assert after["Ready"] == before["Ready"]
    assert after["Degraded"] != before["Degraded"]


def test_conditions_that_are_gone_are_removed(database, adopted):
    ingest(database, adopted, status=degraded_status(), version="100")

    ingest(database, adopted, status=ready_status(), version="101")

    assert conditions(database, adopted) == {"Ready": "True"}


def test_a_status_of_an_older_generation_is_unknown(database, adopted):
    obj = ready_status(generation=1)

    ingest(database, adopted, status=obj, version="100", generation=2)

    assert database.read(adopted, "health") == "unknown"


# === WHOSE STATUS === #


def test_uids_without_a_record_are_handed_back(database, adopted):
    from odoo.addons.vworkspace_push.status import sink

    mine = report(adopted, status=ready_status())
    foreign = report(adopted, uid="nobodys-uid", status=ready_status())

    cluster_id = cluster_of(database, adopted)
    unclaimed = in_transaction(database, sink.ingest, cluster_id, [mine, foreign])

    assert unclaimed == {"nobodys-uid"}
    assert database.read(adopted, "health") == "ready"


def test_another_clusters_report_does_not_touch_the_record(database, adopted):
    from odoo.addons.vworkspace_push.status import sink

    with database.transaction() as env:
        other = env["vworkspace.cluster"].create(
            {
                "name": "Other",
                "cluster_id": "other",
                "server_url": "https://127.0.0.1:1",
            }
        )
    reports = [report(adopted, status=ready_status())]
    unclaimed = in_transaction(database, sink.ingest, other.id, reports)

    assert unclaimed == {uid_of(adopted)}
    assert database.read(adopted, "health") is False


# === THE END OF AN OBJECT === #


def test_an_object_missing_from_a_complete_list_is_lost(database, adopted):
    ingest(database, adopted, status=ready_status(), version="100")

    census(database, adopted, present=(), version="200")

    stored = database.read(
        adopted, "delivery_state", "delivery_message", "health", "condition_ids"
    )
    assert stored["delivery_state"] == "lost"
    assert "somebody else deleted it" in stored["delivery_message"]
    assert (stored["health"], stored["condition_ids"]) == (False, [])


def test_an_object_in_the_list_stays(database, adopted):
    census(database, adopted, present=[uid_of(adopted)], version="200")

    assert database.read(adopted, "delivery_state") == "applied"


def test_what_was_applied_after_the_list_is_not_missing_from_it(database, adopted):
    census(database, adopted, present=(), version="9")

    assert database.read(adopted, "delivery_state") == "applied"


def test_an_object_that_was_to_be_deleted_is_deleted(database, adopted):
    database.sql(
        "UPDATE vworkspace_application_instance SET delivery_state = 'deleting'"
        " WHERE id = %s",
        adopted.id,
    )

    ingest(database, adopted, status={}, version="101", deleted=True)

    assert database.read(adopted, "delivery_state") == "deleted"


def test_an_object_that_somebody_else_deleted_is_lost(database, adopted):
    ingest(database, adopted, status={}, version="101", deleted=True)

    assert database.read(adopted, "delivery_state") == "lost"


# === UNTRUSTED TEXT === #


def test_markup_is_kept_as_text_and_posted_escaped(database, adopted):
    markup = "<script>alert(1)</script><b>bold</b>"
    status = {
        "observedGeneration": 1,
        "conditions": [condition("Ready", "True", message=markup, reason=markup)],
        "endpoints": [{"name": markup, "url": "https://example.com/"}],
    }

    ingest(database, adopted, status=status, version="100")

    assert database.read(adopted, "health_message") == markup
    with database.transaction() as env:
        record = env[adopted._name].browse(adopted.ids)
        assert record.condition_ids.message == markup
        assert record.endpoint_ids.name == markup


@pytest.mark.parametrize(
    "url", ["javascript:alert(1)", "data:text/html,x", "file:///etc/passwd", 7, None]
)
def test_only_web_addresses_become_links(database, adopted, url):
    status = {**ready_status(), "endpoints": [{"name": "web", "url": url}]}

    ingest(database, adopted, status=status, version="100")

    assert database.read(adopted, "endpoint_ids") == []


def test_nul_bytes_and_lone_surrogates_do_not_break_a_batch(database, adopted):
    status = ready_status(message="before\x00after \ud800 end")

    ingest(database, adopted, status=status, version="100")

    stored = database.read(adopted, "health_message")
    assert stored.startswith("beforeafter")
    assert stored.endswith("end")


def test_a_message_of_full_length_is_stored(database, adopted):
    ingest(database, adopted, status=ready_status(message="x" * 40_000), version="100")

    with database.transaction() as env:
        record = env[adopted._name].browse(adopted.ids)
        assert len(record.condition_ids.message) == 32_768
        assert len(record.health_message) <= 500


def test_what_has_a_wrong_type_reads_as_absent(database, adopted):
    status = {
        "observedGeneration": "1",
        "conditions": [
            condition("Ready", "True", message=7, reason=["a"], since=12),
            condition("Weird/Type", "Unknown"),
            condition("Ready", "Perhaps"),
            {"status": "True"},
            "not a mapping",
        ],
        "endpoints": {"name": "web"},
        "lastReconcileTime": "yesterday",
    }

    ingest(database, adopted, status=status, version="100")

    stored = database.read(adopted, "health", "last_reconcile_time", "endpoint_ids")
    assert stored["health"] == "unknown"  # its generation is no number
    assert (stored["last_reconcile_time"], stored["endpoint_ids"]) == (False, [])
    expected = {"Ready": "True", "Weird/Type": "Unknown"}
    assert conditions(database, adopted) == expected


# === STALENESS === #


def test_a_silent_clusters_health_is_unknown_until_it_is_heard_again(
    database, cluster, adopted
):
    ingest(database, adopted, status=ready_status(), version="100")
    hear(database, cluster, minutes_ago=10)

    mark_stale(database)
    silent = database.read(adopted, "health", "health_message")
    hear(database, cluster, minutes_ago=0)
    ingest(database, adopted, status=ready_status(), version="100")

    assert silent["health"] == "unknown"
    assert "has not been heard of" in silent["health_message"]
    assert database.read(adopted, "health") == "ready"


def test_a_cluster_that_was_never_heard_of_is_not_shown_as_well(
    database, cluster, adopted
):
    ingest(database, adopted, status=ready_status(), version="100")
    hear(database, cluster, minutes_ago=10)
    database.sql("UPDATE vworkspace_watch_lease SET last_contact = NULL")

    mark_stale(database)

    assert database.read(adopted, "health") == "unknown"


def test_a_watch_that_resumes_without_news_brings_the_health_back(
    database, cluster, adopted
):
    ingest(database, adopted, status=ready_status(message="It runs."), version="100")
    hear(database, cluster, minutes_ago=10)
    mark_stale(database)
    hear(database, cluster, minutes_ago=0)

    mark_stale(database)

    stored = database.read(adopted, "health", "health_message")
    assert (stored["health"], stored["health_message"]) == ("ready", "It runs.")


def test_a_cluster_heard_of_lately_keeps_its_health(database, cluster, adopted):
    ingest(database, adopted, status=ready_status(), version="100")
    hear(database, cluster, minutes_ago=1)

    mark_stale(database)

    assert database.read(adopted, "health") == "ready"


# === WHO IS TOLD === #


def test_open_views_are_told_ids_and_nothing_else(database, adopted):
    database.sql("DELETE FROM bus_bus")

    ingest(database, adopted, status=ready_status(message="A secret."), version="100")

    messages = [
        json.loads(text) for (text,) in database.sql("SELECT message FROM bus_bus")
    ]
    assert messages == [
        {
            "type": "vworkspace_push/updated",
            "payload": {"model": adopted._name, "ids": adopted.ids},
        }
    ]


def test_a_replay_tells_nobody(database, adopted):
    ingest(database, adopted, status=ready_status(), version="100")
    database.sql("DELETE FROM bus_bus")

    ingest(database, adopted, status=ready_status(), version="100")

    assert database.sql("SELECT message FROM bus_bus") == []


# === FIXTURES AND HELPERS === #


@pytest.fixture
def adopted(database, make_instance):
    """A record that was delivered as version 10 of an object."""
    instance = make_instance()
    database.sql(
        """UPDATE vworkspace_application_instance
              SET uid = %s, resource_version = '10', delivery_state = 'applied'
            WHERE id = %s""",
        uid_of(instance),
        instance.id,
    )
    return instance


def uid_of(instance):
    return f"uid-{instance.id}"


def report(instance, *, status, version="100", uid=None, generation=1, deleted=False):
    from odoo.addons.vworkspace_push.status.sink import Report

    metadata = {
        "uid": uid or uid_of(instance),
        "name": "wiki",
        "resourceVersion": version,
        "generation": generation,
    }
    obj = {"kind": KIND, "metadata": metadata, "status": status}
    return Report.from_object(obj, deleted=deleted)


def ingest(database, instance, **values):
    from odoo.addons.vworkspace_push.status import sink

    reports = [report(instance, **values)]
    return in_transaction(
        database, sink.ingest, cluster_of(database, instance), reports
    )


def census(database, instance, *, present, version):
    from odoo.addons.vworkspace_push.status import sink

    with database.transaction() as env:
        namespace = env[instance._name].browse(instance.ids).namespace_id.name
    cluster_id = cluster_of(database, instance)
    in_transaction(
        *(database, sink.vanished, cluster_id, KIND, namespace, present, version)
    )


def mark_stale(database):
    from odoo.addons.vworkspace_push.status import sink

    in_transaction(database, sink.mark_stale)


def in_transaction(database, function, *arguments):
    """Run a function of the sink as the addon does."""
    from odoo.addons.vworkspace_push import transactions

    return transactions.in_transaction(database.registry, function, *arguments)


def cluster_of(database, instance):
    (cluster_id, _name) = database.read(instance, "cluster_id")
    return cluster_id


def hear(database, cluster, *, minutes_ago):
    """Let the cluster have been heard of that long ago, and its records then too."""
    database.sql(
        """INSERT INTO vworkspace_watch_lease (cluster_id, epoch, last_contact)
                VALUES (%s, 0, now() AT TIME ZONE 'UTC' - %s * interval '1 minute')
           ON CONFLICT (cluster_id)
                    DO UPDATE SET last_contact = EXCLUDED.last_contact""",
        cluster.id,
        minutes_ago,
    )
    database.sql(
        """UPDATE vworkspace_application_instance
              SET status_as_of = now() AT TIME ZONE 'UTC' - %s * interval '1 minute'
            WHERE cluster_id = %s AND status_as_of IS NOT NULL""",
        minutes_ago,
        cluster.id,
    )


def conditions(database, instance):
    with database.transaction() as env:
        record = env[instance._name].browse(instance.ids)
        return {c.type: c.status for c in record.condition_ids}


def row_versions(database, instance):
    """Return what PostgreSQL changes at each write of the record and what it owns."""
    (record,) = database.sql(
        "SELECT xmin FROM vworkspace_application_instance WHERE id = %s", instance.id
    )
    endpoints = database.sql(
        "SELECT id, xmin FROM vworkspace_endpoint WHERE instance_id = %s", instance.id
    )
    return record, condition_versions(database, instance), endpoints


def condition_versions(database, instance):
    rows = database.sql(
        "SELECT type, xmin FROM vworkspace_condition WHERE instance_id = %s",
        instance.id,
    )
    return dict(rows)
