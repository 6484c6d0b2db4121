"""Tells people that a record degraded, failed or is blocked, and when it is over.

The sink calls `health_changed` in its own short transaction, for hundreds of records at
once: that only leaves a note for each, in one statement. A cron then tells: followers
by a message with the subtype of the health, and the responsible user by an activity.

Notes do not pile up: a record has one, and what was told last is on it. So a record
that recovered before it was told of is not told of, one that flaps is told of once in
`const.NOTIFY_EVERY`, and one that became unknown, because its cluster went silent, is
left as it is.
"""

import logging

from odoo.modules.registry import Registry
from odoo.tools import SQL

from .. import const, times
from ..transactions import in_transaction

_logger = logging.getLogger(__name__)

UNWELL = frozenset({"degraded", "failed", "blocked"})
WELL = frozenset({"ready", "suspended", "deleting", False})  # False: not there

SUBTYPES = {
    ("vworkspace.application.instance", "degraded"): "mt_instance_degraded",
    ("vworkspace.application.instance", "failed"): "mt_instance_failed",
    ("vworkspace.application.instance", "blocked"): "mt_instance_blocked",
    ("vworkspace.operation", "failed"): "mt_operation_failed",
    ("vworkspace.operation", "blocked"): "mt_operation_blocked",
}
ACTIVITY_TYPE = "vworkspace_push.mail_activity_type_unwell"
CRON = "vworkspace_push.ir_cron_notify"


# === THE SINK'S PART === #


def health_changed(env, model, changes):
    """Note that people may have to be told of these changes, once this is committed.

    :param str model: name of the records' model
    :param changes: tuples of (id, previous health, health, message)
    """
    now = times.now(env)
    unwell = [record_id for record_id, _, health, _ in changes if health in UNWELL]
    well = [record_id for record_id, _, health, _ in changes if health in WELL]
    due = _note_unwell(env, model, unwell, now) + _note_well(env, model, well, now)
    if due:
        _wake(env, min(due))


def _note_unwell(env, model, ids, now):
    """Leave a note for each, due when it may be told of; return when that is."""
    if not ids:
        return []
    # In the order of the ids, so that two transactions never wait for each other.
    env.cr.execute(
        SQL(
            """INSERT INTO vworkspace_health_notice AS notice
                           (res_model, res_id, due_at)
                    SELECT %(model)s, id, %(now)s FROM unnest(%(ids)s) AS id
               ON CONFLICT (res_model, res_id) DO UPDATE
                       SET due_at = GREATEST(EXCLUDED.due_at,
                                             notice.told_at + %(every)s)
                 RETURNING due_at""",
            model=model,
            ids=sorted(set(ids)),
            now=now,
            every=const.NOTIFY_EVERY,
        )
    )
    return [row[0] for row in env.cr.fetchall()]


def _note_well(env, model, ids, now):
    """Have the activities closed of those that people were told of."""
    if not ids:
        return []
    env.cr.execute(
        SQL(
            """UPDATE vworkspace_health_notice notice SET due_at = %s
                 FROM (SELECT id FROM vworkspace_health_notice
                        WHERE res_model = %s AND res_id = ANY(%s)
                          AND (told_health IS NOT NULL OR due_at IS NOT NULL)
                     ORDER BY res_id FOR NO KEY UPDATE) told
                WHERE notice.id = told.id
            RETURNING due_at""",
            now,
            model,
            sorted(ids),
        )
    )
    return [row[0] for row in env.cr.fetchall()]


def _wake(env, at):
    """Have the cron run at `at` (naive UTC), once this is committed."""
    env.ref(CRON).sudo()._trigger(at)


# === THE CRON'S PART === #


def run_cron(env):
    """Tell of all that is due, each record in a short transaction of its own."""
    registry = Registry(env.cr.dbname)
    due = _due(env)
    for number, notice_id in enumerate(due, 1):
        _try_to_settle(registry, notice_id)
        if not env["ir.cron"]._commit_progress(1, remaining=len(due) - number):
            break
    if later := _next_due(env):
        _wake(env, later)


def _due(env):
    env.cr.execute(
        SQL(
            """SELECT id FROM vworkspace_health_notice
                WHERE due_at <= %s ORDER BY due_at LIMIT %s""",
            times.now(env),
            const.NOTIFY_BATCH,
        )
    )
    return [row[0] for row in env.cr.fetchall()]


def _next_due(env):
    env.cr.execute("SELECT min(due_at) FROM vworkspace_health_notice")
    return env.cr.fetchone()[0]


def _try_to_settle(registry, notice_id):
    try:
        in_transaction(registry, _settle, notice_id)
    except (
        Exception
    ):  # whatever the mail stack has against one must not stop the others
        _logger.exception("Health notice %s could not be told", notice_id)
        in_transaction(registry, _postpone, notice_id)


def _postpone(env, notice_id):
    if notice := _lock(env, notice_id):
        notice.due_at = times.now(env) + const.NOTIFY_EVERY


def _settle(env, notice_id):
    """Bring what people were told of one record to how it is now."""
    notice = _lock(env, notice_id)
    if not notice:
        return
    record = env[notice.res_model].browse(notice.res_id).exists()
    if not record:
        notice.unlink()
        return
    health = record.health
    notice.due_at = False
    if health in UNWELL and health != notice.told_health:
        _tell(record)
        notice.write({"told_health": health, "told_at": times.now(env)})
    elif health in WELL:
        _activities(record).unlink()
        notice.told_health = False


def _lock(env, notice_id):
    """Return the notice, locked, if it is still due and nobody else has it."""
    env.cr.execute(
        SQL(
            """SELECT id FROM vworkspace_health_notice
                WHERE id = %s AND due_at <= %s FOR UPDATE SKIP LOCKED""",
            notice_id,
            times.now(env),
        )
    )
    return env["vworkspace.health.notice"].browse(row[0] for row in env.cr.fetchall())


def _tell(record):
    """Post to the followers, and leave the responsible user an activity."""
    label = dict(record._fields["health"]._description_selection(record.env))
    summary = record.env._(
        "%(name)s: %(health)s", name=record.name, health=label[record.health]
    )
    subtype = SUBTYPES.get((record._name, record.health))
    if subtype:
        # Mails go out with the mail queue's cron, not while the row is locked.
        record.with_context(mail_notify_force_send=False).message_post(
            body=record.health_message or summary,  # text: it is escaped
            subject=summary,
            subtype_xmlid=f"vworkspace_push.{subtype}",
        )
    user = record._responsible_user()
    if user.active and not _activities(record):
        record.with_context(mail_activity_quick_update=True).activity_schedule(
            ACTIVITY_TYPE, summary=summary, user_id=user.id
        )


def _activities(record):
    unwell = record.env.ref(ACTIVITY_TYPE)
    return record.activity_ids.filtered(
        lambda a: a.activity_type_id == unwell and a.automated
    )
