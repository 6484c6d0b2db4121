"""What befalls the watch workers, and what they are sent: records agree afterwards."""

import contextlib
import itertools
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest
import requests
import yaml

from environment import demo
from environment.control_plane import DEFINITIONS
from environment.odoo import ADDON
from environment.processes import free_port
from tests.faults.comparison import differences, status_differences
from tests.faults.conftest import BACKUP, DATABASE, INSTANCE, make_backup
from tests.live_objects import (
    COLLECTION,
    condition,
    degraded_status,
    ready_status,
    running_status,
    succeeded_status,
    write_operation_status,
    write_status,
)
from tests.waiting import eventually

CLUSTER = "vworkspace.cluster"
MOVES = 20.0  # s within which a dead worker's share is another's
CONVERGENCE = 60.0  # s
START = 60.0  # s
BATCHES = "vworkspace_watch_batch_seconds_count"
FLOOD = 5_000  # events
FLOODED = 500  # objects
WRITERS = 4  # threads that write statuses
GROWTH = 64 * 2**20  # bytes that a flood may add to a worker, for good
ROUNDS = 30  # of changes, while two feeders bring them
MOST_ROUNDS = 10 * ROUNDS  # while the cron is slower than the changes
HOUR = 3600  # s

pytestmark = pytest.mark.usefixtures("nothing_to_heal")


# === WORKERS THAT FAIL === #


@pytest.mark.expect_log("bad query", "could not serialize access")
def test_what_a_worker_killed_in_a_batch_had_goes_to_the_other_in_time(
    client, connection, control_plane, records, clusters, start_worker, deploy_in
):
    workers = [start_worker(), start_worker()]
    eventually(
        lambda: sorted(shares(records).values()),
        what="the workers to share the clusters evenly",
        equals=[2, 2],
    )
    placed = {cluster: deploy_in(cluster, 3) for cluster in clusters}
    write_to_all(control_plane, placed.values(), ready_status())
    agree(connection, control_plane)
    victim, survivor = sorted(
        workers, key=lambda worker: clusters[0] not in held_by(records, worker)
    )
    _namespace, ids = placed[clusters[0]]
    held = records.hold(ids[-1:])  # the others are locked by then
    write_to_all(control_plane, placed.values(), degraded_status())
    eventually(lambda: waits_for_lock(records, victim), what="it to be at the batch")
    known = versions(records, ids)

    victim.kill()
    held.close()

    assert versions(records, ids) == known
    eventually(
        lambda: held_by(records, survivor),
        what="the other worker to hold all clusters",
        equals=set(clusters),
        timeout=MOVES,
    )
    agree(connection, control_plane)


@pytest.mark.expect_log("bad query", "could not serialize access")
def test_a_worker_frozen_in_a_batch_cannot_write_once_its_cluster_is_anothers(
    client,
    connection,
    control_plane,
    namespace,
    make_instances,
    records,
    start_worker,
    postgres,
):
    port = free_port()
    first = start_worker(metrics_port=port)
    ids = deploy(client, records, make_instances(3))
    write_to_all(control_plane, [(namespace, ids)], ready_status())
    agree(connection, control_plane)
    second = start_worker()
    held = records.hold(ids[-1:])
    write_to_all(control_plane, [(namespace, ids)], degraded_status())
    eventually(lambda: waits_for_lock(records, first), what="it to be at the batch")
    before = batches(port)

    first.freeze()
    held.close()

    # PostgreSQL ends the transaction that the first one left open.
    eventually(
        lambda: held_by(records, second),
        what="the cluster to be the other worker's",
        timeout=MOVES,
    )
    agree(connection, control_plane)
    second.freeze()
    known = versions(records, ids)
    write_to_all(control_plane, [(namespace, ids)], ready_status(message="Newer."))
    with supervisor_held_up(postgres, first):
        first.thaw()
        eventually(
            lambda: batches(port) >= before + 2,  # the one left open, and it again
            what="it to try to write",
        )
        assert versions(records, ids) == known
    second.thaw()
    agree(connection, control_plane)


@pytest.mark.usefixtures("never_back")
def test_a_flood_that_waited_for_a_frozen_worker_ends_in_exact_statuses(
    client, connection, control_plane, namespace, make_instances, records, start_worker
):
    ids = deploy(client, records, make_instances(FLOODED))
    worker = start_worker()
    agree(connection, control_plane)
    process = psutil.Process(worker.pid)
    size = process.memory_info().rss
    worker.freeze()
    try:
        flood(control_plane, namespace)
    finally:
        worker.thaw()

    agree(connection, control_plane)

    assert process.memory_info().rss - size < GROWTH
    assert broken_chains(records, ids) == []


@pytest.mark.usefixtures("never_back")
def test_a_worker_and_the_cron_that_bring_the_same_do_no_harm(
    client, connection, control_plane, namespace, make_instances, records, start_worker
):
    ids = deploy(client, records, make_instances(10, capability_ids=[(0, 0, BACKUP)]))
    start_worker()
    _id, backup = make_backup(client.call, ids[0])
    statuses = itertools.cycle([ready_status(), degraded_status(), failed_status()])
    steps = itertools.cycle([running_status(message="One."), succeeded_status()])
    (cron_id,) = records.query(
        """SELECT res_id FROM ir_model_data
            WHERE module = %s AND name = 'ir_cron_status'""",
        ADDON,
    )[0]

    polled_twice = threading.Event()

    def change():
        for number in range(MOST_ROUNDS):
            if number >= ROUNDS and polled_twice.is_set():
                return
            write_to_all(control_plane, [(namespace, ids)], next(statuses))
            write_operation_status(control_plane, namespace, backup, next(steps))

    with ThreadPoolExecutor(1) as pool:
        changes = pool.submit(change)
        polls = 0
        while not changes.done():
            expire_leases(records)  # or the cron would leave it to the worker
            with contextlib.suppress(RuntimeError):  # a cron thread is at it
                client.call("ir.cron", "method_direct_trigger", [cron_id])
                polls += 1
            if polls > 1:
                polled_twice.set()
        changes.result()

    assert polls > 1
    agree(connection, control_plane)
    assert broken_chains(records, ids) == []


# === WHAT HAPPENS AROUND THEM === #


@pytest.mark.parametrize("jump", [2 * HOUR, -2 * HOUR], ids=["ahead", "behind"])
def test_a_worker_whose_clock_jumps_goes_on_and_stores_no_wrong_time(
    client,
    connection,
    control_plane,
    namespace,
    make_instances,
    records,
    start_worker,
    clock,
    jump,
):
    ids = deploy(client, records, make_instances(3))
    worker = start_worker(env=clock.env)
    write_to_all(control_plane, [(namespace, ids)], ready_status())
    agree(connection, control_plane)
    ((holder, epoch),) = leases(records)

    clock.jump(jump)
    write_to_all(control_plane, [(namespace, ids)], degraded_status())
    agree(connection, control_plane)
    delete_object_of(control_plane, namespace, 0)
    eventually(
        lambda: records.states(ids),
        what="the loss to be noticed",
        equals=["lost", "applied", "applied"],
    )

    seen_at = seen(records, worker)
    eventually(lambda: seen(records, worker) > seen_at, what="another renewal")
    assert leases(records) == [(holder, epoch)]
    assert times_off(records, ids) == []
    assert status_differences(connection, control_plane) == []
    client.call(INSTANCE, "action_forget_lost", ids[:1])
    client.call(INSTANCE, "action_deploy", ids[:1])
    agree(connection, control_plane)


@pytest.mark.expect_log("")  # Odoo's own words are many
def test_an_upgrade_of_the_addon_is_survived_without_a_hand(
    client,
    connection,
    control_plane,
    namespace,
    make_instances,
    records,
    start_worker,
    odoo_install,
    postgres,
):
    ids = deploy(client, records, make_instances(3))
    worker = start_worker()
    with changing(control_plane, namespace, ids):
        odoo_install.upgrade_addon(postgres, DATABASE)
    eventually(
        lambda: "Reloading the model registry" in worker.output(),
        what="the worker to load the addon anew",
    )
    agree(connection, control_plane)

    write_to_all(control_plane, [(namespace, ids)], degraded_status())

    agree(connection, control_plane)
    assert worker.running


@pytest.mark.expect_log("")  # Odoo's own words are many
def test_a_restart_of_postgresql_is_survived_without_a_hand(
    odoo_server,
    client,
    connection,
    control_plane,
    namespace,
    make_instances,
    records,
    start_worker,
    postgres,
):
    port = free_port()
    ids = deploy(client, records, make_instances(3))
    worker = start_worker(metrics_port=port)
    write_to_all(control_plane, [(namespace, ids)], ready_status())
    agree(connection, control_plane)
    before = batches(port)
    worker.freeze()
    write_to_all(control_plane, [(namespace, ids)], failed_status())
    postgres.stop()
    worker.thaw()
    eventually(lambda: batches(port) > before, what="it to try to write")
    postgres.start()

    with contextlib.closing(postgres.connect(DATABASE)) as reopened:
        reopened.autocommit = True
        agree(reopened, control_plane)
        write_to_all(control_plane, [(namespace, ids)], degraded_status())
        agree(reopened, control_plane)
    assert worker.running
    odoo_server.stop()  # its cron threads may have ended with their connections
    odoo_server.start()


# === WHAT THEY ARE SENT === #


def test_statuses_that_make_no_sense_stop_none_of_the_others(
    client,
    connection,
    control_plane,
    namespace,
    make_instances,
    records,
    start_worker,
    any_status,
):
    ids = deploy(client, records, make_instances(len(SENSELESS) + 1))
    worker = start_worker()
    agree(connection, control_plane)
    worker.freeze()  # so that they come in one batch
    try:
        for number, status in enumerate(SENSELESS):
            write_status(control_plane, namespace, f"wiki-{number}", status)
        last = f"wiki-{len(SENSELESS)}"
        write_status(control_plane, namespace, last, ready_status())
    finally:
        worker.thaw()

    agree(connection, control_plane)

    rows = client.call(INSTANCE, "read", ids, ["health", "health_message"])
    assert rows[-1]["health"] == "ready"
    assert " cannot be stored" not in worker.output()


MARKUP = '<script>alert(1)</script>"><img src=x onerror=alert(1)>'
LONG = "長" * 32_768  # characters
SENSELESS = [
    {"conditions": [condition("Ready", "True"), condition("Ready", "False")]},
    {"conditions": [condition("example.com/Odd", "Maybe")], "observedGeneration": 1},
    {"conditions": [condition("Ready", "False", message=LONG)]},
    {"conditions": [condition("Ready", "False", reason=MARKUP, message=MARKUP)]},
    {"conditions": [condition(f"Of{n}", "True") for n in range(1_000)]},
    {"conditions": [{"type": "Ready"}, {"status": "True"}, {}, None, "Ready", 7]},
    {"conditions": "Ready"},
    {"conditions": {"Ready": "True"}},
    {"conditions": [condition(7, True, reason=1.5, message=["a"], since=12)]},
    {"conditions": [condition("Ready", "True", message="a\0b\ud800c\u202ed")]},
    {"conditions": [condition("Ready", "True", since="yesterday")]},
    {"conditions": [condition("Ready", "True", since="0001-01-01T00:00:00+14:00")]},
    {"conditions": [condition("Ready", "True", since="9999-12-31T23:59:59-14:00")]},
    {**ready_status(), "observedGeneration": 2**63 - 1},
    {**ready_status(), "observedGeneration": -1},
    {**ready_status(), "observedGeneration": "1"},
    {**ready_status(), "observedGeneration": 1.5},
    {**ready_status(), "endpoints": "https://wiki.example.com/"},
    {**ready_status(), "endpoints": [{"name": 5, "url": "javascript:alert(1)"}, 5]},
    {**ready_status(), "endpoints": [{"name": MARKUP, "url": f"https://x/{MARKUP}"}]},
    {**ready_status(), "lastReconcileTime": 1, "helmReleaseRef": "x"},
    {**ready_status(), "lastAppliedChart": {"name": ["x"], "version": 1}},
    {**ready_status(), "lastAppliedChart": [LONG], "phase": 7, "outputs": {"a": 1}},
    {"deep": [[[[[[[[[["x"]]]]]]]]]], "conditions": None},
]


# === FIXTURES === #


@pytest.fixture
def never_back(records):
    """Have PostgreSQL refuse, loudly, that a record shows an older status again."""
    records.query(
        """CREATE FUNCTION never_back() RETURNS trigger LANGUAGE plpgsql AS $$
           BEGIN
               IF NEW.observed_resource_version::bigint
                  < OLD.observed_resource_version::bigint
               THEN RAISE EXCEPTION USING MESSAGE = OLD.name || ' went back'; END IF;
               RETURN NEW;
           END $$"""
    )
    records.query(
        """CREATE TRIGGER never_back BEFORE UPDATE ON vworkspace_application_instance
           FOR EACH ROW EXECUTE FUNCTION never_back()"""
    )
    yield
    records.query("DROP FUNCTION never_back CASCADE")


@pytest.fixture
def start_worker(odoo_server, odoo_config, odoo_install, odoo_log, records):
    """Return a function that starts one more watch worker of the server's database."""
    started = []

    def start(**keywords):
        worker = odoo_install.watch_worker(
            odoo_config, DATABASE, log=odoo_log, **keywords
        )
        started.append(worker)
        worker.start()
        eventually(
            lambda: seen(records, worker),
            what="the worker to claim its share",
            timeout=START,
        )
        return worker

    yield start
    for worker in started:
        worker.stop()


@pytest.fixture
def clusters(client, cluster_ids, control_plane):
    """The ids of four clusters: the one of all tests, and three names of the same."""
    values = [
        {
            "name": f"Share {number}",
            "cluster_id": f"share-{number}",
            "server_url": control_plane.server,
            "ca_certificate": control_plane.ca_pem,
            "token": control_plane.service_account_token(),
        }
        for number in range(3)
    ]
    ids = client.call(CLUSTER, "create", values)
    for cluster in ids:
        demo.activate(client.call, cluster)
    yield [*cluster_ids, *ids]
    for cluster in ids:
        for step in ("action_revoke", "action_erase_unverified"):
            client.call(CLUSTER, step, [cluster])
    client.call(CLUSTER, "write", ids, {"active": False})


@pytest.fixture
def deploy_in(client, control_plane, namespace, records):
    """Return a function that deploys applications into a cluster's own namespace."""

    def deploy_in(cluster, count):
        name = f"{namespace}-{cluster}"
        control_plane.create_namespace(name)
        control_plane.grant([name])
        place = client.call(
            "vworkspace.cluster.namespace",
            "create",
            [{"cluster_id": cluster, "name": name}],
        )
        values = {
            "cluster_id": cluster,
            "namespace_id": place[0],
            "catalog_id": "wiki",
            "chart_url": "oci://registry.example.com/charts",
            "chart_name": "wiki",
            "chart_version": "1.4.2",
        }
        made = client.call(
            INSTANCE,
            "create",
            [{**values, "name": f"wiki-{number}"} for number in range(count)],
        )
        return name, deploy(client, records, made)

    return deploy_in


@pytest.fixture
def clock(tmp_path, odoo_install):
    return Clock(tmp_path, odoo_install.source)


@pytest.fixture
def any_status(control_plane, namespace, client, records):
    """Have the API server take anything as a status of our applications."""
    file = next(DEFINITIONS.glob("*applicationinstances.yaml"))
    definition = yaml.safe_load(file.read_text())
    (version,) = definition["spec"]["versions"]
    anything = {"x-kubernetes-preserve-unknown-fields": True}
    version["schema"]["openAPIV3Schema"]["properties"]["status"] = anything
    control_plane.apply([definition])
    yield
    # The definition would not take such objects any more.
    domain = [("namespace_id.name", "=", namespace)]
    ids = client.call(INSTANCE, "search", domain)
    client.call(INSTANCE, "action_delete_from_cluster", ids)
    eventually(
        lambda: records.run_due_cron() or set(records.states(ids)),
        what="the applications to be deleted",
        equals={"deleted"},
    )
    control_plane.install_definitions()


class Clock:
    """A clock that a process of its own goes by, instead of the machine's.

    Python code in it sees the wrong time; PostgreSQL and OpenSSL see the right one.
    """

    def __init__(self, folder, source):
        self._file = folder / "offset"
        self._file.write_text("0")
        (folder / "sitecustomize.py").write_text(
            Path(__file__).with_name("wrong_clock.py").read_text()
        )
        self.env = {
            "PYTHONPATH": f"{folder}:{source}",
            "WRONG_CLOCK_FILE": str(self._file),
        }

    def jump(self, seconds):
        fresh = self._file.with_suffix(".new")
        fresh.write_text(str(seconds))
        fresh.replace(self._file)


# === HELPERS === #


def deploy(client, records, ids):
    client.call(INSTANCE, "action_deploy", ids)
    eventually(
        lambda: set(records.states(ids)),
        what="all records to be applied",
        equals={"applied"},
        timeout=CONVERGENCE,
    )
    return ids


def agree(connection, control_plane, *, timeout=CONVERGENCE):
    """Wait until all records show what their objects say; then compare everything."""
    eventually(
        lambda: status_differences(connection, control_plane),
        what="all records to show the status of their objects",
        equals=[],
        timeout=timeout,
    )
    assert differences(connection, control_plane) == []


def write_to_all(control_plane, places, status):
    """Write a status to each application of some namespaces.

    :param places: a namespace and its records' ids, of each
    """
    for namespace, ids in places:
        for number in range(len(ids)):
            write_status(control_plane, namespace, f"wiki-{number}", status)


@contextlib.contextmanager
def changing(control_plane, namespace, ids):
    """Have other statuses written meanwhile, again and again."""
    stop = threading.Event()

    def change():
        for number in itertools.count():
            status = degraded_status(message=f"Change {number}.")
            write_to_all(control_plane, [(namespace, ids)], status)
            if stop.wait(0.1):
                return

    with ThreadPoolExecutor(1) as pool:
        changes = pool.submit(change)
        try:
            yield
        finally:
            stop.set()
        changes.result()


def flood(control_plane, namespace):
    """Write FLOOD statuses to FLOODED applications."""

    def write(number):
        make = (ready_status, degraded_status, failed_status)[number % 3]
        name = f"wiki-{number % FLOODED}"
        write_status(control_plane, namespace, name, make(message=f"Event {number}."))

    with ThreadPoolExecutor(WRITERS) as pool:
        for _done in pool.map(write, range(FLOOD)):
            pass


def failed_status(*, message="It crashes."):
    return {
        "observedGeneration": 1,
        "conditions": [condition("Ready", "False", message=message)],
    }


def delete_object_of(control_plane, namespace, number):
    control_plane.request("DELETE", f"{COLLECTION.format(namespace)}/wiki-{number}")


def leases(records):
    """Return holder and epoch of each cluster that is held."""
    return records.query(
        """SELECT holder, epoch FROM vworkspace_watch_lease
            WHERE holder IS NOT NULL AND expires_at > now() AT TIME ZONE 'UTC'
         ORDER BY cluster_id"""
    )


def shares(records):
    """Return how many clusters each worker holds."""
    return Counter(holder for holder, _epoch in leases(records))


def held_by(records, worker):
    """Return the ids of the clusters that a worker holds."""
    rows = records.query(
        """SELECT cluster_id FROM vworkspace_watch_lease
            WHERE split_part(holder, ':', 2) = %s
              AND expires_at > now() AT TIME ZONE 'UTC'""",
        str(worker.pid),
    )
    return {cluster_id for (cluster_id,) in rows}


def seen(records, worker):
    """Return when a worker last renewed its leases; None: it never did."""
    rows = records.query(
        "SELECT seen_at FROM vworkspace_watch_worker WHERE pid = %s", worker.pid
    )
    return rows[0][0] if rows else None


def expire_leases(records):
    records.query(
        """UPDATE vworkspace_watch_lease
              SET expires_at = now() AT TIME ZONE 'UTC' - interval '1 minute'"""
    )


def versions(records, ids):
    return records.query(
        """SELECT id, observed_resource_version FROM vworkspace_application_instance
            WHERE id = ANY(%s) ORDER BY id""",
        ids,
    )


def waits_for_lock(records, worker):
    return records.query(
        """SELECT 1 FROM pg_stat_activity
            WHERE application_name = %s AND wait_event_type = 'Lock'""",
        f"odoo-{worker.pid}",
    )


@contextlib.contextmanager
def supervisor_held_up(postgres, worker):
    """Keep a worker from renewing, and so from learning what it lost."""
    connection = postgres.connect(DATABASE)
    with contextlib.closing(connection), connection.cursor() as cr:
        cr.execute(
            "SELECT 1 FROM vworkspace_watch_worker WHERE pid = %s FOR UPDATE",
            [worker.pid],
        )
        yield


def batches(port):
    """Return how many batches a worker tried to write."""
    with requests.Session() as session:
        session.trust_env = False
        text = session.get(f"http://127.0.0.1:{port}/metrics", timeout=10).text
    lines = [line for line in text.splitlines() if line.startswith(BATCHES)]
    return sum(float(line.rsplit(" ", 1)[1]) for line in lines)


def times_off(records, ids):
    """Return times of status that are not within a few minutes of PostgreSQL's."""
    return records.query(
        """SELECT * FROM (
           SELECT 'status', status_as_of FROM vworkspace_application_instance
            WHERE id = ANY(%s)
            UNION ALL
           SELECT 'timeline', create_date FROM vworkspace_transition
            WHERE instance_id = ANY(%s)
            UNION ALL
           SELECT 'notice', COALESCE(due_at, told_at) FROM vworkspace_health_notice
            WHERE res_model = %s AND res_id = ANY(%s)
            UNION ALL
           SELECT 'contact', last_contact FROM vworkspace_watch_lease
            WHERE holder IS NOT NULL) AS known (what, at)
         WHERE abs(extract(epoch FROM now() AT TIME ZONE 'UTC' - at)) > 300""",
        *(ids, ids, INSTANCE, ids),
    )


def broken_chains(records, ids):
    """Return the changes of health that do not go on from the one before."""
    return records.query(
        """SELECT * FROM (
                  SELECT instance_id, id, previous_status, status,
                         lag(status) OVER (PARTITION BY instance_id ORDER BY id)
                         AS before
                    FROM vworkspace_transition
                   WHERE type = 'Health' AND instance_id = ANY(%s)) chain
            WHERE previous_status IS DISTINCT FROM before""",
        ids,
    )
