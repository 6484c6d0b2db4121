"""Two Odoos with three cron threads each deliver from one queue."""

import itertools
import json
import re
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor

import pytest
import requests

from tests.faults.client import OdooClient
from tests.faults.comparison import differences
from tests.faults.conftest import DATABASE, INSTANCE
from tests.live_objects import COLLECTION, list_objects
from tests.waiting import eventually

RECORDS = 8  # more than are delivered within a request: the crons have to help
FEW = 2  # few enough to be delivered within a request
ROUNDS = 3  # of changes, by each user
CONVERGENCE = 60.0  # s
APPLIES = re.compile(
    r'apiserver_request_total{[^}]*resource="applicationinstances"[^}]*'
    r'verb="APPLY"[^}]*} ([0-9.e+]+)'
)


# Odoo tries again what cannot be serialized, and closes the connections of a cron that
# is at work when a server stops.
@pytest.mark.expect_log("could not serialize access", "cursor already closed")
def test_two_odoos_deliver_each_intent_once_and_in_order(
    odoo_server,
    second_server,
    connection,
    control_plane,
    namespace,
    make_instances,
    records,
):
    ids = make_instances(RECORDS)
    versions = itertools.count(1)
    before = applies(control_plane)
    since = version_of_list(control_plane, namespace)
    with ThreadPoolExecutor(4) as pool:
        jobs = [
            pool.submit(deploy_repeatedly, server, chosen, versions)
            for server in (odoo_server, second_server)
            for chosen in (ids[:FEW], ids)
        ]
        while not all(job.done() for job in jobs):
            records.run_due_cron()
        for job in jobs:
            job.result()
    eventually(
        lambda: records.run_due_cron() or set(records.states(ids)),
        what="all records to be applied",
        equals={"applied"},
        timeout=CONVERGENCE,
    )
    assert differences(connection, control_plane) == []
    ends = {
        obj["metadata"]["name"]: obj["metadata"]["generation"]
        for obj in list_objects(control_plane, namespace)
    }

    told = history(control_plane, namespace, since)
    assert told.keys() == ends.keys()
    for name, stored in told.items():
        intended = intents(records, namespace, name)
        revisions = [intended[version] for version in stored]
        assert revisions == sorted(set(revisions)), f"{name} went back"
        assert len(stored) == ends[name]
    # An apply that changes nothing is not in the history, but is counted.
    assert applies(control_plane) - before == sum(ends.values())


# === HELPERS === #


def deploy_repeatedly(server, ids, versions):
    """Change and deploy, as a user of that server who is in a hurry."""
    client = OdooClient(server.url, DATABASE)
    client.log_in("admin", "admin")
    for _round in range(ROUNDS):
        version = f"1.0.{next(versions)}"
        client.call(INSTANCE, "write", ids, {"chart_version": version})
        client.call(INSTANCE, "action_deploy", ids)


def intents(records, namespace, name):
    """Return the number of each intent's revision by its version of the chart."""
    rows = records.query(
        """SELECT revision.manifest, revision.number
             FROM vworkspace_revision revision
             JOIN vworkspace_application_instance record
               ON record.id = revision.res_id
             JOIN vworkspace_cluster_namespace namespace
               ON namespace.id = record.namespace_id
            WHERE revision.res_model = %s AND namespace.name = %s AND record.name = %s
         ORDER BY revision.number DESC""",
        *(INSTANCE, namespace, name),
    )
    return {json.loads(m)["spec"]["chart"]["version"]: number for m, number in rows}


def applies(control_plane):
    """Return how many applies of applications the API server has answered."""
    counted = APPLIES.findall(control_plane.request("GET", "/metrics"))
    return sum(int(float(count)) for count in counted)


def version_of_list(control_plane, namespace):
    answer = control_plane.request("GET", COLLECTION.format(namespace))
    return answer["metadata"]["resourceVersion"]


def history(control_plane, namespace, since):
    """Return the versions of the chart that were stored, in order, by object.

    :param since: resourceVersion from which on the API server is to tell
    """
    with requests.Session() as session:
        session.trust_env = False
        answer = session.get(
            f"{control_plane.server}{COLLECTION.format(namespace)}",
            params={"watch": "1", "resourceVersion": since, "timeoutSeconds": "1"},
            headers={"Authorization": f"Bearer {control_plane.admin_token}"},
            verify=str(control_plane.ca_file),
            timeout=(5.0, 60.0),
        )
    stored, generations = defaultdict(list), {}
    for line in answer.text.splitlines():
        obj = json.loads(line)["object"]
        name, generation = obj["metadata"]["name"], obj["metadata"]["generation"]
        if generation != generations.get(name):
            stored[name].append(obj["spec"]["chart"]["version"])
            generations[name] = generation
    return stored
