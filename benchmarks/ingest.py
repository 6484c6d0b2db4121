"""A backlog of statuses, one for each of two thousand applications, until it is stored.

The statuses are written while nobody watches, so that whoever starts then has them all
at once. Ours is the watch worker: streams, inbox, sink. The rival of `ingest-kopf` is a
kopf handler that writes the same rows into copies of the tables, on the same servers.
What counts is the rate between the first and the last commit, so that neither pays for
its start. Every run ends with a comparison of all rows with all objects.
"""

import functools
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

import psutil

from environment.processes import Process, wait_until

from .statuses import Fleet

INSTANCES = 2_000
RUNS = 3
TIMEOUT = 120.0  # s
LOOK_EVERY = 0.02  # s
GOAL = 1_500.0  # events/s
OURS = "vworkspace_application_instance"
COPIES = {
    "rival_instance": OURS,
    "rival_condition": "vworkspace_condition",
    "rival_endpoint": "vworkspace_endpoint",
    "rival_transition": "vworkspace_transition",
}


def measure_ingest(stack):
    """Return the figure: median rate over RUNS, beside what it has to be."""
    ours, _rivals, growth = _measured(stack)
    also = {f"growth of memory by {INSTANCES:,} more events, MiB": growth}
    return {**_figure(ours, GOAL, "the goal"), "also": also}


def measure_ingest_kopf(stack):
    """Return the figure: median rate over RUNS, beside kopf's."""
    ours, rivals, _growth = _measured(stack)
    return _figure(ours, rivals, "kopf and psycopg2")


def _figure(ours, rival, rival_name):
    return {
        "measure": f"{INSTANCES:,} statuses that wait, until all are committed",
        "ours": ours,
        "rival": rival,
        "rival_name": rival_name,
        "ratio": ours / rival,
        "unit": "events/s",
        "runs": RUNS,
    }


@functools.cache
def _measured(stack):
    """Return our rate, kopf's, and by how many MiB a worker's memory grows."""
    # Neither side tells people of it while it is measured.
    stack.switch_off("ir_cron_notify")
    fleet = Fleet(stack, "ingest", INSTANCES)
    try:
        ours, rivals = [], []
        for run in range(RUNS):
            versions = fleet.report_all(run)
            _copy_tables(stack)
            ours.append(_ours(stack, fleet, versions, run))
            rivals.append(_kopf(stack, fleet, versions, run))
        growth = _growth(stack, fleet)
    finally:
        fleet.close()
    return statistics.median(ours), statistics.median(rivals), growth


# === OURS AND THE RIVAL === #


def _ours(stack, fleet, versions, run):
    worker = fleet.worker()
    worker.start()
    try:
        rate = _rate(stack, OURS, versions, worker)
    finally:
        worker.stop()
    _compare(stack, OURS, versions, run)
    return rate


def _growth(stack, fleet):
    """Return by how many MiB one worker grew, from one status of all to the next."""
    sizes = []
    worker = fleet.worker()
    worker.start()
    try:
        for run in (RUNS, RUNS + 1):
            versions = fleet.report_all(run)
            wait_until(
                lambda versions=versions: (
                    _stored(stack, OURS, versions) == len(versions)
                ),
                what="all statuses to be stored",
                timeout=TIMEOUT,
                process=worker,
            )
            sizes.append(psutil.Process(worker.pid).memory_info().rss / 2**20)
    finally:
        worker.stop()
    return sizes[1] - sizes[0]


def _kopf(stack, fleet, versions, run):
    with tempfile.TemporaryDirectory() as folder:
        process = Process(
            "kopf",
            [
                *(Path(sys.executable).with_name("kopf"), "run", "--standalone"),
                *("--quiet", "-n", fleet.name),
                Path(__file__).with_name("kopf_handler.py"),
            ],
            log=Path(folder) / "kopf.log",
            env={
                **stack.control_plane.kubectl_environment(),
                "RIVAL_DSN": stack.dsn(),
                "RIVAL_CLUSTER": str(fleet.cluster),
                "PYTHONPATH": os.pathsep.join(sys.path),
            },
        )
        process.start()
        try:
            rate = _rate(stack, "rival_instance", versions, process)
        finally:
            process.stop()
    _compare(stack, "rival_instance", versions, run)
    return rate


# === ROWS === #


def _copy_tables(stack):
    """Give the rival tables of its own, with the rows and indexes of ours."""
    for copy, table in COPIES.items():
        stack.execute(f"DROP TABLE IF EXISTS {copy}")
        stack.execute(f"CREATE TABLE {copy} (LIKE {table} INCLUDING ALL)")
        stack.execute(f"INSERT INTO {copy} SELECT * FROM {table}")  # noqa: S608
        stack.execute(f"ANALYZE {copy}")


def _rate(stack, table, versions, process):
    """Return at which rate the new versions were committed, in rows/s."""
    deadline = time.monotonic() + TIMEOUT
    first = None
    while True:
        done = _stored(stack, table, versions)
        now = time.monotonic()
        if done and first is None:
            first = (now, done)
        if done == len(versions):
            break
        if now > deadline or not process.running:
            raise RuntimeError(f"Only {done} of {len(versions)} statuses were stored.")
        time.sleep(LOOK_EVERY)
    began, already = first
    return (len(versions) - already) / (now - began)


def _stored(stack, table, versions):
    ((count,),) = stack.query(
        f"""SELECT count(*) FROM {table}
             WHERE observed_resource_version = ANY(%s)""",  # noqa: S608
        list(versions.values()),
    )
    return count


def _compare(stack, table, versions, run):
    """Compare the health of all rows with what was reported.

    :raise RuntimeError: they differ
    """
    health = "ready" if run % 2 == 0 else "degraded"
    ((count,),) = stack.query(
        f"SELECT count(*) FROM {table} WHERE name = ANY(%s) AND health = %s",  # noqa: S608
        list(versions),
        health,
    )
    if count != len(versions):
        raise RuntimeError(f"{count} of {len(versions)} rows of {table} are {health}.")
