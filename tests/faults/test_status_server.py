"""The watch worker through whatever befalls an API server, with a server of its own.

One worker lives through all of it. Each test ends when every record shows what its
object says, after news that came later than the fault.
"""

import itertools
import time
from types import SimpleNamespace
from urllib.parse import urlsplit

import pytest

from environment import demo
from environment.control_plane import ControlPlane
from environment.odoo import START_TIMEOUT, WATCH_READY_LINE
from kube import access
from tests.faults.client import OdooClient
from tests.faults.comparison import differences, status_differences
from tests.faults.conftest import (
    BACKUP,
    DATABASE,
    INSTANCE,
    OPERATION,
    make_backup,
)
from tests.faults.gate import Gate
from tests.live_objects import (
    degraded_status,
    delete_object,
    ready_status,
    running_status,
    succeeded_status,
    write_operation_status,
    write_status,
)
from tests.registration import RevocableToken, get_rules, set_role
from tests.waiting import eventually

IDENTITY = "spare-cluster"
CLUSTER = "vworkspace.cluster"
APPLICATIONS = 3  # of each test
UNREACHABLE = 40.0  # s within which a server that does not answer is told of
LONG = 120.0  # s
RECOVERY = 30.0  # s within which all agrees again
RECHECK = 75.0  # s within which a missing right or definition is looked for again
DEFINITIONS = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
DEFINITION = f"{DEFINITIONS}/applicationinstances.apps.vworkspace.io"
NOT_SERVED = "does not serve this kind of object"
RBAC = "/apis/rbac.authorization.k8s.io/v1"

_numbers = itertools.count(1)

pytestmark = pytest.mark.usefixtures("nothing_to_heal")


# === SILENCE === #


def test_a_killed_server_is_followed_again_when_it_is_back(plane, town):
    plane.kill()
    plane.start()

    town.hears()


def test_a_frozen_server_is_told_of_in_time_and_followed_when_it_wakes(plane, town):
    plane.freeze()
    try:
        town.becomes_unreachable()
    finally:
        plane.thaw()

    town.becomes_reachable()
    town.hears()


@pytest.mark.long
@pytest.mark.parametrize("way", ["frozen", "stalled"])
def test_two_minutes_of_silence_lose_nothing(plane, gate, town, way):
    begin, end = {
        "frozen": (plane.freeze, plane.thaw),
        "stalled": (gate.stall, gate.open),
    }[way]
    until = time.monotonic() + LONG
    begin()
    try:
        town.becomes_unreachable()
        eventually(
            lambda: time.monotonic() > until, what="two minutes", timeout=LONG + 5
        )
        assert town.shown("health", "delivery_state") == {("unknown", "applied")}
    finally:
        end()

    town.becomes_reachable()
    town.hears()


def test_connections_that_went_dead_without_a_word_are_left_in_time(gate, town):
    gate.lose()

    town.hears(within=UNREACHABLE)
    gate.close()  # also Odoo's own that went dead
    gate.open()


# === HISTORY === #


def test_what_a_compaction_took_from_the_streams_is_listed(plane, gate, town, watcher):
    gate.close()
    town.report(degraded_status(message="Nobody saw this."))
    town.delete("wiki-0")
    plane.compact()
    plane.restart()
    gate.open()

    eventually(lambda: "too old" in watcher.output(), what="a 410", timeout=RECOVERY)
    town.loses("wiki-0")
    town.hears()


def test_what_a_compaction_took_from_a_stopped_worker_is_listed(plane, town, watcher):
    watcher.stop()
    town.report(degraded_status(message="Nobody was there."))
    town.delete("wiki-0")
    plane.compact()
    plane.restart()
    watcher.start()

    eventually(lambda: "too old" in watcher.output(), what="a 410", timeout=RECOVERY)
    town.loses("wiki-0")
    town.hears()


def test_a_restored_backup_is_the_truth_although_its_versions_are_older(plane, town):
    backup = plane.back_up()
    town.report(degraded_status(message="After the backup."))
    town.deploy("late")
    for number in range(300):  # a restarted server writes a hundred of its own
        town.report(degraded_status(message=f"Change {number}."), "wiki-0")
    eventually(
        lambda: town.shown("health_message", name="wiki-0"),
        what="the last change",
        equals={("Change 299.",)},
    )
    town.agrees()

    plane.restore(backup)

    town.loses("late")
    town.agrees()
    assert town.shown("health", name="wiki-0") == {("ready",)}
    town.hears()


# === DEFINITIONS === #


def test_a_definition_that_is_updated_costs_nothing(plane, town):
    plane.request(
        "PATCH",
        DEFINITION,
        body=[
            {
                "op": "add",
                "path": "/spec/versions/0/additionalPrinterColumns/-",
                "value": {"name": "Mode", "type": "string", "jsonPath": ".spec.mode"},
            }
        ],
        content_type="application/json-patch+json",
    )

    town.hears()


def test_a_deleted_definition_deletes_no_record(plane, town):
    backup = plane.back_up()
    plane.request("DELETE", DEFINITION)

    town.says(NOT_SERVED)
    assert town.shown("delivery_state") == {("applied",)}

    plane.restore(backup)
    town.hears()


def test_a_definition_made_anew_without_its_objects_loses_the_records(plane, town):
    plane.request("DELETE", DEFINITION)
    town.says(NOT_SERVED)
    assert town.shown("delivery_state") == {("applied",)}

    plane.install_definitions()
    town.verify()

    for name in tuple(town.names):
        town.loses(name)
    town.hears()


# === RIGHTS === #


def test_a_revoked_credential_is_told_of_and_replaced(plane, gate, town):
    token = RevocableToken(plane)
    town.use_token(token.text)
    town.hears()
    token.revoke()
    eventually(lambda: not token.is_accepted(), what="the server to forget the token")
    gate.close()
    gate.open()

    town.has_a_cluster_that_is("refused")
    town.says("Credential Refused")
    town.report(degraded_status(message="Nobody could read this."))
    town.use_token(plane.service_account_token())

    town.agrees()
    town.hears()


def test_a_right_that_is_taken_away_in_a_namespace_is_told_of(plane, gate, town):
    rules = get_rules(plane, town.namespace)
    set_role(plane, town.namespace, [])
    gate.close()
    gate.open()
    town.says("cannot watch")
    town.report(degraded_status(message="Nobody might read this."))

    set_role(plane, town.namespace, rules)
    town.verify()

    town.agrees()
    town.hears()


def test_a_right_to_read_the_whole_cluster_is_used_while_it_is_there(plane, gate, town):
    town.write(grant_cluster_read=True)
    plane.apply(access.rbac_manifests(namespaces=[], cluster_read=True))
    town.verify()
    town.is_watched_by("the whole cluster")
    town.hears()

    for kind in ("clusterrolebindings", "clusterroles"):
        plane.request("DELETE", f"{RBAC}/{kind}/{access.READ_ROLE}")
    town.write(grant_cluster_read=False)
    gate.close()
    gate.open()
    town.is_watched_by("namespace")
    town.hears()


# === FIXTURES === #


@pytest.fixture(scope="module")
def plane(work):
    """An API server that no other test needs."""
    plane = ControlPlane(work / "spare")
    try:
        plane.start()
        plane.install_definitions()
        plane.grant([])
        yield plane
    finally:
        plane.stop()


@pytest.fixture(scope="module")
def gate(plane):
    """The way that Odoo and its worker take to it."""
    server = urlsplit(plane.server)
    gate = Gate((server.hostname, server.port))
    yield gate
    gate.stop()


@pytest.fixture(scope="module")
def spare(plane, gate, odoo_server):
    """The cluster's id, and a client of an admin."""
    client = OdooClient(odoo_server.url, DATABASE)
    client.log_in("admin", "admin")
    values = {
        "name": "Spare",
        "cluster_id": IDENTITY,
        "server_url": gate.url,
        "ca_certificate": plane.ca_pem,
        "token": plane.service_account_token(),
    }
    ids = client.call(CLUSTER, "create", [values])
    demo.activate(client.call, ids[0])
    yield SimpleNamespace(id=ids[0], call=client.call)
    client.call(CLUSTER, "action_revoke", ids)
    client.call(CLUSTER, "action_erase_unverified", ids)
    client.call(CLUSTER, "write", ids, {"active": False})


@pytest.fixture(scope="module")
def watcher(spare, odoo_config, odoo_install, odoo_log):
    """A watch worker that lives through all these tests."""
    worker = odoo_install.watch_worker(odoo_config, DATABASE, log=odoo_log)
    worker.start()
    worker.wait_for_output(WATCH_READY_LINE, timeout=START_TIMEOUT)
    yield worker
    worker.stop()


@pytest.fixture
def town(plane, gate, spare, watcher, records, connection):
    """A namespace with applications that are ready, and known to be, and a backup."""
    town = Town(plane, spare, records, connection)
    for number in range(APPLICATIONS):
        town.deploy(f"wiki-{number}")
    town.back_up("wiki-1")
    town.report(ready_status())
    town.agrees()
    yield town
    plane.thaw()
    plane.start()
    gate.open()
    town.leave()


class Town:
    """One namespace: what there is in the cluster, and what Odoo shows of it."""

    def __init__(self, plane, spare, records, connection):
        self.namespace = f"town-{next(_numbers)}"
        self.names = []
        self._plane = plane
        self._spare = spare
        self._records = records
        self._connection = connection
        self._news = itertools.count(1)
        self._operations = {}  # names by id
        plane.create_namespace(self.namespace)
        plane.grant([self.namespace])
        values = {"cluster_id": spare.id, "name": self.namespace}
        (self._place,) = spare.call("vworkspace.cluster.namespace", "create", [values])

    # === IN THE CLUSTER === #

    def report(self, status, *names):
        for name in names or self.names:
            write_status(self._plane, self.namespace, name, status)
        if not names:
            self._go_on()

    def _go_on(self):
        """Let the operations come to another end than before."""
        number = next(self._news)
        make = running_status if number % 2 else succeeded_status
        status = make(message=f"Step {number}.")
        for name in self._operations.values():
            write_operation_status(self._plane, self.namespace, name, status)

    def delete(self, name):
        delete_object(self._plane, self.namespace, name)
        self.names.remove(name)

    # === IN ODOO === #

    def deploy(self, name):
        values = {
            "name": name,
            "cluster_id": self._spare.id,
            "namespace_id": self._place,
            "catalog_id": "wiki",
            "chart_url": "oci://registry.example.com/charts",
            "chart_name": "wiki",
            "chart_version": "1.4.2",
            "values_yaml": "replicas: 1\n",
            "capability_ids": [(0, 0, BACKUP)],
        }
        (made,) = self._spare.call(INSTANCE, "create", [values])
        self._deploy(made, name)

    def back_up(self, name):
        """Have a backup of an application made, which then reports as they do."""
        (target,) = self._spare.call(INSTANCE, "search", self._domain(name))
        id_, made = make_backup(self._spare.call, target)
        self._operations[id_] = made

    def verify(self):
        """Have the cluster's credential verified, as an admin does who mended it."""
        self._spare.call(CLUSTER, "action_verify", [self._spare.id])

    def write(self, **values):
        self._spare.call(CLUSTER, "write", [self._spare.id], values)

    def use_token(self, token):
        self.write(token=token)
        demo.activate(self._spare.call, self._spare.id)

    def _deploy(self, record, name):
        self._spare.call(INSTANCE, "action_deploy", [record])
        eventually(
            lambda: self.shown("delivery_state", name=name),
            what=f"{name} to be applied",
            equals={("applied",)},
        )
        self.names.append(name)

    def leave(self):
        """Delete what is there: what befalls the next town is none of its concern."""
        here = [*self._domain(), ("delivery_state", "=", "applied")]
        for model in (OPERATION, INSTANCE):
            ids = self._spare.call(model, "search", here)
            self._spare.call(model, "action_delete_from_cluster", ids)
            eventually(
                lambda model=model: self.shown("delivery_state", model=model),
                what=f"all of {model} to be deleted",
                equals={("deleted",)},
                timeout=RECOVERY,
            )

    # === WHAT IS SHOWN === #

    def hears(self, *, within=RECOVERY):
        """Show what is reported from now on, of each object."""
        self.report(degraded_status(message=f"News {next(self._news)}."))
        self.agrees(within=within)

    def agrees(self, *, within=RECOVERY):
        """Show the same as the objects, in this namespace and all others."""
        eventually(
            lambda: [
                *differences(self._connection, self._plane),
                *status_differences(self._connection, self._plane),
            ],
            what="all objects and all records to agree",
            equals=[],
            timeout=within,
        )

    def loses(self, name):
        """Show that an object is gone, and let a person create it anew."""
        eventually(
            lambda: self.shown("delivery_state", name=name),
            what=f"{name} to be lost",
            equals={("lost",)},
            timeout=RECHECK,
        )
        if name in self.names:
            self.names.remove(name)
        ids = self._spare.call(INSTANCE, "search", self._domain(name))
        self._spare.call(INSTANCE, "action_forget_lost", ids)
        self._deploy(*ids, name)

    def becomes_unreachable(self):
        eventually(
            lambda: self.shown("health"),
            what="all records to be unknown",
            equals={("unknown",)},
            timeout=UNREACHABLE,
        )
        (since,) = self._cluster_status()
        assert since is not None

    def becomes_reachable(self):
        eventually(
            self._cluster_status,
            what="the cluster to answer",
            equals=(None,),
            timeout=RECOVERY,
        )

    def has_a_cluster_that_is(self, state):
        eventually(
            lambda: self._spare.call(CLUSTER, "read", [self._spare.id], ["state"]),
            what=f"the cluster to be {state}",
            equals=[{"id": self._spare.id, "state": state}],
        )

    def says(self, text):
        """Tell on each record why there are no news."""
        eventually(
            lambda: all(text in (told or "") for (told,) in self.shown("feed_problem")),
            what=f"all records to say {text!r}",
            timeout=RECOVERY,
        )

    def is_watched_by(self, scope):
        """Have one stream of each kind in the whole cluster, or in each namespace."""
        names = [(None,)]
        if scope == "namespace":
            names = self._records.query(
                "SELECT name FROM vworkspace_cluster_namespace WHERE cluster_id = %s",
                self._spare.id,
            )
        kinds = ("ApplicationInstance", "Operation")
        eventually(
            self._streams,
            what=f"a stream of each kind in each {scope}",
            equals={("Cluster", None)}
            | {(k, name) for k in kinds for (name,) in names},
            timeout=RECOVERY,
        )

    def shown(self, *fields, name=None, model=INSTANCE):
        """Return the distinct values that these fields have on the records."""
        domain = self._domain(name)
        rows = self._spare.call(model, "search_read", domain, list(fields))
        return {tuple(row[field] for field in fields) for row in rows}

    def _domain(self, name=None):
        here = [("namespace_id", "=", self._place)]
        return here + ([("name", "=", name)] if name else [])

    def _cluster_status(self):
        (row,) = self._records.query(
            """SELECT unreachable_since FROM vworkspace_cluster_status
                WHERE cluster_id = %s""",
            self._spare.id,
        )
        return row

    def _streams(self):
        """Return kind and namespace of the streams that watch."""
        return set(
            self._records.query(
                """SELECT kind, namespace FROM vworkspace_watch_stream
                    WHERE cluster_id = %s AND state = 'watching'""",
                self._spare.id,
            )
        )
