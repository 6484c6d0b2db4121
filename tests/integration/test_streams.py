"""Which streams a cluster has, and what is confirmed, without any server."""

import logging
import threading
import time
from dataclasses import replace
from datetime import datetime, timedelta
from types import SimpleNamespace

import pytest

CLUSTER = 7


# === SCOPES === #


def test_until_the_rights_are_known_the_clusters_own_object_alone_is_watched(make):
    assert scopes(make(namespaces=["a"])) == ({("Cluster", None)}, set())


def test_each_namespace_has_its_streams_where_the_cluster_may_not_be_read(make):
    watch = make(namespaces=["a"], wide=set())

    watched, polled = scopes(watch)

    assert watched == {
        *(("Cluster", None), ("ApplicationInstance", "a"), ("Operation", "a"))
    }
    assert polled == set()


def test_a_kind_that_may_be_read_everywhere_has_one_stream(make):
    watch = make(namespaces=["a", "b"], wide={"Operation"})

    watched, _polled = scopes(watch)

    assert watched == {
        *(("Cluster", None), ("Operation", None)),
        *(("ApplicationInstance", "a"), ("ApplicationInstance", "b")),
    }


def test_a_restarted_worker_begins_with_the_scopes_that_it_had(make, row):
    watch = make(namespaces=["a"], stored={("Operation", None): row("5")})

    watched, _polled = scopes(watch)

    assert ("Operation", None) in watched
    assert ("ApplicationInstance", "a") in watched


def test_no_stream_begins_at_a_position_of_before_a_rewind(make, row):
    at = datetime(2026, 5, 1)
    stored = {("Operation", "a"): row("5", at)}
    watch = make(namespaces=["a"], problem="It is out of order.", stored=stored)

    watch._rewound.set()
    watch.tend()

    assert watch._stored == {("Operation", "a"): row(None, at)}


def test_the_namespaces_that_are_quiet_longest_are_polled(make, row, monkeypatch):
    from odoo.addons.vworkspace_push import const

    monkeypatch.setattr(const, "STREAMS_PER_CLUSTER", 1)
    watch = make(
        namespaces=["quiet", "busy"],
        wide={"Operation"},
        stored={
            ("ApplicationInstance", "quiet"): row("5", datetime(2026, 5, 1)),
            ("ApplicationInstance", "busy"): row("5", datetime(2026, 5, 2)),
        },
    )

    watched, polled = scopes(watch)

    assert ("ApplicationInstance", "busy") in watched
    assert polled == {("ApplicationInstance", "quiet")}


def test_a_new_namespace_is_not_taken_for_a_quiet_one(make, row, monkeypatch):
    from odoo.addons.vworkspace_push import const

    monkeypatch.setattr(const, "STREAMS_PER_CLUSTER", 1)
    watch = make(
        namespaces=["known", "new"],
        wide={"Operation"},
        stored={("ApplicationInstance", "known"): row("5", datetime(2026, 5, 1))},
    )

    watched, polled = scopes(watch)

    assert ("ApplicationInstance", "new") in watched
    assert polled == {("ApplicationInstance", "known")}


def test_a_cluster_that_cannot_be_reached_at_all_has_no_streams(make):
    watch = make(namespaces=["a"], wide=set(), problem="There is no credential.")

    assert scopes(watch) == (set(), set())
    assert watch.note() == ("waiting", "There is no credential.", None)


# === POLLING === #


def test_polling_puts_a_list_only_when_something_in_it_is_new(poller, listing, inbox):
    poll, scope = poller
    listing.items = [obj("x", "1")]
    poll._poll(scope)
    assert set(inbox.take(0)[CLUSTER].entries) == {"x"}
    inbox.finish(CLUSTER)

    poll._poll(scope)
    assert inbox.take(0) == {}

    listing.items = []
    poll._poll(scope)
    (census,) = inbox.take(0)[CLUSTER].censuses.values()
    assert census.uids == frozenset()


def test_a_list_that_fails_says_why_and_puts_nothing(poller, listing, inbox):
    from odoo.addons.vworkspace_push.kube.errors import Forbidden

    poll, scope = poller
    listing.error = Forbidden("You may not.")

    poll._poll(scope)

    assert inbox.take(0) == {}
    assert [note.message for note in poll.notes().values()] == ["You may not."]


def test_a_server_that_asks_for_a_pause_is_left_alone_by_the_poller(
    poller, listing, inbox
):
    from odoo.addons.vworkspace_push.kube.errors import Throttled

    poll, scope = poller
    other = replace(scope, namespace="b")
    poll.scopes = {scope, other}
    listing.error = Throttled("Slow down.", retry_after=60.0)

    poll._poll_due()

    assert listing.count == 1
    now = time.monotonic()
    assert all(at - now > 55.0 for at in poll._due.values())
    assert poll._due.keys() == {scope, other}


def test_a_poller_that_is_told_to_end_begins_no_list(poller, listing, inbox):
    poll, scope = poller
    poll.stop()

    poll._poll(scope)

    assert listing.count == 0


def test_a_poller_that_is_to_list_again_puts_what_it_knew_as_well(
    poller, listing, inbox
):
    poll, _scope = poller
    listing.items = [obj("x", "1")]
    poll._poll_due()
    inbox.take(0)
    inbox.finish(CLUSTER)

    poll.list_again()
    poll._poll_due()

    assert set(inbox.take(0)[CLUSTER].entries) == {"x"}


# === WHAT THE SERVER ANSWERS === #


def test_a_credential_is_refused_when_the_server_says_so_twice(make, states):
    from odoo.addons.vworkspace_push.kube.errors import Unauthorized

    stream = states(make(namespaces=["a"]), "a")

    stream.waits(Unauthorized("Unauthorized"))
    assert not stream.refused
    stream.waits(Unauthorized("Unauthorized"))
    assert stream.refused
    stream.waits(None)
    assert not stream.refused
    stream.waits(Unauthorized("Unauthorized"))
    assert not stream.refused


def test_the_streams_are_resumed_once_a_server_that_failed_works(make, states):
    from odoo.addons.vworkspace_push.kube.errors import ServerFailed

    watch = make(namespaces=["a"])
    pulse, other = states(watch, "a"), states(watch, "a")
    pulse.reflector.is_pulse = True
    watch._streams = {"pulse": pulse, "other": other}
    for stream in (pulse, other):
        stream.waits(ServerFailed("It has just started."))
    wait = other.reflector._cancellation

    watch._resume_with_pulse()
    assert not wait.cancelled
    pulse.heard(None)
    watch._resume_with_pulse()
    assert wait.cancelled


def test_a_contact_is_as_old_as_it_is_when_the_hosts_clock_is_set_back(
    make, states, monkeypatch
):
    from odoo.addons.vworkspace_push.status import streams

    stream = states(make(namespaces=["a"]), "a")
    stream.heard(None)
    earlier = streams._now() - timedelta(hours=1)
    monkeypatch.setattr(streams, "_now", lambda: earlier)

    contact = streams._last_contact([stream])
    assert earlier - timedelta(seconds=5) < contact <= earlier


def test_a_stream_that_was_told_to_end_leaves_no_figures_behind(make, states):
    from odoo.addons.vworkspace_push.kube.errors import ServerFailed
    from odoo.addons.vworkspace_push.status import metrics

    watch = make(namespaces=["a"])
    stream = states(watch, "a")
    stream._end.set()
    metrics.forget("db", watch.target.label)

    stream.waits(ServerFailed("It failed."))

    assert metrics._children(metrics.ERRORS) == []


# === POSITIONS THAT ARE TOO OLD === #


def test_however_many_streams_list_anew_their_cluster_tells_it_once(
    make, states, caplog
):
    watch = make(namespaces=["a", "b", "c"])
    caplog.set_level(logging.INFO)

    for name in watch.target.namespaces:
        states(watch, name).expired("too old resource version: 1 (9)")

    told = [r.getMessage() for r in caplog.records if "too old" in r.getMessage()]
    assert told == ["cluster east lists anew: too old resource version: 1 (9)"]


def test_to_list_anew_is_no_problem(make, states):
    stream = states(make(namespaces=["a"]), "a")

    stream.expired("too old resource version: 1 (9)")

    assert (stream.note().state, stream.note().message) == ("listing", "")


# === CONFIRMATIONS === #


def test_an_end_that_the_server_denies_is_asked_for_again_until_it_is_given_up(
    confirmations, clock, missing
):
    confirmations.add(CLUSTER, [missing])
    for seconds in (0.0, 5.0, 30.0, 120.0):
        assert confirmations.expects(CLUSTER)
        assert not seconds or confirmations.take(0) == {}
        clock.now += seconds
        assert confirmations.take(0) == {CLUSTER: [missing]}
        confirmations.settle(CLUSTER, [missing], [])

    assert not confirmations.expects(CLUSTER)


def test_an_end_that_nobody_answered_for_is_never_given_up(
    confirmations, clock, missing
):
    confirmations.add(CLUSTER, [missing])
    for _time in range(20):
        assert confirmations.take(0) == {CLUSTER: [missing]}
        confirmations.put_back(CLUSTER, [missing])
        assert confirmations.take(0) == {}
        clock.now += 10

    assert confirmations.expects(CLUSTER)


def test_however_many_ends_a_cluster_has_the_others_have_their_turn(
    confirmations, missing, monkeypatch
):
    from odoo.addons.vworkspace_push.status import worker

    monkeypatch.setattr(worker, "CONFIRM_AT_ONCE", 2)
    many = [replace(missing, uid=f"uid-{n}") for n in range(5)]
    confirmations.add(CLUSTER, many)
    confirmations.add(8, [missing])

    assert confirmations.take(0) == {CLUSTER: many[:2], 8: [missing]}
    confirmations.settle(CLUSTER, many[:2], many[:2])
    assert confirmations.take(0) == {CLUSTER: many[2:4], 8: [missing]}


def test_a_confirmed_end_is_done_with(confirmations, missing):
    confirmations.add(CLUSTER, [missing])

    confirmations.settle(CLUSTER, [missing], [missing])

    assert not confirmations.expects(CLUSTER)
    assert confirmations.take(0) == {}


# === FIXTURES === #


@pytest.fixture
def inbox(odoo_in_process):
    from odoo.addons.vworkspace_push.status.inbox import Inbox

    return Inbox()


@pytest.fixture
def row(odoo_in_process):
    from odoo.addons.vworkspace_push.status.positions import Row

    return lambda version, last_event_at=None: Row(version, last_event_at)


@pytest.fixture
def make(inbox):
    """Return a function that makes a cluster's watch, in which nothing runs yet."""
    from odoo.addons.vworkspace_push.status.streams import ClusterWatch

    def build(*, namespaces, wide=None, stored=None, problem=""):
        target = SimpleNamespace(
            version=1,
            label="east",
            name="East",
            namespaces=frozenset(namespaces),
            connection=None,
            problem=problem,
            identity="server",
        )
        watch = ClusterWatch("db", CLUSTER, 1, inbox, target, stored or {})
        if wide is not None:
            watch._wide = frozenset(wide)
        return watch

    return build


@pytest.fixture
def listing(odoo_in_process, monkeypatch):
    """What the server's list has."""
    from odoo.addons.vworkspace_push.status import streams

    state = SimpleNamespace(items=[], error=None, count=0)

    def list_all(*_args, **_options):
        state.count += 1
        if state.error:
            raise state.error
        return list(state.items), "9"

    monkeypatch.setattr(streams, "list_all", list_all)
    return state


@pytest.fixture
def poller(make, inbox, listing):
    from odoo.addons.vworkspace_push.kube.reflector import Scope
    from odoo.addons.vworkspace_push.kube.resources import APPLICATION_INSTANCE
    from odoo.addons.vworkspace_push.status.streams import Poller

    scope = Scope(APPLICATION_INSTANCE, "a")
    slots = threading.Semaphore(1)
    watch = make(namespaces=["a"])
    return Poller(watch, {scope}, inbox=inbox, slots=slots), scope


@pytest.fixture
def states(inbox):
    """Return a function that makes a stream which is told what its reflector does."""
    from odoo.addons.vworkspace_push.kube.errors import Expired
    from odoo.addons.vworkspace_push.kube.reflector import Scope, StreamState
    from odoo.addons.vworkspace_push.kube.resources import APPLICATION_INSTANCE
    from odoo.addons.vworkspace_push.status.streams import Stream

    class Told(Stream):
        def expired(self, text):
            self.waits(Expired(text))

        def waits(self, error):
            self.state(self._scope, StreamState("waiting", error=error))

    def build(watch, namespace):
        return Told(
            watch,
            Scope(APPLICATION_INSTANCE, namespace),
            inbox=inbox,
            version="1",
            slots=threading.Semaphore(1),
            rewound=threading.Event(),
            is_pulse=False,
        )

    return build


@pytest.fixture
def confirmations(odoo_in_process, clock):
    from odoo.addons.vworkspace_push.status.worker import Confirmations

    return Confirmations(clock=clock)


@pytest.fixture
def missing(odoo_in_process):
    from odoo.addons.vworkspace_push.status.sink import Missing

    return Missing("ApplicationInstance", "demo", "wiki", "uid-1")


# === HELPERS === #


def scopes(watch):
    """Return what a watch wants to watch and to poll, as kinds and namespaces."""
    watched, polled = watch._wanted()
    return tuple(
        {(scope.resource.kind, scope.namespace) for scope in group}
        for group in (watched, polled)
    )


def obj(uid, version):
    return {"metadata": {"uid": uid, "name": uid, "resourceVersion": version}}
