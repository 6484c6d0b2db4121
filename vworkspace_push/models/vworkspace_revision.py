import json

from odoo import api, fields, models
from odoo.exceptions import UserError

from .. import const
from ..kube import diff
from ..rows import copy_in


class VworkspaceRevision(models.Model):
    """One saved intent of a record: what was to happen, who wanted it, how it ended.

    Written once; only its outcome is filled in, by delivery. Rolling back makes a new
    revision, so the history never changes.
    """

    _name = "vworkspace.revision"
    _description = "Revision"
    _inherit = ["vworkspace.protected.mixin"]
    _order = "id desc"
    _log_access = True

    res_model = fields.Char(required=True, readonly=True)
    res_id = fields.Many2oneReference(
        string="Record", model_field="res_model", required=True, readonly=True
    )
    company_id = fields.Many2one("res.company", readonly=True, index=True)
    number = fields.Integer(required=True, readonly=True, string="Revision")
    kind = fields.Selection(
        [("deploy", "Deploy"), ("delete", "Delete"), ("adopt", "Adopt")],
        required=True,
        readonly=True,
    )
    reason = fields.Char(readonly=True, help="Why, where somebody said so.")
    user_id = fields.Many2one("res.users", readonly=True, ondelete="restrict")
    manifest = fields.Text(string="Manifest as JSON", readonly=True)
    # The form as it was, so that rolling back brings back what was written there.
    desired = fields.Json(readonly=True)
    takeover_fields = fields.Json(
        readonly=True, help="Fields that are taken over from other managers."
    )
    given_up_fields = fields.Json(
        readonly=True, help="Fields that are left to other managers from now on."
    )
    diff = fields.Text(
        compute="_compute_diff", string="Changes", help="Against the revision before."
    )
    outcome = fields.Selection(
        const.DELIVERY_STATES + const.REVISION_ENDS,
        readonly=True,
        default="pending",
        required=True,
        help="Overtaken: a newer one replaced it before it was sent. Withdrawn: "
        "somebody took it back before that.",
    )
    message = fields.Text(readonly=True)
    finished_at = fields.Datetime(readonly=True)
    is_current = fields.Boolean(compute="_compute_is_current")
    manifest_text = fields.Text(compute="_compute_manifest_text", string="Manifest")

    _number_uniq = models.Constraint(
        "UNIQUE (res_model, res_id, number)", "A record's revisions have a number each."
    )

    _protected_fields = frozenset(
        {
            *("res_model", "res_id", "company_id", "number", "kind", "reason"),
            *("user_id", "manifest", "desired", "takeover_fields", "given_up_fields"),
            *("outcome", "message", "finished_at"),
        }
    )

    # === COMPUTE METHODS === #

    @api.depends("number", "kind")
    def _compute_display_name(self):
        for revision in self:
            revision.display_name = self.env._("Revision %s", revision.number)

    def _compute_is_current(self):
        for revision in self:
            record = revision._record()
            revision.is_current = record.applied_revision_id == revision

    @api.depends("manifest", "number")
    def _compute_diff(self):
        self.env.cr.execute(
            """SELECT revision.id, before.manifest
                 FROM vworkspace_revision revision
                 JOIN vworkspace_revision before
                   ON before.res_model = revision.res_model
                  AND before.res_id = revision.res_id
                  AND before.number = revision.number - 1
                WHERE revision.id = ANY(%s)""",
            [self.ids],
        )
        before = dict(self.env.cr.fetchall())
        for revision in self:
            manifest = json.loads(revision.manifest) if revision.manifest else None
            revision.diff = (
                manifest and diff.revised(before.get(revision.id), manifest)
            ) or None

    @api.depends("manifest")
    def _compute_manifest_text(self):
        for revision in self:
            text = revision.manifest
            revision.manifest_text = text and json.dumps(
                diff.mask(json.loads(text), ""), indent=2, ensure_ascii=False
            )

    # === ACTIONS === #

    def action_roll_back(self):
        """Make this revision's content the intent again, as a new revision."""
        self.ensure_one()
        record = self._record()
        record.check_access("write")
        if self.kind != "deploy" or not self.desired:
            raise UserError(
                self.env._("Only a revision that was deployed can be gone back to.")
            )
        record._restore_desired(self.desired)
        record._deploy(reason=self.env._("Back to revision %s.", self.number))
        return {"type": "ir.actions.client", "tag": "soft_reload"}

    def action_open(self):
        """Open this revision in a dialog."""
        self.ensure_one()
        self.check_access("read")
        return {
            "type": "ir.actions.act_window",
            "name": self.display_name,
            "res_model": self._name,
            "res_id": self.id,
            "view_mode": "form",
            "target": "new",
        }

    # === BUSINESS METHODS === #

    @api.model
    def _add(self, rows):
        """Insert revisions; only this addon's own code has them to add.

        All at once: the ORM would look up the record's revisions for each.

        :param list[dict] rows: values by field; the manifest as data
        :return: the revisions, in the order of `rows`
        """
        cr = self.env.cr
        cr.execute(
            "SELECT nextval('vworkspace_revision_id_seq') FROM generate_series(1, %s)",
            [len(rows)],
        )
        ids = [row[0] for row in cr.fetchall()]
        added = {
            "outcome": "pending",
            "create_uid": self.env.uid,
            "create_date": fields.Datetime.now(),
        }
        rows = [{"id": id_, **row, **added} for id_, row in zip(ids, rows, strict=True)]
        copy_in(cr, self._table, rows)
        return self.browse(ids)

    def _close(self, outcome):
        """Say how those ended that were never sent."""
        open_sudo = self.sudo().filtered(lambda r: r.outcome == "pending")
        open_sudo._writer().write(
            {"outcome": outcome, "finished_at": fields.Datetime.now()}
        )

    def _record(self):
        return self.env[self.res_model].browse(self.res_id)
