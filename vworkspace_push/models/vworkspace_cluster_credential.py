import json
import logging
import os
from functools import partial
from pathlib import Path

from odoo import api, fields, models
from odoo.exceptions import UserError
from odoo.tools import SQL

from .. import sealing
from ..identity import database_uuid
from ..kube import access, certificates, tokens
from ..kube.connection import Connection, Settings
from ..times import naive

_logger = logging.getLogger(__name__)

IN_CLUSTER_FOLDER = Path("/var/run/secrets/kubernetes.io/serviceaccount")
PURPOSE = "credential"


class VworkspaceClusterCredential(models.Model):
    """One credential of one cluster, in the states candidate → active → retired.

    The secret parts (token, private key) are sealed together in a column that the ORM
    does not know: no read, search, export or copy can reach it, not even in superuser
    mode. `_write_sealed` and `_sealed` are the only two places that touch it. A retired
    credential keeps its history and no secret.
    """

    _name = "vworkspace.cluster.credential"
    _description = "Cluster Credential"
    _inherit = ["vworkspace.protected.mixin"]
    _order = "id desc"

    cluster_id = fields.Many2one(
        "vworkspace.cluster", required=True, ondelete="cascade", index=True
    )
    kind = fields.Selection(
        [
            ("token", "Service account token"),
            ("kubeconfig", "Kubeconfig"),
            ("in_cluster", "The pod's own service account"),
        ],
        required=True,
    )
    state = fields.Selection(
        [("candidate", "Candidate"), ("active", "Active"), ("retired", "Retired")],
        required=True,
        default="candidate",
        index=True,
    )
    summary = fields.Char(help="What was taken from the upload, without the secrets.")
    subject = fields.Char(
        help="Who the token says it is. The server has the last word."
    )
    client_certificate = fields.Text(help="In PEM; its private key is sealed.")
    issued_at = fields.Datetime()
    expires_at = fields.Datetime(
        help="The earlier of token and client certificate, as they say themselves."
    )
    stored_by = fields.Many2one("res.users")
    stored_at = fields.Datetime()
    retired_at = fields.Datetime()
    retired_reason = fields.Char()

    _one_active = models.UniqueIndex(
        "(cluster_id) WHERE state = 'active'", "A cluster has one active credential."
    )
    _one_candidate = models.UniqueIndex(
        "(cluster_id) WHERE state = 'candidate'", "A cluster has one candidate."
    )

    _protected_fields = frozenset(
        {
            *("cluster_id", "kind", "state", "summary", "subject"),
            *("client_certificate", "issued_at", "expires_at"),
            *("stored_by", "stored_at", "retired_at", "retired_reason"),
        }
    )

    def init(self):
        self.env.cr.execute(
            SQL(
                "ALTER TABLE %s ADD COLUMN IF NOT EXISTS sealed_secret text",
                SQL.identifier(self._table),
            )
        )

    # === COMPUTE METHODS === #

    @api.depends("kind", "subject")
    def _compute_display_name(self):
        kinds = dict(self._fields["kind"]._description_selection(self.env))
        for credential in self:
            label = f"{kinds.get(credential.kind, '')} #{credential.id}"
            if credential.subject:
                label += f" ({credential.subject})"
            credential.display_name = label

    # === BUSINESS METHODS === #

    @api.model
    def _store(
        self,
        cluster,
        *,
        kind,
        token=None,
        client_cert=None,
        client_key=None,
        summary="",
    ):
        """Return a new candidate of `cluster` with these parts, sealed.

        It takes the place of a candidate that is there. Called in superuser mode.
        """
        cluster.sudo().credential_ids.filtered(
            lambda c: c.state == "candidate"
        )._retire(self.env._("replaced before it was used"))
        self.env.flush_all()  # one candidate at a time, in this order too
        info = tokens.read_token(token) if token else None
        ends = [info.expires_at] if info and info.expires_at else []
        if client_cert:
            ends.append(certificates.certificate_info(client_cert).not_after)
        credential = self._writer().create(
            {
                "cluster_id": cluster.id,
                "kind": kind,
                "summary": summary,
                "subject": info.subject if info else False,
                "client_certificate": client_cert,
                "issued_at": naive(info.issued_at) if info else False,
                "expires_at": naive(min(ends)) if ends else False,
                "stored_by": self.env.uid,
                "stored_at": fields.Datetime.now(),
            }
        )
        parts = {"token": token, "client_key": client_key}
        secret = json.dumps({name: part for name, part in parts.items() if part})
        try:
            credential._write_sealed(sealing.seal(secret, credential._place()))
        except sealing.SealingError as exc:
            raise UserError(str(exc)) from None
        return credential

    def _open(self):
        """Return the credential's secret parts.

        The caller keeps them in memory for as long as a connection needs them.

        :return: ``token`` and ``client_key``, as far as there are any
        :rtype: dict[str, str]
        :raise SealingError: when no key opens it, or it was sealed for another place
        """
        self.ensure_one()
        return json.loads(sealing.unseal(self._sealed(), self._place()))

    def _make_connection(self, settings):
        """Return a connection with this credential.

        :param dict settings: of the cluster, for `kube.connection.Settings`
        """
        parts = self._open()  # for the pod's own token too: it may be sent here only
        if self.kind == "in_cluster":
            token = tokens.TokenFile(IN_CLUSTER_FOLDER / "token")
            ca_pem = settings["ca_pem"] or self._in_cluster_ca()
        else:
            token = partial(parts.get, "token", "")
            ca_pem = settings["ca_pem"]
        if not ca_pem and not settings["insecure"]:
            raise UserError(
                self.env._(
                    "Nothing says which certificate to trust: fetch the server's and "
                    "accept it, or paste the CA certificate."
                )
            )
        return Connection(
            Settings(
                **{**settings, "ca_pem": ca_pem},
                client_cert_pem=self.client_certificate or None,
                client_key_pem=parts.get("client_key"),
            ),
            token=token,
        )

    def _how_to_delete(self):
        """Return the commands that make the credential worthless in its cluster.

        :rtype: str
        """
        self.ensure_one()
        if self.kind == "in_cluster":
            return self.env._(
                "It is the pod's own account: take its RoleBindings away."
            )
        parts = (self.subject or "").split(":")
        if parts[:2] == ["system", "serviceaccount"] and len(parts) == 4:
            return (
                f"kubectl delete serviceaccount {parts[3]} -n {parts[2]}\n"
                f"kubectl delete secret {access.TOKEN_SECRET} -n {parts[2]} "
                "--ignore-not-found"
            )
        return self.env._(
            "A client certificate cannot be revoked: take its user's bindings away."
        )

    def _retire(self, reason):
        """End the credentials' use and erase their secrets; the history stays."""
        for credential in self:
            credential._writer().write(
                {
                    "state": "retired",
                    "retired_at": fields.Datetime.now(),
                    "retired_reason": reason,
                }
            )
            credential._erase()

    def _erase(self):
        self.env.cr.execute(
            SQL(
                "UPDATE %s SET sealed_secret = NULL WHERE id = ANY(%s)",
                SQL.identifier(self._table),
                self.ids,
            )
        )

    @api.model
    def _is_in_cluster_possible(self):
        """Whether this Odoo runs in a pod with a service account."""
        return (
            bool(os.environ.get("KUBERNETES_SERVICE_HOST"))
            and (IN_CLUSTER_FOLDER / "token").is_file()
        )

    @api.model
    def _in_cluster_ca(self):
        try:
            return (IN_CLUSTER_FOLDER / "ca.crt").read_text()
        except (OSError, UnicodeDecodeError):
            raise UserError(
                self.env._("The pod has no CA certificate that Odoo can read.")
            ) from None

    @api.model
    def _in_cluster_server(self):
        """Return the API server's address as a pod is told it."""
        host = os.environ["KUBERNETES_SERVICE_HOST"]
        port = os.environ.get("KUBERNETES_SERVICE_PORT_HTTPS", "443")
        return f"https://[{host}]:{port}" if ":" in host else f"https://{host}:{port}"

    # === SEALING === #

    def _write_sealed(self, sealed):
        self.ensure_one()
        self.env.cr.execute(
            SQL(
                "UPDATE %s SET sealed_secret = %s WHERE id = %s",
                SQL.identifier(self._table),
                sealed,
                self.id,
            )
        )

    def _sealed(self):
        self.env.cr.execute(
            SQL(
                "SELECT sealed_secret FROM %s WHERE id = %s",
                SQL.identifier(self._table),
                self.id,
            )
        )
        (sealed,) = self.env.cr.fetchone()
        if not sealed:
            raise sealing.SealingError(
                "This credential's secret was erased. Store a new credential."
            )
        return sealed

    def _place(self):
        """Return where the credential's secret opens: here, for this destination."""
        return sealing.Place(
            database=self._database(),
            record=f"{self._name},{self.id}",
            purpose=PURPOSE,
            destination=self.cluster_id._destination(),
        )

    @api.model
    def _database(self):
        """Return a name of this database that a restored copy of it does not have."""
        self.env.cr.execute(
            """SELECT system_identifier::text || ':' ||
                      (SELECT oid FROM pg_database WHERE datname = current_database())
                 FROM pg_control_system()"""
        )
        (instance,) = self.env.cr.fetchone()
        return f"{database_uuid(self.env)}@{instance}"

    def _holding(self):
        """Return the credentials that hold a secret, whatever their company."""
        return self.sudo().search(
            [("state", "in", ("candidate", "active"))], order="id"
        )

    @api.model
    def _check_sealed(self):
        """Say of each stored credential whether it opens, and with which key.

        :return: a sentence per credential, and whether all open
        :rtype: tuple[list[str], bool]
        """
        sentences, all_open = [], True
        for credential in self._holding():
            try:
                credential._open()
            except sealing.SealingError as exc:
                all_open, word = False, str(exc)
            else:
                current = sealing.is_sealed_by_first_key(credential._sealed())
                word = "opens" if current else "opens with an older key: rotate"
            sentences.append(f"{credential.cluster_id.name}: {word}")
        return sentences, all_open

    @api.model
    def _reseal(self, *, limit):
        """Seal with the first key what an older key sealed, at most `limit` of them.

        :return: how many were sealed anew; 0: nothing is left to do
        :rtype: int
        """
        done = 0
        for credential in self._holding():
            if done == limit:
                break
            if not sealing.is_sealed_by_first_key(credential._sealed()):
                credential._write_sealed(sealing.rotate(credential._sealed()))
                done += 1
        return done

    @api.model
    def _adopt_copied(self):
        """Seal for this database what was sealed for the one that it is a copy of."""
        database = self._database()
        for credential in self._holding():
            credential._write_sealed(sealing.adopt(credential._sealed(), database))
