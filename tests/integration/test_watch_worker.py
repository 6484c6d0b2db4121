"""The real `odoo vworkspace_watch`, in its own process, through whatever happens.

The tests share one process where they can, and go from gentle to rough.
"""

import json
import signal
import time
from contextlib import contextmanager
from types import SimpleNamespace

import pytest
import requests

from environment.control_plane import SERVICE_ACCOUNT, SYSTEM_NAMESPACE
from environment.odoo import WATCH_READY_LINE
from environment.processes import free_port
from tests.conftest import CLUSTER_ID
from tests.integration.conftest import activate, replace_token, retire
from tests.integration.test_sink import adopt, hear, ingest
from tests.live_objects import (
    create_object,
    degraded_status,
    delete_object,
    get_object,
    patch_status,
    ready_status,
)
from tests.waiting import eventually

PICK_UP = 2.0  # s within which a change in Odoo reaches a worker
UNREACHABLE = 40.0  # s within which a cluster that does not answer is unreachable
STOP = 5.0  # s from SIGTERM to the end
RECOVERY = 45.0  # s; streams back off while their server is away
READY_TIMEOUT = 60.0  # s
LOG_SHOWN = 8000  # characters
NOISE = (" WARNING ", " ERROR ", " CRITICAL ", "Traceback")
# Odoo's own line about a statement during which PostgreSQL was restarted: the worker
# keeps the batch and writes it again, which is what that test sees.
CUT_OFF = "odoo.sql_db: bad query"
# What Odoo tells when PostgreSQL is away, at INFO, and how often it is told in a while
NOT_CONNECTED = "Connection to the database failed"
LOOKS = 3
KEPT = "keeping a batch"
LOCKED = 10.0  # s that others wait at most because of somebody's lock
LEASE = "vworkspace_watch_lease"
CLUSTERS = "/apis/ops.vworkspace.io/v1alpha1/clusters"
REVIEWS = "/apis/authorization.k8s.io/v1/subjectaccessreviews"
RBAC = "/apis/rbac.authorization.k8s.io/v1"


# === WHAT IT BRINGS === #


def test_a_status_that_the_operator_writes_reaches_the_record(
    database, worker, deployed, control_plane, namespace
):
    patch_status(control_plane, namespace, ready_status(message="It runs."))

    shows(database, deployed, health="ready")
    stored = database.read(
        deployed, "health_message", "endpoint_url", "observed_resource_version"
    )
    live = get_object(control_plane, namespace)
    assert stored["health_message"] == "It runs."
    assert stored["endpoint_url"] == "https://wiki.example.com/"
    assert stored["observed_resource_version"] == live["metadata"]["resourceVersion"]

    patch_status(control_plane, namespace, degraded_status())
    shows(database, deployed, health="degraded")


def test_a_status_that_comes_before_the_record_knows_its_uid_arrives(
    database, worker, deployed, make_instance, deploy, control_plane, namespace
):
    later = make_instance(name="later")
    deploy(later)
    uid = database.read(deployed, "uid")
    set_uid(database, deployed, None)
    patch_status(control_plane, namespace, ready_status())
    # A stream is in order: when the second has arrived, the first found no record.
    patch_status(control_plane, namespace, ready_status(), name="later")
    shows(database, later, health="ready")

    set_uid(database, deployed, uid)

    shows(database, deployed, health="ready")


def test_a_new_namespace_is_watched_at_once(
    database, worker, cluster, make_instance, control_plane
):
    name = "test-added-later"
    control_plane.create_namespace(name)
    control_plane.grant([name])
    instance = make_instance(name="added-later")
    existing = create_object(control_plane, name, "added-later")
    patch_status(control_plane, name, ready_status(), name="added-later")
    set_uid(database, instance, existing["metadata"]["uid"])

    with database.transaction() as env:
        env["vworkspace.cluster.namespace"].create(
            {"cluster_id": cluster.id, "name": name}
        )

    shows(database, instance, health="ready", timeout=PICK_UP)


def test_a_removed_namespace_is_watched_no_more(
    database, worker, cluster, control_plane
):
    name = "test-removed-later"
    control_plane.create_namespace(name)
    control_plane.grant([name])
    with database.transaction() as env:
        place = env["vworkspace.cluster.namespace"].create(
            {"cluster_id": cluster.id, "name": name}
        )
    stream = ("ApplicationInstance", name)
    eventually(
        lambda: stream in streams_of(database, cluster), what="a stream of it to be"
    )

    database.call("admin", place._name, "unlink", place.ids)

    eventually(
        lambda: stream not in streams_of(database, cluster),
        what="the stream of it to end",
        timeout=PICK_UP,
    )


def test_a_cluster_that_is_added_or_revoked_is_picked_up_at_once(
    database, worker, make_cluster
):
    cluster = make_cluster()  # it is active from the end of this on
    eventually(
        lambda: lease_holder(database, cluster),
        what="the worker to hold the new cluster",
        timeout=PICK_UP,
    )

    database.call("admin", cluster._name, "action_revoke", cluster.ids)

    eventually(
        lambda: not lease_holder(database, cluster),
        what="the worker to let go of the cluster",
        timeout=PICK_UP,
    )


@pytest.mark.parametrize(
    ("method", "arguments"), [("write", [{"active": False}]), ("unlink", [])]
)
def test_a_cluster_that_is_archived_or_deleted_is_watched_no_more(
    database, worker, method, arguments
):
    label = f'cluster="short-lived-{method}"'
    with database.transaction() as env:
        cluster = env["vworkspace.cluster"].create(
            {
                "name": "Short-lived",
                "cluster_id": f"short-lived-{method}",
                "server_url": f"https://127.0.0.1:{free_port()}",
            }
        )
    # What has a credential, or is in the audit trail, is revoked and kept instead.
    set_column(database, cluster, state="active")
    tell_of_change(database, cluster)
    eventually(
        lambda: label in measured(worker),
        what="the worker to follow the cluster",
        timeout=PICK_UP,
    )

    database.call("admin", cluster._name, method, cluster.ids, *arguments)

    eventually(
        lambda: label not in measured(worker),
        what="the worker to let go of the cluster",
        timeout=PICK_UP,
    )


def test_what_nobody_can_hear_is_unknown_without_a_cron(
    database, worker, make_cluster, make_instance
):
    silent = make_cluster()
    place = {
        "cluster_id": silent.id,
        "namespace_id": database.read(silent, "namespace_ids")[0],
    }
    set_column(database, silent, state="revoking")
    tell_of_change(database, silent)
    eventually(lambda: not lease_holder(database, silent), what="it to be let go of")
    instance = adopt(database, make_instance(name="silent", **place))
    ingest(database, instance, status=ready_status(), version="100")

    hear(database, silent, minutes_ago=5)

    shows(database, instance, health="unknown")
    set_column(database, silent, state="active")


def test_an_object_that_somebody_deletes_is_lost(
    database, worker, deployed, control_plane, namespace
):
    delete_object(control_plane, namespace)

    shows(database, deployed, delivery_state="lost")


def test_the_cluster_says_that_it_is_watched(database, worker, cluster, deployed):
    eventually(
        lambda: database.read(cluster, "watch_state"),
        what="the cluster to show that it is watched",
        equals="watching",
    )
    assert database.read(cluster, "last_contact")
    assert not database.read(cluster, "watch_message")


def test_a_replaced_token_starts_new_streams(
    database, worker, cluster, deployed, control_plane, namespace
):
    replace_token(database, cluster, control_plane.service_account_token())

    patch_status(control_plane, namespace, ready_status())

    shows(database, deployed, health="ready")


# === STREAMS === #


def test_a_restarted_worker_goes_on_where_it_was_and_writes_nothing(
    database, worker, cluster, deployed, control_plane, namespace
):
    patch_status(control_plane, namespace, ready_status())
    shows(database, deployed, health="ready")
    all_watching(database, cluster)  # what has not listed yet would do so later
    worker.send(signal.SIGTERM)
    eventually(lambda: not worker.running, what="the worker to end")
    rows = instance_rows(database)

    start(worker)

    eventually(
        lambda: {row["relists"] for row in all_watching(database, cluster).values()},
        what="all streams to watch without a list",
        equals={0},
    )
    assert instance_rows(database) == rows
    patch_status(control_plane, namespace, degraded_status())
    shows(database, deployed, health="degraded")


def test_what_happened_while_no_worker_ran_is_caught_up_with(
    database, worker, cluster, deployed, make_instance, deploy, control_plane, namespace
):
    vanishing = make_instance(name="vanishing-meanwhile")
    deploy(vanishing)
    patch_status(control_plane, namespace, ready_status())
    shows(database, deployed, health="ready")
    worker.send(signal.SIGTERM)
    eventually(lambda: not worker.running, what="the worker to end")
    patch_status(control_plane, namespace, degraded_status())
    delete_object(control_plane, namespace, "vanishing-meanwhile")

    start(worker)

    shows(database, deployed, health="degraded")
    shows(database, vanishing, delivery_state="lost")


def test_one_stream_reads_the_whole_cluster_while_the_credential_may(
    database, worker, cluster, deployed, control_plane, namespace, read_role
):
    wide = {("ApplicationInstance", None), ("Operation", None), ("Cluster", None)}
    read_role.grant()
    tell_of_change(database, cluster)
    eventually(
        lambda: set(all_watching(database, cluster)) == wide,
        what="one stream for each kind",
    )
    patch_status(control_plane, namespace, ready_status())
    shows(database, deployed, health="ready")

    read_role.revoke()
    tell_of_change(database, cluster)

    eventually(
        lambda: ("ApplicationInstance", namespace) in all_watching(database, cluster),
        what="a stream for each namespace",
    )
    patch_status(control_plane, namespace, degraded_status())
    shows(database, deployed, health="degraded")


def test_the_clusters_own_object_is_read_as_well(
    database, worker, cluster, control_plane
):
    body = {
        "apiVersion": "ops.vworkspace.io/v1alpha1",
        "kind": "Cluster",
        "metadata": {"name": "this-one"},
        "spec": {"clusterId": CLUSTER_ID},
    }
    control_plane.request("POST", CLUSTERS, body=body)
    try:
        status = {"status": {"phase": "Connected"}}
        arguments = ("--subresource", "status", "--type", "merge")
        control_plane.kubectl(
            *("patch", "clusters.ops.vworkspace.io", "this-one", *arguments),
            *("-p", json.dumps(status)),
        )
        eventually(
            lambda: database.sql(
                "SELECT phase FROM vworkspace_cluster_status WHERE cluster_id = %s",
                cluster.id,
            ),
            what="the cluster's phase",
            equals=[("Connected",)],
        )
    finally:
        control_plane.request("DELETE", f"{CLUSTERS}/this-one")


def test_a_server_that_freezes_is_unreachable_in_time_and_back_at_once(
    database, worker, cluster, deployed, control_plane, namespace
):
    patch_status(control_plane, namespace, ready_status())
    shows(database, deployed, health="ready")
    all_watching(database, cluster)
    control_plane.freeze()
    try:
        shows(database, deployed, health="unknown", timeout=UNREACHABLE)
        assert database.read(deployed, "health_message")
    finally:
        control_plane.thaw()

    shows(database, deployed, health="ready")
    patch_status(control_plane, namespace, degraded_status())
    shows(database, deployed, health="degraded")


# === LEASES === #


def test_a_worker_whose_lease_was_taken_writes_nothing_any_more(
    database, worker, cluster, deployed, witness, control_plane, namespace
):
    patch_status(control_plane, namespace, ready_status())
    shows(database, deployed, health="ready")
    worker.freeze()
    try:
        patch_status(control_plane, namespace, degraded_status())
        holder = take_lease_away(database, cluster)
    finally:
        worker.thaw()

    # Both streams woke together; when this one's news is written, so is the other's.
    patch_status(control_plane, namespace, ready_status(), name="witness")
    shows(database, witness, health="ready")
    assert database.read(deployed, "health") == "ready"
    assert lease_holder(database, cluster) == holder

    expire_lease(database, cluster)
    shows(database, deployed, health="degraded")


def test_a_killed_workers_clusters_go_to_another_one(
    database, worker, cluster, deployed, control_plane, namespace
):
    dead = eventually(lambda: lease_holder(database, cluster), what="a lease")
    worker.kill()
    patch_status(control_plane, namespace, ready_status())
    start(worker)
    assert lease_holder(database, cluster) == dead  # it has not expired yet

    expire_lease(database, cluster)

    shows(database, deployed, health="ready")
    assert lease_holder(database, cluster) not in (dead, None)


# === OUTAGES === #


def test_after_a_compaction_it_lists_again_and_misses_nothing(
    database, worker, deployed, make_instance, deploy, control_plane, namespace
):
    vanishing = make_instance(name="vanishing")
    deploy(vanishing)
    patch_status(control_plane, namespace, ready_status())
    shows(database, deployed, health="ready")
    worker.freeze()
    try:
        control_plane.restart()  # ends the streams, or they would be sent all that
        patch_status(control_plane, namespace, degraded_status())
        delete_object(control_plane, namespace, "vanishing")
        control_plane.compact()
        control_plane.restart()
    finally:
        worker.thaw()

    shows(database, deployed, health="degraded", timeout=RECOVERY)
    shows(database, vanishing, delivery_state="lost", timeout=RECOVERY)
    live = get_object(control_plane, namespace)["metadata"]
    stored = database.read(deployed, "observed_resource_version", "uid")
    assert stored["observed_resource_version"] == live["resourceVersion"]
    assert stored["uid"] == live["uid"]
    lines = worker.output().splitlines()
    told = [line for line in lines if "too old" in line and CLUSTER_ID in line]
    assert len(told) == 1  # however many streams the cluster has


def test_a_restart_of_postgresql_is_survived(
    database, worker, deployed, control_plane, namespace, postgres
):
    postgres.restart()
    patch_status(control_plane, namespace, ready_status())

    shows(database, deployed, health="ready", timeout=RECOVERY)


def test_a_postgresql_that_is_away_for_some_seconds_blinds_it_for_no_longer(
    database, worker, cluster, deployed, control_plane, namespace, postgres
):
    patch_status(control_plane, namespace, ready_status())
    shows(database, deployed, health="ready")
    holder = lease_holder(database, cluster)
    seen = worker.output().count(NOT_CONNECTED)
    postgres.stop()
    try:
        # The look at the versions, every two seconds, meets nobody
        eventually(
            lambda: worker.output().count(NOT_CONNECTED) >= seen + LOOKS,
            what="it to miss PostgreSQL for some time",
        )
    finally:
        postgres.start()
    patch_status(control_plane, namespace, degraded_status())

    shows(database, deployed, health="degraded")
    assert lease_holder(database, cluster) == holder
    assert all_watching(database, cluster)


def test_tables_that_are_changed_for_some_seconds_cost_no_report(
    database, worker, deployed, control_plane, namespace
):
    patch_status(control_plane, namespace, ready_status())
    shows(database, deployed, health="ready")
    kept = worker.output().count(KEPT)
    database.sql("ALTER TABLE vworkspace_condition RENAME reason TO why")
    try:
        patch_status(control_plane, namespace, degraded_status())
        eventually(lambda: worker.output().count(KEPT) > kept, what="it to keep that")
    finally:
        database.sql("ALTER TABLE vworkspace_condition RENAME why TO reason")

    shows(database, deployed, health="degraded")


def test_a_record_that_somebody_locks_holds_up_no_other_cluster_and_no_lease(
    database, worker, cluster, deployed, witness, control_plane, namespace
):
    patch_status(control_plane, namespace, ready_status())
    shows(database, deployed, health="ready")
    before = lease(database, cluster)
    kept = worker.output().count(KEPT)
    with locked(database, deployed):
        patch_status(control_plane, namespace, degraded_status())
        # The worker's writer meets the lock before it meets what comes next.
        eventually(lambda: waits_for_lock(database), what="it to be at the record")
        patch_status(control_plane, namespace, ready_status(), name="witness")
        shows(database, witness, health="ready", timeout=LOCKED)
        eventually(
            lambda: lease(database, cluster).expires_at > before.expires_at,
            what="the lease to be renewed",
            timeout=LOCKED,
        )
        assert worker.output().count(KEPT) == kept + 1  # however often it tried
        assert database.read(deployed, "health") == "ready"

    shows(database, deployed, health="degraded")
    after = lease(database, cluster)
    assert (after.holder, after.epoch) == (before.holder, before.epoch)


def test_sigterm_ends_it_in_time_and_frees_its_leases(
    database, worker, cluster, deployed
):
    eventually(lambda: lease_holder(database, cluster), what="a lease")
    asked = time.monotonic()

    worker.send(signal.SIGTERM)

    eventually(lambda: not worker.running, what="the worker to end", timeout=STOP)
    assert time.monotonic() - asked <= STOP
    assert worker.returncode == 0
    assert "graceful stop requested" in worker.output()
    assert "watch worker stopped" in worker.output()
    assert lease_holder(database, cluster) is None


def test_its_log_told_all_that_without_a_warning(worker_process):
    noise = [
        line
        for line in worker_process.log.read_text().splitlines()
        if any(word in line for word in NOISE) and CUT_OFF not in line
    ]
    assert noise == []


# === FIXTURES === #


@pytest.fixture(scope="module")
def worker_process(database, odoo_install, work):
    process = odoo_install.watch_worker(
        *(database.config, database.name),
        log=work / "logs" / "watch-worker.log",
        metrics_port=free_port(),
    )
    yield process
    process.stop()


@pytest.fixture
def worker(worker_process, cluster):
    """The module's worker, running."""
    start(worker_process)
    yield worker_process
    print(worker_process.output()[-LOG_SHOWN:])  # seen with a failure


@pytest.fixture
def deployed(database, make_instance, deploy):
    """An application that exists in the cluster; its operator has said nothing yet."""
    instance = make_instance()
    deploy(instance)
    assert database.read(instance, "delivery_state") == "applied"
    return instance


@pytest.fixture
def witness(database, control_plane, make_instance, namespace):
    """An application in another cluster (the same one, under another name)."""
    with database.transaction() as env:
        other = env["vworkspace.cluster"].create(
            {
                "name": "Witness",
                "cluster_id": f"witness-{namespace}",
                "server_url": control_plane.server,
                "ca_certificate": control_plane.ca_pem,
                "token": control_plane.service_account_token(),
                "namespace_ids": [(0, 0, {"name": namespace})],
            }
        )
        place = other.namespace_ids
    activate(database, other)
    instance = make_instance(name="witness", cluster_id=other.id, namespace_id=place.id)
    database.call("admin", instance._name, "action_deploy", instance.ids)
    patch_status(control_plane, namespace, degraded_status(), name="witness")
    shows(database, instance, health="degraded")
    yield instance
    retire(database, other)


@pytest.fixture
def read_role(control_plane):
    """Grants the right to read our kinds in all namespaces, and takes it away."""
    from kube.access import READ_ROLE, rbac_manifests

    def grant():
        manifests = rbac_manifests(namespaces=[], cluster_read=True)
        control_plane.apply(
            [m for m in manifests if m["metadata"]["name"] == READ_ROLE]
        )

    def revoke():
        path = f"{RBAC}/clusterrolebindings/{READ_ROLE}"
        if any(
            item["metadata"]["name"] == READ_ROLE
            for item in control_plane.request("GET", f"{RBAC}/clusterrolebindings")[
                "items"
            ]
        ):
            control_plane.request("DELETE", path)

    def may_read():
        subject = f"system:serviceaccount:{SYSTEM_NAMESPACE}:{SERVICE_ACCOUNT}"
        asked = {
            "user": subject,
            "resourceAttributes": {
                "group": "ops.vworkspace.io",
                "resource": "operations",
                "verb": "watch",
            },
        }
        answer = control_plane.request("POST", REVIEWS, body={"spec": asked})
        return bool(answer["status"]["allowed"])

    # The API server learns of a binding a moment after it was stored.
    def switch(change, *, to):
        change()
        eventually(lambda: may_read() is to, what="the right to be in effect")

    yield SimpleNamespace(
        grant=lambda: switch(grant, to=True), revoke=lambda: switch(revoke, to=False)
    )
    revoke()


# === HELPERS === #


def start(worker):
    if not worker.running:
        worker.start()
        worker.wait_for_output(WATCH_READY_LINE, timeout=READY_TIMEOUT)


def shows(database, instance, *, timeout=20.0, **expected):
    """Wait until the record shows the expected value of one field."""
    ((field, value),) = expected.items()
    eventually(
        lambda: database.read(instance, field),
        what=f"{field} of {instance} to be {value}",
        equals=value,
        timeout=timeout,
    )


def streams_of(database, cluster):
    """Return what is stored of a cluster's streams, by kind and namespace."""
    rows = database.sql(
        """SELECT kind, namespace, state, relists, resource_version
             FROM vworkspace_watch_stream WHERE cluster_id = %s""",
        cluster.id,
    )
    names = ("state", "relists", "resource_version")
    return {
        (kind, namespace): dict(zip(names, row, strict=True))
        for kind, namespace, *row in rows
    }


def all_watching(database, cluster):
    """Wait until all streams of a cluster watch; return what is stored of them."""
    return eventually(
        lambda: (
            (streams := streams_of(database, cluster))
            and all(row["state"] == "watching" for row in streams.values())
            and streams
        ),
        what="all streams to watch",
    )


def measured(worker):
    """Return the worker's metrics."""
    port = worker.command[worker.command.index("--metrics-port") + 1]
    with requests.Session() as session:
        session.trust_env = False
        return session.get(f"http://127.0.0.1:{port}/metrics", timeout=10).text


def tell_of_change(database, cluster):
    with database.transaction() as env:
        env["vworkspace.cluster"].browse(cluster.id)._notify_processes()


def instance_rows(database):
    """Return each application's row as PostgreSQL knows it: who wrote it last."""
    return database.sql(
        "SELECT id, xmin::text, ctid::text FROM vworkspace_application_instance"
    )


def set_uid(database, instance, uid):
    database.sql(
        "UPDATE vworkspace_application_instance SET uid = %s WHERE id = %s",
        *(uid, instance.id),
    )


def set_column(database, cluster, **values):
    """Write one column of a cluster, past all that would keep somebody from it."""
    ((column, value),) = values.items()
    database.sql(
        f"UPDATE vworkspace_cluster SET {column} = %s WHERE id = %s",  # noqa: S608
        *(value, cluster.id),
    )


def lease_holder(database, cluster):
    rows = database.sql(f"SELECT holder FROM {LEASE} WHERE cluster_id = %s", cluster.id)  # noqa: S608
    return rows[0][0] if rows else None


def lease(database, cluster):
    """Return holder, epoch and expires_at of a cluster's lease."""
    ((holder, epoch, expires_at),) = database.sql(
        f"SELECT holder, epoch, expires_at FROM {LEASE} WHERE cluster_id = %s",  # noqa: S608
        cluster.id,
    )
    return SimpleNamespace(holder=holder, epoch=epoch, expires_at=expires_at)


@contextmanager
def locked(database, instance):
    """Lock a record, as a user's long transaction would."""
    with database.transaction() as env:
        env.cr.execute(
            "SELECT FROM vworkspace_application_instance WHERE id = %s FOR UPDATE",
            [instance.id],
        )
        yield


def waits_for_lock(database):
    return database.sql(
        "SELECT 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
        " AND datname = current_database()"
    )


def take_lease_away(database, cluster):
    """Let another worker have the cluster, for as long as no test expires it."""
    database.sql(
        f"""UPDATE {LEASE}
               SET holder = 'another-worker', epoch = epoch + 1,
                   expires_at = now() AT TIME ZONE 'UTC' + interval '1 hour'
             WHERE cluster_id = %s""",  # noqa: S608
        cluster.id,
    )
    return "another-worker"


def expire_lease(database, cluster):
    database.sql(
        f"""UPDATE {LEASE} SET expires_at = now() AT TIME ZONE 'UTC' - interval '1 s'
             WHERE cluster_id = %s""",  # noqa: S608
        cluster.id,
    )
