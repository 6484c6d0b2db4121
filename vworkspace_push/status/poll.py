"""The status cron: lists what no live watch worker covers, into the same sink.

Clusters are visited side by side, the one whose turn was longest ago first, and each
for a limited time: one that is slow or away costs the others nothing. Some of those
that a worker does watch are compared with a complete list (`agreement`).

The cron never raises because of one cluster: what went wrong is kept on the cluster's
lease and shown on its form.
"""

import logging
import threading
import time
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from dataclasses import dataclass, field

from odoo.exceptions import UserError
from odoo.tools import SQL

from .. import const
from ..kube import resources
from ..kube.connection import Cancellation
from ..kube.errors import KubeError, Unauthorized, Unreachable
from ..sealing import SealingError
from ..transactions import in_transaction
from . import agreement, confirm, leases, metrics, sink
from .visit import Visit

_logger = logging.getLogger(__name__)

BUDGET = 50.0  # s for which one run begins with further clusters; Odoo's limit is 120
CLUSTER_SECONDS = 30.0  # for one cluster; then its lists are cut short
AT_ONCE = 8  # clusters
FAILING_AT_ONCE = 4  # of those, clusters that could not be reached the last time
LOOK_EVERY = 0.25  # s between two looks for visits that take too long
MARK_EVERY = 10.0  # s of a run after which what is silent is marked, and each so many
CONFIRM_TIMEOUT = 5.0  # s for one request
CONFIRM_AT_ONCE = 500  # objects of one list; the others have their turn in the next

NOT_REACHABLE = (KubeError, UserError, SealingError, ValueError)


@dataclass(eq=False)
class Turn:
    """One cluster's turn in a run."""

    cluster_id: int
    function: object  # poll_cluster or agreement.check
    failing: bool = False
    cancellation: Cancellation = field(default_factory=Cancellation)
    until: float = 0.0  # monotonic


def run_cron(env):
    """Poll the clusters that no worker holds, and mark what went silent."""
    registry = env.registry
    handled, complete = run(registry)
    in_transaction(registry, sink.mark_stale)
    env["ir.cron"]._commit_progress(handled, remaining=0 if complete else 1)


def run(registry, *, budget=BUDGET):
    """Give each cluster its turn, several at once.

    :param budget: s after which no further turn is begun
    :return: how many clusters had their turn, and whether these were all
    :rtype: tuple[int, bool]
    """
    deadline = time.monotonic() + budget
    mark_at = time.monotonic() + MARK_EVERY
    waiting = in_transaction(registry, _turns)
    busy = {}  # turn by future
    handled = 0
    with ThreadPoolExecutor(AT_ONCE, "vworkspace-poll") as pool:
        while True:
            while time.monotonic() < deadline:
                turn = _next_turn(waiting, list(busy.values()))
                if turn is None:
                    break
                waiting.remove(turn)
                turn.until = time.monotonic() + CLUSTER_SECONDS
                busy[pool.submit(_take_turn, registry, turn)] = turn
            if not busy:
                return handled, not waiting
            wait(busy, timeout=LOOK_EVERY, return_when=FIRST_COMPLETED)
            handled += _collect(busy)
            # Those that answer have done so by now: they are not to flap.
            if time.monotonic() >= mark_at:
                in_transaction(registry, sink.mark_stale)
                mark_at = time.monotonic() + MARK_EVERY


def poll_cluster(registry, cluster_id, cancellation=None):
    """List all that is watched in a cluster once, and write what is there.

    :param cancellation: lets another thread end it
    :return: in a sentence what could not be read; empty when all was
    :rtype: str
    """
    cancellation = cancellation or Cancellation()
    reached, problem = False, ""
    try:
        visit = in_transaction(registry, _prepare, cluster_id, cancellation)
        if visit:
            reached, problem = _poll(registry, visit)
    except NOT_REACHABLE as exc:
        problem = str(exc)
    in_transaction(registry, leases.note_contact, cluster_id, reached, problem)
    if problem:
        _logger.info("Cluster %s could not be polled: %s", cluster_id, problem)
    return problem


# === TURNS === #


def _turns(env):
    """Return whose turn it is: a few to compare, then all that no worker covers."""
    return [
        *(Turn(cluster_id, agreement.check) for cluster_id in agreement.due(env)),
        *(
            Turn(cluster_id, poll_cluster, failing=failing)
            for cluster_id, failing in _uncovered_clusters(env)
        ),
    ]


def _uncovered_clusters(env):
    """Return the clusters without a worker, and whether each failed the last time.

    A free cluster is a live worker's first, for as long as it takes to claim it.
    """
    env.cr.execute(
        SQL(
            """SELECT cluster.id,
                      lease.message IS NOT NULL
                      AND (lease.last_contact IS NULL
                           OR lease.last_contact < lease.polled_at)
                 FROM vworkspace_cluster cluster
            LEFT JOIN vworkspace_watch_lease lease ON lease.cluster_id = cluster.id
                WHERE %s
                  AND (lease.expires_at IS NULL
                       OR lease.expires_at < %s - make_interval(secs => %s))
             ORDER BY lease.polled_at NULLS FIRST, cluster.id""",
            leases.WATCHABLE,
            leases.NOW,
            const.LEASE_RENEW,
        )
    )
    return env.cr.fetchall()


def _next_turn(waiting, busy):
    """Return the first that may begin now, or None."""
    if len(busy) >= AT_ONCE:
        return None
    failing = sum(turn.failing for turn in busy) >= FAILING_AT_ONCE
    return next((t for t in waiting if not (t.failing and failing)), None)


def _take_turn(registry, turn):
    threading.current_thread().dbname = registry.db_name
    try:
        turn.function(registry, turn.cluster_id, turn.cancellation)
    except Exception:
        # One cluster's trouble stays with that cluster.
        _logger.exception("The turn of cluster %s failed.", turn.cluster_id)


def _collect(busy):
    """Drop turns that are over, and end those that take too long."""
    over = [future for future in busy if future.done()]
    for future in over:
        del busy[future]
    for turn in busy.values():
        if time.monotonic() > turn.until and not turn.cancellation.cancelled:
            turn.cancellation.cancel()
    return len(over)


# === ONE CLUSTER === #


def _prepare(env, cluster_id, cancellation):
    return Visit.prepare(env, cluster_id, cancellation=cancellation)


def _poll(registry, visit):
    """Return whether the cluster was reached, and the first problem, if any."""
    reached = False
    try:
        for listed in visit.lists():
            _store(registry, visit, listed)
            reached = reached or listed.resource in resources.WATCHED
    except Unauthorized as exc:
        if visit.is_refused_again():
            in_transaction(
                registry, leases.note_refusal, visit.cluster_id, visit.version
            )
        return True, str(exc)
    except Unreachable as exc:
        visit.problems.insert(0, _not_answered(registry, visit, exc))
    reached = reached or not visit.problems
    if reached:
        in_transaction(registry, _tell, visit.cluster_id, "")
    return reached, next(iter(visit.problems), "")


def _not_answered(registry, visit, error):
    """Return what to say; mark the cluster when its server does not answer at all."""
    if error.reason == "Cancelled":
        return (
            f"{visit.connection.server} did not list everything within "
            f"{CLUSTER_SECONDS:.0f} s."
        )
    if not visit.is_server_there():
        in_transaction(registry, _tell, visit.cluster_id, str(error))
    return str(error)


def _tell(env, cluster_id, message):
    """Tell the records that their cluster answers, or why it does not.

    Unless a worker has it by now: that one has told it, and does not tell it again.
    """
    if not leases.is_free(env, cluster_id):
        return
    if message:
        sink.unreachable(env, cluster_id, message)
    else:
        sink.reachable(env, cluster_id)


def _store(registry, visit, listed):
    missing = in_transaction(registry, _store_list, visit.cluster_id, listed)
    if not missing:
        return
    gone = confirm.confirm(
        visit.connection,
        missing[:CONFIRM_AT_ONCE],
        timeout=CONFIRM_TIMEOUT,
        cancellation=visit.cancellation,
    ).gone
    if gone:
        in_transaction(registry, sink.gone, visit.cluster_id, gone)
        metrics.CONFIRMED.labels(registry.db_name).inc(len(gone))


def _store_list(env, cluster_id, listed):
    """Write a complete list; return the records whose object is not in it."""
    kind = listed.resource.kind
    reports = [sink.Report.from_object(obj, kind=kind) for obj in listed.objects]
    sink.ingest(
        env,
        cluster_id,
        reports,
        listed_version=listed.version,
        listed_at=listed.asked_at,
        tells_reachable=leases.is_free(env, cluster_id),
    )
    return sink.missing(
        env,
        cluster_id,
        kind,
        listed.namespace,
        {report.observed.uid for report in reports},
        listed.version,
        asked_at=listed.asked_at,
    )
