"""One sentence on every record: what it waits for, and until when.

The first row that fits decides; what holds everything back comes before what holds
back the one record.
"""

from odoo import fields
from odoo.tools import format_datetime

from .deliver import DUE_STATES


def sentence(record):
    """Return what `record` waits for, or False when it waits for nothing.

    :param record: of a model that inherits `vworkspace.managed.resource`
    :rtype: str | bool
    """
    if record.foreign_database and record.delivery_state != "deleted":
        return record.env._(
            "A decision: another Odoo database (%s) wrote this object. Nothing is "
            "sent until an administrator claims it.",
            record.foreign_database,
        )
    # What is not tried again by itself waits for a person, whatever is held back.
    due = record.delivery_state in DUE_STATES and record.next_attempt_at
    if due and (held_back := _held_back(record)):
        return held_back
    return _BY_STATE.get(record.delivery_state, _nothing)(record)


def _held_back(record):
    cluster = record.cluster_id
    if cluster.connectivity_mode != "push":
        return record.env._(
            "%s to be a Push cluster: nothing is sent to it from here as long as it is "
            "a Pull cluster.",
            cluster.name,
        )
    if record.is_paused:
        return record.env._("Somebody to resume it: its deliveries are paused.")
    if cluster.is_paused:
        return record.env._(
            "Somebody to resume %s: deliveries to it are paused.", cluster.name
        )
    if not cluster.active or cluster.state != "active":
        return record.env._(
            "%s to become active: an administrator does that on its form.", cluster.name
        )
    lane = cluster.sudo().lane_ids[:1]
    if lane.retry_at and lane.retry_at > fields.Datetime.now():
        return record.env._(
            "%(cluster)s to answer: it is tried again at %(time)s. %(why)s",
            cluster=cluster.name,
            time=_time(record, lane.retry_at),
            why=lane.message or "",
        ).strip()
    return False


def _pending(record):
    if record.next_attempt_at and record.next_attempt_at > fields.Datetime.now():
        return _failed(record)
    return record.env._("Its delivery to %s, now.", record.cluster_id.name)


def _failed(record):
    if not record.next_attempt_at:
        return record.env._("Somebody to look at the reason and to deploy it again.")
    return record.env._(
        "The next attempt, at %s.", _time(record, record.next_attempt_at)
    )


def _conflict(record):
    return record.env._(
        "A decision: other managers own fields that would change. Choose whose value "
        "stays."
    )


def _denied(record):
    if record.delivery_reason == "AlreadyExists":
        return record.env._(
            "A decision: an object of this name exists already. Import it, or choose "
            "another name."
        )
    if record.next_attempt_at:
        return record.env._(
            "The cluster's admin to allow it; it is tried again at %s.",
            _time(record, record.next_attempt_at),
        )
    return record.env._(
        "Somebody to change what the cluster objects to, and to deploy again."
    )


def _lost(record):
    return record.env._(
        "A decision: start over with a new object, or delete the record."
    )


def _deleting(record):
    cluster = record.cluster_id.name
    if not record.deletion_requested_at:
        return _pending(record)
    if record.finalizers:
        return record.env._(
            "%(cluster)s to finish deleting it: held since %(time)s by the finalizers "
            "%(finalizers)s.",
            cluster=cluster,
            time=_time(record, record.deletion_requested_at),
            finalizers=record.finalizers,
        )
    return record.env._("%s to finish deleting it.", cluster)


def _applied(record):
    if record.generation and (record.observed_generation or 0) < record.generation:
        return record.env._(
            "The operator in %s to take up the change.", record.cluster_id.name
        )
    return False


def _draft(record):
    if not record.intent_revision:
        if record.uid:
            return record.env._(
                "Its first deployment: it was imported, nothing was sent."
            )
        return record.env._("Its first deployment.")
    if record.uid:
        return record.env._(
            "Its deployment: what is in %s was not changed yet.", record.cluster_id.name
        )
    return record.env._("Its deployment: nothing is sent until then.")


def _nothing(_record):
    return False


_BY_STATE = {
    "draft": _draft,
    "pending": _pending,
    "failed": _failed,
    "conflict": _conflict,
    "denied": _denied,
    "lost": _lost,
    "deleting": _deleting,
    "applied": _applied,
}


def _time(record, moment):
    return format_datetime(record.env, moment, dt_format="medium")
