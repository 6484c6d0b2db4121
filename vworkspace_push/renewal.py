"""Renews tokens by TokenRequest, where an admin switched that on.

A new token is asked for with the old one, for that one account, when about 80 % of the
old one's life is over (spread, so that many clusters do not do it at once). It is
verified like one that a person enters, and only then takes the old one's place.
"""

import logging
from datetime import timedelta

from odoo import fields
from odoo.exceptions import UserError

from . import const, verification
from .kube import tokens
from .kube.errors import KubeError, describe
from .sealing import SealingError
from .transactions import in_transaction

_logger = logging.getLogger(__name__)

SPREAD = 0.05  # of the life, to either side


def renew_due(registry):
    """Renew every token whose time has come. A failure stays with its cluster."""
    for cluster_id in in_transaction(registry, _due_clusters):
        try:
            renew(registry, cluster_id)
        except (KubeError, UserError, SealingError, ValueError) as exc:
            _logger.info("The token of cluster %s was not renewed: %s", cluster_id, exc)
            in_transaction(registry, _tell_admin, cluster_id, describe(exc))


def renew(registry, cluster_id):
    """Renew one cluster's token now.

    :raise KubeError: the server gives none
    """
    connection, account, seconds = in_transaction(registry, _read, cluster_id)
    namespace, name = account
    token, _expires = tokens.request_token(
        connection, namespace=namespace, service_account=name, seconds=seconds
    )
    in_transaction(registry, _store, cluster_id, token)
    verification.verify_cluster(registry, cluster_id)
    in_transaction(registry, _activate, cluster_id)


def _tell_admin(env, cluster_id, sentence):
    cluster = env["vworkspace.cluster"].browse(cluster_id)
    cluster._tell_admin(env._("The token was not renewed"), sentence)


def _due_clusters(env):
    now = fields.Datetime.now()
    clusters = env["vworkspace.cluster"].search(
        [("state", "=", "active"), ("grant_self_renewal", "=", True)]
    )
    return [cluster.id for cluster in clusters if _is_due(cluster, now)]


def _is_due(cluster, now):
    credential = cluster.active_credential_id
    if credential.kind == "in_cluster" or not credential.expires_at:
        return False
    begun = credential.issued_at or credential.stored_at
    # The same cluster is always early or late by the same part.
    offset = (cluster.id * 0.618 % 1 - 0.5) * 2 * SPREAD
    life = credential.expires_at - begun
    return now >= begun + life * (const.RENEW_AT + offset)


def _read(env, cluster_id):
    cluster = env["vworkspace.cluster"].browse(cluster_id)
    credential = cluster.active_credential_id
    parts = (credential.subject or "").split(":")
    if parts[:2] != ["system", "serviceaccount"] or len(parts) != 4:
        raise UserError(env._("Only a service account's token can be renewed."))
    begun = credential.issued_at or credential.stored_at
    life = (credential.expires_at - begun) / timedelta(seconds=1)
    return cluster._connection(), parts[2:], round(life)


def _store(env, cluster_id, token):
    cluster = env["vworkspace.cluster"].browse(cluster_id)
    env["vworkspace.cluster.credential"]._store(
        cluster, kind="token", token=token, summary=env._("Renewed by itself.")
    )
    cluster._writer().write({"verification_state": "running"})


def _activate(env, cluster_id):
    cluster = env["vworkspace.cluster"].browse(cluster_id)
    if obstacle := cluster._activation_obstacle():
        cluster._tell_admin(env._("The renewed token cannot be used"), obstacle)
        return
    cluster._activate()
