from odoo import api, fields, models
from odoo.exceptions import UserError


class VworkspaceDeleteWizard(models.TransientModel):
    """Asks before applications or operations are deleted from their clusters."""

    _name = "vworkspace.delete.wizard"
    _description = "Delete from Cluster"
    _inherit = ["vworkspace.wizard"]

    # One of the two
    instance_ids = fields.Many2many("vworkspace.application.instance", readonly=True)
    operation_ids = fields.Many2many("vworkspace.operation", readonly=True)
    skipped = fields.Text(readonly=True)
    running = fields.Text(compute="_compute_running")
    production = fields.Char(compute="_compute_production")
    typed_name = fields.Char(string="Its Name")

    _protected_fields = frozenset({"instance_ids", "operation_ids", "skipped"})

    # === COMPUTE METHODS === #

    @api.depends("instance_ids.operation_ids.phase", "operation_ids.phase")
    def _compute_running(self):
        for wizard in self:
            operations = wizard.instance_ids.operation_ids | wizard.operation_ids
            operations = operations.filtered(
                lambda o: o.phase in ("Pending", "Running")
            )
            wizard.running = "\n".join(
                f"{operation.target_id.name}: {operation.name} ({operation.phase})"
                for operation in operations
            )

    @api.depends(
        "instance_ids.cluster_id.is_production",
        "operation_ids.cluster_id.is_production",
    )
    def _compute_production(self):
        for wizard in self:
            cluster = wizard._records().cluster_id.filtered("is_production")
            wizard.production = cluster[:1].name

    # === ACTIONS === #

    def action_delete(self):
        """Ask the clusters to delete the objects."""
        self.ensure_one()
        self._records().action_delete_from_cluster((self.typed_name or "").strip())
        return {"type": "ir.actions.act_window_close"}

    # === BUSINESS METHODS === #

    def _records(self):
        return self.operation_ids or self.instance_ids

    def _open_for(self, records):
        records.check_access("write")
        there = records.filtered(
            lambda r: r.uid and r.delivery_state not in ("deleted", "lost")
        )
        if not there:
            raise UserError(self.env._("None of these exists in its cluster."))
        production = there.filtered(lambda r: r.cluster_id.is_production)
        if production and len(there) > 1:
            raise UserError(
                self.env._(
                    "%s is in a production cluster: delete from there one at a time.",
                    production[0].name,
                )
            )
        skipped = (records - there).mapped("name")
        field = next(
            name
            for name in ("instance_ids", "operation_ids")
            if self._fields[name].comodel_name == records._name
        )
        wizard = self._make(
            {
                field: there.ids,
                "skipped": ", ".join(skipped) or False,
            }
        )
        return wizard._open(self.env._("Delete from Cluster"))
