"""The one door through which status enters the database.

The watch worker, the status cron and delivery all hand their reports to `ingest`. It
is idempotent and guarded by resourceVersion, so it does not matter in which order they
come, how often, or through which feeder.

Odoo never computes a status that the cluster did not report; `mark_stale` takes health
back to unknown when the cluster has not been heard of for too long.
"""

import json
import logging
from dataclasses import dataclass
from datetime import timedelta

from odoo import fields
from odoo.tools import SQL

from .. import const
from ..kube import ownership, resources
from ..times import naive
from ..transactions import lock_rows

_logger = logging.getLogger(__name__)

MODELS = {
    "ApplicationInstance": "vworkspace.application.instance",
    "Operation": "vworkspace.operation",
}

# The condition whose words explain each health, the first one present.
EXPLAINED_BY = {
    "ready": ("Ready", "Succeeded"),
    "progressing": ("Reconciling", "Running", "Accepted", "Ready"),
    "degraded": ("Degraded",),
    "blocked": ("Blocked",),
    "suspended": ("Suspended", "Cancelled"),
    "failed": ("Ready", "Degraded", "Failed"),
    "deleting": ("Deleting",),
}


@dataclass(frozen=True, kw_only=True)
class Report:
    """One object as a cluster reported it, or its end."""

    kind: str
    observed: resources.Observed
    deleted: bool = False
    owned: str = ""  # our entry of managedFields
    source: bytes = b""  # the object without status, to look into when it drifted

    @classmethod
    def from_object(cls, obj, *, deleted=False, kind=None):
        kind = kind or obj["kind"]
        source = {name: value for name, value in obj.items() if name != "status"}
        return cls(
            kind=kind,
            observed=resources.observe(obj, kind=kind),
            deleted=deleted,
            owned=ownership.owned_fields(obj),
            source=json.dumps(source, separators=(",", ":")).encode(),
        )

    def object(self):
        """Return the object as the cluster sent it, without its status."""
        return json.loads(self.source)


def ingest(env, cluster_id, reports):
    """Write what a cluster reports, and return the uids that no record has.

    :param int cluster_id: id of the cluster's record
    :param list[Report] reports: at most one for each object
    :rtype: set[str]
    """
    unclaimed = set()
    for kind, model in MODELS.items():
        by_uid = {r.observed.uid: r for r in reports if r.kind == kind}
        unclaimed |= _ingest_model(env[model], cluster_id, by_uid)
    return unclaimed


def vanished(env, cluster_id, kind, namespace, present_uids, list_version):
    """Mark the records whose object is missing from a complete list.

    :param present_uids: the uids of all objects in the list
    :param list_version: the list's resourceVersion; what was applied after it is not
        expected in it
    """
    model = env[MODELS[kind]]
    gone = model.search(
        [
            ("cluster_id", "=", cluster_id),
            ("namespace_id.name", "=", namespace),
            ("uid", "!=", False),
            ("uid", "not in", list(present_uids)),
            ("delivery_state", "not in", ("deleted", "lost")),
        ]
    )
    records = model.browse(lock_rows(env, model._table, gone.ids))
    records = records.filtered(
        lambda r: not resources.newer(r.resource_version or "", list_version)
    )
    for record in records:
        _store_end(record)
    records._notify_updated()


def mark_stale(env):
    """Set health to unknown where a cluster went silent, and back once it is heard.

    A watch that resumes where it stopped brings no status that did not change.
    """
    limit = fields.Datetime.now() - timedelta(seconds=const.STALE_AFTER)
    for name in MODELS.values():
        records = _mark_silent(env[name], limit) | _mark_heard(env[name], limit)
        records._notify_updated()


def _mark_silent(model, limit):
    silent = model.search(
        [
            ("health", "not in", (False, "unknown")),
            ("status_as_of", "<", limit),
            *("|", "|"),
            ("cluster_id.lease_ids", "=", False),
            ("cluster_id.lease_ids.last_contact", "=", False),
            ("cluster_id.lease_ids.last_contact", "<", limit),
        ]
    )
    records = model.browse(lock_rows(model.env, model._table, silent.ids))
    for record in records:
        message = model.env._(
            "%s has not been heard of for a while.", record.cluster_id.name
        )
        record._writer().write({"health": "unknown", "health_message": message})
    return records


def _mark_heard(model, limit):
    heard = model.search(
        [
            ("health", "=", "unknown"),
            ("reported_health", "not in", (False, "unknown")),
            ("cluster_id.lease_ids.last_contact", ">=", limit),
        ]
    )
    records = model.browse(lock_rows(model.env, model._table, heard.ids))
    for record in records:
        health = record.reported_health
        message = _explanation(record.condition_ids, health) or False
        record._writer().write({"health": health, "health_message": message})
    return records


def record_values(observed, *, as_of):
    """Return the observed fields of a record for `observed`.

    :param as_of: when it was read from the cluster (naive UTC)
    """
    health = observed.health
    return {
        "health": health,
        "reported_health": health,
        "health_message": _explanation(observed.conditions, health) or False,
        "observed_resource_version": observed.resource_version,
        "observed_generation": observed.observed_generation or 0,
        "status_as_of": as_of,
        "last_reconcile_time": naive(observed.last_reconcile_time),
        "deletion_requested_at": naive(observed.deletion_timestamp),
        "finalizers": ", ".join(observed.finalizers) or False,
    }


def _ingest_model(model, cluster_id, by_uid):
    env = model.env
    env.cr.execute(
        SQL(
            "SELECT id FROM %s WHERE cluster_id = %s AND uid = ANY(%s)",
            SQL.identifier(model._table),
            cluster_id,
            list(by_uid),
        )
    )
    ids = [row[0] for row in env.cr.fetchall()]
    records = model.browse(lock_rows(env, model._table, ids))
    unclaimed = by_uid.keys() - set(records.mapped("uid"))
    changed = records.filtered(lambda r: _ingest_record(r, by_uid[r.uid]))
    changed._notify_updated()
    return unclaimed


def _ingest_record(record, report):
    """Write one report, and return whether it changed anything."""
    observed = report.observed
    if resources.newer(
        record.observed_resource_version or "", observed.resource_version
    ):
        return False
    if report.deleted:
        return _store_end(record)
    if _is_known(record, observed):
        return False
    record._store_observed(observed, as_of=fields.Datetime.now())
    # What was there before our last apply says nothing about what came after it.
    if not resources.newer(record.resource_version or "", observed.resource_version):
        _store_other_database(record, observed)
        _store_drift(record, report)
    return True


def _store_other_database(record, observed):
    """Note when another Odoo database wrote the object: both use one field manager."""
    ours = record.env["ir.config_parameter"].sudo().get_param("database.uuid")
    named = observed.annotations.get(resources.DATABASE_ANNOTATION)
    other = named if named not in (None, ours, record.claimed_database) else False
    if other == record.foreign_database:
        return
    record._writer().foreign_database = other
    if other:
        message = record.env._(
            "The Odoo database %s wrote this object: nothing is sent to it until an "
            "administrator claims it.",
            other,
        )
        record.message_post(body=message)
        record._audit("observe", outcome="other database", message=message)
        record.cluster_id._notify_updated()


def _store_drift(record, report):
    """Note which fields that we applied are ours no more. No request is made for it.

    While something is being delivered, ownership is in motion; the outcome settles it.
    """
    if "drift_ids" not in record._fields or not record.applied_fields:
        return
    if record.delivery_state in ("pending", "deleting"):
        return
    drifted = ()
    if report.owned != record.applied_fields:
        drifted = ownership.drift(record.applied_fields, report.object())
    if drifted or record.is_drifted:
        record._store_drift(drifted)


def _is_known(record, observed):
    """Whether the record shows this already; an equal version may have gone stale."""
    return (
        record.observed_resource_version == observed.resource_version
        and record.health == observed.health
    )


def _store_end(record):
    if record.delivery_state in ("deleted", "lost"):
        return False
    wanted = record.delivery_state == "deleting"
    message = (
        False
        if wanted
        else record.env._(
            "The object vanished from %s: somebody else deleted it. It is not "
            "created again unless you say so.",
            record.cluster_id.name,
        )
    )
    state = "deleted" if wanted else "lost"
    record._writer().write(
        {
            "delivery_state": state,
            "delivery_reason": False,
            "delivery_message": message,
            "next_attempt_at": False,
            "finalizers": False,
        }
    )
    if wanted:
        record.revision_id._writer().write(
            {"outcome": state, "finished_at": fields.Datetime.now()}
        )
    record._forget_observed()
    record._audit("delete" if wanted else "observe", outcome=state, message=message)
    if not wanted:
        record.message_post(body=message)
    return True


def _explanation(conditions, health):
    for wanted in EXPLAINED_BY.get(health, ()):
        for condition in conditions:
            if condition.type == wanted:
                return (condition.message or condition.reason or "")[:500]
    return ""
