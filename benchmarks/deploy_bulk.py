"""A thousand applications deployed at once, beside two ways to do it without Odoo.

Ours is the wall time from the one RPC call that deploys a thousand saved drafts to the
moment when all outcomes and audit entries are committed: intents stored, objects
applied by the delivery cron, outcomes stored. Their values were read as YAML when they
were saved. The rivals apply the same manifests under other names, and store nothing:
`deploy-bulk` is one `kubectl apply --server-side` of one file, `deploy-bulk-raw` a bare
Python loop in as many threads as delivery had calls under way at most, with everything
prepared before its clock starts.
"""

import json
import re
import statistics
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor

import psutil
import urllib3

from environment.control_plane_build import program

from .stack import MODEL, NAMESPACE, values

RECORDS = 1_000
RUNS = 9  # the machine changes its speed within seconds
TIMEOUT = 300.0  # s
COLLECTION = f"/apis/apps.vworkspace.io/v1alpha1/namespaces/{NAMESPACE}"


def measure_deploy_bulk(stack):
    """Return the figure: median rate over RUNS, beside kubectl's."""
    return _measure(stack, "kubectl", _kubectl, "one kubectl apply --server-side -f")


def measure_deploy_bulk_raw(stack):
    """Return the figure, what else was seen included, beside a bare loop's rate.

    :raise RuntimeError: a delivery takes more requests than it may
    """
    name = "urllib3 in as many threads, nothing stored"
    figure = _measure(stack, "raw", _raw, name)
    return {**figure, "also": {**figure["also"], **_requests(stack)}}


def _measure(stack, prefix, rival, rival_name):
    process = psutil.Process(stack.odoo_process.pid)
    ours, rivals, growths, at_once = [], [], [], []
    for run in range(RUNS):
        ids = _create(stack, f"{prefix}-{run}")
        before = process.memory_info().rss
        seen = stack.odoo_log.stat().st_size
        ours.append(_deploy(stack, ids))
        growths.append((process.memory_info().rss - before) / 2**20)
        at_once.append(_calls_at_once(stack.odoo_log, seen))
        rivals.append(rival(stack, _manifests(stack, ids), at_once[-1]))
    rate, rival_rate = (RECORDS / statistics.median(side) for side in (ours, rivals))
    return {
        "measure": f"{RECORDS:,} drafts deployed in one call, until all is stored",
        "ours": rate,
        "rival": rival_rate,
        "rival_name": rival_name,
        "ratio": rate / rival_rate,
        "unit": "objects/s",
        "runs": RUNS,
        "also": {
            "growth of Odoo's memory in the first run, MiB": growths[0],
            "most calls under way at once": statistics.median(at_once),
        },
    }


# === OURS === #


def _create(stack, prefix):
    names = [f"{prefix}-{number}" for number in range(RECORDS)]
    return stack.create_instances(stack.cluster, names)


def _deploy(stack, ids):
    """Deploy, and return the seconds until all outcomes are stored."""
    ((known,),) = stack.query("SELECT COALESCE(max(id), 0) FROM vworkspace_audit_entry")
    started = time.perf_counter()
    stack.odoo.call(MODEL, "action_deploy", ids)
    stack.wait_for_commits(
        lambda: _stored(stack, known) == len(ids),
        what="all outcomes to be stored",
        timeout=TIMEOUT,
    )
    seconds = time.perf_counter() - started
    ((applied,),) = stack.query(
        """SELECT count(*) FROM vworkspace_application_instance
            WHERE id = ANY(%s) AND delivery_state = 'applied'
              AND delivered_revision = intent_revision""",
        ids,
    )
    if applied != len(ids):
        raise RuntimeError(f"Only {applied} of {len(ids)} are applied.")
    return seconds


def _calls_at_once(log, position):
    """Return the most calls that deliveries had under way, from where the log was."""
    with log.open() as file:
        file.seek(position)
        found = re.findall(r"with up to (\d+) calls at once", file.read())
    return max(map(int, found))


def _stored(stack, known):
    """Return how many outcomes have been committed: each with its audit entry."""
    ((count,),) = stack.query(
        """SELECT count(*) FROM vworkspace_audit_entry
            WHERE id > %s AND action = 'deploy' AND outcome = 'applied'""",
        known,
    )
    return count


# === RIVALS === #


def _manifests(stack, ids):
    """Return what `ids` were deployed as, under other names."""
    rows = stack.query(
        """SELECT revision.manifest FROM vworkspace_application_instance record
             JOIN vworkspace_revision revision ON revision.id = record.revision_id
            WHERE record.id = ANY(%s) ORDER BY record.id""",
        ids,
    )
    manifests = [json.loads(manifest) for (manifest,) in rows]
    for manifest in manifests:
        manifest["metadata"]["name"] = f"rival-{manifest['metadata']['name']}"
    return manifests


def _kubectl(stack, manifests, _at_once):
    with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
        json.dump({"apiVersion": "v1", "kind": "List", "items": manifests}, file)
        file.flush()
        started = time.perf_counter()
        subprocess.run(
            [program("kubectl"), "apply", "--server-side", "-f", file.name],
            env=stack.control_plane.kubectl_environment(),
            check=True,
            capture_output=True,
        )
        return time.perf_counter() - started


def _raw(stack, manifests, at_once):
    plane = stack.control_plane
    given = {
        "server": plane.server,
        "ca": str(plane.ca_file),
        "token": plane.service_account_token(),
        "at_once": at_once,
        "manifests": manifests,
    }
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.deploy_bulk"],
        input=json.dumps(given),
        text=True,
        check=True,
        capture_output=True,
    )
    return float(done.stdout)


def _raw_loop(given):
    """Apply all manifests and return the seconds that it takes."""
    pool = urllib3.PoolManager(
        maxsize=given["at_once"],
        ca_certs=given["ca"],
        headers={
            "Authorization": f"Bearer {given['token']}",
            "Content-Type": "application/apply-patch+yaml",
        },
    )
    objects = f"{given['server']}{COLLECTION}/applicationinstances"
    query = "fieldManager=vworkspace-odoo"
    requests = [
        (f"{objects}/{m['metadata']['name']}?{query}", json.dumps(m).encode())
        for m in given["manifests"]
    ]

    def apply(request):
        url, body = request
        answer = pool.request("PATCH", url, body=body, retries=False)
        if answer.status != 201:
            raise RuntimeError(answer.data[:500].decode())
        return answer.json()["metadata"]["uid"]

    with ThreadPoolExecutor(given["at_once"]) as threads:
        started = time.perf_counter()
        uids = list(threads.map(apply, requests))
        seconds = time.perf_counter() - started
    if len(set(uids)) != len(requests):
        raise RuntimeError("Not every manifest became an object.")
    return seconds


# === REQUESTS === #


def _requests(stack):
    """Return how many requests to the API server one delivery takes, each kind.

    :raise RuntimeError: more than may be
    """
    ids = _create(stack, "counted")
    sent = _counted(stack, lambda: _deploy(stack, ids))
    unchanged = _counted(stack, lambda: stack.odoo.call(MODEL, "action_deploy", ids))
    change = {"values_yaml": values()}
    stack.odoo.call(MODEL, "write", ids, change)
    # What the unchanged ones were to send belatedly would be counted here.
    changed = _counted(stack, lambda: _deploy(stack, ids))
    if sent > 2 * RECORDS or unchanged or changed != RECORDS:
        raise RuntimeError(
            f"{RECORDS} first deliveries took {sent} requests, {RECORDS} unchanged "
            f"{unchanged}, {RECORDS} changed {changed}."
        )
    return {
        "requests for one first delivery": sent / RECORDS,
        "requests for one unchanged record": unchanged / RECORDS,
        "requests for one changed record": changed / RECORDS,
    }


def _counted(stack, action):
    before = _served(stack)
    action()
    return _served(stack) - before


def _served(stack):
    """Return how many requests about single applications the API server answered."""
    lines = re.findall(
        r"^apiserver_request_total\{(.*)\} (\S+)$",
        stack.control_plane.request("GET", "/metrics"),
        re.MULTILINE,
    )
    return sum(
        int(float(count))
        for labels, count in lines
        # The status cron lists them, at times of its own.
        if 'resource="applicationinstances"' in labels
        and not re.search('verb="(LIST|WATCH)"', labels)
    )


if __name__ == "__main__":
    print(_raw_loop(json.load(sys.stdin)))
