"""Proves what a credential can do, line by line, before and while it is used.

A person asks for it, or the day is over; the verification cron does it, outside any
user's transaction, and stores each line as soon as it is known, so that the open form
fills in live. What is lost or gained since the time before raises an activity.
"""

import logging
from dataclasses import dataclass
from datetime import timedelta

from odoo import fields
from odoo.exceptions import UserError
from odoo.tools import SQL

from . import const
from .kube import access, verify
from .kube.connection import Connection
from .kube.errors import KubeError, Unauthorized
from .sealing import SealingError
from .transactions import in_transaction, lock_rows

_logger = logging.getLogger(__name__)

# The order in which a person reads the lines; they come in that of their ending.
ORDER = (
    *("reach", "tls", "ca", "version", "clock", "user", "token", "client_certificate"),
    *("definitions", "cluster", "rights", "gate"),
)


@dataclass(frozen=True, kw_only=True)
class Target:
    """What is verified: one credential of one cluster, and the connection with it."""

    cluster: int
    credential: int
    cluster_id: str
    namespaces: tuple[str, ...]
    profile: access.Profile
    token_is_renewed: bool
    connection: Connection
    destination: str  # what the connection was made for


def run_cron(env):
    """Verify what was asked for, and what was not verified for a day."""
    registry = env.registry
    due = in_transaction(registry, _due_clusters)
    for done, cluster_id in enumerate(due, start=1):
        verify_cluster(registry, cluster_id)
        seconds_left = env["ir.cron"]._commit_progress(1, remaining=len(due) - done)
        if seconds_left <= 0:
            break


def verify_cluster(registry, cluster_id):
    """Verify one cluster's credential and store what was seen."""
    try:
        target = in_transaction(registry, _read_target, cluster_id)
    except (UserError, SealingError, KubeError, ValueError) as exc:
        in_transaction(registry, _store_obstacle, cluster_id, str(exc))
        return
    in_transaction(registry, _start, cluster_id)
    try:
        verify.verify(
            target.connection,
            cluster_id=target.cluster_id,
            namespaces=target.namespaces,
            profile=target.profile,
            token_is_renewed=target.token_is_renewed,
            on_check=lambda check: in_transaction(
                registry, _store_check, cluster_id, check
            ),
        )
    finally:
        target.connection.close()
    in_transaction(
        registry, _store_verdict, cluster_id, target.credential, target.destination
    )


def is_refused(cluster, credential):
    """Return True when the server refuses `credential`, else a sentence that says not.

    :rtype: bool | str
    """
    try:
        connection = credential._make_connection(cluster._connection_settings())
        try:
            report = access.inspect(connection)
        finally:
            connection.close()
    except Unauthorized:
        return True
    except (KubeError, SealingError, ValueError) as exc:
        return cluster.env._("That could not be seen: %s", str(exc))
    return cluster.env._(
        "The server still accepts it, as %s. Delete the account or its secret in the "
        "cluster; a token without one to delete lives until it expires. The server "
        "may take some seconds to forget a deleted account.",
        report.username,
    )


def _due_clusters(env):
    env.cr.execute(
        SQL(
            """SELECT id FROM vworkspace_cluster
                WHERE active AND connectivity_mode = 'push'
                  AND (verification_state = 'running'
                       OR (state = 'active' AND (verified_at IS NULL
                                                 OR verified_at < %s)))
             ORDER BY verification_requested_at NULLS LAST, id""",
            fields.Datetime.now() - timedelta(hours=const.VERIFY_EVERY_HOURS),
        )
    )
    return [row[0] for row in env.cr.fetchall()]


def _read_target(env, cluster_id):
    cluster = env["vworkspace.cluster"].browse(cluster_id)
    credential = cluster._credential_to_verify()
    if not credential:
        raise UserError(env._("%s has no credential to verify.", cluster.name))
    return Target(
        cluster=cluster.id,
        credential=credential.id,
        cluster_id=cluster.cluster_id,
        namespaces=tuple(cluster.namespace_ids.mapped("name")),
        profile=access.Profile(
            cluster_read=cluster.grant_cluster_read,
            self_renewal=cluster.grant_self_renewal,
        ),
        token_is_renewed=credential.kind == "in_cluster",
        connection=credential._make_connection(cluster._connection_settings()),
        destination=cluster._destination(),
    )


def _start(env, cluster_id):
    cluster = env["vworkspace.cluster"].browse(lock_rows(env, _TABLE, [cluster_id]))
    cluster.check_ids.unlink()
    cluster._notify_updated()


def _store_check(env, cluster_id, check):
    kind, _slash, _namespace = check.key.partition("/")
    env["vworkspace.cluster.check"].create(
        {
            "cluster_id": cluster_id,
            "sequence": ORDER.index(kind) if kind in ORDER else len(ORDER),
            "key": check.key,
            "title": check.title,
            "state": check.state,
            "required": check.required,
            "seen": check.seen,
            "todo": check.todo,
            "excess": "\n".join(check.data.get("excess", ())) or False,
            "missing": "\n".join(check.data.get("missing", ())) or False,
        }
    )
    cluster = env["vworkspace.cluster"].browse(cluster_id)
    if proposed := check.data.get("namespaces"):
        cluster._writer().write({"proposed_namespaces": " ".join(proposed)})
    cluster._notify_updated()


def _store_obstacle(env, cluster_id, sentence):
    cluster = env["vworkspace.cluster"].browse(lock_rows(env, _TABLE, [cluster_id]))
    cluster.check_ids.unlink()
    cluster.check_ids.create(
        {
            "cluster_id": cluster.id,
            "key": "credential",
            "title": env._("Credential"),
            "state": "failed",
            "required": True,
            "seen": sentence,
        }
    )
    _store_verdict(env, cluster_id, cluster._credential_to_verify().id)


def _store_verdict(env, cluster_id, credential_id, destination=None):
    cluster = env["vworkspace.cluster"].browse(lock_rows(env, _TABLE, [cluster_id]))
    if destination and cluster._destination() != destination:
        # It was changed meanwhile: what was seen says nothing about the new one.
        cluster._writer().write(
            {"verification_state": "none", "verification_requested_at": False}
        )
        cluster._notify_updated()
        return
    before = cluster.verified_rights or ""
    failed = cluster.check_ids.filtered(
        lambda c: c.required and c.state in ("failed", "skipped")
    )
    now_rights = _rights_text(cluster.check_ids)
    if failed:
        state = "failed"
    elif cluster.excess_rights and cluster.accepted_excess != cluster.excess_rights:
        state = "excess"
    else:
        state = "passed"
    cluster._writer().write(
        {
            "verification_state": state,
            "verification_requested_at": False,
            "verified_at": fields.Datetime.now(),
            "verified_credential_id": credential_id,
            "verified_rights": now_rights,
        }
    )
    is_active = cluster.state == "active" and not cluster.candidate_id
    if is_active and now_rights != before and cluster.activated_at:
        cluster._tell_admin(
            env._("The connector's rights changed"),
            env._("Before: %(before)s. Now: %(now)s.", before=before, now=now_rights),
        )
    cluster._notify_updated()
    cluster._notify_processes()  # what they lacked may be granted


def _rights_text(checks):
    lines = [
        f"{check.title}: {word} {text.replace(chr(10), ', ')}"
        for check in checks
        for word, text in (("missing", check.missing), ("excess", check.excess))
        if text
    ]
    return "; ".join(lines) or "exactly what is needed"


def warn_of_expiry(env):
    """Raise an activity on each cluster whose credential is about to expire."""
    for cluster in env["vworkspace.cluster"].search([("state", "=", "active")]):
        warning = cluster.expiry_warning or False
        if warning != cluster.expiry_warned:
            cluster._writer().write({"expiry_warned": warning})
            if warning:
                cluster._tell_admin(warning.partition(",")[0], warning)


_TABLE = "vworkspace_cluster"
