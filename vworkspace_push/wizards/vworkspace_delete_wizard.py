from odoo import api, fields, models
from odoo.exceptions import UserError


class VworkspaceDeleteWizard(models.TransientModel):
    """Asks before applications are deleted from their clusters."""

    _name = "vworkspace.delete.wizard"
    _description = "Delete from Cluster"
    _inherit = ["vworkspace.wizard"]

    instance_ids = fields.Many2many("vworkspace.application.instance", readonly=True)
    skipped = fields.Text(readonly=True)
    running = fields.Text(compute="_compute_running")
    production = fields.Char(compute="_compute_production")
    typed_name = fields.Char(string="Its Name")

    _protected_fields = frozenset({"instance_ids", "skipped"})

    # === COMPUTE METHODS === #

    @api.depends("instance_ids.operation_ids.phase")
    def _compute_running(self):
        for wizard in self:
            operations = wizard.instance_ids.operation_ids.filtered(
                lambda o: o.phase in ("Pending", "Running")
            )
            wizard.running = "\n".join(
                f"{operation.target_id.name}: {operation.name} ({operation.phase})"
                for operation in operations
            )

    @api.depends("instance_ids.cluster_id.is_production")
    def _compute_production(self):
        for wizard in self:
            cluster = wizard.instance_ids.cluster_id.filtered("is_production")
            wizard.production = cluster[:1].name

    # === ACTIONS === #

    def action_delete(self):
        """Ask the clusters to delete the objects."""
        self.ensure_one()
        self.instance_ids.action_delete_from_cluster((self.typed_name or "").strip())
        return {"type": "ir.actions.act_window_close"}

    # === BUSINESS METHODS === #

    def _open_for(self, instances):
        instances.check_access("write")
        there = instances.filtered(
            lambda i: i.uid and i.delivery_state not in ("deleted", "lost")
        )
        if not there:
            raise UserError(
                self.env._("None of these applications exists in its cluster.")
            )
        production = there.filtered(lambda i: i.cluster_id.is_production)
        if production and len(there) > 1:
            raise UserError(
                self.env._(
                    "%s is in a production cluster: delete such applications one at a "
                    "time.",
                    production[0].name,
                )
            )
        skipped = (instances - there).mapped("name")
        wizard = self._make(
            {
                "instance_ids": there.ids,
                "skipped": ", ".join(skipped) or False,
            }
        )
        return wizard._open(self.env._("Delete from Cluster"))
