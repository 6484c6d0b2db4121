"""What a cluster says of itself: its own object, read but never written."""

from tests.conftest import CLUSTER_ID
from tests.integration.test_sink import in_transaction
from tests.live_objects import condition

HEARTBEAT = "2026-05-28T10:00:{:02}Z"


def test_phase_heartbeat_and_namespaces_reach_the_clusters_status(database, cluster):
    ingest(database, cluster, report(version="100", second=5))

    stored = status(database, cluster)
    assert stored["phase"] == "Connected"
    assert f"{stored['last_heartbeat']:%H:%M:%S}" == "10:00:05"
    assert stored["managed_namespaces"] == [{"name": "web", "templates": ["backup"]}]
    assert stored["as_of"]
    assert conditions(database, cluster) == {"Connected": "True"}


def test_a_heartbeat_touches_neither_the_cluster_nor_the_log(database, cluster):
    ingest(database, cluster, report(version="200", second=10))
    before = row_versions(database, cluster)

    ingested = ingest(database, cluster, report(version="201", second=20))

    assert ingested.written == 1
    assert row_versions(database, cluster) == before
    assert f"{status(database, cluster)['last_heartbeat']:%S}" == "20"


def test_a_replay_and_an_older_version_write_nothing(database, cluster):
    ingest(database, cluster, report(version="300", second=30))

    for version in ("300", "299"):
        ingested = ingest(database, cluster, report(version=version, second=1))
        assert ingested.written == 0

    assert f"{status(database, cluster)['last_heartbeat']:%S}" == "30"


def test_the_object_of_another_cluster_is_not_ours(database, cluster):
    ingest(database, cluster, report(version="400", second=40))

    other = report(version="401", second=1, cluster_id="another", uid="another")
    ingested = ingest(database, cluster, other)

    assert (ingested.written, ingested.unclaimed) == (0, set())
    assert f"{status(database, cluster)['last_heartbeat']:%S}" == "40"


def test_a_restored_clusters_object_counts_although_its_version_is_lower(
    database, cluster
):
    ingest(database, cluster, report(version="600", second=50))
    database.sql(
        "UPDATE vworkspace_cluster_status SET as_of = as_of - interval '1 minute'"
    )

    ingest(database, cluster, report(version="450", second=51), listed_version="460")

    assert status(database, cluster)["resource_version"] == "450"


def test_an_object_that_is_gone_leaves_nothing_behind(database, cluster):
    from odoo.addons.vworkspace_push.status import sink

    ingest(database, cluster, report(version="700", second=55))

    ended = ingest(database, cluster, report(version="701", second=55, deleted=True))
    absent = in_transaction(
        database, sink.missing, cluster.id, "Cluster", None, [], "702"
    )
    in_transaction(database, sink.gone, cluster.id, ended.missing)

    assert [m.uid for m in absent] == [m.uid for m in ended.missing] == ["uid-cluster"]
    stored = status(database, cluster)
    assert (stored["phase"], stored["last_heartbeat"]) == (False, False)
    assert conditions(database, cluster) == {}


def test_what_has_a_wrong_type_reads_as_absent(database, cluster):
    bad = report(
        version="800",
        status={
            "phase": "Perhaps",
            "lastHeartbeat": 7,
            "managedNamespaces": [7, {"name": ["a"]}, {"name": "ok"}],
            "conditions": "none",
        },
    )

    ingest(database, cluster, bad)

    stored = status(database, cluster)
    assert (stored["phase"], stored["last_heartbeat"]) == (False, False)
    assert stored["managed_namespaces"] == [{"name": "ok", "templates": []}]


# === HELPERS === #


def cluster_object(*, version, status, cluster_id=CLUSTER_ID, uid="uid-cluster"):
    return {
        "kind": "Cluster",
        "metadata": {"uid": uid, "name": cluster_id, "resourceVersion": version},
        "spec": {"clusterId": cluster_id, "controlPlaneEndpoint": "https://odoo"},
        "status": status,
    }


def report(*, version, second=0, deleted=False, status=None, **identity):
    from odoo.addons.vworkspace_push.status.sink import Report

    status = status or {
        "phase": "Connected",
        "lastHeartbeat": HEARTBEAT.format(second),
        "conditions": [condition("Connected", "True")],
        "managedNamespaces": [{"name": "web", "allowedOperationTemplates": ["backup"]}],
    }
    obj = cluster_object(version=version, status=status, **identity)
    return Report.from_object(obj, deleted=deleted)


def ingest(database, cluster, reported, **listed):
    from odoo.addons.vworkspace_push.status import sink

    return in_transaction(
        database, lambda env: sink.ingest(env, cluster.id, [reported], **listed)
    )


def status(database, cluster):
    with database.transaction() as env:
        found = env["vworkspace.cluster.status"].search(
            [("cluster_id", "=", cluster.id)]
        )
        (values,) = found.read()
    return values


def conditions(database, cluster):
    with database.transaction() as env:
        found = env["vworkspace.condition"].search(
            [("cluster_status_id.cluster_id", "=", cluster.id)]
        )
        return {c.type: c.status for c in found}


def row_versions(database, cluster):
    """Return what PostgreSQL changes when it writes the cluster, or the log grows."""
    return (
        database.sql(
            "SELECT xmin, write_date FROM vworkspace_cluster WHERE id = %s", cluster.id
        ),
        database.sql("SELECT count(*) FROM vworkspace_transition"),
        database.sql("SELECT id, xmin FROM vworkspace_condition ORDER BY id"),
    )
