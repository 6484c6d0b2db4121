"""Which watch worker holds which cluster: a row per cluster, with an epoch as fence.

A worker renews its leases every few seconds. One that dies or hangs loses them when
they expire, and another takes over with a higher epoch; whatever the first one still
tries to write then is refused by `is_held`, which the writer asks in the same
transaction.
"""

from datetime import timedelta

from odoo import fields
from odoo.tools import SQL

from .. import const


def claim(env, holder):
    """Renew the leases of `holder` and take the free ones.

    :param str holder: names one worker process
    :return: the epoch of each cluster held, by the id of the cluster
    :rtype: dict[int, int]
    """
    now = fields.Datetime.now()
    env.cr.execute(
        SQL(
            """INSERT INTO vworkspace_watch_lease (cluster_id, epoch)
               SELECT id, 0 FROM vworkspace_cluster
                WHERE active AND connectivity_mode = 'push' AND state = 'active'
          ON CONFLICT (cluster_id) DO NOTHING"""
        )
    )
    env.cr.execute(
        SQL(
            """UPDATE vworkspace_watch_lease lease
                  SET epoch = epoch + CASE WHEN holder = %(holder)s THEN 0 ELSE 1 END,
                      holder = %(holder)s,
                      expires_at = %(until)s
                 FROM (SELECT lease.id
                         FROM vworkspace_watch_lease lease
                         JOIN vworkspace_cluster cluster
                           ON cluster.id = lease.cluster_id
                        WHERE cluster.active AND cluster.connectivity_mode = 'push'
                          AND cluster.state = 'active'
                          AND (lease.holder = %(holder)s
                               OR lease.expires_at IS NULL
                               OR lease.expires_at < %(now)s)
                   FOR UPDATE OF lease SKIP LOCKED) free
                WHERE lease.id = free.id
            RETURNING lease.cluster_id, lease.epoch""",
            holder=holder,
            now=now,
            until=now + timedelta(seconds=const.LEASE_SECONDS),
        )
    )
    return dict(env.cr.fetchall())


def release(env, holder):
    """Give the leases of `holder` back, for another worker or the cron to take."""
    env.cr.execute(
        SQL(
            """UPDATE vworkspace_watch_lease SET holder = NULL, expires_at = NULL
                WHERE holder = %s""",
            holder,
        )
    )


def is_held(env, cluster_id, holder, epoch):
    """Whether `holder` still holds the cluster; if so, until this transaction's end."""
    env.cr.execute(
        SQL(
            """SELECT 1 FROM vworkspace_watch_lease
                WHERE cluster_id = %s AND holder = %s AND epoch = %s FOR SHARE""",
            cluster_id,
            holder,
            epoch,
        )
    )
    return bool(env.cr.fetchone())


def note_streams(env, cluster_id, holder, state, message, last_contact):
    """Keep on the lease what the holder's streams are doing.

    :param str state: ``watching`` or ``waiting``
    :param str message: what it waits for; empty when all is well
    :param last_contact: when the cluster was last heard of (naive UTC), or None
    """
    env.cr.execute(
        SQL(
            """UPDATE vworkspace_watch_lease
                  SET state = %s, message = %s,
                      last_contact = GREATEST(last_contact, %s)
                WHERE cluster_id = %s AND holder = %s""",
            state,
            message[:1000] or None,
            last_contact,
            cluster_id,
            holder,
        )
    )


def note_contact(env, cluster_id, reached, message):
    """Keep what the status cron saw of a cluster that no worker holds."""
    env.cr.execute(
        SQL(
            """INSERT INTO vworkspace_watch_lease
                           (cluster_id, epoch, message, last_contact)
                    VALUES (%(cluster)s, 0, %(message)s, %(contact)s)
               ON CONFLICT (cluster_id) DO UPDATE
                       SET message = EXCLUDED.message,
                           last_contact = GREATEST(vworkspace_watch_lease.last_contact,
                                                   EXCLUDED.last_contact)""",
            cluster=cluster_id,
            message=message[:1000] or None,
            contact=fields.Datetime.now() if reached else None,
        )
    )


def note_refusal(env, cluster_id, version):
    """Have the cluster stop using the credential that a feeder saw refused.

    :param int version: of the connection on which it was refused
    """
    env["vworkspace.cluster"].browse(cluster_id)._credential_refused(version)
