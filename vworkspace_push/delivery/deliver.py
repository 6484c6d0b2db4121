"""Brings committed intents to clusters, and commits what came of it.

The intent is committed before the network is touched, the outcome in a transaction of
its own after it. A crash at any point leaves the record `pending`, and the delivery
cron applies it again: server-side apply is idempotent.

`after_commit` delivers right behind the user's own commit, before the request returns;
`run_cron` is the safety net and does the retries, clusters side by side (`lanes`), so
that one that hangs holds up nobody else. Any number of processes may do both: each
first locks the record's row in `vworkspace_delivery_lock` (SKIP LOCKED), so a record is
delivered by one at a time and its intents stay in order.

Both have a deadline, after which no further attempt is begun: what was not attempted
stays due as it is, and the next run of the cron goes on with it.
"""

import json
import logging
import math
import threading
import time
from collections import defaultdict
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from contextlib import suppress
from datetime import timedelta
from functools import partial

import psycopg2

from odoo import fields
from odoo.exceptions import UserError
from odoo.tools import SQL

from .. import const
from ..identity import database_uuid
from ..kube.errors import KubeError
from ..sealing import SealingError
from ..transactions import in_transaction
from . import lanes, store, waker
from .attempt import Intent
from .batch import Attempts, Batch

_logger = logging.getLogger(__name__)

MODELS = ("vworkspace.application.instance", "vworkspace.operation")
DUE_STATES = ("pending", "failed", "denied", "deleting")
PASSES = 3  # for a record whose intent changed while it was being delivered
USUAL_SIZE = 16_000  # characters of a manifest
LOOK_EVERY = 0.25  # s between two looks for clusters that became due meanwhile
JUST_DUE = 2.0  # s for which something may be due that the run that ends did not see
LOOK_AGAIN = 1.0  # s, at a cluster for which nothing could be done


def after_commit(records):
    """Deliver `records` as soon as the current transaction is committed."""
    if not records:
        return
    cr = records.env.cr
    waiting = cr.postcommit.data.get("vworkspace_push.deliver")
    if waiting is None:
        waiting = cr.postcommit.data["vworkspace_push.deliver"] = defaultdict(dict)
        cr.postcommit.add(partial(_deliver_waiting, records.env.registry, waiting))
    waiting[records._name].update(dict.fromkeys(records.ids))


def run_cron(env):
    """Deliver everything that is due, within the cron's time budget."""
    try:
        in_transaction(env.registry, _heal_due)
    except Exception:
        # What drifted waits; what is due does not wait for it.
        _logger.exception("Drift could not be healed; tried again.")
    handled, complete = run(env.registry, budget=const.DELIVERY_BUDGET)
    env["ir.cron"]._commit_progress(handled)
    in_transaction(env.registry, _trigger_next_run, not complete)


def run(registry, *, budget=const.DELIVERY_BUDGET):
    """Deliver what is due, clusters side by side.

    :param budget: s after which no further attempt is begun
    :return: how many records were handled, and whether nothing that is due is left
    :rtype: tuple[int, bool]
    """
    deadline = time.monotonic() + budget
    handled = 0
    busy = {}  # future and size of the batch, by lane
    begun = set()  # clusters
    idle = {}  # until when a cluster is left alone, such as one that others deliver to
    due, look_at = [], 0.0
    with ThreadPoolExecutor(const.DELIVERY_LANES, "vworkspace-lane") as pool:
        while True:
            if time.monotonic() >= look_at or not busy:
                due = in_transaction(registry, _due_lanes)
                look_at = time.monotonic() + LOOK_EVERY
            now = time.monotonic()
            if now > deadline:
                due = []
            due = [d for d in due if d not in busy and idle.get(d[0], now) <= now]
            free = const.DELIVERY_LANES - len(busy)
            for lane in due[:free]:
                cluster_id = lane[0]
                size = const.DELIVERY_BATCH
                if cluster_id not in begun:
                    size = min(size, const.DELIVERY_FIRST)
                begun.add(cluster_id)
                future = pool.submit(_lane, registry, cluster_id, deadline, size)
                busy[lane] = future, size
            due = due[free:]  # they have the next lanes that end
            if not busy:
                return handled, now <= deadline
            futures = [future for future, _size in busy.values()]
            wait(futures, timeout=LOOK_EVERY, return_when=FIRST_COMPLETED)
            for lane, (future, size) in list(busy.items()):
                if not future.done():
                    continue
                del busy[lane]
                handled += (count := future.result())
                if not count:
                    idle[lane[0]] = time.monotonic() + LOOK_AGAIN
                elif count >= size:
                    due.append(lane)  # there is more, most likely


def deliver(registry, model, cluster_id, *, deadline=math.inf, size=None, ids=None):
    """Deliver one batch of what is due in a cluster; return how many attempts it made.

    :param deadline: by the monotonic clock, after which no further attempt is begun
    :param size: records that it takes at most; None: as many as a batch has
    :param ids: only these records; None: whatever is due
    """
    attempts = 0
    with registry.cursor() as lock_cr:
        table, size = registry[model]._table, size or const.DELIVERY_BATCH
        todo = _lock_due(lock_cr, table, cluster_id, size, ids)
        for _pass in range(PASSES):
            if not todo:
                break
            batch = in_transaction(registry, _read_batch, model, cluster_id, todo)
            if not batch.intents:
                break
            outcomes = Attempts(registry, batch, deadline).make()
            attempts += len(outcomes)
            if len(outcomes) < len(batch.intents):
                in_transaction(registry, store.take_back, batch, outcomes)
            if not outcomes:
                break
            todo = _store(registry, batch, outcomes)
        lock_cr.rollback()
    return attempts


def _store(registry, batch, outcomes):
    """Store the outcomes; one that cannot be stored keeps no other from it.

    :return: ids of the records that are to be delivered once more
    """
    try:
        return in_transaction(registry, store.outcomes, batch, outcomes)
    except (psycopg2.OperationalError, psycopg2.InterfaceError):
        raise  # nothing is wrong with the outcomes
    except Exception:
        if len(outcomes) == 1:
            _logger.exception(
                "The outcome of %s %s cannot be stored.", batch.model, *outcomes
            )
            in_transaction(registry, store.postpone, batch, *outcomes)
            return []
    ids = list(outcomes)
    middle = len(ids) // 2
    again = []
    for part in (ids[:middle], ids[middle:]):
        again += _store(registry, batch, {i: outcomes[i] for i in part})
    return again


def _deliver_waiting(registry, waiting):
    """Run after the user's commit: it must not raise, the intents are safe already."""
    try:
        if sum(map(len, waiting.values())) > const.DELIVER_AFTER_COMMIT_LIMIT:
            in_transaction(registry, waker.trigger, fields.Datetime.now())
            return
        deadline = time.monotonic() + const.DELIVER_AFTER_COMMIT_BUDGET
        for model, records in waiting.items():
            ids = list(records)
            for cluster_id in in_transaction(registry, _open_clusters, model, ids):
                deliver(registry, model, cluster_id, deadline=deadline, ids=ids)
            # Others may have held the locks of what they had read before this commit.
            if in_transaction(registry, _open_clusters, model, ids):
                in_transaction(registry, waker.trigger, fields.Datetime.now())
    except Exception:
        _logger.exception("Delivery after commit failed; the cron will deliver.")


def _trigger_next_run(env, is_cut_short):
    """Have the cron run again in time, where something is due before it would.

    Attempts of one batch end at different times, and so do their waits.

    :param is_cut_short: whether something is due already
    """
    if is_cut_short:
        # Not as progress that remains: Odoo would run it again at once, ten times, and
        # would end a process whose jobs take longer than its time limit together.
        waker.trigger(env, fields.Datetime.now())
    elif at := _next_due(env):
        waker.trigger(env, max(at, fields.Datetime.now() + timedelta(seconds=1)))


def _heal_due(env):
    env["vworkspace.application.instance"]._heal_due()


# === LANES === #


def _lane(registry, cluster_id, deadline, size):
    """Deliver one batch of each model to one cluster; return the records handled."""
    threading.current_thread().dbname = registry.db_name
    try:
        if not _probe(registry, cluster_id):
            return 0
        return sum(
            deliver(registry, model, cluster_id, deadline=deadline, size=size)
            for model in MODELS
        )
    except Exception:
        # One cluster's trouble stays with that cluster; what is due stays due.
        _logger.exception("Delivery to cluster %s failed; tried again.", cluster_id)
        return 0


def _probe(registry, cluster_id):
    """Return whether the lane is closed, or can be: then it is."""
    connection = in_transaction(registry, _connection_to_probe, cluster_id)
    if connection is None:
        return True
    if error := lanes.probe(connection):
        in_transaction(registry, lanes.open_lane, cluster_id, error)
        return False
    in_transaction(registry, lanes.close_lane, cluster_id)
    return True


def _connection_to_probe(env, cluster_id):
    """Return the connection of a lane that is not closed; None: no need to probe."""
    if lanes.is_closed(env, cluster_id):
        return None
    connection = _connection_or_error(env["vworkspace.cluster"].browse(cluster_id))
    return None if isinstance(connection, Exception) else connection


# === LOCKING AND READING === #

# Of a record: something is to be delivered, and its time has come.
WAITS = SQL(
    """record.delivery_state IN %s AND record.is_paused IS NOT TRUE
       AND record.foreign_database IS NULL""",
    DUE_STATES,
)
IS_DUE = SQL("record.next_attempt_at <= now() AT TIME ZONE 'UTC'")
# Of a cluster's lane
LANE_IS_READY = SQL(
    "(lane.retry_at IS NULL OR lane.retry_at <= now() AT TIME ZONE 'UTC')"
)


def _deliverable(table, joins=None):
    """Return the SQL of which records may be delivered now.

    :param joins: further tables
    """
    return SQL("%s AND %s AND %s", _waiting(table, joins), IS_DUE, LANE_IS_READY)


def _waiting(table, joins=None):
    """Return the SQL of which records may be delivered once their time has come."""
    return SQL(
        """%(table)s record
      JOIN vworkspace_cluster cluster
        ON cluster.id = record.cluster_id AND %(served)s
 LEFT JOIN vworkspace_delivery_lane lane
        ON lane.cluster_id = record.cluster_id
        %(joins)s
     WHERE %(waits)s""",
        table=SQL.identifier(table),
        served=_served("cluster"),
        joins=joins or SQL(),
        waits=WAITS,
    )


def _served(cluster):
    """Return the SQL of whether anything is delivered to a cluster, by its alias."""
    return SQL(
        "%(cluster)s.active AND %(cluster)s.connectivity_mode = 'push' "
        "AND %(cluster)s.state = 'active' AND %(cluster)s.is_paused IS NOT TRUE",
        cluster=SQL.identifier(cluster),
    )


def _due_lanes(env):
    """Return a lane for each cluster with something due, who waits longest first.

    A cluster with much of it has two, so that calls are made to it while outcomes are
    stored: each takes what the other has not locked.

    :return: pairs of a cluster's id and the number of its lane
    :rtype: list[tuple[int, int]]
    """
    # Of each cluster no more rows are looked at than tell whether it has two lanes.
    parts = [
        SQL(
            """(SELECT record.next_attempt_at AS since FROM %s record
                 WHERE record.cluster_id = known.id AND %s AND %s
                 ORDER BY record.next_attempt_at LIMIT %s)""",
            SQL.identifier(env[model]._table),
            *(WAITS, IS_DUE, const.DELIVERY_BATCH + 1),
        )
        for model in MODELS
    ]
    env.cr.execute(
        SQL(
            """SELECT known.id, count(*) FROM vworkspace_cluster known
            LEFT JOIN vworkspace_delivery_lane lane ON lane.cluster_id = known.id
                 JOIN LATERAL (%s) due ON TRUE
                WHERE %s AND %s
             GROUP BY known.id ORDER BY min(due.since)""",
            SQL(" UNION ALL ").join(parts),
            *(_served("known"), LANE_IS_READY),
        )
    )
    due = env.cr.fetchall()
    first = [(cluster_id, 1) for cluster_id, _amount in due]
    return first + [(c, 2) for c, amount in due if amount > const.DELIVERY_BATCH]


def _next_due(env):
    """Return when the next record is due whose time has not come; None: none soon.

    Or has only just come: the run that ends may not have seen it. A lane that is open
    has had the cron triggered for its own time.

    :return: a time (naive UTC) before the cron's next run in any case
    """
    parts = [
        SQL(
            """SELECT record.next_attempt_at AS due_at FROM %(waiting)s
                  AND record.next_attempt_at
                      > now() AT TIME ZONE 'UTC' - %(just)s * interval '1 s'
                  AND record.next_attempt_at
                      < now() AT TIME ZONE 'UTC' + %(soon)s * interval '1 s'
                  AND (lane.retry_at IS NULL
                       OR lane.retry_at <= record.next_attempt_at)""",
            waiting=_waiting(env[model]._table),
            just=JUST_DUE,
            soon=waker.LOOKED_FOR_ANYWAY,
        )
        for model in MODELS
    ]
    union = SQL(" UNION ALL ").join(parts)
    env.cr.execute(SQL("SELECT min(due_at) FROM (%s) waiting", union))
    return env.cr.fetchone()[0]


def _open_clusters(env, model, ids):
    """Return the clusters of `ids` that can be delivered to without a probe."""
    env.cr.execute(
        SQL(
            "SELECT DISTINCT record.cluster_id FROM %s AND record.id = ANY(%s) "
            "AND COALESCE(lane.failures, 0) = 0",
            _deliverable(env[model]._table),
            ids,
        )
    )
    return [row[0] for row in env.cr.fetchall()]


def _lock_due(cr, table, cluster_id, size, ids):
    """Lock what is due, up to that many records, and return those of one batch.

    What its manifests leave no room for stays locked meanwhile, and is due next.
    """
    # NO KEY: a plain FOR UPDATE would block the foreign key check that PostgreSQL makes
    # when the outcome's transaction updates a record twice, and so block ourselves.
    cr.execute(
        SQL(
            """SELECT record.id, octet_length(revision.manifest)
                 FROM %(deliverable)s
                  AND record.cluster_id = %(cluster)s
                  AND %(chosen)s
             ORDER BY record.next_attempt_at, record.id
                LIMIT %(limit)s
           FOR NO KEY UPDATE OF lock SKIP LOCKED""",
            deliverable=_deliverable(
                table,
                SQL(
                    "JOIN vworkspace_delivery_lock lock "
                    "ON lock.id = record.delivery_lock_id "
                    "LEFT JOIN vworkspace_revision revision "
                    "ON revision.id = record.revision_id"
                ),
            ),
            cluster=cluster_id,
            chosen=SQL("TRUE") if ids is None else SQL("record.id = ANY(%s)", ids),
            limit=size,
        )
    )
    found, total = [], 0
    for record_id, length in cr.fetchall():
        total += length or 0
        if found and total > const.DELIVERY_BYTES:
            break
        found.append(record_id)
    return found


def _read_batch(env, model, cluster_id, ids):
    """Return the intents of `ids` as they are now, after their locks were taken.

    From here on they may reach the cluster, and the records say so: a crash leaves no
    object behind that nobody knows of.
    """
    cluster = env["vworkspace.cluster"].browse(cluster_id)
    env.cr.execute(
        SQL(
            """SELECT record.id, record.intent_revision, record.revision_id,
                      revision.kind, revision.manifest, revision.takeover_fields,
                      before.manifest AS manifest_before,
                      revision.given_up_fields, record.uid, record.applied_fields,
                      record.may_exist,
                      CASE WHEN record.delivery_state = 'denied' THEN 0
                           ELSE record.delivery_attempts END AS attempts
                 FROM vworkspace_revision revision
            LEFT JOIN vworkspace_revision before
                   ON before.res_model = revision.res_model
                  AND before.res_id = revision.res_id
                  AND before.number = revision.number - 1,
                      %s
                  AND revision.id = record.revision_id AND record.id = ANY(%s)
             ORDER BY record.next_attempt_at, record.id""",
            _deliverable(env[model]._table),
            list(ids),
        )
    )
    rows = env.cr.dictfetchall()
    known = {
        "resource": env.registry[model]._resource,
        "database": database_uuid(env),
        "connection": _connection_or_error(cluster),
    }
    batch = Batch(
        model=model,
        cluster_id=cluster_id,
        connection_version=cluster.connection_version,
        credential=cluster.sudo().active_credential_id.display_name or "",
        connection=known["connection"],
        intents=[_intent(row, record=f"{model}/{row['id']}", **known) for row in rows],
    )
    store.begin(env, batch)
    return batch


def _intent(row, **known):
    intent = Intent(
        record_id=row["id"],
        revision=row["intent_revision"],
        revision_id=row["revision_id"],
        kind=row["kind"],
        manifest=json.loads(row["manifest"]),
        manifest_before=row["manifest_before"],
        uid=row["uid"] or None,
        may_exist=bool(row["may_exist"]),
        attempts=row["attempts"] or 0,
        applied_fields=row["applied_fields"],
        takeover=frozenset(row["takeover_fields"] or ()),
        given_up=frozenset(row["given_up_fields"] or ()),
        **known,
    )
    # Of a usual size it is worked out for one after the other: between two calls, with
    # cold caches, it takes twice as long.
    if len(row["manifest"]) <= USUAL_SIZE:
        with suppress(Exception):  # a defect of ours: the attempt says so
            intent.work_out()
    return intent


def _connection_or_error(cluster):
    try:
        return cluster._connection()
    except (UserError, SealingError, KubeError, ValueError) as exc:
        return exc
