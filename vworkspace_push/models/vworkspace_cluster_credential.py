import re

from odoo import fields, models
from odoo.exceptions import UserError, ValidationError
from odoo.tools import SQL

from .. import sealing

# The characters of a JWT, or of a static token; nothing that could end a header.
TOKEN_PATTERN = re.compile(r"[\x21-\x7e]{8,16384}")


class VworkspaceClusterCredential(models.Model):
    """One credential of one cluster.

    The sealed secret is a column that the ORM does not know: no read, search, export
    or copy can reach it, not even in superuser mode. `_write_sealed` and `_sealed` are
    the only two places that touch it.
    """

    _name = "vworkspace.cluster.credential"
    _description = "Cluster Credential"
    _rec_name = "kind"

    cluster_id = fields.Many2one(
        "vworkspace.cluster", required=True, ondelete="cascade", index=True
    )
    kind = fields.Selection(
        [("token", "Service account token")], required=True, default="token"
    )
    stored_by = fields.Many2one("res.users", readonly=True)
    stored_at = fields.Datetime(readonly=True)

    def init(self):
        self.env.cr.execute(
            SQL(
                "ALTER TABLE %s ADD COLUMN IF NOT EXISTS sealed_secret text",
                SQL.identifier(self._table),
            )
        )

    # === BUSINESS METHODS === #

    def _check_token(self, token):
        if not TOKEN_PATTERN.fullmatch(token.strip()):
            raise ValidationError(
                self.env._(
                    "This is not a token: a token is one line without spaces. Print "
                    "one with: kubectl create token vworkspace-control-plane "
                    "-n vworkspace-system"
                )
            )

    def _store(self, cluster, secret):
        """Return a new credential of `cluster` that holds `secret`, sealed.

        Called in superuser mode: nobody creates a credential any other way.
        """
        credential = self.create(
            {
                "cluster_id": cluster.id,
                "kind": "token",
                "stored_by": self.env.uid,
                "stored_at": fields.Datetime.now(),
            }
        )
        credential._write_sealed(secret)
        return credential

    def _unseal(self):
        """Return the secret. The caller keeps it in memory for a connection only."""
        self.ensure_one()
        return sealing.unseal(self._sealed(), **self._place())

    def _write_sealed(self, secret):
        self.ensure_one()
        try:
            sealed = sealing.seal(secret, **self._place())
        except sealing.SealingError as exc:
            raise UserError(str(exc)) from None
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
        return sealed or ""

    def _check_sealed(self):
        """Say of each stored credential whether it opens, and with which key.

        :return: a sentence per credential, and whether all open
        :rtype: tuple[list[str], bool]
        """
        sentences, all_open = [], True
        for credential in self.sudo().search([("kind", "=", "token")], order="id"):
            try:
                credential._unseal()
            except sealing.SealingError as exc:
                all_open, word = False, str(exc)
            else:
                current = sealing.is_sealed_by_first_key(credential._sealed())
                word = "opens" if current else "opens with an older key: rotate"
            sentences.append(f"{credential.cluster_id.name}: {word}")
        return sentences, all_open

    def _reseal(self, *, limit):
        """Seal with the first key what an older key sealed, at most `limit` of them.

        :return: how many were sealed anew; 0: nothing is left to do
        :rtype: int
        """
        done = 0
        for credential in self.sudo().search([("kind", "=", "token")], order="id"):
            if done == limit:
                break
            if not sealing.is_sealed_by_first_key(credential._sealed()):
                credential._write_sealed(credential._unseal())
                done += 1
        return done

    def _place(self):
        uuid = self.env["ir.config_parameter"].sudo().get_param("database.uuid")
        return {
            "database": uuid,
            "record": f"{self._name},{self.id}",
            "purpose": self.kind,
        }
