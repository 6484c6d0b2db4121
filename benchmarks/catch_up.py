"""How soon a restarted worker is up to date again, when next to nothing happened.

Ours is the time from its start until the changes that it slept through, one for each
cluster, are on the records, with 10,000 unchanged applications beside them; the worker
resumes where it stopped. The rival is the same worker without its stored positions: it
lists everything.
"""

import statistics
import time

from environment.processes import wait_until

from .fleet_memory import COLLECTION, Fleet

RUNS = 3
TIMEOUT = 120.0  # s


def measure_catch_up(stack):
    """Return the figure: the median seconds of RUNS restarts."""
    fleet = Fleet.of(stack)
    with fleet.worker():
        pass  # what the records do not have yet is listed once
    resumed, listed, written = [], [], 0
    for _run in range(RUNS):
        rows = dict(fleet.rows())
        resumed.append(_restart(stack, fleet))
        rewritten = sum(rows[row] != xmin for row, xmin in fleet.rows())
        written = max(written, rewritten - len(fleet.names))
        stack.execute("UPDATE vworkspace_watch_stream SET resource_version = NULL")
        listed.append(_restart(stack, fleet))
    ours, rival = statistics.median(resumed), statistics.median(listed)
    return {
        "measure": f"restart of a worker with {len(rows):,} unchanged applications",
        "ours": ours,
        "rival": rival,
        "rival_name": "the same, listing everything",
        "ratio": ours / rival,
        "unit": "s",
        "runs": RUNS,
        "also": {"rows written although nothing changed": written},
    }


def _restart(stack, fleet):
    """Change an application of each cluster; return the s until a worker has them."""
    versions = [_change(stack, namespace) for namespace in fleet.names]
    started = time.monotonic()
    with fleet.worker() as worker:
        wait_until(
            lambda: _stored(stack, versions) == len(versions),
            what="the changes to be on the records",
            timeout=TIMEOUT,
            process=worker,
        )
        return time.monotonic() - started


def _change(stack, namespace):
    answer = stack.control_plane.request(
        "PATCH",
        f"{COLLECTION.format(namespace)}/app-0",
        body={"metadata": {"annotations": {"bench/at": str(time.time_ns())}}},
        content_type="application/merge-patch+json",
    )
    return answer["metadata"]["resourceVersion"]


def _stored(stack, versions):
    ((count,),) = stack.query(
        """SELECT count(*) FROM vworkspace_application_instance
            WHERE observed_resource_version = ANY(%s)""",
        versions,
    )
    return count
