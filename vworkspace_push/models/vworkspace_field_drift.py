from odoo import fields, models


class VworkspaceFieldDrift(models.Model):
    _name = "vworkspace.field.drift"
    _description = "Drifted Field"
    _order = "field, id"
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
    manager = fields.Char(string="Changed By")
    operation = fields.Char()
    since = fields.Datetime()
