"""Which watch worker holds which cluster: a row per cluster, with an epoch as fence.

A worker renews its leases every few seconds. One that dies or hangs loses them when
they expire, and others take over with a higher epoch; whatever the first one still
tries to write then is refused by `is_held`, which the writer asks in the same
transaction.

Live workers share the clusters evenly: each takes free ones up to its share, and one
with too few takes over from the one with the most, a few each time. Nobody coordinates
them: what two want at the same time, row locks give to one, and the other plans anew.

All times are PostgreSQL's. A host's clock may be wrong, and workers would disagree; if
PostgreSQL's own jumps, a lease is never good for longer than `const.LEASE_SECONDS` from
the next claim on.
"""

import json
import math
import os
import random
import socket
import time
from collections import Counter, defaultdict
from fractions import Fraction

from odoo import fields
from odoo.tools import SQL

from .. import const
from ..rows import as_json
from ..transactions import in_transaction

MOVED_AT_ONCE = 10  # clusters that change hands per claim, for an even share
PLANS = 3  # per claim: what another worker took meanwhile is planned anew
FROZEN_AFTER = "10s"  # in a transaction; then PostgreSQL ends it and frees its locks
FORGET_WORKERS = "1 hour"  # after it was last seen, a worker's row is deleted

NOW = SQL("(now() AT TIME ZONE 'UTC')")
LEASE = SQL("make_interval(secs => %s)", const.LEASE_SECONDS)
WATCHABLE = SQL(
    "cluster.active AND cluster.connectivity_mode = 'push' AND cluster.state = 'active'"
)


class Held:
    """The clusters that one worker holds, and for how long it may believe so.

    A worker that cannot renew loses its clusters without hearing of it. It knows by
    its own monotonic clock: once `is_lost`, it has to end its streams.

    :param str holder: names the worker process
    :param only: ids of the clusters that it may take; None: all
    """

    def __init__(self, holder, *, only=None, clock=time.monotonic):
        self.holder = holder
        self._only = only
        self._clock = clock
        self._epochs = {}
        self._renewed = None

    def renew(self, registry):
        """Claim, and return the epoch of each cluster held, by the cluster's id.

        :rtype: dict[int, int]
        """
        asked = self._clock()  # before the lease is written: it ends later than we say
        self._epochs = in_transaction(registry, claim, self.holder, self._only)
        self._renewed = asked
        return self.epochs

    @property
    def age(self):
        """Return the s since it was last renewed; infinite before the first time."""
        if self._renewed is None:
            return math.inf
        return self._clock() - self._renewed

    @property
    def is_lost(self):
        """Tell whether others may hold the clusters by now."""
        return self.age >= const.LEASE_SECONDS

    @property
    def epochs(self):
        """Return the epoch of each cluster held; empty once they are lost."""
        return {} if self.is_lost else dict(self._epochs)


# === CLAIMS === #


def claim(env, holder, only=None):
    """Renew the leases of `holder`, and take what its share has room for.

    :param str holder: names one worker process, the one that calls this
    :param only: ids of the clusters that it may take; None: all
    :return: the epoch of each cluster held, by the id of the cluster
    :rtype: dict[int, int]
    """
    env.cr.execute(
        SQL(
            "SELECT set_config('idle_in_transaction_session_timeout', %s, true)",
            FROZEN_AFTER,
        )
    )
    _be_seen(env, holder, only)
    _prepare(env)
    _renew(env, holder)
    for _plan in range(PLANS):
        wanted = plan(holder, _live_workers(env), _holders(env))
        if not wanted or _take(env, holder, wanted):
            break
    env.cr.execute(
        SQL(
            "SELECT cluster_id, epoch FROM vworkspace_watch_lease WHERE holder = %s",
            holder,
        )
    )
    return dict(env.cr.fetchall())


def plan(holder, workers, holders):
    """Return which clusters a worker takes now, and whom from (None: free ones).

    :param workers: by holder, the ids that it may take, or None for all
    :param holders: by cluster, the live worker that holds it, or None
    :rtype: dict[int, str | None]
    """
    able = _able(workers, holders)
    shares = _shares(able)
    held = Counter(owner for owner in holders.values() if owner)
    mine = [cluster for cluster, candidates in able.items() if holder in candidates]
    random.shuffle(mine)  # or all workers would want the same ones first

    def has_room(worker):
        return held[worker] < math.ceil(shares[worker])

    wanted = {}
    for cluster in mine:
        if holders[cluster]:
            continue
        if has_room(holder) or not any(map(has_room, able[cluster])):
            wanted[cluster] = None
            held[holder] += 1
    return wanted or _plan_moves(
        holder, mine, holders, held, math.floor(shares[holder])
    )


def _plan_moves(holder, mine, holders, held, share):
    """Return what a worker with too few takes over, each from who has the most."""
    theirs = defaultdict(list)
    for cluster in mine:
        if holders[cluster] not in (None, holder):
            theirs[holders[cluster]].append(cluster)
    wanted = {}
    while theirs and held[holder] < share and len(wanted) < MOVED_AT_ONCE:
        owner = max(theirs, key=held.__getitem__)
        if held[owner] - held[holder] < 2:
            break
        wanted[theirs[owner].pop()] = owner
        held.update({owner: -1, holder: 1})
        if not theirs[owner]:
            del theirs[owner]
    return wanted


def _able(workers, holders):
    """Return the workers that may take each cluster."""
    unbound = frozenset(worker for worker, only in workers.items() if only is None)
    bound = {worker: only for worker, only in workers.items() if only is not None}
    return {
        cluster: unbound | {worker for worker, only in bound.items() if cluster in only}
        for cluster in holders
    }


def _shares(able):
    """Return how many clusters each worker should hold, as fractions."""
    shares = defaultdict(Fraction)
    for candidates, count in Counter(able.values()).items():
        for worker in candidates:
            shares[worker] += Fraction(count, len(candidates))
    return shares


def _be_seen(env, holder, only):
    """Note that the worker lives, and forget those that have not for long."""
    env.cr.execute(
        SQL(
            """INSERT INTO vworkspace_watch_worker
                           (holder, host, pid, cluster_ids, started_at, seen_at)
                    VALUES (%s, %s, %s, %s, %s, %s)
               ON CONFLICT (holder) DO UPDATE
                       SET seen_at = EXCLUDED.seen_at,
                           cluster_ids = EXCLUDED.cluster_ids""",
            *(holder, socket.gethostname(), os.getpid()),
            None if only is None else json.dumps(sorted(only)),
            *(NOW, NOW),
        )
    )
    env.cr.execute(
        SQL(
            """DELETE FROM vworkspace_watch_worker
                     WHERE id IN (SELECT id FROM vworkspace_watch_worker
                                   WHERE seen_at < %s - %s::interval
                                     FOR UPDATE SKIP LOCKED)""",
            NOW,
            FORGET_WORKERS,
        )
    )


def _prepare(env):
    """Have a lease for each cluster to watch, and none that ends too late."""
    env.cr.execute(
        SQL(
            """INSERT INTO vworkspace_watch_lease (cluster_id, epoch)
               SELECT cluster.id, 0
                 FROM vworkspace_cluster cluster
            LEFT JOIN vworkspace_watch_lease lease ON lease.cluster_id = cluster.id
                WHERE lease.id IS NULL AND %s
             ORDER BY cluster.id
                  FOR KEY SHARE OF cluster SKIP LOCKED
          ON CONFLICT (cluster_id) DO NOTHING""",
            WATCHABLE,
        )
    )
    # PostgreSQL's clock was set back.
    env.cr.execute(
        SQL(
            """UPDATE vworkspace_watch_lease
                  SET expires_at = %(now)s + %(lease)s
                WHERE id IN (SELECT id FROM vworkspace_watch_lease
                              WHERE expires_at > %(now)s + %(lease)s
                                FOR UPDATE SKIP LOCKED)""",
            now=NOW,
            lease=LEASE,
        )
    )


def _renew(env, holder):
    """Renew what the worker holds; give up what is not to be watched any more.

    A batch that is being written does not hold it up: see `still_held`.
    """
    env.cr.execute(
        SQL(
            """UPDATE vworkspace_watch_lease lease
                  SET expires_at = CASE WHEN %(watchable)s THEN %(now)s + %(lease)s END,
                      holder = CASE WHEN %(watchable)s THEN holder END
                 FROM vworkspace_cluster cluster
                WHERE cluster.id = lease.cluster_id AND lease.holder = %(holder)s""",
            watchable=WATCHABLE,
            now=NOW,
            lease=LEASE,
            holder=holder,
        )
    )


def _live_workers(env):
    env.cr.execute(
        SQL(
            """SELECT holder, cluster_ids FROM vworkspace_watch_worker
                WHERE seen_at BETWEEN %(now)s - %(lease)s AND %(now)s + %(lease)s""",
            now=NOW,
            lease=LEASE,
        )
    )
    return {
        holder: None if only is None else frozenset(only)
        for holder, only in env.cr.fetchall()
    }


def _holders(env):
    """Return who holds each cluster that is to be watched; None: nobody."""
    env.cr.execute(
        SQL(
            """SELECT lease.cluster_id,
                      CASE WHEN lease.expires_at > %s THEN lease.holder END
                 FROM vworkspace_watch_lease lease
                 JOIN vworkspace_cluster cluster ON cluster.id = lease.cluster_id
                WHERE %s""",
            NOW,
            WATCHABLE,
        )
    )
    return dict(env.cr.fetchall())


def _take(env, holder, wanted):
    """Take clusters unless another was faster; return whether all of them came.

    :param wanted: by cluster, whom it is taken from; None: it must be free
    """
    env.cr.execute(
        SQL(
            """UPDATE vworkspace_watch_lease lease
                  SET epoch = lease.epoch + 1, holder = %(holder)s,
                      expires_at = %(now)s + %(lease)s
                 FROM (SELECT lease.id
                         FROM vworkspace_watch_lease lease
                         JOIN unnest(%(clusters)s::int[], %(owners)s::text[])
                              AS wanted(cluster_id, owner) USING (cluster_id)
                        WHERE lease.holder = wanted.owner
                           OR (wanted.owner IS NULL
                               AND (lease.holder IS NULL OR lease.expires_at IS NULL
                                    OR lease.expires_at <= %(now)s))
                   FOR UPDATE OF lease SKIP LOCKED) free
                WHERE lease.id = free.id""",
            holder=holder,
            now=NOW,
            lease=LEASE,
            clusters=list(wanted),
            owners=list(wanted.values()),
        )
    )
    return env.cr.rowcount == len(wanted)


def release(env, holder):
    """Give the leases of `holder` back, and have other workers take them at once."""
    env.cr.execute(
        SQL(
            """WITH freed AS (UPDATE vworkspace_watch_lease
                                 SET holder = NULL, expires_at = NULL
                               WHERE holder = %s RETURNING cluster_id)
               SELECT pg_notify(%s, cluster_id::text) FROM freed""",
            holder,
            const.NOTIFY_CHANNEL,
        )
    )
    env.cr.execute(SQL("DELETE FROM vworkspace_watch_worker WHERE holder = %s", holder))


def is_held(env, cluster_id, holder, epoch):
    """Whether `holder` still holds the cluster; if so, until this transaction's end."""
    return bool(still_held(env, holder, {cluster_id: epoch}))


def still_held(env, holder, epochs):
    """Return which clusters `holder` still holds, until this transaction's end.

    The lock keeps others from taking them over, which locks for an update of the key,
    and lets the holder itself renew them: a batch that waits for somebody's lock must
    not cost all leases.

    A holder that is frozen in the midst of the transaction does not keep the leases
    locked: PostgreSQL ends its session.

    :param dict epochs: those under which it had them, by id of the cluster
    :rtype: set[int]
    """
    env.cr.execute(
        SQL(
            """SELECT lease.cluster_id,
                      set_config('idle_in_transaction_session_timeout', %s, true)
                 FROM vworkspace_watch_lease lease
                 JOIN unnest(%s::int[], %s::int[]) AS known (cluster_id, epoch)
                USING (cluster_id, epoch)
                WHERE lease.holder = %s
             ORDER BY lease.id
                  FOR KEY SHARE OF lease""",
            FROZEN_AFTER,
            list(epochs),
            list(epochs.values()),
            holder,
        )
    )
    return {cluster_id for cluster_id, _timeout in env.cr.fetchall()}


def is_free(env, cluster_id):
    """Whether no live worker holds the cluster; if so, until this transaction's end."""
    env.cr.execute(
        SQL(
            """INSERT INTO vworkspace_watch_lease (cluster_id, epoch)
               SELECT id, 0 FROM vworkspace_cluster
                WHERE id = %s AND NOT EXISTS (
                      SELECT FROM vworkspace_watch_lease WHERE cluster_id = %s)
                  FOR KEY SHARE
          ON CONFLICT (cluster_id) DO NOTHING""",
            cluster_id,
            cluster_id,
        )
    )
    env.cr.execute(
        SQL(
            """SELECT FROM vworkspace_watch_lease
                WHERE cluster_id = %s AND (expires_at IS NULL OR expires_at <= %s)
                  FOR KEY SHARE""",
            cluster_id,
            NOW,
        )
    )
    return bool(env.cr.rowcount)


def note_streams(env, holder, notes):
    """Keep on the leases what the holder's streams are doing.

    :param dict notes: by id of the cluster: the state (``watching`` or ``waiting``),
        what it waits for (empty when all is well), and when the cluster was last heard
        of (naive UTC, by this host's clock) or None
    """
    if not notes:
        return
    now = fields.Datetime.now()
    rows = [
        {
            "cluster_id": cluster_id,
            "state": state,
            "message": message[:1000] or None,
            "age": (now - contact).total_seconds() if contact else None,
        }
        for cluster_id, (state, message, contact) in notes.items()
    ]
    env.cr.execute(
        SQL(
            """UPDATE vworkspace_watch_lease lease
                  SET state = new.state, message = new.message,
                      last_contact = LEAST(
                          GREATEST(last_contact,
                                   %(now)s - make_interval(secs => new.age)),
                          %(now)s)
                 FROM json_to_recordset(%(rows)s) AS new (
                      cluster_id int, state varchar, message varchar, age float)
                WHERE lease.cluster_id = new.cluster_id
                  AND lease.holder = %(holder)s""",
            now=NOW,
            rows=as_json(rows),
            holder=holder,
        )
    )


def note_contact(env, cluster_id, reached, message):
    """Keep what the status cron saw of a cluster, unless a worker holds it by now."""
    env.cr.execute(
        SQL(
            """SELECT COALESCE(message, ''), last_contact >= polled_at
                 FROM vworkspace_watch_lease WHERE cluster_id = %s""",
            cluster_id,
        )
    )
    if env.cr.fetchone() != (message[:1000], reached):
        env["vworkspace.cluster"].browse(cluster_id)._notify_updated()
    env.cr.execute(
        SQL(
            """INSERT INTO vworkspace_watch_lease AS lease
                           (cluster_id, epoch, message, polled_at, last_contact)
               SELECT id, 0, %(message)s, %(now)s, %(contact)s
                 FROM vworkspace_cluster WHERE id = %(cluster)s
                  FOR KEY SHARE
               ON CONFLICT (cluster_id) DO UPDATE
                       SET message = EXCLUDED.message,
                           polled_at = EXCLUDED.polled_at,
                           last_contact = COALESCE(EXCLUDED.last_contact,
                                                   lease.last_contact)
                     WHERE lease.expires_at IS NULL OR lease.expires_at <= %(now)s""",
            cluster=cluster_id,
            message=message[:1000] or None,
            now=NOW,
            contact=NOW if reached else SQL("NULL::timestamp"),
        )
    )


def note_turn(env, cluster_id):
    """Keep that the status cron had its turn with a cluster that a worker holds."""
    env.cr.execute(
        SQL(
            "UPDATE vworkspace_watch_lease SET polled_at = %s WHERE cluster_id = %s",
            NOW,
            cluster_id,
        )
    )


def note_agreement(env, cluster_id, differences):
    """Keep that a held cluster was compared with complete lists just now.

    :param int differences: how many records differed
    """
    env.cr.execute(
        SQL(
            """UPDATE vworkspace_watch_lease
                  SET polled_at = %(now)s, agreed_at = %(now)s,
                      differences = COALESCE(differences, 0) + %(differences)s
                WHERE cluster_id = %(cluster)s""",
            now=NOW,
            differences=differences,
            cluster=cluster_id,
        )
    )
    env["vworkspace.cluster"].browse(cluster_id)._notify_updated()


def note_refusal(env, cluster_id, version):
    """Have the cluster stop using the credential that a feeder saw refused.

    :param int version: of the connection on which it was refused
    """
    env["vworkspace.cluster"].browse(cluster_id)._credential_refused(version)
