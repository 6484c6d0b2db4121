"""Whether what streams brought is what a complete list says. It should always be.

Now and then a watched cluster is listed and compared with its records. What differs is
looked at again with a second list a moment later: it counts if the record has not moved
in between, since the streams had time to bring it. Then it is logged, counted on the
cluster's lease and for Prometheus, and healed through the sink.
"""

import logging
import math
import time
from dataclasses import dataclass

from odoo.exceptions import UserError
from odoo.tools import SQL

from ..kube import resources
from ..kube.connection import Cancellation
from ..kube.errors import KubeError
from ..sealing import SealingError
from ..transactions import in_transaction, lock_rows
from . import confirm, leases, metrics, sink
from .visit import Listed, Visit

_logger = logging.getLogger(__name__)

EVERY = "45 minutes"  # at least, for a cluster that is watched
LEAST_PER_RUN = 4  # clusters
RUNS = 40  # within which all have their turn; there is one per minute
MOMENT = 3.0  # s between the two lists
CONFIRM_TIMEOUT = 5.0  # s for one request
CONFIRM_AT_ONCE = 500  # objects; the others have their turn in the next comparison
NAMED = 5  # differences in the log


@dataclass(frozen=True, kw_only=True)
class Difference:
    """A record that shows another state than its object has.

    :param stored: the record's resourceVersion
    :param missing: when the list has no such object
    """

    kind: str
    name: str
    record_id: int
    stored: str
    report: sink.Report | None = None
    listed: Listed | None = None
    missing: sink.Missing | None = None


def due(env):
    """Return a few watched clusters, the one whose turn was longest ago first.

    :rtype: list[int]
    """
    env.cr.execute(
        SQL(
            """SELECT cluster_id,
                      agreed_at IS NULL OR agreed_at < %(now)s - %(every)s::interval
                 FROM vworkspace_watch_lease
                WHERE expires_at > %(now)s AND state = 'watching'
             ORDER BY polled_at NULLS FIRST, cluster_id""",
            now=leases.NOW,
            every=EVERY,
        )
    )
    watched = env.cr.fetchall()
    found = [cluster_id for cluster_id, is_due in watched if is_due]
    return found[: max(LEAST_PER_RUN, math.ceil(len(watched) / RUNS))]


def check(registry, cluster_id, cancellation=None):
    """Compare a cluster with its records and heal them; return how many differed.

    A cluster that cannot be listed is not compared: that is the worker's to tell.

    :param cancellation: lets another thread end it
    """
    cancellation = cancellation or Cancellation()
    try:
        visit = in_transaction(registry, _prepare, cluster_id, cancellation)
        found = _settled(registry, visit) if visit else {}
    except (KubeError, UserError, SealingError, ValueError) as exc:
        _logger.info("cluster %s could not be compared: %s", cluster_id, exc)
        in_transaction(registry, leases.note_turn, cluster_id)
        return 0
    healed = _heal(registry, visit, found.values()) if found else []
    in_transaction(registry, leases.note_agreement, cluster_id, len(healed))
    if healed:
        _tell(registry, cluster_id, healed)
    return len(healed)


def _prepare(env, cluster_id, cancellation):
    return Visit.prepare(env, cluster_id, cancellation=cancellation)


# === COMPARING === #


def _settled(registry, visit):
    """Return the differences that are still there a moment later."""
    first = _differences(registry, visit)
    if not first:
        return {}
    _pause()
    return {
        uid: difference
        for uid, difference in _differences(registry, visit).items()
        if uid in first and first[uid].stored == difference.stored
    }


def _pause():
    """Leave the streams the time to bring what was listed."""
    time.sleep(MOMENT)


def _differences(registry, visit):
    """Return how the cluster's records differ from what is listed now, by uid."""
    found = {}
    for listed in visit.lists():
        if listed.resource in resources.WATCHED:
            found |= in_transaction(registry, _compare, visit.cluster_id, listed)
    return found


def _compare(env, cluster_id, listed):
    kind = listed.resource.kind
    by_uid = {resources.metadata_text(obj, "uid"): obj for obj in listed.objects}
    records = _records(env, kind, cluster_id, list(by_uid))
    found = {}
    for uid, (record_id, stored) in records.items():
        obj = by_uid[uid]
        if resources.metadata_text(obj, "resourceVersion") != stored:
            found[uid] = Difference(
                kind=kind,
                name=resources.metadata_text(obj, "name"),
                record_id=record_id,
                stored=stored,
                report=sink.Report.from_object(obj, kind=kind),
                listed=listed,
            )
    return found | _lost(env, cluster_id, listed, by_uid)


def _lost(env, cluster_id, listed, present):
    """Return the records that wait for an object which is not in the list."""
    kind = listed.resource.kind
    lost = sink.missing(
        env,
        cluster_id,
        kind,
        listed.namespace,
        present.keys(),
        listed.version,
        asked_at=listed.asked_at,
    )
    records = _records(env, kind, cluster_id, [one.uid for one in lost])
    return {
        one.uid: Difference(
            kind=kind,
            name=one.name,
            record_id=records[one.uid][0],
            stored=records[one.uid][1],
            missing=one,
        )
        for one in lost
        if one.uid in records
    }


def _records(env, kind, cluster_id, uids):
    """Return id and resourceVersion of the records that have an object, by its uid."""
    env.cr.execute(
        SQL(
            """SELECT uid, id, COALESCE(observed_resource_version, '') FROM %s
                WHERE cluster_id = %s AND uid = ANY(%s)
                  AND delivery_state NOT IN ('deleted', 'lost')""",
            SQL.identifier(env[sink.MODELS[kind]]._table),
            cluster_id,
            uids,
        )
    )
    return {uid: (record_id, version) for uid, record_id, version in env.cr.fetchall()}


# === HEALING === #


def _heal(registry, visit, differences):
    """Write what the cluster has, while there is time; return what was wrong."""
    healed = []
    for difference in differences:
        if visit.cancellation.cancelled:
            break
        if difference.report and in_transaction(
            registry, _heal_record, visit.cluster_id, difference
        ):
            healed.append(difference)
    missing = [d.missing for d in differences if d.missing][:CONFIRM_AT_ONCE]
    gone = confirm.confirm(
        visit.connection,
        missing,
        timeout=CONFIRM_TIMEOUT,
        cancellation=visit.cancellation,
    ).gone
    if gone:
        in_transaction(registry, sink.gone, visit.cluster_id, gone)
    return healed + [d for d in differences if d.missing in gone]


def _heal_record(env, cluster_id, difference):
    model = env[sink.MODELS[difference.kind]]
    lock_rows(env, model._table, [difference.record_id])
    uid = difference.report.observed.uid
    records = _records(env, difference.kind, cluster_id, [uid])
    # A stream that brought something newer meanwhile is right, and not to be undone.
    if records.get(uid) != (difference.record_id, difference.stored):
        return False
    ingested = sink.ingest(
        env,
        cluster_id,
        [difference.report],
        listed_version=difference.listed.version,
        listed_at=difference.listed.asked_at,
        tells_reachable=False,
    )
    return bool(ingested.written) and not _is_to_come(env, cluster_id, difference)


def _is_to_come(env, cluster_id, difference):
    """Whether the stream that brings it is only behind: a lag is no difference."""
    observed = difference.report.observed
    env.cr.execute(
        """SELECT resource_version FROM vworkspace_watch_stream
            WHERE cluster_id = %s AND kind = %s
              AND COALESCE(namespace, '') IN ('', %s)""",
        [cluster_id, difference.kind, observed.namespace],
    )
    positions = [row[0] or "" for row in env.cr.fetchall()]
    return bool(positions) and all(
        resources.newer(observed.resource_version, position) for position in positions
    )


def _tell(registry, cluster_id, healed):
    names = ", ".join(f"{d.kind} {d.name}" for d in healed[:NAMED])
    _logger.warning(
        "%s records of cluster %s differed from a complete list and were healed: %s",
        len(healed),
        cluster_id,
        names,
    )
    identifier = in_transaction(registry, _identifier, cluster_id)
    metrics.DIFFERENCES.labels(registry.db_name, identifier).inc(len(healed))


def _identifier(env, cluster_id):
    return env["vworkspace.cluster"].browse(cluster_id).cluster_id
