"""The lines below a record: conditions, endpoints, and the log of transitions.

Each function brings the lines of any number of records to what was reported, with a
few statements, and writes nothing that is there already. The records are locked.
"""

import hashlib
from datetime import UTC

from .. import const
from ..kube import resources
from ..rows import as_json
from ..times import naive

PAGE = 1_000  # rows of one statement
HEALTH = "Health"  # the type of transition that health has


def store_conditions(env, owner, reports, *, at):
    """Bring the conditions to what was reported; return transitions and whose changed.

    :param str owner: the field of a condition that says whose it is
    :param dict reports: `kube.resources.Observed` by id of the owner
    :param at: when it was read, for a cluster that does not say since when it is so
    :return: owner's id and values of vworkspace.transition, of each; and the ids of the
        owners of which any condition is another now
    :rtype: tuple[list[tuple[int, dict]], set[int]]
    """
    env.cr.execute(
        f"""SELECT {owner}, id, type, status, reason, md5(message),
                   last_transition_time, observed_generation
              FROM vworkspace_condition WHERE {owner} = ANY(%s)""",  # noqa: S608
        [list(reports)],
    )
    known = {}
    for owner_id, row_id, type_, status, reason, *rest in env.cr.fetchall():
        known[owner_id, type_] = (row_id, (status, reason, *rest))
    rows, transitions = [], []
    for owner_id, observed in reports.items():
        for condition in observed.conditions:
            row_id, before = known.pop((owner_id, condition.type), (None, None))
            values = _condition_values(condition)
            if before == values:
                continue
            rows.append((owner_id, condition, values))
            if before is None or before[:2] != values[:2]:
                transition = _transition(condition, observed, before, at)
                transitions.append((owner_id, transition))
    for (owner_id, type_), (_row_id, before) in known.items():
        transition = {
            "type": type_,
            "status": None,
            "previous_status": before[0],
            "at": at,
            "generation": reports[owner_id].generation or 0,
        }
        transitions.append((owner_id, transition))
    _delete_conditions(env, [row_id for row_id, _before in known.values()])
    _upsert_conditions(env, owner, rows)
    changed = {owner_id for owner_id, *_values in rows}
    return transitions, changed.union(owner_id for owner_id, _type in known)


def conditions(env, owner, ids):
    """Return the stored conditions of owners: `kube.resources.Condition` by type.

    :param str owner: the field of a condition that says whose it is
    :return: by id of the owner; none of those without any
    """
    env.cr.execute(
        f"""SELECT {owner}, type, status, COALESCE(reason, ''), COALESCE(message, ''),
                   last_transition_time, NULLIF(observed_generation, 0)
              FROM vworkspace_condition WHERE {owner} = ANY(%s)""",  # noqa: S608
        [list(ids)],
    )
    found = {}
    for owner_id, type_, *texts, since, generation in env.cr.fetchall():
        since = since and since.replace(tzinfo=UTC)
        condition = resources.Condition(type_, *texts, since, generation)
        found.setdefault(owner_id, {})[type_] = condition
    return found


def _condition_values(condition):
    """Return a condition as its row is read, with a digest for the long text."""
    return (
        condition.status,
        condition.reason or None,
        digest(condition.message) if condition.message else None,
        naive(condition.last_transition_time) or None,
        condition.observed_generation or 0,
    )


def digest(text):
    """Return what PostgreSQL's `md5` says of `text`: long texts are compared by it."""
    return hashlib.md5(text.encode(), usedforsecurity=False).hexdigest()


def _transition(condition, observed, before, at):
    return {
        "type": condition.type,
        "status": condition.status,
        "previous_status": before and before[0],
        "reason": condition.reason or None,
        "message": condition.message[: const.MAX_STORED_VALUE] or None,
        "at": naive(condition.last_transition_time) or at,
        "generation": condition.observed_generation or observed.generation or 0,
    }


def _delete_conditions(env, ids):
    if ids:
        env.cr.execute("DELETE FROM vworkspace_condition WHERE id = ANY(%s)", [ids])


def _upsert_conditions(env, owner, rows):
    if not rows:
        return
    env.cr.execute(
        f"""INSERT INTO vworkspace_condition (
                   {owner}, type, message, status, reason, last_transition_time,
                   observed_generation, create_uid, create_date, write_uid, write_date)
            SELECT new.owner, new.type, new.message, new.status, new.reason,
                   new.since, new.generation,
                   {env.uid:d}, {_NOW}, {env.uid:d}, {_NOW}
              FROM json_to_recordset(%s) AS new (
                   owner int, type varchar, message text, status varchar,
                   reason varchar, since timestamp, generation int)
       ON CONFLICT ({owner}, type) WHERE {owner} IS NOT NULL
         DO UPDATE SET message = EXCLUDED.message, status = EXCLUDED.status,
                       reason = EXCLUDED.reason,
                       last_transition_time = EXCLUDED.last_transition_time,
                       observed_generation = EXCLUDED.observed_generation,
                       write_uid = EXCLUDED.write_uid,
                       write_date = EXCLUDED.write_date""",  # noqa: S608
        [as_json([_condition_row(*row) for row in rows])],
        log_exceptions=False,
    )


# Without a fraction of a second, as Odoo's fields hold it
_NOW = "date_trunc('second', now() AT TIME ZONE 'UTC')"


def _condition_row(owner_id, condition, values):
    status, reason, _digest, since, generation = values
    return {
        "owner": owner_id,
        "type": condition.type,
        "message": condition.message or None,
        "status": status,
        "reason": reason,
        "since": since,
        "generation": generation,
    }


# === ENDPOINTS === #


def store_endpoints(env, reports):
    """Bring the endpoints of applications to what was reported, in its order.

    :param dict reports: `kube.resources.Observed` by id of the application
    :return: the ids of those that have others now
    :rtype: set[int]
    """
    env.cr.execute(
        """SELECT instance_id, name, url, type, notes FROM vworkspace_endpoint
            WHERE instance_id = ANY(%s) ORDER BY id""",
        [list(reports)],
    )
    known = {}
    for instance_id, *row in env.cr.fetchall():
        known.setdefault(instance_id, []).append(tuple(row))
    changed = {}
    for instance_id, observed in reports.items():
        rows = [
            (e.name, e.url, e.type or None, e.notes or None) for e in observed.endpoints
        ]
        if rows != known.get(instance_id, []):
            changed[instance_id] = rows
    if not changed:
        return set()
    env.cr.execute(
        "DELETE FROM vworkspace_endpoint WHERE instance_id = ANY(%s)", [list(changed)]
    )
    env.cr.execute(
        f"""INSERT INTO vworkspace_endpoint (
                   instance_id, name, url, type, notes,
                   create_uid, create_date, write_uid, write_date)
            SELECT new.*, {env.uid:d}, {_NOW}, {env.uid:d}, {_NOW}
              FROM json_to_recordset(%s) AS new (
                   instance_id int, name varchar, url varchar, type varchar,
                   notes varchar)""",  # noqa: S608
        [as_json(_endpoint_rows(changed))],
        log_exceptions=False,
    )
    return set(changed)


def _endpoint_rows(changed):
    names = ("name", "url", "type", "notes")
    return [
        {"instance_id": instance_id, **dict(zip(names, row, strict=True))}
        for instance_id, rows in changed.items()
        for row in rows
    ]


# === TRANSITIONS === #


def health_transition(before, health, *, message, at, reason=None, generation=0):
    """Return the values of a transition from one health to another."""
    return {
        "type": HEALTH,
        "status": health,
        "previous_status": before,
        "reason": reason or None,
        "message": message or None,
        "at": at,
        "generation": generation or 0,
    }


def add_transitions(env, owner, transitions, cluster_ids):
    """Add transitions of records to the log.

    :param str owner: the field of a transition that says whose it is
    :param list transitions: owner's id and values, of each
    :param dict cluster_ids: by id of the owner
    """
    env["vworkspace.transition"]._add(
        [
            {owner: owner_id, "cluster_id": cluster_ids[owner_id], **values}
            for owner_id, values in transitions
        ]
    )
