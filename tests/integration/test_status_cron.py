"""Where no watch worker is, the cron lists; where one is, it stays out of the way.

Now and then it compares what the worker brought with a complete list.
"""

import contextlib
import json
import socket
import time

import pytest

from environment.processes import free_port
from tests.integration.conftest import replace_token, spoil
from tests.integration.test_sink import adopt, hear, ingest
from tests.live_objects import (
    degraded_status,
    delete_object,
    get_object,
    patch_status,
    ready_status,
)
from tests.registration import Spy
from tests.waiting import eventually


def test_without_a_worker_the_cron_brings_the_status(
    database, cluster, deployed, control_plane, namespace
):
    patch_status(control_plane, namespace, ready_status())

    database.run_cron("ir_cron_status")

    assert database.read(deployed, "health") == "ready"
    assert database.read(deployed, "endpoint_url") == "https://wiki.example.com/"
    assert database.read(cluster, "watch_state") == "polling"


def test_a_second_list_of_the_same_writes_nothing(
    database, deployed, control_plane, namespace
):
    patch_status(control_plane, namespace, ready_status())
    database.run_cron("ir_cron_status")
    before = row_version(database, deployed)

    database.run_cron("ir_cron_status")

    assert row_version(database, deployed) == before


def test_an_object_missing_from_the_list_is_lost(
    database, deployed, control_plane, namespace
):
    delete_object(control_plane, namespace)

    database.run_cron("ir_cron_status")

    assert database.read(deployed, "delivery_state") == "lost"


def test_a_failing_cluster_does_not_stop_the_others_and_says_why(
    database, deployed, control_plane, namespace, make_cluster
):
    broken = [make_cluster(), make_cluster()]
    url = f"https://127.0.0.1:{free_port()}"
    spoil(database, broken[0], token=None, server_url=url)
    erase_secret(database, broken[1])
    patch_status(control_plane, namespace, ready_status())

    database.run_cron("ir_cron_status")

    assert database.read(deployed, "health") == "ready"
    assert "refused" in database.read(broken[0], "watch_message")
    assert "secret was erased" in database.read(broken[1], "watch_message")


def test_a_cluster_that_recovers_has_no_message_any_more(
    database, make_cluster, control_plane
):
    broken = make_cluster()
    erase_secret(database, broken)
    database.run_cron("ir_cron_status")
    assert database.read(broken, "watch_message")
    replace_token(database, broken, control_plane.service_account_token())

    database.run_cron("ir_cron_status")

    assert database.read(broken, "watch_message") is False
    assert database.read(broken, "last_contact")


def test_open_pages_are_told_of_a_problem_once_and_when_it_is_over(
    database, make_cluster, control_plane
):
    cluster = make_cluster()
    poll(database, cluster)
    server = database.read(cluster, "server_url")

    def told():
        database.sql("DELETE FROM bus_bus")
        poll(database, cluster)
        rows = database.sql("SELECT message FROM bus_bus")
        payloads = [json.loads(text)["payload"] for (text,) in rows]
        return {payload["model"]: payload["ids"] for payload in payloads}

    assert told() == {}
    url = f"https://127.0.0.1:{free_port()}"
    spoil(database, cluster, token=None, server_url=url)
    assert told() == {cluster._name: cluster.ids}
    assert told() == {}
    spoil(database, cluster, token=None, server_url=server)
    assert told() == {cluster._name: cluster.ids}


def test_a_list_that_fails_marks_nothing_as_lost(
    database, cluster, deployed, control_plane, namespace
):
    patch_status(control_plane, namespace, ready_status())
    database.run_cron("ir_cron_status")
    spoil(database, cluster, token="not-a-token-of-this-cluster")

    database.run_cron("ir_cron_status")

    stored = database.read(deployed, "delivery_state", "health")
    assert (stored["delivery_state"], stored["health"]) == ("applied", "ready")
    assert database.read(cluster, "watch_message")
    replace_token(database, cluster, control_plane.service_account_token())
    database.run_cron("ir_cron_status")
    stored = database.read(deployed, "delivery_state", "health")
    assert (stored["delivery_state"], stored["health"]) == ("applied", "ready")


def test_a_namespace_without_rights_marks_nothing_as_lost(
    database, cluster, deployed, control_plane, namespace
):
    control_plane.kubectl("delete", "rolebindings", "--all", "-n", namespace)

    database.run_cron("ir_cron_status")

    assert database.read(deployed, "delivery_state") == "applied"
    assert "cannot list resource" in database.read(cluster, "watch_message")
    control_plane.grant([namespace])


def test_a_namespace_without_rights_does_not_stop_the_others(
    database, cluster, deployed, control_plane, namespace
):
    control_plane.create_namespace("a-without-rights")  # the first in their order
    with database.transaction() as env:
        place = env["vworkspace.cluster.namespace"].create(
            {"cluster_id": cluster.id, "name": "a-without-rights"}
        )
    patch_status(control_plane, namespace, ready_status())

    database.run_cron("ir_cron_status")

    assert database.read(deployed, "health") == "ready"
    assert "cannot list resource" in database.read(cluster, "watch_message")
    database.call("admin", place._name, "unlink", place.ids)


def test_a_cluster_that_a_worker_holds_is_left_to_it(
    database, cluster, deployed, control_plane, namespace
):
    from odoo.addons.vworkspace_push.status import leases
    from odoo.addons.vworkspace_push.transactions import in_transaction

    database.run_cron("ir_cron_status")
    held = in_transaction(database.registry, leases.claim, "a-live-worker")
    assert cluster.id in held
    patch_status(control_plane, namespace, degraded_status())

    database.run_cron("ir_cron_status")
    while_held = database.read(deployed, "health")
    in_transaction(database.registry, leases.release, "a-live-worker")
    database.run_cron("ir_cron_status")

    assert while_held != "degraded"
    assert database.read(deployed, "health") == "degraded"


def test_what_is_missing_from_a_list_but_still_there_is_not_lost(
    database, deployed, control_plane, namespace, monkeypatch
):
    from odoo.addons.vworkspace_push.kube import apply

    def without_objects(*_args, **_options):
        live = get_object(control_plane, namespace)
        return [], live["metadata"]["resourceVersion"]

    monkeypatch.setattr(apply, "list_all", without_objects)

    database.run_cron("ir_cron_status")

    assert database.read(deployed, "delivery_state") == "applied"


# === REQUESTS === #


def test_a_credential_that_may_read_everything_lists_each_kind_in_the_whole_cluster(
    database, cluster, deployed, other_namespace, control_plane, namespace, reader, spy
):
    patch_status(control_plane, namespace, ready_status())

    poll(database, cluster)

    assert database.read(deployed, "health") == "ready"
    # What other tests left in the cluster may take more than one page.
    assert set(requests(spy)) == {
        "/apis/apps.vworkspace.io/v1alpha1/applicationinstances",
        "/apis/ops.vworkspace.io/v1alpha1/clusters",
        "/apis/ops.vworkspace.io/v1alpha1/operations",
    }


def test_one_that_may_not_makes_one_for_each_namespace_and_is_not_asked_again(
    database, cluster, deployed, other_namespace, spy, monkeypatch
):
    from odoo.addons.vworkspace_push.status import visit

    monkeypatch.setattr(visit, "_refusals", {})
    everywhere = "/apis/apps.vworkspace.io/v1alpha1/applicationinstances"
    poll(database, cluster)
    assert everywhere in requests(spy)
    spy.clear()

    poll(database, cluster)

    listed = [path for path in requests(spy) if path.endswith("applicationinstances")]
    places = database.read(cluster, "namespace_ids")
    assert len(listed) == len(places)
    assert everywhere not in listed


def test_an_object_that_is_gone_is_lost_when_the_whole_cluster_is_listed(
    database, cluster, deployed, other_namespace, control_plane, namespace, reader
):
    delete_object(control_plane, namespace)

    poll(database, cluster)

    assert database.read(deployed, "delivery_state") == "lost"


# === TIME === #


def test_clusters_that_hang_do_not_hold_up_the_others(
    database, deployed, control_plane, namespace, make_cluster, hanging, monkeypatch
):
    from odoo.addons.vworkspace_push.status import poll as module

    hung = [make_cluster(), make_cluster()]
    for one in hung:
        spoil(database, one, token=None, server_url=hanging)
    monkeypatch.setattr(module, "CLUSTER_SECONDS", 1.0)
    database.run_cron("ir_cron_status")  # they are known to fail from here on
    monkeypatch.setattr(module, "AT_ONCE", 2)
    monkeypatch.setattr(module, "FAILING_AT_ONCE", 1)
    database.sql("UPDATE vworkspace_watch_lease SET polled_at = NULL")
    database.sql(
        "UPDATE vworkspace_watch_lease SET polled_at = now()"
        " WHERE cluster_id <> ALL(%s)",
        [one.id for one in hung],
    )
    patch_status(control_plane, namespace, ready_status())
    began = time.monotonic()

    database.run_cron("ir_cron_status")

    assert time.monotonic() - began < 15
    assert database.read(deployed, "health") == "ready"
    assert "within 1 s" in database.read(hung[0], "watch_message")


def test_what_is_silent_is_marked_while_others_still_have_their_turn(
    database, make_cluster, make_instance, hanging, monkeypatch
):
    from odoo.addons.vworkspace_push.status import poll as module

    hung = make_cluster()
    place = {"cluster_id": hung.id, "namespace_id": namespaces(database, hung)[0]}
    instance = adopt(database, make_instance(name="hung", **place))
    ingest(database, instance, status=ready_status(), version="100")
    spoil(database, hung, token=None, server_url=hanging)
    hear(database, hung, minutes_ago=5)
    monkeypatch.setattr(module, "MARK_EVERY", 1.0)
    monkeypatch.setattr(module, "CLUSTER_SECONDS", 4.0)

    module.run(database.registry)

    stored = database.read(instance, "health", "health_message")
    assert stored["health"] == "unknown"
    assert "has not been heard of" in stored["health_message"]


def test_the_cluster_whose_turn_was_longest_ago_is_first(
    database, cluster, make_cluster
):
    from odoo.addons.vworkspace_push.status import poll as module

    never, long_ago = make_cluster(), make_cluster()
    database.run_cron("ir_cron_status")
    for one, when in ((never, "NULL"), (long_ago, "polled_at - interval '1 h'")):
        database.sql(
            f"UPDATE vworkspace_watch_lease SET polled_at = {when}"  # noqa: S608
            " WHERE cluster_id = %s",
            one.id,
        )

    with database.transaction() as env:
        turns = [cluster_id for cluster_id, _failing in module._uncovered_clusters(env)]

    assert turns[:2] == [never.id, long_ago.id]


def test_when_time_is_over_the_rest_is_left_for_the_next_run(
    database, cluster, make_cluster
):
    from odoo.addons.vworkspace_push.status import poll as module

    make_cluster()

    assert module.run(database.registry, budget=0) == (0, False)
    handled, complete = module.run(database.registry)
    assert (handled >= 2, complete) == (True, True)


def test_a_cluster_that_does_not_answer_has_applications_of_unknown_health(
    database, make_cluster, control_plane, namespace, make_instance, deploy
):
    away = make_cluster()
    place = {"cluster_id": away.id, "namespace_id": namespaces(database, away)[0]}
    instance = make_instance(name="away", **place)
    deploy(instance)
    patch_status(control_plane, namespace, ready_status(), name="away")
    poll(database, away)
    assert database.read(instance, "health") == "ready"
    server = database.read(away, "server_url")
    url = f"https://127.0.0.1:{free_port()}"
    spoil(database, away, token=None, server_url=url)

    problem = poll(database, away)

    assert "refused" in problem
    assert database.read(instance, "health") == "unknown"
    spoil(database, away, token=None, server_url=server)
    assert poll(database, away) == ""
    assert database.read(instance, "health") == "ready"


@pytest.mark.parametrize("answers", [False, True], ids=["away", "answers"])
def test_what_a_worker_told_since_it_took_the_cluster_is_not_overruled(
    database, deployed, cluster, control_plane, namespace, monkeypatch, answers
):
    from odoo.addons.vworkspace_push.status import leases, visit, worker
    from odoo.addons.vworkspace_push.transactions import in_transaction

    patch_status(control_plane, namespace, ready_status())
    poll(database, cluster)
    server = database.read(cluster, "server_url")
    if not answers:
        url = f"https://127.0.0.1:{free_port()}"
        spoil(database, cluster, token=None, server_url=url)

    def take_over(*_args):
        epochs = in_transaction(database.registry, leases.claim, "a-live-worker")
        told = "" if not answers else "It does not answer here."
        arguments = (cluster.id, "a-live-worker", epochs[cluster.id], told)
        assert in_transaction(database.registry, worker._tell, *arguments)
        database.sql("UPDATE vworkspace_watch_lease SET message = 'As the worker says'")

    if answers:
        original = visit.Visit.lists

        def lists(self):
            take_over()
            yield from original(self)

        monkeypatch.setattr(visit.Visit, "lists", lists)
    else:
        monkeypatch.setattr(visit.Visit, "is_server_there", take_over)
    poll(database, cluster)

    since = database.sql(
        "SELECT unreachable_since IS NULL FROM vworkspace_cluster_status"
        " WHERE cluster_id = %s",
        cluster.id,
    )
    assert since in ([], [(True,)]) if not answers else since == [(False,)]
    if not answers:
        assert database.read(deployed, "health") == "ready"
    assert lease(database, cluster, "message") == ("As the worker says",)
    in_transaction(database.registry, leases.release, "a-live-worker")
    spoil(database, cluster, token=None, server_url=server)
    assert poll(database, cluster) == ""


# === AGREEMENT === #


def test_a_watched_cluster_that_agrees_is_listed_once_and_has_no_differences(
    database, cluster, deployed, watched, spy
):
    database.run_cron("ir_cron_status")

    assert lease(database, cluster, "differences", "agreed_at IS NULL") == (0, False)
    assert len(requests(spy)) == len(set(requests(spy)))
    spy.clear()
    database.run_cron("ir_cron_status")
    assert requests(spy) == []  # an hour has not passed


@pytest.mark.expect_log("differed from a complete list")
def test_a_status_that_a_worker_missed_is_counted_and_healed(
    database, cluster, deployed, watched, control_plane, namespace
):
    from odoo.addons.vworkspace_push.status import metrics

    patch_status(control_plane, namespace, degraded_status())
    identifier = database.read(cluster, "cluster_id")
    counter = metrics.DIFFERENCES.labels(database.name, identifier)
    before = counter._value.get()

    database.run_cron("ir_cron_status")

    assert database.read(deployed, "health") == "degraded"
    assert lease(database, cluster, "differences") == (1,)
    assert counter._value.get() == before + 1


@pytest.mark.expect_log("differed from a complete list")
def test_an_end_that_a_worker_missed_is_counted_and_healed(
    database, cluster, deployed, watched, control_plane, namespace
):
    delete_object(control_plane, namespace)

    database.run_cron("ir_cron_status")

    assert database.read(deployed, "delivery_state") == "lost"
    assert lease(database, cluster, "differences") == (1,)


def test_what_the_worker_brings_a_moment_later_is_no_difference(
    database, cluster, deployed, watched, control_plane, namespace, monkeypatch
):
    from odoo.addons.vworkspace_push.status import agreement

    patch_status(control_plane, namespace, degraded_status())
    monkeypatch.setattr(agreement, "_pause", lambda: poll(database, cluster))

    database.run_cron("ir_cron_status")

    assert lease(database, cluster, "differences") == (0,)
    assert database.read(deployed, "health") == "degraded"


def test_an_object_that_moves_on_while_its_record_follows_is_no_difference(
    database, cluster, deployed, watched, control_plane, namespace, monkeypatch
):
    from odoo.addons.vworkspace_push.status import agreement

    def follow_and_move_on():
        poll(database, cluster)
        patch_status(control_plane, namespace, ready_status())

    patch_status(control_plane, namespace, degraded_status())
    monkeypatch.setattr(agreement, "_pause", follow_and_move_on)

    database.run_cron("ir_cron_status")

    assert lease(database, cluster, "differences") == (0,)


def test_what_the_stream_has_not_come_to_yet_is_no_difference(
    database, cluster, deployed, watched, control_plane, namespace
):
    version = get_object(control_plane, namespace)["metadata"]["resourceVersion"]
    database.sql(
        """INSERT INTO vworkspace_watch_stream (cluster_id, kind, resource_version)
                VALUES (%s, 'ApplicationInstance', %s)""",
        *(cluster.id, version),
    )
    patch_status(control_plane, namespace, degraded_status())

    database.run_cron("ir_cron_status")

    assert lease(database, cluster, "differences") == (0,)
    database.sql("DELETE FROM vworkspace_watch_stream")


def test_a_watched_cluster_that_cannot_be_listed_has_its_turn_and_no_differences(
    database, cluster, deployed, watched
):
    spoil(database, cluster)
    database.sql("UPDATE vworkspace_watch_lease SET polled_at = NULL")

    database.run_cron("ir_cron_status")

    columns = ("differences", "agreed_at IS NULL", "polled_at IS NULL")
    assert lease(database, cluster, *columns) == (0, True, False)
    assert database.read(deployed, "delivery_state") == "applied"


def test_a_refused_credential_is_not_listed_with_again(database, cluster):
    spoil(database, cluster)

    database.run_cron("ir_cron_status")

    assert database.read(cluster, "state") == "refused"


def test_a_credential_that_was_refused_for_a_moment_goes_on_to_be_used(
    database, make_cluster, control_plane, monkeypatch
):
    from odoo.addons.vworkspace_push.kube.errors import Unauthorized
    from odoo.addons.vworkspace_push.status import visit

    cluster = make_cluster()

    def lists(_self):
        raise Unauthorized("It has just started.")

    with monkeypatch.context() as patch:
        patch.setattr(visit.Visit, "lists", lists)
        assert poll(database, cluster) == "It has just started."

    assert database.read(cluster, "state") == "active"
    assert poll(database, cluster) == ""


# === FIXTURES AND HELPERS === #


@pytest.fixture
def deployed(database, make_instance, deploy):
    instance = make_instance()
    deploy(instance)
    return instance


def erase_secret(database, cluster):
    """Lose an active credential's secret, as a neutralized copy does."""
    with database.transaction() as env:
        cluster_sudo = env[cluster._name].browse(cluster.ids).sudo()
        cluster_sudo.active_credential_id._erase()
        cluster_sudo._connection_changed()


def row_version(database, instance):
    return database.sql(
        "SELECT xmin FROM vworkspace_application_instance WHERE id = %s", instance.id
    )


@pytest.fixture
def other_namespace(database, cluster, control_plane):
    """A second namespace of the cluster, in which there is nothing."""
    control_plane.create_namespace("test-other")
    control_plane.grant(["test-other"])
    with database.transaction() as env:
        place = env["vworkspace.cluster.namespace"].create(
            {"cluster_id": cluster.id, "name": "test-other"}
        )
    yield place
    database.call("admin", place._name, "unlink", place.ids)


@pytest.fixture
def reader(control_plane, database, monkeypatch):
    """The opt-in right to read the whole cluster."""
    from odoo.addons.vworkspace_push.status import visit

    monkeypatch.setattr(visit, "_refusals", {})
    rules = [
        *("--verb", "get,list,watch", "--resource"),
        "applicationinstances.apps.vworkspace.io,operations.ops.vworkspace.io",
    ]
    account = "vworkspace-system:vworkspace-control-plane"
    control_plane.kubectl("create", "clusterrole", "reads-all", *rules)
    control_plane.kubectl(
        *("create", "clusterrolebinding", "reads-all", "--clusterrole", "reads-all"),
        *("--serviceaccount", account),
    )
    eventually(
        lambda: control_plane.kubectl(
            *("auth", "can-i", "list", "operations.ops.vworkspace.io", "-A"),
            *("--as", f"system:serviceaccount:{account}"),
        ),
        what="the right to be in effect",
    )
    yield
    control_plane.kubectl("delete", "clusterrolebinding", "reads-all")
    control_plane.kubectl("delete", "clusterrole", "reads-all")


@pytest.fixture
def spy(monkeypatch, database):
    return Spy(monkeypatch)


@pytest.fixture
def hanging():
    """The URL of a server that takes connections and says nothing."""
    with contextlib.closing(socket.create_server(("127.0.0.1", 0))) as server:
        yield f"https://127.0.0.1:{server.getsockname()[1]}"


@pytest.fixture
def watched(database, cluster, deployed):
    """The cluster, held by a worker whose streams have brought everything so far."""
    from odoo.addons.vworkspace_push.status import leases
    from odoo.addons.vworkspace_push.transactions import in_transaction

    poll(database, cluster)
    in_transaction(database.registry, leases.claim, "a-live-worker")
    database.sql(
        "UPDATE vworkspace_watch_lease SET state = 'watching', differences = 0,"
        " agreed_at = NULL, expires_at = now() AT TIME ZONE 'UTC' + interval '1 min'"
        " WHERE cluster_id = %s",
        cluster.id,
    )
    yield
    in_transaction(database.registry, leases.release, "a-live-worker")


def poll(database, cluster):
    """Poll one cluster, as a run of the cron would; return what went wrong."""
    from odoo.addons.vworkspace_push.status import poll as module

    return module.poll_cluster(database.registry, cluster.id)


def requests(spy):
    return sorted(path for method, path, *_rest in spy.sent if method == "GET")


def namespaces(database, cluster):
    return database.read(cluster, "namespace_ids")


def lease(database, cluster, *columns):
    (row,) = database.sql(
        f"SELECT {', '.join(columns)} FROM vworkspace_watch_lease"  # noqa: S608
        " WHERE cluster_id = %s",
        cluster.id,
    )
    return row
