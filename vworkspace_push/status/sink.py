"""The one door through which status enters the database.

The watch worker, the status cron and delivery all hand their reports to `ingest`. It
is idempotent and guarded by resourceVersion, so it does not matter in which order they
come, how often, or through which feeder. However many reports there are, they take a
handful of statements; what is known already is not written again.

Odoo never computes a status that the cluster did not report; `silence` says what holds
while a cluster cannot be heard.
"""

import json
import logging
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta

import psycopg2
from psycopg2.extras import Json

from odoo.exceptions import ConcurrencyError
from odoo.tools import SQL

from .. import times
from ..identity import database_uuid
from ..kube import ownership, resources
from ..rows import as_json
from ..transactions import lock_rows
from . import lines, notify
from .silence import MAX_MESSAGE, MODELS, OWNERS, mark_stale, reachable, unreachable

__all__ = [
    "Ingested",
    "Missing",
    "Report",
    "gone",
    "ingest",
    "mark_stale",
    "merge",
    "missing",
    "reachable",
    "unreachable",
]

_logger = logging.getLogger(__name__)

CLUSTER = resources.CLUSTER.kind
KINDS = (CLUSTER, *MODELS)  # in the order in which their rows are locked
GONE_STATES = ("deleted", "lost")
LIST_TIME = timedelta(seconds=10)  # within which a list is written, unless it says so
APPLY_TIME = timedelta(minutes=1)  # likewise, for what was applied meanwhile
EVER = datetime.min.replace(tzinfo=UTC)  # before all that a cluster tells of
SIZE = 1_000  # bytes of a report in memory, beside its long texts
# Columns for the sake of which alone no open view is refreshed
NOT_WATCHED = {"observed_resource_version", "status_as_of", "last_reconcile_time"}
MAX_TOLD = 1_000  # objects that could not be stored and were told of, to tell it once

_told: set[tuple[str, int, str]] = set()  # database, cluster, uid


@dataclass(frozen=True, kw_only=True)
class Report:
    """One object as a cluster reported it, or its end."""

    kind: str
    observed: resources.Observed
    deleted: bool = False
    owned: str = ""  # our entry of managedFields
    # The object without status, to look into when it drifted; empty of strangers'
    source: bytes = b""
    size: int = 0  # bytes that it takes in memory, about

    @classmethod
    def from_object(cls, obj, *, deleted=False, kind=None):
        kind = kind or obj["kind"]
        observed = resources.observe(obj, kind=kind)
        owned = ownership.owned_fields(obj)
        source = b""
        if owned or _is_marked(observed):
            spec = {name: value for name, value in obj.items() if name != "status"}
            source = json.dumps(spec, separators=(",", ":")).encode()
        return cls(
            kind=kind,
            observed=observed,
            deleted=deleted,
            owned=owned,
            source=source,
            size=SIZE + len(source) + len(owned) + _size_of_texts(observed),
        )

    def object(self):
        """Return the object as the cluster sent it, without its status."""
        return json.loads(self.source) if self.source else {}


def _is_marked(observed):
    """Whether the object says that an Odoo wrote it, whoever owns its fields now."""
    return (
        resources.DATABASE_ANNOTATION in observed.annotations
        or resources.MANAGED_BY_LABEL in observed.labels
    )


def _size_of_texts(observed):
    return (
        sum(len(condition.message) for condition in observed.conditions)
        + sum(len(e.url) + len(e.notes) for e in observed.endpoints)
        + sum(map(len, observed.outputs.values()))
    )


@dataclass(frozen=True)
class Missing:
    """A record's object that seems to be gone: a GET has to confirm it."""

    kind: str
    namespace: str
    name: str
    uid: str


@dataclass
class Ingested:
    """What came of a batch of reports."""

    unclaimed: set[str] = field(default_factory=set)  # uids that no record has
    missing: list[Missing] = field(default_factory=list)
    written: int = 0  # records and clusters that changed

    def add(self, other):
        self.unclaimed |= other.unclaimed
        self.missing += other.missing
        self.written += other.written


@dataclass(frozen=True)
class _Listing:
    """Which complete list reports come from; it is the truth of its moment."""

    version: str = ""  # empty: they are no list
    seen_since: datetime | None = None
    applied_since: datetime | None = None

    @classmethod
    def of(cls, env, version, listed_at):
        now = times.now(env)
        if listed_at:
            # Records know whole seconds only.
            listed_at = times.by_database(env, listed_at).replace(microsecond=0)
        return cls(
            version=version or "",
            seen_since=listed_at or now - LIST_TIME,
            applied_since=listed_at or now - APPLY_TIME,
        )


class SchemaError(psycopg2.ProgrammingError):
    """The tables are not those that this code knows: the addon is being updated."""


def ingest(
    env,
    cluster_id,
    reports,
    *,
    listed_version=None,
    listed_at=None,
    tells_reachable=True,
):
    """Write what a cluster reports.

    :param int cluster_id: id of the cluster's record
    :param list[Report] reports: at most one for each object
    :param str listed_version: the reports are a complete list of this resourceVersion.
        A record that saw a newer one saw it in another life of the cluster, such as
        before a backup was restored: what was listed counts
    :param datetime listed_at: when the list was asked for (naive UTC). What was read
        or applied later is newer than the list, whatever its version
    :param tells_reachable: whether a list says that the cluster answers; not where a
        worker holds it, whose word that is
    :rtype: Ingested
    :raise SchemaError: nothing can be stored for now, whatever the reports say
    """
    if listed_version and tells_reachable:
        reachable(env, cluster_id)
    listing = _Listing.of(env, listed_version, listed_at)
    result = Ingested()
    for kind in KINDS:
        by_uid = {r.observed.uid: r for r in reports if r.kind == kind}
        by_uid.pop("", None)
        if by_uid:
            result.add(_ingest_kind(env, cluster_id, kind, by_uid, listing))
    return result


def _ingest_kind(env, cluster_id, kind, by_uid, listing):
    """Write the reports of one kind; one that cannot be written stops no other."""
    store = _ingest_cluster if kind == CLUSTER else _ingest_records
    env.flush_all()
    try:
        # Not flushing: that would send what is to be told at the end of everything.
        with env.cr.savepoint(flush=False):
            result = store(env, cluster_id, kind, by_uid, listing)
            env.flush_all()
            return result
    except (psycopg2.OperationalError, psycopg2.InterfaceError, ConcurrencyError):
        raise  # nothing is wrong with the reports: the transaction is tried again
    except Exception as exc:  # whatever a report may bring about
        if _is_of_schema(exc):
            raise SchemaError(str(exc)) from exc
        env.transaction.clear()  # what was not flushed yet is part of the failure
        if len(by_uid) == 1:
            _tell_once(env, cluster_id, kind, *by_uid, exc)
            return Ingested()
    result = Ingested()
    uids = list(by_uid)
    middle = len(uids) // 2
    for part in (uids[:middle], uids[middle:]):
        some = {uid: by_uid[uid] for uid in part}
        result.add(_ingest_kind(env, cluster_id, kind, some, listing))
    return result


def _is_of_schema(exc):
    """Whether the statement failed for what the database is, not for what it was sent.

    What psycopg2 itself refuses to send has no code.
    """
    if isinstance(exc, (psycopg2.errors.NotNullViolation, psycopg2.InternalError)):
        return True
    code = getattr(exc, "pgcode", None) or ""
    return code.startswith("42")  # no such table or column, no right to it


def _tell_once(env, cluster_id, kind, uid, exc):
    key = (env.cr.dbname, cluster_id, uid)
    if key in _told:
        return
    if len(_told) >= MAX_TOLD:
        _told.clear()
    _told.add(key)
    _logger.error(
        "What cluster %s reports of the %s with the uid %s cannot be stored.",
        cluster_id,
        kind,
        uid,
        exc_info=exc,
    )


# === RECORDS === #


def _newer(version, than):
    """Return whether a version is newer than another, as `resources.newer` has it."""
    return SQL(
        """((length(%(version)s), %(version)s COLLATE "C")
            > (length(%(than)s), %(than)s COLLATE "C"))""",
        version=version,
        than=than,
    )


def _is_older(listing):
    """Return the guard: whether a report is older than what is known of its object."""
    seen = SQL("COALESCE(record.observed_resource_version, '')")
    reported = SQL("report.version")
    older = SQL("(%s OR %s = '')", _newer(seen, reported), reported)
    if not listing.version:
        return older
    return SQL("(%s AND NOT %s)", older, _is_of_another_life(listing))


def _is_of_another_life(listing):
    """Return whether a list shows that the cluster's versions moved backwards.

    It has an older version than we saw, although it reaches as far as that, or although
    it was asked for after we saw it.
    """
    seen = SQL("COALESCE(record.observed_resource_version, '')")
    applied = SQL("COALESCE(record.resource_version, '')")
    return SQL(
        """(report.version <> '' AND %(older)s
            AND (NOT %(seen_newer)s
                 OR COALESCE(record.status_as_of < %(seen_since)s, TRUE)
                    AND NOT (%(applied_newer)s
                             AND COALESCE(
                                 record.delivered_at >= %(applied_since)s, FALSE))))""",
        older=_newer(seen, SQL("report.version")),
        seen_newer=_newer(seen, listing.version),
        seen_since=listing.seen_since,
        applied_newer=_newer(applied, listing.version),
        applied_since=listing.applied_since,
    )


def _ingest_records(env, cluster_id, kind, by_uid, listing):
    model = env[MODELS[kind]]
    rows = _lock_records(model, cluster_id, by_uid, listing)
    result = Ingested(unclaimed=by_uid.keys() - {row["uid"] for row in rows})
    news, ended = [], []
    for row in rows:
        report = by_uid[row["uid"]]
        if row["is_older"]:
            continue
        if not report.deleted:
            if row["delivery_state"] == "lost" and not row["is_after_end"]:
                continue  # from before the end, whichever way it took so long
            if not _is_known(row, report.observed):
                news.append((row, report))
        elif row["delivery_state"] == "deleting":
            ended.append(row["id"])
        elif row["delivery_state"] not in GONE_STATES:
            observed = report.observed
            result.missing.append(
                Missing(kind, observed.namespace, observed.name, observed.uid)
            )
    back = [row["id"] for row, _report in news if row["delivery_state"] == "lost"]
    _store_returns(model.browse(back))
    result.written = _store_news(model, cluster_id, news) + len(ended)
    _store_ends(model.browse(ended))
    return result


def _lock_records(model, cluster_id, by_uid, listing):
    """Lock the records of these objects, and return what is known of each.

    Whoever waits for a row here goes on with its newest state, the guard included.
    """
    has_drift = "drift_ids" in model._fields
    model.env.cr.execute(
        SQL(
            """SELECT record.id, record.uid, record.health, record.delivery_state,
                      record.observed_resource_version AS version,
                      record.foreign_database, record.claimed_database,
                      md5(record.applied_fields) AS applied_digest,
                      %(drifted)s AS is_drifted, %(is_older)s AS is_older,
                      %(after_apply)s AS is_after_apply,
                      %(after_end)s AS is_after_end
                 FROM unnest(%(uids)s, %(versions)s) AS report (uid, version)
                 JOIN %(table)s record ON record.uid = report.uid
                WHERE record.cluster_id = %(cluster)s
             ORDER BY record.id
                  FOR NO KEY UPDATE OF record""",
            drifted=SQL("record.is_drifted") if has_drift else SQL("FALSE"),
            is_older=_is_older(listing),
            after_apply=_is_after_apply(listing),
            after_end=_is_after_end(listing),
            uids=list(by_uid),
            versions=[r.observed.resource_version for r in by_uid.values()],
            table=SQL.identifier(model._table),
            cluster=cluster_id,
        ),
        log_exceptions=False,
    )
    return model.env.cr.dictfetchall()


def _is_after_apply(listing):
    """Return whether a report says something about what our last apply left.

    What was there before it says nothing about what came after it.
    """
    applied = SQL("COALESCE(record.resource_version, '')")
    after = SQL("NOT %s", _newer(applied, SQL("report.version")))
    if listing.version:
        return SQL("(%s OR %s)", after, _is_of_another_life(listing))
    return after


def _is_after_end(listing):
    """Return whether a report is from after a record's end was written.

    Only a list says when it was asked for; a version says nothing of that, since those
    of a cluster that was restored from a backup begin anew.
    """
    if not listing.version:
        return SQL("FALSE")
    return SQL("COALESCE(record.status_as_of < %s, TRUE)", listing.seen_since)


def _is_known(row, observed):
    """Whether the record shows this already; an equal version may have gone stale."""
    return (
        row["version"] == observed.resource_version and row["health"] == observed.health
    )


def _store_news(model, cluster_id, news):
    """Write what reports say of records, and return how many there were."""
    if not news:
        return 0
    env = model.env
    owner = OWNERS[model._name]
    now = times.now(env)
    observed = {row["id"]: report.observed for row, report in news}
    shown = _update_records(model, observed, now)
    transitions, changed = lines.store_conditions(env, owner, observed, at=now)
    shown |= changed
    if "endpoint_ids" in model._fields:
        shown |= lines.store_endpoints(env, observed)
    changes = [
        (row["id"], row["health"], report.observed.health, _message(report.observed))
        for row, report in news
        if row["health"] != report.observed.health
    ]
    transitions += _health_transitions(changes, observed, now)
    lines.add_transitions(env, owner, transitions, dict.fromkeys(observed, cluster_id))
    env.invalidate_all(flush=False)
    for row, report in news:
        _store_foreign_database(model, row, report)
        _store_drift(model, row, report)
    model.browse(shown)._notify_updated()
    notify.health_changed(env, model._name, changes)
    return len(news)


def _update_records(model, observed, now):
    """Write the columns of records; return the ids of those that show other values."""
    rows = [
        {"id": record_id, **_record_values(each, now), **model._observed_values(each)}
        for record_id, each in observed.items()
    ]
    types = {n: model._fields[n].column_type[1] for n in rows[0] if n != "id"}
    assignments = ", ".join(f"{name} = new.{name}" for name in types)
    columns = ", ".join(f"{name} {type_}" for name, type_ in types.items())
    shown = [name for name in types if name not in NOT_WATCHED]
    before = ", ".join(f"old.{name}" for name in shown)
    after = ", ".join(f"new.{name}" for name in shown)
    model.env.cr.execute(
        f"""UPDATE "{model._table}" record
               SET {assignments}, write_uid = {model.env.uid:d}, write_date = %s
              FROM json_to_recordset(%s) AS new (id int, {columns})
              JOIN "{model._table}" old USING (id)
             WHERE record.id = new.id
         RETURNING new.id, ({before}) IS DISTINCT FROM ({after})""",  # noqa: S608 the names of our own columns
        [now, as_json(rows)],
        log_exceptions=False,
    )
    return {record_id for record_id, is_other in model.env.cr.fetchall() if is_other}


def _record_values(observed, now):
    """Return the columns that records of all kinds have, as they are stored."""
    health = observed.health
    return {
        "health": health,
        "reported_health": health,
        "health_message": _message(observed),
        "observed_resource_version": observed.resource_version,
        "observed_generation": observed.observed_generation or 0,
        "status_as_of": now,
        "last_reconcile_time": times.naive(observed.last_reconcile_time) or None,
        "deletion_requested_at": times.naive(observed.deletion_timestamp) or None,
        "finalizers": ", ".join(observed.finalizers) or None,
    }


def _message(observed):
    """Return what explains the health, None when nothing does."""
    condition = observed.explanation
    text = condition and (condition.message or condition.reason)
    return text[:MAX_MESSAGE] if text else None


def _health_transitions(changes, observed, now):
    transitions = []
    for record_id, before, health, message in changes:
        each = observed[record_id]
        condition = each.explanation
        values = lines.health_transition(
            before,
            health,
            message=message,
            reason=condition and condition.reason,
            at=now,
            generation=each.generation,
        )
        transitions.append((record_id, values))
    return transitions


def _store_foreign_database(model, row, report):
    """Note when another Odoo database wrote the object: both use one field manager."""
    if not row["is_after_apply"]:
        return
    ours = database_uuid(model.env)
    named = report.observed.annotations.get(resources.DATABASE_ANNOTATION)
    other = named if named not in (None, ours, row["claimed_database"]) else None
    if other == row["foreign_database"]:
        return
    record = model.browse(row["id"])
    record._writer().foreign_database = other or False
    record._notify_updated()
    if other:
        message = record.env._(
            "The Odoo database %s wrote this object: nothing is sent to it until an "
            "administrator claims it.",
            other,
        )
        record.message_post(body=message)
        record._audit("observe", outcome="other database", message=message)
        record.cluster_id._notify_updated()


def _store_drift(model, row, report):
    """Note which fields that we applied are ours no more. No request is made for it.

    While something is being delivered, ownership is in motion; the outcome settles it.
    """
    if not row["is_after_apply"] or not row["applied_digest"]:
        return
    if "drift_ids" not in model._fields:
        return
    if row["delivery_state"] in ("pending", "deleting"):
        return
    record = model.browse(row["id"])
    drifted = ()
    if lines.digest(report.owned) != row["applied_digest"]:
        drifted = ownership.drift(record.applied_fields, report.object())
    if drifted or row["is_drifted"]:
        record._store_drift(drifted)
        record._notify_updated()


# === THE END OF OBJECTS === #


def missing(
    env, cluster_id, kind, namespace, present_uids, list_version, *, asked_at=None
):
    """Return the objects of records that are absent from a complete list.

    Nothing is written: that an object is gone has to be confirmed, see `gone`.

    :param namespace: of the list; None: the whole cluster
    :param present_uids: the uids of all objects in the list
    :param list_version: the list's resourceVersion; what was applied after it is not
        expected in it
    :param datetime asked_at: when the list was asked for, as `listed_at` of `ingest`
    :rtype: list[Missing]
    """
    env.flush_all()
    if kind == CLUSTER:
        return _missing_cluster(env, cluster_id, present_uids)
    listing = _Listing.of(env, list_version, asked_at)
    env.cr.execute(
        SQL(
            """SELECT namespace.name, record.name, record.uid
                 FROM %(table)s record
                 JOIN vworkspace_cluster_namespace namespace
                   ON namespace.id = record.namespace_id
                WHERE record.cluster_id = %(cluster)s
                  AND (%(namespace)s::varchar IS NULL
                       OR namespace.name = %(namespace)s)
                  AND record.uid IS NOT NULL
                  AND record.delivery_state NOT IN %(gone)s
                  AND NOT (%(applied_newer)s
                           AND (record.delivered_at IS NULL
                                OR record.delivered_at >= %(applied_since)s))
                  AND NOT EXISTS (SELECT FROM unnest(%(present)s) AS present (uid)
                                   WHERE present.uid = record.uid)
             ORDER BY record.id""",
            table=SQL.identifier(env[MODELS[kind]]._table),
            cluster=cluster_id,
            namespace=namespace,
            gone=GONE_STATES,
            applied_newer=_newer(
                SQL("COALESCE(record.resource_version, '')"), listing.version
            ),
            applied_since=listing.applied_since,
            present=SQL("%s::text[]", list(present_uids)),
        )
    )
    return [Missing(kind, *row) for row in env.cr.fetchall()]


def gone(env, cluster_id, confirmed):
    """Write that objects are gone, as was confirmed by a GET of each.

    :param list[Missing] confirmed: those that exist no more
    """
    env.flush_all()
    uids = {kind: [m.uid for m in confirmed if m.kind == kind] for kind in KINDS}
    if uids[CLUSTER]:
        _forget_cluster(env, cluster_id, uids[CLUSTER])
    for kind, name in MODELS.items():
        model = env[name]
        env.cr.execute(
            SQL(
                "SELECT id FROM %s WHERE cluster_id = %s AND uid = ANY(%s)",
                SQL.identifier(model._table),
                cluster_id,
                uids[kind],
            )
        )
        ids = [row[0] for row in env.cr.fetchall()]
        records = model.browse(lock_rows(env, model._table, ids))
        records.invalidate_recordset()
        _store_ends(records.filtered(lambda r: r.uid in uids[kind]))  # noqa: B023


def _store_ends(records):
    """Let records of one cluster know that their objects are gone, and the log too."""
    env, now = records.env, times.now(records.env)
    ended = records.filtered(lambda r: r.delivery_state not in GONE_STATES)
    if not ended:
        return
    wanted = ended.filtered(lambda r: r.delivery_state == "deleting")
    before = {record.id: record.health or None for record in ended}
    _end(wanted, "deleted", now)
    message = env._(
        "The object vanished from %s: somebody else deleted it. It is not created "
        "again unless you say so.",
        ended.cluster_id.name,
    )
    _end(ended - wanted, "lost", now, message)
    transitions, changes = [], []
    for record in ended.filtered(lambda r: before[r.id]):
        state, text = record.delivery_state, record.delivery_message or None
        values = lines.health_transition(
            before[record.id], None, reason=state, message=text, at=now
        )
        transitions.append((record.id, values))
        changes.append((record.id, before[record.id], False, text))
    cluster_ids = dict.fromkeys(ended.ids, ended.cluster_id.id)
    lines.add_transitions(env, OWNERS[records._name], transitions, cluster_ids)
    ended._notify_updated()
    notify.health_changed(env, records._name, changes)


def _end(records, state, now, message=False):
    """Write one kind of end; with a message, nobody asked for it."""
    if not records:
        return
    records._writer().write(
        {
            "delivery_state": state,
            "delivery_reason": False,
            "delivery_message": message,
            "next_attempt_at": False,
            "finalizers": False,
            "status_as_of": now,
        }
    )
    records._forget_observed()
    if message:
        records._audit("observe", outcome=state, message=message)
        records._message_log_batch(dict.fromkeys(records.ids, message))
    else:
        records.revision_id._writer().write({"outcome": state, "finished_at": now})
        records._audit("delete", outcome=state)


def _store_returns(records):
    """Let lost records know that their objects are back, the same ones as before.

    Only what was applied is taken up again: an intent that found no object is left to a
    person, as it would be sent by itself otherwise.
    """
    back = records.filtered(lambda r: r.revision_id == r.applied_revision_id)
    if not back:
        return
    message = back.env._(
        "The object is there again in %s, the same as before: a backup may have been "
        "restored.",
        back.cluster_id.name,
    )
    back._writer().write(
        {
            "delivery_state": "applied",
            "delivery_reason": False,
            "delivery_message": False,
        }
    )
    back._audit("observe", outcome="applied", message=message)
    back._message_log_batch(dict.fromkeys(back.ids, message))
    back.env.flush_all()


# === PARTIAL REPORTS === #


def merge(env, cluster_id, reports):
    """Write those conditions that are newer than what is known of their type.

    For what an operator tells by itself: some conditions of an object and no version,
    so each is ordered by its own time and generation. Replays, objects that no record
    has, and what is from before the last whole report change nothing. The next whole
    report is the truth again: its guard by resourceVersion knows nothing of this.

    :param list[Report] reports: in any order, any number of each object; with uid,
        generation and conditions. One without a time is never newer
    :return: how many records changed
    """
    env.flush_all()
    by_kind = {kind: [r for r in reports if r.kind == kind] for kind in MODELS}
    return sum(_merge_kind(env, cluster_id, k, some) for k, some in by_kind.items())


def _merge_kind(env, cluster_id, kind, reports):
    model, owner = env[MODELS[kind]], OWNERS[MODELS[kind]]
    rows = _lock_to_merge(model, cluster_id, {r.observed.uid for r in reports} - {""})
    known = lines.conditions(env, owner, [row["id"] for row in rows.values()])
    merged = {}
    for observed in (report.observed for report in reports):
        row = rows.get(observed.uid)
        taken = row and _newer_conditions(known.get(row["id"], {}), row, observed)
        if taken:
            known[row["id"]] = {**known.get(row["id"], {}), **taken}
            merged[row["id"]] = _merged(row, observed, known[row["id"]])
    if not merged:
        return 0
    now = times.now(env)
    _update_merged(model, merged, now)
    transitions, _changed = lines.store_conditions(env, owner, merged, at=now)
    changes = [
        (row["id"], row["health"], each.health, _message(each))
        for row in rows.values()
        if (each := merged.get(row["id"])) and each.health != row["health"]
    ]
    transitions += _health_transitions(changes, merged, now)
    lines.add_transitions(env, owner, transitions, dict.fromkeys(merged, cluster_id))
    env.invalidate_all(flush=False)
    model.browse(merged)._notify_updated()
    notify.health_changed(env, model._name, changes)
    return len(merged)


def _lock_to_merge(model, cluster_id, uids):
    """Lock the records of these objects, as far as they exist; return them by uid."""
    if not uids:
        return {}
    model.env.cr.execute(
        SQL(
            """SELECT id, uid, health, COALESCE(generation, 0) AS generation,
                      COALESCE(observed_generation, 0) AS observed_generation,
                      deletion_requested_at, %s AS phase
                 FROM %s WHERE cluster_id = %s AND uid = ANY(%s)
                  AND delivery_state NOT IN %s
             ORDER BY id FOR NO KEY UPDATE""",
            SQL("phase") if "phase" in model._fields else SQL("NULL"),
            *(SQL.identifier(model._table), cluster_id, list(uids), GONE_STATES),
        )
    )
    return {row["uid"]: row for row in model.env.cr.dictfetchall()}


def _newer_conditions(known, row, observed):
    """Return the conditions that are newer than the known ones, by type.

    One of a type that is not there (any more) is newer if it is newer than all others.
    """
    if (observed.generation or resources.MAX_GENERATION) < row["observed_generation"]:
        return {}
    newest = max((_age(each)[0] for each in known.values()), default=EVER)
    taken = {}
    for condition in observed.conditions:
        since, generation = _age(condition)
        if before := known.get(condition.type):
            # Neither may go back: which of two of one second was last, nobody knows.
            old = _age(before)
            is_newer = since >= old[0] and generation >= old[1]
            is_newer = is_newer and (since, generation) != old
        else:
            is_newer = since > newest
        if is_newer:
            taken[condition.type] = condition
    return taken


def _age(condition):
    return condition.last_transition_time or EVER, condition.observed_generation or 0


def _merged(row, observed, conditions):
    """Return what is known of an object now, as far as its health follows from it."""
    generation = observed.generation or 0
    row["observed_generation"] = max(row["observed_generation"], generation)
    return replace(
        observed,
        generation=max(row["generation"], generation),
        observed_generation=row["observed_generation"],
        conditions=tuple(conditions.values()),
        deletion_timestamp=row["deletion_requested_at"],
        phase=row["phase"] or "",
    )


def _update_merged(model, merged, now):
    rows = [
        {
            "id": i,
            "health": o.health,
            "said": _message(o),
            "seen": o.observed_generation,
        }
        for i, o in merged.items()
    ]
    model.env.cr.execute(
        f"""UPDATE "{model._table}" record
               SET health = new.health, reported_health = new.health,
                   health_message = new.said, observed_generation = new.seen,
                   status_as_of = %s, write_uid = {model.env.uid:d}, write_date = %s
              FROM json_to_recordset(%s) AS new (
                   id int, health varchar, said varchar, seen int)
             WHERE record.id = new.id""",  # noqa: S608 the name of a model's table
        [now, now, as_json(rows)],
        log_exceptions=False,
    )


# === THE CLUSTER ITSELF === #


def _ingest_cluster(env, cluster_id, kind, by_uid, listing):
    """Write what the object that stands for the cluster says of it."""
    report = _ours(env, cluster_id, by_uid)
    if report is None:
        return Ingested()
    observed = report.observed
    row = _lock_cluster_status(env, cluster_id, observed, listing)
    if row["is_older"] or observed.resource_version == row["resource_version"]:
        return Ingested()
    if report.deleted:
        is_known = row["uid"] == observed.uid
        end = Missing(kind, observed.namespace, observed.name, observed.uid)
        return Ingested(missing=[end] if is_known else [])
    now = times.now(env)
    env.cr.execute(
        """UPDATE vworkspace_cluster_status
              SET name = %s, uid = %s, resource_version = %s, phase = %s,
                  last_heartbeat = %s, managed_namespaces = %s, as_of = %s
            WHERE id = %s""",
        [
            *(observed.name, observed.uid, observed.resource_version),
            observed.phase or None,
            times.naive(observed.last_heartbeat) or None,
            Json(list(observed.managed_namespaces)),
            *(now, row["id"]),
        ],
    )
    transitions, _changed = lines.store_conditions(
        env, "cluster_status_id", {row["id"]: observed}, at=now
    )
    _add_cluster_transitions(env, cluster_id, transitions)
    env.invalidate_all(flush=False)
    env["vworkspace.cluster"].browse(cluster_id)._notify_updated()
    return Ingested(written=1)


def _ours(env, cluster_id, by_uid):
    """Return the report of the object that says that it is this cluster, if any."""
    env.cr.execute(
        "SELECT cluster_id FROM vworkspace_cluster WHERE id = %s", [cluster_id]
    )
    row = env.cr.fetchone()
    for report in by_uid.values():
        if row and report.observed.cluster_id == row[0]:
            return report
    return None


def _lock_cluster_status(env, cluster_id, observed, listing):
    env.cr.execute(
        """INSERT INTO vworkspace_cluster_status (cluster_id)
           SELECT %(id)s WHERE NOT EXISTS (
                  SELECT FROM vworkspace_cluster_status WHERE cluster_id = %(id)s)
           ON CONFLICT (cluster_id) DO NOTHING""",
        {"id": cluster_id},
    )
    env.cr.execute(
        SQL(
            """SELECT id, uid, resource_version,
                      %(older)s AND NOT %(another_life)s AS is_older
                 FROM vworkspace_cluster_status WHERE cluster_id = %(cluster)s
                  FOR NO KEY UPDATE""",
            older=_newer(
                SQL("COALESCE(resource_version, '')"), observed.resource_version
            ),
            another_life=SQL(
                "(%s <> '' AND (as_of < %s OR NOT %s))",
                listing.version,
                listing.seen_since,
                _newer(SQL("COALESCE(resource_version, '')"), listing.version),
            ),
            cluster=cluster_id,
        )
    )
    return env.cr.dictfetchone()


def _missing_cluster(env, cluster_id, present_uids):
    env.cr.execute(
        """SELECT name, uid FROM vworkspace_cluster_status
            WHERE cluster_id = %s AND uid IS NOT NULL AND NOT uid = ANY(%s)""",
        [cluster_id, list(present_uids)],
    )
    return [Missing(CLUSTER, "", *row) for row in env.cr.fetchall()]


def _forget_cluster(env, cluster_id, uids):
    env.cr.execute(
        """UPDATE vworkspace_cluster_status
              SET uid = NULL, resource_version = NULL, phase = NULL,
                  last_heartbeat = NULL, managed_namespaces = NULL, as_of = NULL
            WHERE cluster_id = %s AND uid = ANY(%s)
        RETURNING id""",
        [cluster_id, uids],
    )
    if row := env.cr.fetchone():
        now = times.now(env)
        nothing = resources.observe({}, kind=CLUSTER)
        transitions, _changed = lines.store_conditions(
            env, "cluster_status_id", {row[0]: nothing}, at=now
        )
        _add_cluster_transitions(env, cluster_id, transitions)
        env.invalidate_all(flush=False)
        env["vworkspace.cluster"].browse(cluster_id)._notify_updated()


def _add_cluster_transitions(env, cluster_id, transitions):
    env["vworkspace.transition"]._add(
        [{"cluster_id": cluster_id, **values} for _owner_id, values in transitions]
    )
