"""Brings committed intents to clusters, and commits what came of it.

The intent is committed before the network is touched, the outcome in a transaction of
its own after it. A crash at any point leaves the record `pending`, and the delivery
cron applies it again: server-side apply is idempotent.

`after_commit` delivers right behind the user's own commit, before the request returns;
`run_cron` is the safety net and does the retries. Both go through `deliver`, and any
number of processes may: each first locks the record's row in `vworkspace_delivery_lock`
(SKIP LOCKED), so a record is delivered by one at a time and its intents stay in order.
"""

import json
import logging
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import timedelta
from functools import partial

from odoo import fields
from odoo.exceptions import UserError
from odoo.tools import SQL

from .. import const
from ..kube import apply
from ..kube.errors import KubeError, Unreachable
from ..kube.resources import Resource
from ..sealing import SealingError
from ..status import sink
from ..times import naive
from ..transactions import in_transaction, lock_rows
from . import outcome
from .outcome import Outcome

_logger = logging.getLogger(__name__)

MODELS = ("vworkspace.application.instance",)
DUE_STATES = ("pending", "failed", "deleting")
CLUSTERS_AT_ONCE = 8
PASSES = 3  # for a record whose intent changed while it was being delivered


@dataclass(frozen=True, kw_only=True)
class Intent:
    """One record's intent as committed, and the connection to deliver it on."""

    record_id: int
    revision: int
    cluster: int
    resource: Resource
    manifest: dict
    uid: str | None
    deleting: bool
    attempts: int
    connection_version: int
    connection: object  # a kube Connection, or the error that keeps us from having one


def after_commit(records):
    """Deliver `records` as soon as the current transaction is committed."""
    cr = records.env.cr
    waiting = cr.postcommit.data.get("vworkspace_push.deliver")
    if waiting is None:
        waiting = cr.postcommit.data["vworkspace_push.deliver"] = defaultdict(dict)
        cr.postcommit.add(partial(_deliver_waiting, records.env.registry, waiting))
    waiting[records._name].update(dict.fromkeys(records.ids))


def run_cron(env):
    """Deliver everything that is due, within the cron's time budget."""
    for model in MODELS:
        seconds_left = 1.0
        while seconds_left > 0:
            handled = deliver(env.registry, model)
            seconds_left = env["ir.cron"]._commit_progress(
                handled, remaining=handled if handled == const.DELIVERY_BATCH else 0
            )
            if handled < const.DELIVERY_BATCH:
                break


def deliver(registry, model, *, ids=None):
    """Deliver what is due of `model`, one batch, and return how many records that was.

    :param ids: only these records; None: whatever is due
    """
    with registry.cursor() as lock_cr:
        locked = _lock_due(lock_cr, registry[model]._table, ids)
        intents = in_transaction(registry, _read_intents, model, locked)
        for _pass in range(PASSES):
            if not intents:
                break
            outcomes = _attempt_all(intents)
            versions = {i.record_id: i.connection_version for i in intents}
            changed = in_transaction(
                registry, _store_outcomes, model, outcomes, versions
            )
            intents = in_transaction(registry, _read_intents, model, changed)
        lock_cr.rollback()
    return len(locked)


def _deliver_waiting(registry, waiting):
    """Run after the user's commit: it must not raise, the intents are safe already."""
    try:
        if sum(map(len, waiting.values())) > const.DELIVER_AFTER_COMMIT_LIMIT:
            in_transaction(registry, _trigger_cron, fields.Datetime.now())
            return
        for model, ids in waiting.items():
            deliver(registry, model, ids=list(ids))
    except Exception:
        _logger.exception("Delivery after commit failed; the cron will deliver.")


# === LOCKING AND READING === #


def _lock_due(cr, table, ids):
    # NO KEY: a plain FOR UPDATE would block the foreign key check that PostgreSQL makes
    # when the outcome's transaction updates a record twice, and so block ourselves.
    cr.execute(
        SQL(
            """SELECT record.id
                 FROM %(table)s record
                 JOIN vworkspace_delivery_lock lock
                   ON lock.id = record.delivery_lock_id
                 JOIN vworkspace_cluster cluster
                   ON cluster.id = record.cluster_id
                  AND cluster.active AND cluster.connectivity_mode = 'push'
                  AND cluster.state = 'active'
                WHERE record.delivery_state IN %(states)s
                  AND record.next_attempt_at <= now() AT TIME ZONE 'UTC'
                  AND %(chosen)s
             ORDER BY record.next_attempt_at, record.id
                LIMIT %(limit)s
           FOR NO KEY UPDATE OF lock SKIP LOCKED""",
            table=SQL.identifier(table),
            states=DUE_STATES,
            chosen=SQL("TRUE") if ids is None else SQL("record.id = ANY(%s)", ids),
            limit=const.DELIVERY_BATCH,
        )
    )
    return [row[0] for row in cr.fetchall()]


def _read_intents(env, model, ids):
    """Return the intents of `ids` as they are now, after their locks were taken."""
    connections = {}
    intents = []
    for record in env[model].browse(ids).exists():
        if record.delivery_state not in DUE_STATES:
            continue
        cluster = record.cluster_id
        if cluster not in connections:
            connections[cluster] = _connection_or_error(cluster)
        intents.append(
            Intent(
                record_id=record.id,
                revision=record.intent_revision,
                cluster=cluster.id,
                resource=record._resource,
                manifest=json.loads(record.intent_manifest),
                uid=record.uid or None,
                deleting=record.delivery_state == "deleting",
                attempts=record.delivery_attempts,
                connection_version=cluster.connection_version,
                connection=connections[cluster],
            )
        )
    return intents


def _connection_or_error(cluster):
    try:
        return cluster._connection()
    except (UserError, SealingError, KubeError, ValueError) as exc:
        return exc


# === ATTEMPTING === #


def _attempt_all(intents):
    by_cluster = defaultdict(list)
    for intent in intents:
        by_cluster[intent.cluster].append(intent)
    if len(by_cluster) == 1:
        return _attempt_cluster(intents)
    with ThreadPoolExecutor(min(CLUSTERS_AT_ONCE, len(by_cluster))) as pool:
        return [
            outcome
            for outcomes in pool.map(_attempt_cluster, by_cluster.values())
            for outcome in outcomes
        ]


def _attempt_cluster(intents):
    """Attempt the intents of one cluster in turn; once it is unreachable, no more."""
    outcomes = []
    unreachable = None
    for intent in intents:
        try:
            if unreachable:
                raise unreachable
            outcomes.append(_attempt(intent))
        except (KubeError, UserError, SealingError, ValueError) as exc:
            if isinstance(exc, Unreachable):
                unreachable = exc
            outcomes.append(
                outcome.from_error(
                    exc,
                    record_id=intent.record_id,
                    revision=intent.revision,
                    attempts=intent.attempts,
                    deleting=intent.deleting,
                )
            )
    return outcomes


def _attempt(intent):
    if isinstance(intent.connection, Exception):
        raise intent.connection
    attempt = _attempt_delete if intent.deleting else _attempt_apply
    return attempt(intent)


def _attempt_apply(intent):
    applied = apply.apply(
        intent.connection,
        intent.resource,
        intent.manifest,
        uid=intent.uid,
        timeout=const.DELIVERY_TIMEOUT,
    )
    return Outcome(
        record_id=intent.record_id,
        revision=intent.revision,
        state="applied",
        object=applied.object,
        warnings=applied.warnings,
    )


def _attempt_delete(intent):
    metadata = intent.manifest["metadata"]
    remaining = apply.delete(
        intent.connection,
        intent.resource,
        metadata["name"],
        metadata["namespace"],
        uid=intent.uid,
        timeout=const.DELIVERY_TIMEOUT,
    )
    if remaining is None:
        return Outcome(
            record_id=intent.record_id, revision=intent.revision, state="deleted"
        )
    finalizers = ", ".join(remaining["metadata"].get("finalizers") or ["none"])
    return Outcome(
        record_id=intent.record_id,
        revision=intent.revision,
        state="deleting",
        message=f"The cluster is deleting it; finalizers that hold it: {finalizers}.",
        retry_in=outcome.back_off(intent.attempts),
        object=remaining,
    )


# === STORING === #


def _store_outcomes(env, model, outcomes, versions):
    """Write the outcomes and return the ids that are to be delivered once more.

    :param dict versions: of the connection that each record's attempt was made on
    """
    by_id = {o.record_id: o for o in outcomes}
    records = env[model].browse(lock_rows(env, env[model]._table, by_id))
    changed = []
    for record in records:
        outcome = by_id[record.id]
        version = versions[record.id]
        replaced = record.cluster_id.connection_version != version
        if replaced and outcome.retry_in is not None:
            changed.append(record.id)  # at once, on the connection that replaced it
        elif not _store_outcome(record, outcome):
            changed.append(record.id)
        elif outcome.credential_refused:
            record.cluster_id._credential_refused(version)
    _store_reported_objects(records, by_id)
    if due := [o.retry_in for o in outcomes if o.retry_in is not None]:
        _trigger_cron(env, fields.Datetime.now() + timedelta(seconds=min(due)))
    records._notify_updated()
    return changed


def _store_outcome(record, outcome):
    """Write one outcome. Return False when the record has a newer intent by now."""
    values = {}
    if outcome.object:
        metadata = outcome.object["metadata"]
        values = {
            "uid": metadata["uid"],
            "resource_version": metadata["resourceVersion"],
            "generation": metadata.get("generation") or 0,
        }
    if record.intent_revision != outcome.revision:
        record._writer().write(values)
        return False
    now = fields.Datetime.now()
    retry = outcome.retry_in
    values |= {
        "delivery_state": outcome.state,
        "delivery_message": outcome.message or False,
        "delivery_attempts": record.delivery_attempts + 1,
        "next_attempt_at": now + timedelta(seconds=retry)
        if retry is not None
        else False,
        "delivery_warnings": "\n".join(outcome.warnings) or False,
    }
    if outcome.state == "applied":
        values |= {"delivered_revision": outcome.revision, "delivered_at": now}
    if outcome.state in ("deleted", "lost"):
        values |= {"health": False, "health_message": False}
    record._writer().write(values)
    _store_conflicts(record, outcome.conflicts)
    if outcome.state in ("conflict", "denied", "lost"):
        record.message_post(body=outcome.message)
    _logger.info(
        "Delivery of %s %s, revision %s: %s",
        record._name,
        record.id,
        outcome.revision,
        outcome.state,
    )
    return True


def _store_conflicts(record, conflicts):
    record.conflict_ids.unlink()
    record.conflict_ids.create(
        [
            {
                "instance_id": record.id,
                "field": conflict.field,
                "manager": conflict.manager,
                "operation": conflict.operation,
                "since": naive(conflict.since),
                "our_value": json.dumps(conflict.our_value, ensure_ascii=False),
                "live_value": json.dumps(conflict.live_value, ensure_ascii=False),
            }
            for conflict in conflicts
        ]
    )


def _store_reported_objects(records, by_id):
    """Hand the objects that the cluster answered with to the sink: they have a status.

    The watch may have seen a status before the record knew the object's uid.
    """
    for record in records:
        if answered := by_id[record.id].object:
            sink.ingest(
                record.env, record.cluster_id.id, [sink.Report.from_object(answered)]
            )


def _trigger_cron(env, at):
    env.ref("vworkspace_push.ir_cron_deliver")._trigger(at)
