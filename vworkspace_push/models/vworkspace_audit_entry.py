from datetime import timedelta

from odoo import SUPERUSER_ID, api, fields, models
from odoo.exceptions import UserError
from odoo.tools import SQL

from .. import const
from ..rows import copy_in

PURGE_BATCH = 10_000  # entries that one run of the vacuum takes at a time


class VworkspaceAuditEntry(models.Model):
    """What was done to a cluster, by whom, and what the cluster said.

    Append-only in the database itself: a trigger refuses updates always, and deletions
    of anything younger than the cut-off that the retention names in its transaction.
    Entries carry the names of what they are about, so that they outlive it.
    """

    _name = "vworkspace.audit.entry"
    _description = "Audit Entry"
    _order = "id desc"
    _log_access = False

    date = fields.Datetime(required=True, index=True)
    user_id = fields.Many2one("res.users", required=True, ondelete="restrict")
    company_id = fields.Many2one("res.company", index=True, ondelete="restrict")
    action = fields.Selection(
        [
            ("deploy", "Deploy"),
            ("delete", "Delete"),
            ("adopt", "Adopt Ownership"),
            ("decide", "Decide Conflict"),
            ("heal", "Restore After Drift"),
            ("import", "Import"),
            ("forget", "Forget"),
            ("claim", "Claim From Another Database"),
            ("claim_field", "Claim Field Again"),
            ("deploy_now", "Deploy Now"),
            ("withdraw", "Withdraw"),
            ("start_over", "Start Over"),
            ("healing", "Change Healing"),
            ("pause", "Pause"),
            ("resume", "Resume"),
            ("observe", "Seen in the Cluster"),
        ],
        required=True,
    )
    outcome = fields.Selection(
        [
            *const.DELIVERY_STATES,
            ("done", "Done"),
            ("take_over", "Take over"),
            ("leave", "Leave"),
            ("accept", "Accept"),
            ("drifted", "Drifted"),
            ("other database", "Other database"),
        ],
        index=True,
    )
    res_model = fields.Char(string="Model")
    res_id = fields.Many2oneReference(string="Record", model_field="res_model")
    res_name = fields.Char(string="Object")
    namespace = fields.Char()
    cluster_id = fields.Many2one("vworkspace.cluster", index=True, ondelete="restrict")
    revision = fields.Integer(aggregator=None)
    reason = fields.Char()
    diff = fields.Text(string="Changes")
    message = fields.Text(string="Answer")
    manifest_digest = fields.Char(
        string="SHA-256", help="Of the manifest as it was sent."
    )
    server_audit_id = fields.Char(
        string="Audit ID", help="Of the request, in the API server's own audit log."
    )
    credential = fields.Char(help="What Odoo showed to the API server.")
    duration = fields.Integer(string="Duration (ms)", aggregator="avg")

    _record_idx = models.Index("(res_model, res_id)")

    def init(self):
        self.env.cr.execute(
            """
            CREATE OR REPLACE FUNCTION vworkspace_audit_guard() RETURNS trigger AS $$
            DECLARE
                cut_off text := current_setting('vworkspace.audit_cut_off', true);
            BEGIN
                IF TG_OP = 'DELETE' AND cut_off <> ''
                   AND OLD.date < cut_off::timestamp THEN
                    RETURN OLD;
                END IF;
                RAISE EXCEPTION 'The audit trail can only be added to.'
                    USING ERRCODE = 'insufficient_privilege';
            END $$ LANGUAGE plpgsql;

            CREATE OR REPLACE TRIGGER vworkspace_audit_rows
                BEFORE UPDATE OR DELETE ON vworkspace_audit_entry
                FOR EACH ROW EXECUTE FUNCTION vworkspace_audit_guard();
            CREATE OR REPLACE TRIGGER vworkspace_audit_table
                BEFORE TRUNCATE ON vworkspace_audit_entry
                FOR EACH STATEMENT EXECUTE FUNCTION vworkspace_audit_guard();
            """
        )

    # === COMPUTE METHODS === #

    @api.depends("action", "res_name")
    def _compute_display_name(self):
        actions = dict(self._fields["action"]._description_selection(self.env))
        for entry in self:
            entry.display_name = f"{actions[entry.action]}: {entry.res_name or ''}"

    # === ACTIONS === #

    def action_open_record(self):
        """Open what the entry is about, if it still exists."""
        self.ensure_one()
        self.check_access("read")
        record = self.env[self.res_model].browse(self.res_id).exists()
        if not record:
            raise UserError(
                self.env._("%s does not exist in Odoo any more.", self.res_name)
            )
        return record._get_records_action()

    # === BUSINESS METHODS === #

    @api.model
    def _add(self, rows):
        """Insert entries; only this addon's own code has them to add.

        :param list[dict] rows: values by field; `date` is now and `user_id` the
            environment's unless given
        """
        if not rows:
            return
        given = {"date": fields.Datetime.now(), "user_id": self.env.uid or SUPERUSER_ID}
        columns = dict.fromkeys(
            name for name, field in self._fields.items() if field.store and name != "id"
        )
        rows = [{**columns, **given, **row} for row in rows]
        copy_in(self.env.cr, self._table, rows)

    @api.autovacuum
    def _gc_audit_entries(self):
        """Purge what is older than the retention; 0 days keep everything."""
        parameters = self.env["ir.config_parameter"].sudo()
        days = parameters.get_param(const.AUDIT_RETENTION_PARAMETER) or "0"
        if not days.isdecimal() or not int(days):
            return 0, 0
        days = int(days)
        cut_off = fields.Datetime.now() - timedelta(days=days)
        cr = self.env.cr
        cr.execute(
            "SELECT set_config('vworkspace.audit_cut_off', %s, true)", [str(cut_off)]
        )
        cr.execute(
            SQL(
                """DELETE FROM vworkspace_audit_entry
                    WHERE id IN (SELECT id FROM vworkspace_audit_entry
                                  WHERE date < %s ORDER BY id LIMIT %s)""",
                cut_off,
                PURGE_BATCH,
            )
        )
        done = cr.rowcount
        cr.execute("SELECT set_config('vworkspace.audit_cut_off', '', true)")
        return done, PURGE_BATCH if done == PURGE_BATCH else 0
