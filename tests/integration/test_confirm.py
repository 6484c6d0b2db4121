"""Only the API server's own word for the one object ends a record."""

import pytest

from environment.processes import free_port
from tests.live_objects import create_object, delete_object

CLUSTER_OBJECT = {
    "apiVersion": "ops.vworkspace.io/v1alpha1",
    "kind": "Cluster",
    "metadata": {"name": "confirmed"},
    "spec": {"clusterId": "confirmed"},
}
CLUSTERS = "/apis/ops.vworkspace.io/v1alpha1/clusters"
TIMEOUT = 5.0  # s


def test_an_object_that_is_there_is_not_gone(confirm, missing, live):
    assert confirm([missing(live)]) == []


def test_an_object_that_was_deleted_is_gone(confirm, missing, live, control_plane):
    delete_object(control_plane, live["metadata"]["namespace"])

    assert confirm([missing(live)]) == [missing(live)]


def test_another_object_of_the_same_name_is_not_the_one_that_is_missed(
    confirm, missing, live, control_plane, namespace
):
    delete_object(control_plane, namespace)
    create_object(control_plane, namespace, "wiki")

    assert confirm([missing(live)]) == [missing(live)]


def test_what_may_not_be_read_is_not_gone(confirm, missing, live, control_plane):
    control_plane.create_namespace("without-rights")
    elsewhere = create_object(control_plane, "without-rights", "wiki")
    delete_object(control_plane, "without-rights")

    assert confirm([missing(elsewhere)]) == []


def test_an_object_whose_definition_is_missing_is_not_gone(
    confirm, missing, live, monkeypatch
):
    from dataclasses import replace

    from odoo.addons.vworkspace_push.status import confirm as module

    unknown = replace(module.RESOURCES["ApplicationInstance"], version="v9")
    monkeypatch.setitem(module.RESOURCES, "ApplicationInstance", unknown)

    assert confirm([missing(live)]) == []


@pytest.mark.parametrize("trouble", ["unreachable", "refused"])
def test_a_server_that_does_not_answer_for_it_ends_nothing(
    ask, missing, live, control_plane, namespace, trouble
):
    delete_object(control_plane, namespace)
    options = (
        {"server": f"https://127.0.0.1:{free_port()}"}
        if trouble == "unreachable"
        else {"token": "not-a-token-of-this-cluster"}
    )

    answer = ask([missing(live)] * 3, **options)

    assert answer.gone == []
    assert answer.left == [missing(live)] * 3  # to be asked for again
    assert answer.problem


def test_what_the_time_was_too_short_for_is_left(
    ask, missing, live, control_plane, namespace
):
    delete_object(control_plane, namespace)

    answer = ask([missing(live)] * 3, seconds=0)

    assert answer.gone == [missing(live)]  # one at least, or there were no progress
    assert answer.left == [missing(live)] * 2
    assert answer.problem is None


def test_somebody_else_can_end_it(ask, missing, live, control_plane, namespace):
    from odoo.addons.vworkspace_push.kube.connection import Cancellation

    delete_object(control_plane, namespace)
    cancellation = Cancellation()
    cancellation.cancel()

    answer = ask([missing(live)] * 3, cancellation=cancellation)

    assert (answer.gone, len(answer.left)) == ([], 3)


def test_one_that_cannot_be_confirmed_does_not_stop_the_others(
    confirm, missing, live, control_plane, namespace
):
    from dataclasses import replace

    delete_object(control_plane, namespace)
    gone = missing(live)
    nameless, elsewhere = (
        replace(gone, name=".."),
        replace(gone, namespace="kube-system"),
    )

    assert confirm([nameless, elsewhere, gone]) == [gone]


def test_the_object_of_the_cluster_itself_is_confirmed_as_well(
    confirm, missing, control_plane
):
    made = control_plane.request("POST", CLUSTERS, body=CLUSTER_OBJECT)
    assert confirm([missing(made)]) == []

    control_plane.request("DELETE", f"{CLUSTERS}/confirmed")

    assert confirm([missing(made)]) == [missing(made)]


# === FIXTURES === #


@pytest.fixture
def live(control_plane, namespace):
    """An object in the cluster that the credential may read."""
    return create_object(control_plane, namespace, "wiki")


@pytest.fixture
def missing(database):
    """Return a function that returns an object as one that a list missed."""
    from odoo.addons.vworkspace_push.status.sink import Missing

    def make(obj):
        meta = obj["metadata"]
        return Missing(
            obj["kind"], meta.get("namespace", ""), meta["name"], meta["uid"]
        )

    return make


@pytest.fixture
def confirm(ask):
    """Return a function that returns what is gone."""
    return lambda missing: ask(missing).gone


@pytest.fixture
def ask(database, control_plane, namespace):
    """Return a function that asks with the connector's credential."""
    from odoo.addons.vworkspace_push.kube.connection import Connection, Settings
    from odoo.addons.vworkspace_push.status import confirm as module

    def run(missing, *, server=control_plane.server, token=None, **options):
        token = token or control_plane.service_account_token()
        settings = Settings(server=server, ca_pem=control_plane.ca_pem)
        connection = Connection(settings, token=lambda: token)
        try:
            return module.confirm(connection, missing, timeout=TIMEOUT, **options)
        finally:
            connection.close()

    return run
