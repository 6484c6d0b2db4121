"""Commits what came of a batch of attempts: records, revisions, conflicts and audit
entries in one transaction, with a handful of statements however many records it has.

An outcome counts only while its revision is still the record's: a newer intent that was
saved during the attempt is never marked as delivered; it is delivered next.
"""

import hashlib
import json
import logging
from datetime import timedelta

from psycopg2.extras import execute_values

from odoo import fields

from .. import times
from ..kube import ownership, resources
from ..status import sink
from ..transactions import lock_rows
from . import lanes, waker

_logger = logging.getLogger(__name__)

# Outcomes that a person has to hear of
TOLD = ("conflict", "denied", "lost")


def outcomes(env, batch, results):
    """Store the outcomes and return the ids that are to be delivered once more.

    :param deliver.Batch batch: what was attempted
    :param dict results: the outcomes, by id of the record
    """
    model = env[batch.model]
    ids = lock_rows(env, model._table, results)
    by_id = {i.record_id: i for i in batch.intents if i.record_id in set(ids)}
    cluster = env["vworkspace.cluster"].browse(batch.cluster_id)
    replaced = cluster.connection_version != batch.connection_version
    known = _records_and_revisions(env, batch.model, ids, by_id)
    now = fields.Datetime.now()
    stored, again, overtaken = [], [], []
    for record_id in ids:
        result = results[record_id]
        if known[record_id]["intent_revision"] != by_id[record_id].revision:
            again.append(record_id)
            overtaken.append(record_id)
        elif replaced and result.retry_in is not None:
            again.append(record_id)  # at once, on the connection that replaced it
        else:
            stored.append(record_id)
    found = [i for i in again if results[i].object or results[i].may_exist]
    _update_identities(env, model, found, results)
    _update_records(env, model, stored, by_id, results, now)
    # What was overtaken was sent all the same.
    _update_revisions(env, [*stored, *overtaken], by_id, results, now)
    records = model.browse(stored)
    model.browse(ids).invalidate_recordset()
    env["vworkspace.revision"].invalidate_model()
    _store_conflicts(records, results)
    gone = records.filtered(lambda r: r.delivery_state in ("deleted", "lost"))
    gone._forget_observed()
    _add_audit_entries(env, [*stored, *overtaken], batch, by_id, results, known)
    limit = lanes.limits.get((env.cr.dbname, batch.cluster_id))
    _tell(records, results, known, limit)
    if not replaced and any(results[i].credential_refused for i in stored):
        cluster._credential_refused(batch.connection_version)
    _store_reported_objects(records, results)
    waits = [results[i].retry_in for i in stored if results[i].retry_in is not None]
    if waits:
        waker.trigger(env, now + timedelta(seconds=min(waits)))
    model.browse(ids)._notify_updated()
    return again


# === ROWS === #


def _records_and_revisions(env, model, ids, intents):
    """Return what the records say now, and what the attempted revisions say."""
    env.cr.execute(
        f"""SELECT record.id, record.intent_revision, record.delivery_state,
                   record.delivery_reason, record.name, namespace.name AS namespace,
                   record.company_id, revision.user_id, revision.reason,
                   before.manifest AS manifest_before
              FROM "{env[model]._table}" record
              JOIN vworkspace_cluster_namespace namespace
                ON namespace.id = record.namespace_id
              JOIN vworkspace_revision revision
                ON revision.res_model = %s AND revision.res_id = record.id
               AND revision.id = ANY(%s)
         LEFT JOIN vworkspace_revision before
                ON before.res_model = revision.res_model
               AND before.res_id = revision.res_id
               AND before.number = revision.number - 1
             WHERE record.id = ANY(%s)""",  # noqa: S608 the name of a model's table
        [model, [intents[i].revision_id for i in ids], list(ids)],
    )
    return {row["id"]: row for row in env.cr.dictfetchall()}


def _update_identities(env, model, ids, results):
    """Keep which object the records have, of outcomes that are overtaken already."""
    for record in model.browse(ids):
        if obj := results[record.id].object:
            record._writer().write({**_identity(obj), "may_exist": False})
        elif not record.uid:
            record._writer().may_exist = True


def _identity(obj):
    """Return what the cluster says of which object this is, fit for a row."""
    return {
        "uid": resources.metadata_text(obj, "uid"),
        "resource_version": resources.metadata_text(obj, "resourceVersion"),
        "generation": resources.metadata_generation(obj),
    }


def _update_records(env, model, ids, intents, results, now):
    """Write the outcomes of `ids`; what an outcome does not speak of stays."""
    rows = []
    for record_id in ids:
        result, intent = results[record_id], intents[record_id]
        identity = _identity(result.object) if result.object else {}
        applied = result.state == "applied"
        rows.append(
            (
                record_id,
                result.state,
                result.reason or None,
                _shown_message(result),
                result.may_exist,
                result.retry_in and now + timedelta(seconds=result.retry_in),
                "\n".join(result.warnings) or None,
                identity.get("uid") or None,
                identity.get("resource_version") or None,
                identity.get("generation"),
                ownership.owned_fields(result.object)
                if result.object and intent.kind != "delete"
                else None,
                intent.revision if applied else None,
                intent.revision_id if applied else None,
                times.now(env) if applied else None,
            )
        )
    if not rows:
        return
    execute_values(
        env.cr._obj,
        f"""UPDATE "{model._table}" record
               SET delivery_state = CASE WHEN new.state = 'draft'
                       AND record.applied_revision_id IS NOT NULL
                       THEN 'applied' ELSE new.state END,
                   delivery_reason = new.reason,
                   delivery_message = new.message,
                   delivery_attempts = COALESCE(record.delivery_attempts, 0) + 1,
                   next_attempt_at = new.next_attempt_at::timestamp,
                   delivery_warnings = new.warnings,
                   uid = COALESCE(new.uid, record.uid),
                   may_exist = COALESCE(new.uid, record.uid) IS NULL
                       AND COALESCE(new.may_exist::boolean, record.may_exist),
                   resource_version = COALESCE(new.version, record.resource_version),
                   generation = COALESCE(new.generation::int, record.generation),
                   applied_fields = COALESCE(new.applied, record.applied_fields),
                   claimed_database = CASE WHEN new.applied IS NULL
                                           THEN record.claimed_database END,
                   delivered_revision =
                       COALESCE(new.revision::int, record.delivered_revision),
                   applied_revision_id =
                       COALESCE(new.revision_id::int, record.applied_revision_id),
                   delivered_at =
                       COALESCE(new.delivered_at::timestamp, record.delivered_at)
              FROM (VALUES %s) AS new (
                   id, state, reason, message, may_exist, next_attempt_at, warnings,
                   uid, version, generation, applied, revision, revision_id,
                   delivered_at)
             WHERE record.id = new.id""",  # noqa: S608 the name of a model's table
        rows,
        page_size=len(rows),
    )


def _shown_message(result):
    """Return what the record says of an outcome; of success there is nothing to say."""
    if result.state == "applied" and result.reason != "Adopted":
        return None
    return result.message or None


def _update_revisions(env, ids, intents, results, now):
    rows = [
        (intents[i].revision_id, results[i].state, results[i].message or None, now)
        for i in ids
    ]
    if rows:
        execute_values(
            env.cr._obj,
            """UPDATE vworkspace_revision revision
                  SET outcome = new.outcome, message = new.message,
                      finished_at = new.finished_at
                 FROM (VALUES %s) AS new (id, outcome, message, finished_at)
                WHERE revision.id = new.id""",
            rows,
            page_size=len(rows),
        )


# === CONFLICTS AND DRIFT === #


def _store_conflicts(records, results):
    """Replace the conflicts that the records had; what was applied has not drifted."""
    if "conflict_ids" not in records._fields:
        return
    cr = records.env.cr
    cr.execute(
        "DELETE FROM vworkspace_field_conflict WHERE instance_id = ANY(%s)",
        [records.ids],
    )
    healed = [r.id for r in records if results[r.id].state == "applied"]
    cr.execute(
        "DELETE FROM vworkspace_field_drift WHERE instance_id = ANY(%s)", [healed]
    )
    cr.execute(
        """UPDATE vworkspace_application_instance SET is_drifted = FALSE
            WHERE id = ANY(%s) AND is_drifted""",
        [healed],
    )
    conflicts = records.env["vworkspace.field.conflict"]
    conflicts.create(
        [
            {"instance_id": record.id, **conflicts._values(conflict)}
            for record in records
            for conflict in results[record.id].conflicts
        ]
    )


# === AUDIT === #


def _add_audit_entries(env, ids, batch, intents, results, known):
    """Add what was done. A failure that only repeats itself is told once."""
    revisions = env["vworkspace.revision"]
    rows = []
    for record_id in ids:
        result, intent, row = results[record_id], intents[record_id], known[record_id]
        before = (row["delivery_state"], row["delivery_reason"])
        if intent.attempts and before == (result.state, result.reason or None):
            continue
        if before[0] == result.state == "deleted":
            continue  # a report said so first
        rows.append(
            {
                "user_id": row["user_id"],
                "company_id": row["company_id"],
                "action": intent.kind,
                "outcome": result.state,
                "res_model": batch.model,
                "res_id": record_id,
                "res_name": row["name"],
                "namespace": row["namespace"],
                "cluster_id": batch.cluster_id,
                "revision": intent.revision,
                "reason": row["reason"],
                "diff": revisions._changes(row["manifest_before"], intent.manifest),
                "message": result.message or None,
                "manifest_digest": _digest(intent.signed),
                "server_audit_id": result.audit_id or None,
                "credential": batch.credential or None,
                "duration": round(result.duration * 1000),
            }
        )
    env["vworkspace.audit.entry"]._add(rows)


def _digest(manifest):
    text = json.dumps(manifest, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def _tell(records, results, known, limit):
    """Post what a person has to hear of, once, and log every outcome."""
    for record in records:
        result = results[record.id]
        if result.state in TOLD and known[record.id]["delivery_state"] != result.state:
            record.message_post(body=result.message)
        _logger.debug(
            "Delivery of %s %s: %s %s",
            record._name,
            record.id,
            result.state,
            result.reason,
        )
    if records:
        states = [results[record.id].state for record in records]
        _logger.info(
            "Delivered %s of %s: %s, with up to %s calls at once",
            len(states),
            records._name,
            ", ".join(f"{states.count(s)} {s}" for s in sorted(set(states))),
            limit.now,
        )


# === STATUS === #


def _store_reported_objects(records, results):
    """Hand the objects that the cluster answered with to the sink, if they say more.

    The watch may have seen a status before the record knew the object's uid. A new
    object has no status yet: there is nothing to hand over.
    """
    reports = {}
    for record in records:
        answered = results[record.id].object
        if answered and (
            answered.get("status")
            or resources.metadata_text(answered, "deletionTimestamp")
        ):
            report = sink.Report.from_object(answered, kind=record._resource.kind)
            reports.setdefault(record.cluster_id.id, []).append(report)
    for cluster_id, answers in reports.items():
        sink.ingest(records.env, cluster_id, answers)
