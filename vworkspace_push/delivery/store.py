"""Commits what came of a batch of attempts: records, revisions, conflicts and audit
entries in one transaction, with a handful of statements however many records it has.

An outcome counts only while its revision is still the record's: a newer intent that was
saved during the attempt is never marked as delivered; it is delivered next.
"""

import logging
from datetime import timedelta

from odoo import fields

from .. import times
from ..kube import ownership, resources
from ..rows import as_json
from ..status import sink
from ..transactions import lock_rows
from . import lanes, outcome, waker

_logger = logging.getLogger(__name__)

# Outcomes that a person has to hear of
TOLD = ("conflict", "denied", "lost")


def begin(env, batch):
    """Note of first deliveries that their objects may exist from now on."""
    _note_may_exist(env, batch, [i for i in batch.intents if not i.may_exist], True)


def take_back(env, batch, results):
    """Take that back of intents that were not attempted after all."""
    left = [i for i in batch.intents if i.record_id not in results and not i.may_exist]
    _note_may_exist(env, batch, left, False)


def _note_may_exist(env, batch, intents, may_exist):
    table = env[batch.model]._table
    ids = [intent.record_id for intent in intents if intent.makes_object]
    if ids := lock_rows(env, table, ids):
        env.cr.execute(
            f'UPDATE "{table}" SET may_exist = %s WHERE id = ANY(%s) AND uid IS NULL',  # noqa: S608 a model's table
            [may_exist, ids],
        )


def outcomes(env, batch, results):
    """Store the outcomes and return the ids that are to be delivered once more.

    :param batch.Batch batch: what was attempted
    :param dict results: the outcomes, by id of the record
    """
    model = env[batch.model]
    ids = lock_rows(env, model._table, results)
    by_id = {i.record_id: i for i in batch.intents if i.record_id in set(ids)}
    replaced = _connection_version(env, batch.cluster_id) != batch.connection_version
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
    _update_applied(env, model, again, by_id, results)
    _update_records(env, model, stored, by_id, results, now)
    # What was overtaken was sent all the same.
    _update_revisions(env, [*stored, *overtaken], by_id, results, now)
    model.browse(ids).invalidate_recordset()
    env["vworkspace.revision"].invalidate_model()
    # Of a bulk that goes well, no record is read: their rows are long.
    _store_conflicts(model.browse(stored), results)
    gone = [i for i in stored if results[i].state in ("deleted", "lost")]
    model.browse(gone)._forget_observed()
    _add_audit_entries(env, [*stored, *overtaken], batch, by_id, results, known)
    _tell(env, batch, stored, results, known)
    if not replaced and any(results[i].credential_refused for i in stored):
        cluster = env["vworkspace.cluster"].browse(batch.cluster_id)
        cluster._credential_refused(batch.connection_version)
    _store_reported_objects(env, batch, stored, results)
    waits = [results[i].retry_in for i in stored if results[i].retry_in is not None]
    if waits:
        waker.trigger(env, now + timedelta(seconds=min(waits)))
    model.browse(ids)._notify_updated()
    return again


def postpone(env, batch, record_id):
    """Have a record wait whose outcome cannot be stored; it is delivered once more."""
    (intent,) = (i for i in batch.intents if i.record_id == record_id)
    at = fields.Datetime.now() + timedelta(seconds=outcome.back_off(intent.attempts))
    env.cr.execute(
        f"""UPDATE "{env[batch.model]._table}"
               SET next_attempt_at = %s,
                   delivery_attempts = COALESCE(delivery_attempts, 0) + 1
             WHERE id = %s AND intent_revision = %s""",  # noqa: S608 a model's table
        [at, record_id, intent.revision],
    )
    waker.trigger(env, at)


# === ROWS === #


def _connection_version(env, cluster_id):
    # Past the ORM, which would read the whole of a long row.
    env.cr.execute(
        "SELECT connection_version FROM vworkspace_cluster WHERE id = %s", [cluster_id]
    )
    return env.cr.fetchone()[0]


def _records_and_revisions(env, model, ids, intents):
    """Return what the records say now, and what the attempted revisions say."""
    env.cr.execute(
        f"""SELECT record.id, record.intent_revision, record.delivery_state,
                   record.delivery_reason, record.name, namespace.name AS namespace,
                   record.company_id, revision.user_id, revision.reason
              FROM "{env[model]._table}" record
              JOIN vworkspace_cluster_namespace namespace
                ON namespace.id = record.namespace_id
              JOIN vworkspace_revision revision
                ON revision.res_model = %s AND revision.res_id = record.id
               AND revision.id = ANY(%s)
             WHERE record.id = ANY(%s)""",  # noqa: S608 the name of a model's table
        [model, [intents[i].revision_id for i in ids], list(ids)],
    )
    return {row["id"]: row for row in env.cr.dictfetchall()}


def _update_applied(env, model, ids, intents, results):
    """Keep what was applied, of outcomes that are overtaken already."""
    for record in model.browse(ids):
        result, intent = results[record.id], intents[record.id]
        if not result.object:
            if not record.uid:
                record._writer().may_exist = _may_exist(result, intent)
            continue
        values = {**_identity(result.object), "may_exist": False}
        if (owned := _owned(result, intent)) is not None:
            values["applied_fields"] = owned
        if result.state == "applied":
            values["delivered_revision"] = intent.revision
            values["applied_revision_id"] = intent.revision_id
            values["delivered_at"] = times.now(env)
        record._writer().write(values)


def _may_exist(result, intent):
    """Return whether an object that the record does not know may be its own."""
    return intent.may_exist if result.may_exist is None else result.may_exist


def _owned(result, intent):
    """Return our entry of managedFields as text; None: nothing was said of it."""
    if result.object is None or intent.kind == "delete":
        return None
    return ownership.owned_fields(result.object)


def _identity(obj):
    """Return what the cluster says of which object this is, fit for a row."""
    return {
        "uid": resources.metadata_text(obj, "uid") or None,
        "resource_version": resources.metadata_text(obj, "resourceVersion") or None,
        "generation": resources.metadata_generation(obj),
    }


def _update_records(env, model, ids, intents, results, now):
    """Write the outcomes of `ids`; what an outcome does not speak of stays."""
    if not ids:
        return
    rows = []
    for record_id in ids:
        result, intent = results[record_id], intents[record_id]
        applied = result.state == "applied"
        rows.append(
            {
                "id": record_id,
                "state": result.state,
                "reason": result.reason or None,
                "message": _shown_message(result),
                "may_exist": _may_exist(result, intent),
                "next_attempt_at": None
                if result.retry_in is None
                else now + timedelta(seconds=result.retry_in),
                "warnings": "\n".join(result.warnings) or None,
                **(_identity(result.object) if result.object else {}),
                "owned": _owned(result, intent),
                "revision": intent.revision if applied else None,
                "revision_id": intent.revision_id if applied else None,
                "delivered_at": times.now(env) if applied else None,
            }
        )
    env.cr.execute(
        f"""UPDATE "{model._table}" record
               SET delivery_state = CASE WHEN new.state = 'draft'
                       AND record.applied_revision_id IS NOT NULL
                       THEN 'applied' ELSE new.state END,
                   delivery_reason = new.reason,
                   delivery_message = new.message,
                   delivery_attempts = COALESCE(record.delivery_attempts, 0) + 1,
                   next_attempt_at = new.next_attempt_at,
                   delivery_warnings = new.warnings,
                   uid = COALESCE(new.uid, record.uid),
                   may_exist = COALESCE(new.uid, record.uid) IS NULL AND new.may_exist,
                   resource_version =
                       COALESCE(new.resource_version, record.resource_version),
                   generation = COALESCE(new.generation, record.generation),
                   applied_fields = COALESCE(new.owned, record.applied_fields),
                   claimed_database = CASE WHEN new.owned IS NULL
                                           THEN record.claimed_database END,
                   delivered_revision =
                       COALESCE(new.revision, record.delivered_revision),
                   applied_revision_id =
                       COALESCE(new.revision_id, record.applied_revision_id),
                   delivered_at = COALESCE(new.delivered_at, record.delivered_at)
              FROM json_to_recordset(%s) AS new (
                   id int, state varchar, reason varchar, message text,
                   may_exist boolean, next_attempt_at timestamp, warnings text,
                   uid varchar, resource_version varchar, generation int, owned text,
                   revision int, revision_id int, delivered_at timestamp)
             WHERE record.id = new.id""",  # noqa: S608 the name of a model's table
        [as_json(rows)],
        log_exceptions=False,
    )


def _shown_message(result):
    """Return what the record says of an outcome; of success there is nothing to say."""
    if result.state == "applied" and result.reason != "Adopted":
        return None
    return result.message or None


def _update_revisions(env, ids, intents, results, now):
    rows = [
        {
            "id": intents[i].revision_id,
            "outcome": results[i].state,
            "message": results[i].message or None,
        }
        for i in ids
    ]
    env.cr.execute(
        """UPDATE vworkspace_revision revision
              SET outcome = new.outcome, message = new.message, finished_at = %s
             FROM json_to_recordset(%s) AS new (
                  id int, outcome varchar, message text)
            WHERE revision.id = new.id""",
        [now, as_json(rows)],
        log_exceptions=False,
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
    rows = []
    for record_id in ids:
        result, intent, row = results[record_id], intents[record_id], known[record_id]
        before = (row["delivery_state"], row["delivery_reason"])
        if before == (result.state, result.reason or None):
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
                "diff": intent.changes or None,
                "message": result.message or None,
                "manifest_digest": intent.digest,
                "server_audit_id": result.audit_id or None,
                "credential": batch.credential or None,
                "duration": round(result.duration * 1000),
            }
        )
    env["vworkspace.audit.entry"]._add(rows)


def _tell(env, batch, ids, results, known):
    """Post what a person has to hear of, once, and log every outcome."""
    for record_id in ids:
        result = results[record_id]
        if result.state in TOLD and known[record_id]["delivery_state"] != result.state:
            env[batch.model].browse(record_id).message_post(body=result.message)
        _logger.debug(
            "Delivery of %s %s: %s %s",
            batch.model,
            record_id,
            result.state,
            result.reason,
        )
    if ids:
        states = [results[record_id].state for record_id in ids]
        _logger.info(
            "Delivered %s of %s: %s, with up to %s calls at once",
            len(states),
            batch.model,
            ", ".join(f"{states.count(s)} {s}" for s in sorted(set(states))),
            lanes.limits.get((env.cr.dbname, batch.cluster_id)).now,
        )


# === STATUS === #


def _store_reported_objects(env, batch, ids, results):
    """Hand the objects that the cluster answered with to the sink, if they say more.

    The watch may have seen a status before the record knew the object's uid. A new
    object has no status yet: there is nothing to hand over.
    """
    kind = env.registry[batch.model]._resource.kind
    answers = [results[record_id].object for record_id in ids]
    reports = [
        sink.Report.from_object(answered, kind=kind)
        for answered in answers
        if answered
        and (
            answered.get("status")
            or resources.metadata_text(answered, "deletionTimestamp")
        )
    ]
    if reports:
        sink.ingest(env, batch.cluster_id, reports)
