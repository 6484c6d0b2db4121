from odoo import fields, models


class VworkspaceEndpoint(models.Model):
    _name = "vworkspace.endpoint"
    _description = "Endpoint of an Application"
    _order = "id"

    instance_id = fields.Many2one(
        "vworkspace.application.instance",
        required=True,
        ondelete="cascade",
        index=True,
    )
    company_id = fields.Many2one(related="instance_id.company_id")
    name = fields.Char(required=True)
    url = fields.Char(string="Address")
    type = fields.Char()
    notes = fields.Char()
