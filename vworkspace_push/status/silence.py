"""What is known while a cluster cannot be heard: health is unknown, and says why.

Odoo never computes a status that the cluster did not report. When the cluster is heard
of again, what it reported last counts once more: a watch that resumes where it stopped
brings no status that did not change.
"""

from psycopg2.extras import execute_values

from odoo.tools import SQL

from .. import times
from ..kube import resources
from . import lines

MODELS = {
    "ApplicationInstance": "vworkspace.application.instance",
    "Operation": "vworkspace.operation",
}
# By which field a line says that it belongs to a record of the model
OWNERS = {
    "vworkspace.application.instance": "instance_id",
    "vworkspace.operation": "operation_id",
    "vworkspace.cluster.status": "cluster_status_id",
}
REACHABLE = "Reachable"  # the type of transition that says whether a cluster answers
MAX_MESSAGE = 500  # characters of what explains a health


def unreachable(env, cluster_id, message):
    """Take the health of a cluster's records to unknown: it does not answer.

    :param str message: why, shown on each of them
    """
    env.flush_all()
    message = message[:MAX_MESSAGE]
    env.cr.execute(
        """INSERT INTO vworkspace_cluster_status AS known
                       (cluster_id, unreachable_since, unreachable_message)
                VALUES (%s, %s, %s)
           ON CONFLICT (cluster_id) DO UPDATE
                   SET unreachable_since = EXCLUDED.unreachable_since,
                       unreachable_message = EXCLUDED.unreachable_message
                 WHERE known.unreachable_since IS NULL""",
        [cluster_id, times.now(env), message],
    )
    if env.cr.rowcount:
        _note_reachable(env, cluster_id, status="False", message=message)
    for name in MODELS.values():
        condition = SQL("record.cluster_id = %s", cluster_id)
        _silence(env[name], condition, lambda _cluster: message)


def reachable(env, cluster_id):
    """Let what a cluster reported last count again: it answers."""
    env.cr.execute(
        """UPDATE vworkspace_cluster_status
              SET unreachable_since = NULL, unreachable_message = NULL
            WHERE cluster_id = %s AND unreachable_since IS NOT NULL""",
        [cluster_id],
    )
    if not env.cr.rowcount:
        return
    env.flush_all()
    _note_reachable(env, cluster_id, status="True", message=None)
    for name in MODELS.values():
        _restore(env[name], SQL("record.cluster_id = %s", cluster_id))


def mark_stale(env):
    """Set health to unknown where a cluster went silent, and back once it is heard.

    Each cluster has its own limit. Nothing is waited for: a record that somebody else
    has locked has its turn the next time.
    """
    env.flush_all()

    def message(cluster):
        return env._("%s has not been heard of for a while.", cluster)

    def cut_off_message(cluster):
        return env._("%s has not let Odoo read this for a while.", cluster)

    limit = SQL("now() AT TIME ZONE 'UTC' - cluster.stale_after * interval '1 second'")
    is_old = SQL("record.status_as_of < %s", limit)
    heard = SQL("lease.last_contact >= %s AND status.unreachable_since IS NULL", limit)
    silent = _silent_clusters(env, limit)
    env.cr.execute(
        "SELECT FROM vworkspace_watch_stream WHERE waiting_since IS NOT NULL LIMIT 1"
    )
    some_wait = env.cr.rowcount
    for kind, name in MODELS.items():
        model = env[name]
        if silent:
            condition = SQL("record.cluster_id = ANY(%s) AND %s", silent, is_old)
            _silence(model, condition, message, waits=False)
        if some_wait:
            cut_off = _is_cut_off(kind, limit)
            condition = SQL("%s AND %s", is_old, cut_off)
            _silence(model, condition, cut_off_message, waits=False)
            _restore(model, SQL("%s AND NOT %s", heard, cut_off), waits=False)
        else:
            _restore(model, heard, waits=False)


def _silent_clusters(env, limit):
    env.cr.execute(
        SQL(
            """SELECT cluster.id FROM vworkspace_cluster cluster
            LEFT JOIN vworkspace_watch_lease lease ON lease.cluster_id = cluster.id
                WHERE lease.last_contact IS NULL OR lease.last_contact < %s""",
            limit,
        )
    )
    return [row[0] for row in env.cr.fetchall()]


def _is_cut_off(kind, limit):
    """Return whether the stream that should bring a record's news waits for long."""
    return SQL(
        """(lease.expires_at > now() AT TIME ZONE 'UTC' AND EXISTS (
                SELECT FROM vworkspace_watch_stream stream
                  JOIN vworkspace_cluster_namespace namespace
                    ON namespace.id = record.namespace_id
                 WHERE stream.cluster_id = record.cluster_id AND stream.kind = %s
                   AND COALESCE(stream.namespace, namespace.name) = namespace.name
                   AND stream.waiting_since < %s))""",
        kind,
        limit,
    )


def _silence(model, condition, message, *, waits=True):
    """Make the health unknown where `condition` holds.

    :param message: a function that says why, given the cluster's name
    :param waits: for records that are locked; they are passed over otherwise
    """
    condition = SQL("%s AND record.health <> 'unknown'", condition)
    rows = _lock(model, condition, waits=waits)
    messages = {}
    for row in rows:
        name = row["cluster_name"]
        if name not in messages:
            messages[name] = message(name)
        row.update(new_health="unknown", message=messages[name])
    _write_health(model, rows)


def _restore(model, condition, *, waits=True):
    """Go back to what was reported where `condition` holds; `waits` as in `_silence`"""
    condition = SQL(
        "%s AND record.health = 'unknown' AND record.reported_health <> 'unknown'",
        condition,
    )
    rows = _lock(model, condition, waits=waits)
    explanations = _explanations(model, rows)
    for row in rows:
        message = explanations.get(row["id"])
        row.update(new_health=row["reported_health"], message=message)
    _write_health(model, rows)


def _lock(model, condition, *, waits):
    """Lock the records for which `condition` holds, and return what matters here."""
    model.env.cr.execute(
        SQL(
            """SELECT record.id, record.health, record.reported_health,
                      record.cluster_id, cluster.name AS cluster_name
                 FROM %s record
                 JOIN vworkspace_cluster cluster ON cluster.id = record.cluster_id
            LEFT JOIN vworkspace_watch_lease lease ON lease.cluster_id = cluster.id
            LEFT JOIN vworkspace_cluster_status status
                   ON status.cluster_id = cluster.id
                WHERE %s
             ORDER BY record.id
                  FOR NO KEY UPDATE OF record %s""",
            SQL.identifier(model._table),
            condition,
            SQL("" if waits else "SKIP LOCKED"),
        )
    )
    return model.env.cr.dictfetchall()


def _explanations(model, rows):
    """Return what the stored conditions say of the reported health, by record."""
    owner = SQL.identifier(OWNERS[model._name])
    model.env.cr.execute(
        SQL(
            """SELECT %s AS id, type, reason, left(message, %s) AS message
                 FROM vworkspace_condition WHERE %s = ANY(%s)""",
            owner,
            MAX_MESSAGE,
            owner,
            [row["id"] for row in rows],
        )
    )
    texts = {
        (c["id"], c["type"]): c["message"] or c["reason"]
        for c in model.env.cr.dictfetchall()
    }
    found = {}
    for row in rows:
        for type_ in resources.EXPLAINED_BY.get(row["reported_health"], ()):
            if (row["id"], type_) in texts:
                found[row["id"]] = texts[row["id"], type_]
                break
    return found


def _write_health(model, rows):
    if not rows:
        return
    env = model.env
    now = times.now(env)
    execute_values(
        env.cr._obj,
        f"""UPDATE "{model._table}" record
               SET health = new.health, health_message = new.message,
                   write_uid = {env.uid:d}, write_date = '{now}'
              FROM (VALUES %s) AS new (id, health, message)
             WHERE record.id = new.id""",  # noqa: S608 the name of a model's table
        [(row["id"], row["new_health"], row["message"]) for row in rows],
        page_size=lines.PAGE,
    )
    transitions = [
        (
            row["id"],
            lines.health_transition(
                row["health"], row["new_health"], message=row["message"], at=now
            ),
        )
        for row in rows
    ]
    cluster_ids = {row["id"]: row["cluster_id"] for row in rows}
    lines.add_transitions(env, OWNERS[model._name], transitions, cluster_ids)
    env.invalidate_all(flush=False)
    model.browse(cluster_ids)._notify_updated()


def _note_reachable(env, cluster_id, *, status, message):
    env["vworkspace.transition"]._add(
        [
            {
                "cluster_id": cluster_id,
                "type": REACHABLE,
                "status": status,
                "previous_status": "True" if status == "False" else "False",
                "message": message,
                "at": times.now(env),
            }
        ]
    )
    env["vworkspace.cluster"].browse(cluster_id)._notify_updated()
