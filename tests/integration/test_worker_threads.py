"""The threads of a worker, in this process: what they do when something goes wrong."""

import contextlib
import os
import resource
import threading

import pytest

from environment.processes import free_port
from tests.integration.conftest import spoil
from tests.live_objects import degraded_status, patch_status, ready_status
from tests.waiting import eventually

SELECTABLE = 1024  # file descriptors, those that select() can watch
PICK_UP = 2.0  # s within which a change in Odoo reaches a worker
STREAM = ("Operation", None)


# === WRITER === #


@pytest.mark.expect_log("was lost", "could not be written")
@pytest.mark.parametrize("place", ["_write", "_write_part"])
def test_what_a_defect_of_the_writer_lost_is_listed_again(
    database, worker, running, deployed, control_plane, namespace, once, place
):
    failed = once(worker, place, RuntimeError("A defect"))

    patch_status(control_plane, namespace, ready_status())

    eventually(failed.is_set, what="the writer to fail")
    shows(database, deployed, "ready")


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
@pytest.mark.expect_log("ended by itself")
def test_a_writer_that_ended_is_started_again_and_all_is_listed(
    database, worker, running, deployed, control_plane, namespace, once
):
    ended = once(worker, "_write", SystemExit())

    patch_status(control_plane, namespace, ready_status())

    eventually(ended.is_set, what="the writer to end")
    shows(database, deployed, "ready")
    assert worker.is_alive()


def test_what_cannot_be_written_is_not_listed_again_all_the_time(watch):
    for _time in range(3):
        watch.list_again()
        watch.tend()

    assert watch.relists == 1


def test_what_came_from_another_server_is_not_written_for_this_one(
    database, cluster, held, watch
):
    from odoo.addons.vworkspace_push.status.inbox import Batch

    old = Batch(since=watch.born - 1, positions={STREAM: "5"})
    held._write(cluster.id, old)
    assert positions(database, cluster) == []

    held._write(cluster.id, Batch(since=watch.born, positions={STREAM: "6"}))
    assert positions(database, cluster) == [(*STREAM, "6")]


def test_a_connection_that_was_closed_under_its_streams_is_replaced(
    database, worker, running, cluster, deployed, control_plane, namespace
):
    from odoo.addons.vworkspace_push.connections import connections

    old = worker._watches[cluster.id].target.connection
    version = database.read(cluster, "connection_version")

    connections.drop((database.name, cluster.id), version)

    assert old.closed
    eventually(
        lambda: worker._watches[cluster.id].target.connection is not old,
        what="another connection",
    )
    patch_status(control_plane, namespace, ready_status())
    shows(database, deployed, "ready")


def test_connections_are_kept_while_nobody_can_say_whether_they_are_obsolete(
    database, monkeypatch
):
    from odoo.addons.vworkspace_push import connections

    held, silent = {("no_such_database", 1): 1, (database.name, 0): 1}, {}

    assert connections._obsolete(held, silent) == [(database.name, 0)]
    assert silent.keys() == {"no_such_database"}

    # Not for ever, as their secrets may have been revoked meanwhile
    monkeypatch.setattr(connections, "KEEP_SECONDS", 0.0)
    assert set(connections._obsolete(held, silent)) == set(held)


def test_a_server_with_another_address_is_watched_from_its_beginning(
    database, worker, running, cluster, deployed, control_plane, namespace
):
    patch_status(control_plane, namespace, ready_status())
    shows(database, deployed, "ready")
    before = worker._watches[cluster.id]
    server = database.read(cluster, "server_url")
    elsewhere = server.replace("127.0.0.1", "localhost")
    assert elsewhere != server

    spoil(database, cluster, token=None, server_url=elsewhere)

    eventually(
        lambda: worker._watches.get(cluster.id, before).target.identity,
        what="another server to be watched",
        equals=identity(database, cluster),
        timeout=2 * PICK_UP,
    )
    assert worker._watches[cluster.id] is not before
    patch_status(control_plane, namespace, degraded_status())
    shows(database, deployed, "degraded")
    eventually(
        lambda: {
            row[0]
            for row in database.sql(
                "SELECT server_identity FROM vworkspace_watch_stream"
                " WHERE cluster_id = %s",
                cluster.id,
            )
        },
        what="the positions to be those of the new server",
        equals={identity(database, cluster)},
    )
    spoil(database, cluster, token=None, server_url=server)


# === CONFIRMER === #


def test_an_end_that_no_server_answers_for_is_asked_for_again_for_ever(
    database, cluster, held, watch, clock, missing
):
    server = database.read(cluster, "server_url")
    url = f"https://127.0.0.1:{free_port()}"
    spoil(database, cluster, token=None, server_url=url)
    watch.follow(target_of(database, cluster))
    held._confirmations.add(cluster.id, [missing])

    for _time in range(10):
        eventually(
            lambda: held._confirmations.take(0),
            what="the end to be due",
            equals={cluster.id: [missing]},
        )
        held._confirm(cluster.id, [missing])
        assert held._confirmations.take(0) == {}  # nor does it spin
        clock.now += 10

    assert held._confirmations.expects(cluster.id)
    spoil(database, cluster, token=None, server_url=server)


def test_an_end_waits_while_its_cluster_has_no_connection(
    cluster, held, watch, missing
):
    watch.target.connection = None
    held._confirmations.add(cluster.id, [missing])

    held._confirm(cluster.id, [missing])

    assert held._confirmations.expects(cluster.id)
    assert held._confirmations.take(0) == {}


def test_an_end_in_a_cluster_that_was_given_up_is_forgotten(cluster, held, missing):
    held._confirmations.add(cluster.id, [missing])

    held._confirm(cluster.id, [missing])

    assert not held._confirmations.expects(cluster.id)


# === SUPERVISOR === #


def test_changes_are_heard_of_however_many_files_are_open(database):
    from odoo.addons.vworkspace_push import const
    from odoo.addons.vworkspace_push.status import worker

    with many_open_files(), worker._listening(database.name) as listener:
        assert listener.fileno() >= SELECTABLE
        database.sql("SELECT pg_notify(%s, '7')", const.NOTIFY_CHANNEL)

        assert worker._notified(listener, PICK_UP) == {7}
        assert worker._notified(listener, 0.01) == set()


# === FIXTURES === #


@pytest.fixture
def deployed(database, make_instance, deploy):
    instance = make_instance()
    deploy(instance)
    return instance


@pytest.fixture
def worker(database, clock):
    """A worker of this process that does nothing yet."""
    from odoo.addons.vworkspace_push.status import worker as module

    made = module.DatabaseWorker(database.name, stop=threading.Event())
    made._confirmations = module.Confirmations(clock=clock)
    return made


@pytest.fixture
def running(database, worker, cluster, deployed):
    """The worker, watching."""
    thread = threading.Thread(target=worker.run, daemon=True)
    thread.start()
    eventually(
        lambda: (watch := worker._watches.get(cluster.id)) and watch.reachability()[0],
        what="the cluster to be watched",
    )
    yield
    worker._stop.set()
    thread.join(10)
    assert not thread.is_alive()


@pytest.fixture
def held(database, worker, cluster):
    """The worker, holding the cluster; its threads are not started."""
    from odoo.addons.vworkspace_push.status import leases
    from odoo.addons.vworkspace_push.transactions import in_transaction

    assert cluster.id in worker._held.renew(database.registry)
    yield worker
    in_transaction(database.registry, leases.release, worker.holder)
    database.sql("DELETE FROM vworkspace_watch_stream")


@pytest.fixture
def watch(database, cluster, held):
    """The cluster's watch, without streams; counts how often it was to list all."""
    from odoo.addons.vworkspace_push.status.streams import ClusterWatch

    class Counting(ClusterWatch):
        relists = 0

        def _list_all(self):
            self.relists += 1

        def _arrange(self, *_scopes):
            pass

        def _plan(self):
            pass

    epoch = held._held.epochs[cluster.id]
    target = target_of(database, cluster)
    made = Counting(database.name, cluster.id, epoch, held._inbox, target, {})
    held._watches[cluster.id] = made
    return made


@pytest.fixture
def missing(database):
    from odoo.addons.vworkspace_push.status.sink import Missing

    return Missing("ApplicationInstance", "demo", "wiki", "uid-1")


@pytest.fixture
def once(monkeypatch):
    """Return a function that lets a method fail the next time it is called."""

    def arrange(owner, name, error):
        original = getattr(owner, name)
        failed = threading.Event()

        def fail(*args, **options):
            if failed.is_set():
                return original(*args, **options)
            failed.set()
            raise error

        monkeypatch.setattr(owner, name, fail)
        return failed

    return arrange


# === HELPERS === #


def target_of(database, cluster):
    from odoo.addons.vworkspace_push.status.streams import Target

    with database.transaction() as env:
        return Target(env[cluster._name].sudo().browse(cluster.id))


def identity(database, cluster):
    return target_of(database, cluster).identity


def positions(database, cluster):
    return database.sql(
        """SELECT kind, namespace, resource_version FROM vworkspace_watch_stream
            WHERE cluster_id = %s AND resource_version IS NOT NULL""",
        cluster.id,
    )


def shows(database, instance, health):
    eventually(
        lambda: database.read(instance, "health"), what="its health", equals=health
    )


@contextlib.contextmanager
def many_open_files():
    """Have so many files open that whatever is opened next is beyond select()."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(
        resource.RLIMIT_NOFILE, (max(soft, min(hard, 2 * SELECTABLE)), hard)
    )
    opened = []
    try:
        while not opened or opened[-1] < SELECTABLE:
            opened.append(os.open(os.devnull, os.O_RDONLY))
        yield
    finally:
        for descriptor in opened:
            os.close(descriptor)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
