"""The status cron: lists what no live watch worker covers, into the same sink.

It never raises because of one cluster: what went wrong is kept on the cluster's lease
and shown on its form.
"""

import itertools
import logging
from datetime import timedelta

from odoo import fields
from odoo.exceptions import UserError
from odoo.tools import SQL

from .. import const
from ..kube import apply, resources
from ..kube.errors import KubeError, Unauthorized, Unreachable
from ..sealing import SealingError
from ..transactions import in_transaction
from . import leases, sink

_logger = logging.getLogger(__name__)

LIST_TIMEOUT = 20.0  # s for one page of a list


def run_cron(env):
    """Poll every Push cluster that no worker holds, then mark what went silent."""
    registry = env.registry
    uncovered = in_transaction(registry, _uncovered_clusters)
    for done, cluster_id in enumerate(uncovered, start=1):
        poll_cluster(registry, cluster_id)
        seconds_left = env["ir.cron"]._commit_progress(
            1, remaining=len(uncovered) - done
        )
        if seconds_left <= 0:
            break
    in_transaction(registry, sink.mark_stale)


def poll_cluster(registry, cluster_id):
    """List the cluster's namespaces once, and write what is there."""
    try:
        connection, namespaces, version = in_transaction(
            registry, _how_to_reach, cluster_id
        )
    except (KubeError, UserError, SealingError, ValueError) as exc:
        reached, problem = False, str(exc)
    else:
        try:
            reached, problem = _poll_namespaces(
                registry, cluster_id, connection, namespaces
            )
        except Unauthorized as exc:
            in_transaction(registry, leases.note_refusal, cluster_id, version)
            reached, problem = True, str(exc)
    in_transaction(registry, leases.note_contact, cluster_id, reached, problem)
    if problem:
        _logger.info("Cluster %s could not be polled: %s", cluster_id, problem)


def _poll_namespaces(registry, cluster_id, connection, namespaces):
    """Return whether the cluster was reached, and the first problem, if any.

    :raise Unauthorized: the server does not accept the credential
    """
    listed, problems = 0, []
    for namespace, resource in itertools.product(namespaces, resources.WATCHED):
        try:
            objects, version = apply.list_all(
                connection, resource, namespace=namespace, timeout=LIST_TIMEOUT
            )
        except Unauthorized:
            raise
        except KubeError as exc:
            problems.append(str(exc))
            if isinstance(exc, Unreachable):
                break  # the other namespaces would wait in vain as well
            continue
        in_transaction(
            registry,
            _store_list,
            *(cluster_id, resource.kind, namespace, objects, version),
        )
        listed += 1
    return bool(listed or not problems), next(iter(problems), "")


def _uncovered_clusters(env):
    env.cr.execute(
        SQL(
            """SELECT cluster.id
                 FROM vworkspace_cluster cluster
            LEFT JOIN vworkspace_watch_lease lease ON lease.cluster_id = cluster.id
                WHERE cluster.active AND cluster.connectivity_mode = 'push'
                  AND cluster.state = 'active'
                  AND (lease.expires_at IS NULL OR lease.expires_at < %s)
             ORDER BY lease.last_contact NULLS FIRST, cluster.id""",
            fields.Datetime.now() - timedelta(seconds=const.LEASE_RENEW),
        )
    )
    return [row[0] for row in env.cr.fetchall()]


def _how_to_reach(env, cluster_id):
    cluster = env["vworkspace.cluster"].browse(cluster_id)
    return (
        cluster._connection(),
        cluster.namespace_ids.mapped("name"),
        cluster.connection_version,
    )


def _store_list(env, cluster_id, kind, namespace, objects, version):
    reports = [sink.Report.from_object(obj, kind=kind) for obj in objects]
    sink.ingest(env, cluster_id, reports)
    uids = {r.observed.uid for r in reports}
    sink.vanished(env, cluster_id, kind, namespace, uids, version)
