"""Workers share the clusters: evenly, whatever happens to one of them."""

import contextlib
import select
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import psycopg2
import pytest

from tests.integration.conftest import activate
from tests.waiting import eventually

LEASE = "vworkspace_watch_lease"
WORKER = "vworkspace_watch_worker"
ROUNDS = 6  # claims of everybody, after which shares are even
PICK_UP = 2.0  # s within which a change in Odoo reaches a worker


# === SHARES === #


def test_a_worker_alone_holds_everything(claim, clusters):
    assert claim("one").keys() == set(clusters)


@pytest.mark.parametrize("count", [2, 3, 5, 12])
def test_workers_share_evenly(claim, clusters, count):
    held = settle(claim, [f"worker-{n}" for n in range(count)])

    sizes = [len(epochs) for epochs in held.values()]
    assert max(sizes) - min(sizes) <= 1
    assert_each_is_held_once(held, clusters)


def test_workers_that_claim_at_the_same_time_share_evenly(claim, clusters):
    names = [f"worker-{n}" for n in range(4)]
    with ThreadPoolExecutor(len(names)) as pool:
        for _round in range(ROUNDS):
            held = dict(zip(names, pool.map(claim, names), strict=True))
    held = {name: claim(name) for name in names}

    assert sorted(map(len, held.values())) == [2, 2, 3, 3]
    assert_each_is_held_once(held, clusters)


def test_who_joins_takes_over_from_who_has_the_most_with_higher_epochs(claim, clusters):
    before = claim("old")

    joined = claim("new")

    assert len(joined) == len(clusters) // 2
    assert all(joined[cluster] > before[cluster] for cluster in joined)
    assert claim("old").keys() == set(clusters) - joined.keys()


def test_only_a_few_clusters_change_hands_at_once(claim, clusters, monkeypatch):
    from odoo.addons.vworkspace_push.status import leases

    monkeypatch.setattr(leases, "MOVED_AT_ONCE", 2)
    claim("old")

    assert [len(claim("new")) for _round in range(3)] == [2, 4, 5]


def test_shares_stay_as_they_are_while_nothing_changes(claim, clusters):
    names = ["one", "two", "three"]
    held = settle(claim, names)

    assert settle(claim, names) == held


def test_a_worker_that_leaves_frees_its_clusters_for_the_others(
    database, claim, release, clusters, listener
):
    held = settle(claim, ["one", "two"])
    heard(listener)

    release("two")

    assert heard(listener) == {str(cluster) for cluster in held["two"]}
    assert claim("one").keys() == set(clusters)


def test_a_dead_workers_clusters_are_all_held_after_one_round_of_the_others(
    database, claim, clusters
):
    names = ["one", "two", "three"]
    settle(claim, names)
    die(database, "three")

    held = {name: claim(name) for name in names[:2]}

    assert_each_is_held_once(held, clusters)
    assert {len(epochs) for epochs in held.values()} == {len(clusters) // 2}


def test_a_worker_for_some_clusters_takes_no_others(claim, clusters):
    some = frozenset(clusters[:3])

    held = {}
    for _round in range(ROUNDS):
        held = {"some": claim("some", some), "all": claim("all")}

    assert held["some"].keys() <= some
    assert_each_is_held_once(held, clusters)


def test_what_a_worker_for_some_clusters_leaves_is_taken_by_the_others(claim, clusters):
    some = frozenset(clusters[:2])
    claim("some", some)

    assert claim("all").keys() == set(clusters) - claim("some", some).keys()


@pytest.mark.parametrize(
    ("holders", "workers", "expected"),
    [
        pytest.param(
            {1: None, 2: "b", 3: "b"}, {"a": None, "b": None}, {1: None}, id="free"
        ),
        pytest.param(
            {1: "b", 2: "b", 3: "c", 4: "c", 5: "c", 6: "c"},
            {"a": None, "b": None, "c": None},
            {3: "c", 4: "c", 5: "c", 6: "c"},
            id="from the one with the most",
        ),
        pytest.param({1: "b"}, {"a": None, "b": None}, {}, id="nothing to share"),
        pytest.param(
            {1: None, 2: "a", 3: "b"},
            {"a": None, "b": frozenset({3})},
            {1: None},
            id="what nobody else may take",
        ),
    ],
)
def test_what_a_worker_wants_next(database, holders, workers, expected):
    from odoo.addons.vworkspace_push.status.leases import plan

    wanted = plan("a", workers, holders)

    assert wanted.items() <= expected.items()
    assert bool(wanted) == bool(expected)


# === THE FENCE === #


def test_who_returns_after_its_lease_moved_cannot_write_with_the_old_epoch(
    database, claim, is_held, clusters
):
    old = claim("frozen")
    die(database, "frozen")
    new = claim("other")

    cluster = clusters[0]
    assert not is_held(cluster, "frozen", old[cluster])
    assert not is_held(cluster, "other", old[cluster])
    assert is_held(cluster, "other", new[cluster])
    assert cluster not in claim("frozen") or claim("frozen")[cluster] > new[cluster]


def test_who_returns_before_anybody_took_its_clusters_goes_on(database, claim):
    before = claim("slow")
    die(database, "slow")

    assert claim("slow") == before


def test_what_is_released_is_held_with_a_higher_epoch_then(claim, release, clusters):
    before = claim("one")
    release("one")

    after = claim("one")

    assert all(after[cluster] > before[cluster] for cluster in clusters)


def test_a_batch_that_is_being_written_does_not_hold_up_its_writers_leases(
    database, claim, env, clusters
):
    from odoo.addons.vworkspace_push.status import leases

    epochs = claim("one")
    die(database, "one")
    assert leases.is_held(env, clusters[0], "one", epochs[clusters[0]])

    assert claim("one") == epochs

    # What was renewed meanwhile is locked as it was before.
    die(database, "one")
    assert claim("other").keys() == set(clusters[1:])
    env.cr.commit()
    assert claim("other").keys() == set(clusters)


def test_a_batch_that_is_being_written_is_not_taken_over_meanwhile(
    database, claim, env, clusters
):
    from odoo.addons.vworkspace_push.status import leases

    epochs = claim("slow")
    die(database, "slow")
    assert leases.is_held(env, clusters[0], "slow", epochs[clusters[0]])

    assert claim("other").keys() == set(clusters[1:])

    env.cr.commit()
    assert claim("other").keys() == set(clusters)


def test_who_freezes_in_the_midst_of_a_transaction_loses_its_lease_all_the_same(
    database, claim, clusters, monkeypatch
):
    from odoo.addons.vworkspace_push.status import leases

    epochs = claim("frozen")
    monkeypatch.setattr(leases, "FROZEN_AFTER", "100ms")
    with frozen_cursor(database) as env:
        assert leases.is_held(env, clusters[0], "frozen", epochs[clusters[0]])

        eventually(lambda: may_lock(database, clusters[0]), what="the lease to be free")
        die(database, "frozen")
        assert claim("other").keys() == set(clusters)


# === CLOCKS === #


def test_a_host_whose_clock_is_wrong_takes_nothing_from_others(
    claim, clusters, monkeypatch
):
    from datetime import timedelta

    from odoo import fields

    claim("one")
    now = fields.Datetime.now
    ahead = staticmethod(lambda *_: now() + timedelta(hours=1))
    monkeypatch.setattr(fields.Datetime, "now", ahead)

    held = {name: claim(name) for name in ("two", "one")}

    assert len(held["two"]) == len(clusters) // 2  # its share, and no more
    assert_each_is_held_once(held, clusters)


def test_a_lease_from_before_postgresqls_clock_was_set_back_ends_in_time(
    database, claim, clusters
):
    claim("dead")
    database.sql(f"UPDATE {LEASE} SET expires_at = expires_at + interval '1 hour'")  # noqa: S608
    database.sql(f"UPDATE {WORKER} SET seen_at = seen_at + interval '1 hour'")  # noqa: S608

    claim("other", frozenset())

    assert database.sql(
        f"SELECT count(*) FROM {LEASE} WHERE expires_at"  # noqa: S608
        " > now() AT TIME ZONE 'UTC' + interval '15 s'"
    ) == [(0,)]
    assert database.sql(f"SELECT DISTINCT holder FROM {LEASE}") == [("dead",)]  # noqa: S608
    die(database, "dead")
    assert claim("other").keys() == set(clusters)


def test_a_contact_noted_by_a_clock_that_is_ahead_is_none_of_the_future(
    database, claim, in_transaction, clusters
):
    from datetime import timedelta

    from odoo import fields

    from odoo.addons.vworkspace_push.status import leases

    claim("one")
    database.sql(f"UPDATE {LEASE} SET last_contact = now() + interval '1 hour'")  # noqa: S608
    heard_at = fields.Datetime.now() - timedelta(seconds=10)

    notes = {clusters[0]: ("watching", "", heard_at)}
    in_transaction(leases.note_streams, "one", notes)

    assert database.sql(
        f"SELECT last_contact <= now() AT TIME ZONE 'UTC' FROM {LEASE}"  # noqa: S608
        " WHERE cluster_id = %s",
        clusters[0],
    ) == [(True,)]


def test_a_worker_that_cannot_renew_knows_by_its_own_clock_when_it_lost_everything(
    database, clusters
):
    from odoo.addons.vworkspace_push.status.leases import Held

    clock = Clock()
    held = Held("one", clock=clock)
    assert held.is_lost
    assert held.renew(database.registry).keys() == set(clusters)
    clock.now += 14.9
    assert (held.is_lost, held.epochs.keys()) == (False, set(clusters))

    clock.now += 0.1

    assert (held.is_lost, held.epochs) == (True, {})
    assert held.renew(database.registry).keys() == set(clusters)
    assert not held.is_lost


# === WHICH CLUSTERS === #


def test_a_cluster_that_is_added_is_taken_with_the_next_claim(
    claim, make_clusters, clusters
):
    claim("one")

    (added,) = make_clusters(1)

    assert claim("one").keys() == {*clusters, added}


@pytest.mark.parametrize(
    "change",
    ["active = FALSE", "state = 'refused'", "connectivity_mode = 'pull'"],
)
def test_a_cluster_that_is_not_to_be_watched_any_more_is_given_up(
    database, claim, is_held, clusters, change
):
    cluster = clusters[0]
    epoch = claim("one")[cluster]
    database.sql(f"UPDATE vworkspace_cluster SET {change} WHERE id = %s", cluster)  # noqa: S608

    assert cluster not in claim("one")

    assert not is_held(cluster, "one", epoch)


def test_a_cluster_whose_deliveries_are_paused_is_watched(database, claim, clusters):
    cluster = clusters[0]
    database.sql(
        "UPDATE vworkspace_cluster SET is_paused = TRUE WHERE id = %s", cluster
    )

    assert cluster in claim("one")


def test_a_cluster_that_is_deleted_is_held_by_nobody(database, claim, clusters):
    claim("one")
    with database.transaction() as env:
        env["vworkspace.cluster"].browse(clusters[0]).unlink()

    assert claim("one").keys() == set(clusters[1:])


def test_a_worker_is_listed_from_its_first_claim_until_it_stops(
    database, claim, release
):
    claim("one", frozenset())

    rows = database.sql(f"SELECT holder, pid > 0, cluster_ids FROM {WORKER}")  # noqa: S608
    assert rows == [("one", True, [])]
    release("one")
    assert database.sql(f"SELECT holder FROM {WORKER}") == []  # noqa: S608


def test_a_worker_that_died_long_ago_is_forgotten(database, claim):
    claim("dead")
    database.sql(f"UPDATE {WORKER} SET seen_at = seen_at - interval '2 hours'")  # noqa: S608

    claim("one")

    assert database.sql(f"SELECT holder FROM {WORKER}") == [("one",)]  # noqa: S608


# === WHAT WORKERS ARE TOLD === #


@pytest.mark.parametrize(
    "values",
    [
        {"server_url": "https://10.0.0.9:6443"},
        {"tls_server_name": "elsewhere.example.com"},
        {"active": False},
        {"connectivity_mode": "pull"},
        {"stale_after": 300},
    ],
    ids=lambda values: next(iter(values)),
)
def test_a_change_of_a_cluster_is_told(database, clusters, listener, values):
    with database.transaction() as env:
        env["vworkspace.cluster"].browse(clusters[0]).write(values)

    assert str(clusters[0]) in heard(listener)


def test_pausing_and_resuming_deliveries_is_told(database, clusters, listener):
    for method in ("action_pause", "action_resume"):
        database.call("admin", "vworkspace.cluster", method, [clusters[0]])

        assert str(clusters[0]) in heard(listener)


def test_namespaces_that_come_change_and_go_are_told(database, clusters, listener):
    with database.transaction() as env:
        namespace = env["vworkspace.cluster.namespace"].create(
            {"cluster_id": clusters[0], "name": "added"}
        )
    assert heard(listener) == {str(clusters[0])}
    with database.transaction() as env:
        env[namespace._name].browse(namespace.id).cluster_id = clusters[1]
    assert heard(listener) == {str(clusters[0]), str(clusters[1])}
    with database.transaction() as env:
        env[namespace._name].browse(namespace.id).unlink()
    assert heard(listener) == {str(clusters[1])}


def test_a_new_credential_is_told(database, cluster, listener, control_plane):
    values = {"token": control_plane.service_account_token()}
    database.call("admin", cluster._name, "write", cluster.ids, values)
    activate(database, cluster)

    assert str(cluster.id) in heard(listener)
    database.sql(
        "UPDATE vworkspace_cluster SET active = FALSE WHERE id = %s", cluster.id
    )


def test_the_end_of_a_cluster_is_told(database, clusters, listener):
    with database.transaction() as env:
        env["vworkspace.cluster"].browse(clusters[0]).unlink()

    assert heard(listener) == {str(clusters[0])}


# === FIXTURES === #


@pytest.fixture
def in_transaction(database):
    """Return a function that runs another one in a transaction of its own."""
    from odoo.addons.vworkspace_push.transactions import in_transaction

    def run(function, *args):
        return in_transaction(database.registry, function, *args)

    return run


@pytest.fixture
def claim(clusters, in_transaction):
    """Return a function that claims for a holder, as its process would."""
    from odoo.addons.vworkspace_push.status import leases

    return lambda holder, only=None: in_transaction(leases.claim, holder, only)


@pytest.fixture
def release(in_transaction):
    from odoo.addons.vworkspace_push.status import leases

    return lambda holder: in_transaction(leases.release, holder)


@pytest.fixture
def is_held(in_transaction):
    from odoo.addons.vworkspace_push.status import leases

    return lambda *args: in_transaction(leases.is_held, *args)


@pytest.fixture
def env(database):
    """A transaction that is under way, at READ COMMITTED."""
    import odoo.api

    with database.registry.cursor() as cr:
        cr.execute("SET TRANSACTION ISOLATION LEVEL READ COMMITTED")
        yield odoo.api.Environment(cr, odoo.SUPERUSER_ID, {})


@pytest.fixture
def make_clusters(database):
    """Return a function that makes clusters which are watched; it returns their ids."""
    made = []

    def make(count):
        with database.transaction() as env:
            records = env["vworkspace.cluster"].create(
                [
                    {
                        "name": f"Cluster {len(made) + n}",
                        "cluster_id": f"cluster-{len(made) + n}",
                        "server_url": "https://10.0.0.1:6443",
                    }
                    for n in range(count)
                ]
            )
        database.sql(
            "UPDATE vworkspace_cluster SET state = 'active' WHERE id = ANY(%s)",
            records.ids,
        )
        made.extend(records.ids)
        return records.ids

    yield make
    database.sql(f"DELETE FROM {LEASE}")  # noqa: S608
    database.sql(f"DELETE FROM {WORKER}")  # noqa: S608
    database.sql(
        "UPDATE vworkspace_cluster SET active = FALSE, cluster_id = 'gone-' || id"
        " WHERE id = ANY(%s)",
        made,
    )


@pytest.fixture
def clusters(make_clusters):
    return make_clusters(10)


@pytest.fixture
def listener(database, clusters):
    """A connection that hears what workers hear."""
    from odoo import sql_db

    _name, info = sql_db.connection_info_for(database.name)
    with contextlib.closing(psycopg2.connect(**info)) as connection:
        connection.autocommit = True
        connection.cursor().execute("LISTEN vworkspace_push")
        yield connection


# === HELPERS === #


class Clock:
    now = 1_000.0

    def __call__(self):
        return self.now


def settle(claim, names):
    """Have everybody claim in turn until shares are even; return what each holds."""
    for _round in range(ROUNDS):
        held = {name: claim(name) for name in names}
    return held


def assert_each_is_held_once(held, clusters):
    counts = Counter(cluster for epochs in held.values() for cluster in epochs)
    assert counts == dict.fromkeys(clusters, 1)


def die(database, holder):
    """Let a worker have been silent for as long as its lease lasts."""
    for table, column in ((LEASE, "expires_at"), (WORKER, "seen_at")):
        database.sql(
            f"UPDATE {table} SET {column} = now() AT TIME ZONE 'UTC'"  # noqa: S608
            " - interval '15 s' WHERE holder = %s",
            holder,
        )


def may_lock(database, cluster_id):
    return database.sql(
        f"SELECT 1 FROM {LEASE} WHERE cluster_id = %s FOR UPDATE SKIP LOCKED",  # noqa: S608
        cluster_id,
    )


@contextlib.contextmanager
def frozen_cursor(database):
    """Yield an environment whose transaction is never heard of again."""
    import odoo.api

    cr = database.registry.cursor()
    try:
        cr.execute("SET TRANSACTION ISOLATION LEVEL READ COMMITTED")
        yield odoo.api.Environment(cr, odoo.SUPERUSER_ID, {})
    finally:
        with contextlib.suppress(psycopg2.Error):
            cr.close()


def heard(listener):
    """Return the notifications that came, once at least one did or time is over."""
    if select.select([listener], [], [], PICK_UP)[0]:
        listener.poll()
    payloads = {notify.payload for notify in listener.notifies}
    listener.notifies.clear()
    return payloads
