from odoo import api, fields, models

from ..kube import diff
from ..times import naive


class VworkspaceFieldConflict(models.Model):
    _name = "vworkspace.field.conflict"
    _description = "Field Conflict"
    _order = "id"
    _rec_name = "field"

    instance_id = fields.Many2one(
        "vworkspace.application.instance",
        required=True,
        ondelete="cascade",
        index=True,
    )
    company_id = fields.Many2one(related="instance_id.company_id")
    field = fields.Char(required=True)
    our_value = fields.Text()
    live_value = fields.Text(string="Value in the Cluster")
    manager = fields.Char(string="Other Manager")
    operation = fields.Char()
    since = fields.Datetime()

    @api.model
    def _values(self, conflict):
        """Return a `kube.ownership.FieldConflict` as a row, its secrets masked."""
        return {
            "field": conflict.field,
            "our_value": diff.text(conflict.our_value, conflict.field),
            "live_value": diff.text(conflict.live_value, conflict.field),
            "manager": conflict.manager,
            "operation": conflict.operation,
            "since": naive(conflict.since),
        }
